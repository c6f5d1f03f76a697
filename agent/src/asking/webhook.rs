//! `asking: webhook:`: a service that gets each question by HTTPS and may answer.
//!
//! What is sent is signed, so that the service knows whose it is; what it answers is believed
//! because its certificate is. Redirects are not followed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use ring::hmac;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use super::outside::{Answer, MAX_ANSWER, Message, Outsider, read_answer};
use super::{Question, Settlement};

/// When it was signed: seconds since 1970, which the signature covers.
pub const TIME: &str = "x-exeat-timestamp";
/// `v1=` and HMAC-SHA256 of `TIMESTAMP.BODY` under the secret, hexadecimal.
pub const SIGNATURE: &str = "x-exeat-signature";
/// The same for each attempt to tell of the same question.
pub const DELIVERY: &str = "x-exeat-delivery";
/// The shortest secret.
const SHORTEST: usize = 16;
/// The pauses between two attempts.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Attempts to tell of an end.
const END_ATTEMPTS: u32 = 3;

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where: `https://…`.
    pub url: String,
    /// A file with the secret that signs; root's alone (mode 0600), at least 16 bytes. White
    /// space at its end does not count.
    pub secret_file: PathBuf,
    /// The authorities (PEM) that may vouch for the service. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long one request may take, in seconds, 1 to 600: a service may hold it until a
    /// person has answered. Default: 30.
    #[serde(default = "thirty")]
    pub timeout_seconds: u32,
}

fn thirty() -> u32 {
    30
}

impl WebhookConfig {
    /// Whether it can be: the key that is wrong, and what to write.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Err(why) = self.uri() {
            return Err(("asking.webhook.url", why));
        }
        if !self.secret_file.is_absolute() {
            let text = format!("{} must be an absolute path", self.secret_file.display());
            return Err(("asking.webhook.secret_file", text));
        }
        if let Some(path) = &self.ca_file
            && !path.is_absolute()
        {
            let text = format!("{} must be an absolute path", path.display());
            return Err(("asking.webhook.ca_file", text));
        }
        if !(1..=600).contains(&self.timeout_seconds) {
            let text = format!("{} is not between 1 and 600", self.timeout_seconds);
            return Err(("asking.webhook.timeout_seconds", text));
        }
        Ok(())
    }

    /// The text is not shown again: a URL can have a token in it.
    fn uri(&self) -> Result<Uri, String> {
        let uri: Uri = self
            .url
            .parse()
            .map_err(|error| format!("it is no URL ({error})"))?;
        if uri.scheme_str() != Some("https") {
            return Err("it must begin with https://".to_owned());
        }
        if uri
            .authority()
            .is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err("it must name a host, and no user".to_owned());
        }
        Ok(uri)
    }
}

/// The service, ready to be told.
#[derive(Clone)]
pub struct Webhook {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key: Arc<hmac::Key>,
    limit: Duration,
}

/// What became of an attempt.
enum Attempt {
    /// It said this; nothing, if that is empty.
    Said(Bytes),
    /// Not now.
    Again(String),
    /// Never.
    Never(String),
}

impl Webhook {
    /// Reads the secret and the authorities.
    pub fn new(config: &WebhookConfig) -> Result<Self, String> {
        let secret = crate::private::read(&config.secret_file).map_err(|error| {
            format!(
                "asking.webhook.secret_file: {}: {error}",
                config.secret_file.display()
            )
        })?;
        let secret = secret.trim_ascii_end();
        if secret.len() < SHORTEST {
            return Err(format!(
                "asking.webhook.secret_file: {} has fewer than {SHORTEST} bytes: write one with \
                 `openssl rand -hex 32`",
                config.secret_file.display()
            ));
        }
        let roots = roots(config.ca_file.as_deref())
            .map_err(|error| format!("asking.webhook.ca_file: {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri: config
                .uri()
                .map_err(|why| format!("asking.webhook.url: {why}"))?,
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)),
            limit: Duration::from_secs(config.timeout_seconds.into()),
        })
    }

    async fn attempt(&self, body: &Bytes, delivery: &str) -> Attempt {
        match tokio::time::timeout(self.limit, self.post(body, delivery)).await {
            Ok(Ok(attempt)) => attempt,
            Ok(Err(why)) => Attempt::Again(why),
            Err(_) => Attempt::Again(format!("no answer within {} s", self.limit.as_secs())),
        }
    }

    async fn post(&self, body: &Bytes, delivery: &str) -> Result<Attempt, String> {
        let time = Timestamp::now().as_second().to_string();
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("exeat/", env!("CARGO_PKG_VERSION")),
            )
            .header(SIGNATURE, sign(&self.key, &time, body))
            .header(TIME, time)
            .header(DELIVERY, delivery)
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        })?;
        let status = response.status();
        let said = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        Ok(match status {
            StatusCode::OK => match said {
                Ok(said) => Attempt::Said(said.to_bytes()),
                Err(error) => Attempt::Again(error.to_string()),
            },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Attempt::Again(status.to_string())
            }
            status if status.is_success() => Attempt::Said(Bytes::new()),
            status if status.is_server_error() => Attempt::Again(status.to_string()),
            status => Attempt::Never(status.to_string()),
        })
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let words =
                |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
            for one in CertificateDer::pem_file_iter(path).map_err(words)? {
                roots
                    .add(one.map_err(words)?)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    match roots.is_empty() {
        true => Err("there is no authority in it".to_owned()),
        false => Ok(roots),
    }
}

/// The signature of a body that was sent at a time.
fn sign(key: &hmac::Key, time: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(time.as_bytes());
    context.update(b".");
    context.update(body);
    format!("v1={}", HEXLOWER.encode(context.sign().as_ref()))
}

impl Outsider for Webhook {
    const VIA: &'static str = "webhook";
    const AT_ONCE: usize = 16;

    fn uid(&self) -> u32 {
        0
    }

    async fn ask(&self, question: &Question) -> Option<Answer> {
        let refused = |why: String| {
            tracing::warn!(question = question.id, why, "the webhook did not answer");
        };
        let body = match serde_json::to_vec(&Message::asked(question)) {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                refused(error.to_string());
                return None;
            }
        };
        let mut pause = FIRST;
        loop {
            let why = match self.attempt(&body, &question.id).await {
                Attempt::Said(said) => {
                    return read_answer(&said, question).unwrap_or_else(|error| {
                        refused(format!("its answer cannot be read: {error}"));
                        None
                    });
                }
                Attempt::Never(why) => {
                    refused(why);
                    return None;
                }
                Attempt::Again(why) => why,
            };
            let left = question.expires.duration_since(Timestamp::now());
            if left.is_negative() || left.unsigned_abs() <= pause {
                refused(format!("{why}; there is no time left"));
                return None;
            }
            tracing::debug!(question = question.id, why, "the webhook is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    async fn tell(&self, settlement: &Settlement) {
        let Ok(body) = serde_json::to_vec(&Message::settled(settlement)) else {
            return;
        };
        let (body, delivery) = (Bytes::from(body), format!("{}-end", settlement.question));
        let mut pause = FIRST;
        for left in (0..END_ATTEMPTS).rev() {
            match self.attempt(&body, &delivery).await {
                Attempt::Again(_) if left > 0 => tokio::time::sleep(pause).await,
                _ => return,
            }
            pause *= 2;
        }
    }
}

#[cfg(test)]
mod tests;
