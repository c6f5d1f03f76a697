//! Tokens and sessions.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq as _;

/// How long a token may wait to be used: it is in a terminal, and in what the terminal keeps.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
/// Tokens and sessions at once; the oldest goes.
const MOST: usize = 8;

/// 256 bits that nobody can guess, as text.
fn secret() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(BASE64URL_NOPAD.encode(&bytes))
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// What a browser holds: both are needed. Browsers send the cookie to every port of the host, to
/// whatever listens there; the key they keep by port, in the page's own storage.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) cookie: String,
    pub(super) key: String,
}

#[derive(Default)]
struct Held {
    tokens: Vec<(String, Instant)>,
    sessions: Vec<Session>,
}

/// The tokens that wait, and the sessions that were begun.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Held>);

impl Sessions {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that opens one session.
    pub(super) fn token(&self) -> std::io::Result<String> {
        let token = secret()?;
        let mut held = self.held();
        if held.tokens.len() == MOST {
            held.tokens.remove(0);
        }
        held.tokens.push((token.clone(), Instant::now()));
        Ok(token)
    }

    /// A session for a token, which is good no more.
    pub(super) fn begin(&self, token: &str) -> Option<Session> {
        self.begin_at(token, Instant::now())
    }

    fn begin_at(&self, token: &str, now: Instant) -> Option<Session> {
        let mut held = self.held();
        held.tokens
            .retain(|(_, made)| now.saturating_duration_since(*made) < TOKEN_LIFE);
        let at = held.tokens.iter().position(|(own, _)| same(own, token))?;
        let session = Session {
            cookie: secret().ok()?,
            key: secret().ok()?,
        };
        held.tokens.remove(at);
        if held.sessions.len() == MOST {
            held.sessions.remove(0);
        }
        held.sessions.push(session.clone());
        Some(session)
    }

    /// Whether both are of one session.
    pub(super) fn knows(&self, cookie: &str, key: &str) -> bool {
        let held = self.held();
        let mut of_one = held.sessions.iter();
        of_one.any(|own| same(&own.cookie, cookie) & same(&own.key, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_and_not_for_long() {
        let sessions = Sessions::default();
        let token = sessions.token().expect("token");
        assert_eq!(token.len(), 43);
        assert!(sessions.begin("").is_none());
        assert!(sessions.begin(&token[1..]).is_none());
        let session = sessions.begin(&token).expect("a session");
        assert!(sessions.begin(&token).is_none(), "once");
        assert!(sessions.knows(&session.cookie, &session.key));
        let late = sessions.token().expect("token");
        let end = Instant::now() + TOKEN_LIFE;
        assert!(sessions.begin_at(&late, end).is_none());
        assert!(sessions.begin(&late).is_none(), "gone for good");
    }

    #[test]
    fn cookie_and_key_are_of_one_session_and_both_are_needed() {
        let sessions = Sessions::default();
        let new = || {
            sessions
                .begin(&sessions.token().expect("token"))
                .expect("session")
        };
        let (a, b) = (new(), new());
        assert!(sessions.knows(&a.cookie, &a.key) && sessions.knows(&b.cookie, &b.key));
        for (cookie, key) in [
            (a.cookie.as_str(), b.key.as_str()),
            (&b.cookie, &a.key),
            (&a.cookie, ""),
            ("", &a.key),
            (&a.key, &a.cookie),
        ] {
            assert!(!sessions.knows(cookie, key));
        }
        for _ in 0..MOST {
            new();
        }
        assert!(!sessions.knows(&a.cookie, &a.key), "the oldest goes");
        for _ in 0..3 * MOST {
            sessions.token().expect("token");
        }
        assert_eq!(sessions.held().tokens.len(), MOST);
    }
}
