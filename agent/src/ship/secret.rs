//! Tokens. They are read when they are needed, kept nowhere, and shown to nobody.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use http::HeaderValue;

use super::config::{Destination, ReceiverConfig};
use crate::private;

/// A token. It has no way to be shown.
pub(super) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: zeroes are UTF-8; nobody reads it afterwards. Volatile, because a plain
        // write to what is about to be freed may be left out.
        unsafe {
            for byte in self.0.as_bytes_mut() {
                std::ptr::write_volatile(byte, 0);
            }
        }
    }
}

impl Secret {
    /// The text with every place where the token stands, whole or in the form in which it
    /// was sent, taken out: some receivers tell what they were sent.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        let mut text = text.replace(self.0.as_str(), "***");
        let coded = BASE64.encode(self.0.as_bytes());
        text = text.replace(&coded, "***");
        text
    }
}

/// Where the token is, and how it is shown to the receiver.
#[derive(Debug, Clone)]
pub(super) struct Access {
    place: Option<Place>,
    scheme: Scheme,
}

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Credential(String),
}

#[derive(Debug, Clone)]
enum Scheme {
    /// The word before the token.
    Word(&'static str),
    Basic(String),
}

impl Access {
    pub(super) fn new(config: &ReceiverConfig) -> Self {
        let file = config.token_file.clone().map(Place::File);
        let credential = config.credential.clone().map(Place::Credential);
        let scheme = match (&config.user, &config.to) {
            (Some(user), _) => Scheme::Basic(user.clone()),
            (None, Destination::Splunk(_)) => Scheme::Word("Splunk"),
            (None, Destination::Elastic { .. }) => Scheme::Word("ApiKey"),
            (None, _) => Scheme::Word("Bearer"),
        };
        Self {
            place: file.or(credential),
            scheme,
        }
    }

    /// What goes into `Authorization`, and the token to be hidden in answers. None without a
    /// token; the error is in words.
    pub(super) fn header(&self) -> Result<Option<(HeaderValue, Secret)>, String> {
        let Some(place) = &self.place else {
            return Ok(None);
        };
        let path = match place {
            Place::File(path) => path.clone(),
            Place::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => Path::new(&folder).join(name),
                None => {
                    return Err(format!(
                        "there is no credential `{name}`: write LoadCredential={name}:/PATH into the \
                         service, or use token_file"
                    ));
                }
            },
        };
        let shown = path.display();
        let bytes = private::read(&path).map_err(|e| format!("the token in {shown}: {e}"))?;
        let text =
            String::from_utf8(bytes).map_err(|_| format!("the token in {shown} is no text"))?;
        let secret = Secret(text.trim().to_owned());
        if secret.0.is_empty() {
            return Err(format!("{shown} is empty: write the token into it"));
        }
        let mut header = match &self.scheme {
            Scheme::Word(word) => HeaderValue::try_from(format!("{word} {}", secret.0)),
            Scheme::Basic(user) => {
                let pair = format!("{user}:{}", secret.0);
                HeaderValue::try_from(format!("Basic {}", BASE64.encode(pair.as_bytes())))
            }
        }
        // Its own words might hold the token.
        .map_err(|_| format!("the token in {shown} has characters that no token has"))?;
        header.set_sensitive(true);
        Ok(Some((header, secret)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::config::tests::receiver;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_goes_to_the_receiver_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("token");
        std::fs::write(&path, "geheim\n").expect("write");
        let config = |to: &str, more: &str| {
            let text = format!(
                "{{name: a, to: '{to}', token_file: {}{more}}}",
                path.display()
            );
            Access::new(&receiver(&text))
        };
        let splunk = config("splunk+https://s", "");
        let error = splunk.header().expect_err("others can read it");
        assert!(error.contains("chmod 600"), "{error}");
        let owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, owner).expect("chmod");
        for (access, expected) in [
            (splunk, "Splunk geheim"),
            (config("elastic+https://e/i", ""), "ApiKey geheim"),
            (config("otlp+https://o", ""), "Bearer geheim"),
            (config("otlp+https://o", ", user: u"), "Basic dTpnZWhlaW0="),
        ] {
            let (header, secret) = access.header().expect("read").expect("one");
            assert_eq!(header.to_str().expect("text"), expected);
            assert!(!format!("{header:?} {secret:?} {access:?}").contains("geheim"));
            assert_eq!(
                secret.hidden_in("you said Z2VoZWlt, geheim"),
                "you said ***, ***"
            );
        }
        std::fs::write(&path, "ge\u{7}heim").expect("write");
        let error = config("otlp+https://o", "").header().expect_err("control");
        assert!(!error.contains("heim"), "{error}");
    }
}
