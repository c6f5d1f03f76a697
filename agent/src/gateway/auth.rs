//! Who may use the explicit doors.

use data_encoding::BASE64;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;
use subtle::ConstantTimeEq;

use super::session::Ended;
use super::{Credentials, Outcome};

/// Whether what was shown is what is asked for. How long it takes tells nothing but lengths.
pub(super) fn matches(known: Option<Credentials>, user: &[u8], token: &[u8]) -> bool {
    let Some(known) = known else {
        return false;
    };
    // An empty token is a mistake of whoever set it, and would let everybody in.
    let user = known.user.as_bytes().ct_eq(user);
    let token = known.token.as_bytes().ct_eq(token);
    !known.token.is_empty() && bool::from(user & token)
}

/// The Proxy-Authorization of a request (RFC 7617).
///
/// # Errors
/// When it is not there exactly once, or not right.
pub(super) fn basic(known: Option<Credentials>, headers: &HeaderMap) -> Result<(), Ended> {
    let mut shown = headers.get_all(PROXY_AUTHORIZATION).iter();
    let right = match (shown.next(), shown.next()) {
        (Some(value), None) => decoded(value.as_bytes()).is_some_and(|pair| {
            let colon = pair.iter().position(|&b| b == b':');
            colon.is_some_and(|at| matches(known, &pair[..at], &pair[at + 1..]))
        }),
        _ => false,
    };
    match right {
        true => Ok(()),
        false => Err(Ended::new(Outcome::Unauthenticated)),
    }
}

fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let basic = scheme.eq_ignore_ascii_case(b"basic ");
    BASE64.decode(rest.trim_ascii()).ok().filter(|_| basic)
}

/// What a client sends for a user and a password.
pub(super) fn header(pair: &[u8]) -> String {
    format!("Basic {}", BASE64.encode(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(token: &str) -> Option<Credentials> {
        Some(Credentials {
            user: "agent".to_owned(),
            token: token.to_owned(),
        })
    }

    #[test]
    fn only_the_right_pair_opens() {
        let good = header(b"agent:to:ken");
        let known = credentials("to:ken");
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PROXY_AUTHORIZATION, value.parse().expect("value"));
            }
            headers
        };
        assert!(basic(known.clone(), &with(&[&good])).is_ok());
        assert!(basic(None, &with(&[&good])).is_err());
        assert!(basic(credentials(""), &with(&[&header(b"agent:")])).is_err());
        for bad in [
            vec![],
            vec![good.as_str(), good.as_str()],
            vec!["Basic"],
            vec!["Basic !"],
            vec!["Bearer to:ken"],
            vec![&header(b"agent:other")],
            vec![&header(b"agent:to:ke")],
            vec![&header(b"other:to:ken")],
            vec![&header(b"agent")],
        ] {
            assert!(basic(known.clone(), &with(&bad)).is_err(), "{bad:?}");
        }
        let shown = format!("{known:?}");
        assert!(!shown.contains("to:ken"), "{shown}");
    }
}
