//! One request to a receiver over HTTP, and what its answer means.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;

use super::config::{ReceiverConfig, proxy_uri};
use super::outcome::Trouble;
use super::secret::Access;
use super::tls;
use crate::flow::printable;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// From the request to the end of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(60);
/// The most of an answer that is read: Elasticsearch tells of each record.
const MAX_ANSWER: usize = 4 << 20;
/// The most of an answer that is shown.
const MAX_SHOWN: usize = 200;
/// A receiver that wants to be left alone for longer is asked again after this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

enum Way {
    Direct(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    Proxied(Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
}

/// A receiver over HTTP.
pub(super) struct Http {
    way: Way,
    access: Access,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// The beginning of the body, without tokens and safe to show.
    pub(super) shown: String,
}

impl Http {
    /// Opens nothing yet. Errors are in words.
    pub(super) fn new(config: &ReceiverConfig) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(IDLE));
        tcp.enforce_http(false);
        let tls = match config.to.is_encrypted() {
            true => tls::client(config)?,
            // Never used: the scheme is http. No authority is needed for it.
            false => plain(),
        };
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = match config.to.is_encrypted() {
            true => builder.https_only(),
            false => builder.https_or_http(),
        };
        let builder = builder.enable_http1().enable_http2();
        let mut client = Client::builder(TokioExecutor::new());
        client
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1);
        let way = match &config.proxy {
            None => Way::Direct(client.build(builder.wrap_connector(tcp))),
            Some(proxy) => {
                let tunnel = Tunnel::new(proxy_uri(proxy)?, tcp);
                Way::Proxied(client.build(builder.wrap_connector(tunnel)))
            }
        };
        Ok(Self {
            way,
            access: Access::new(config),
        })
    }

    /// Sends, and reads the answer whatever its status is.
    pub(super) async fn post(
        &self,
        url: &Uri,
        content: &'static str,
        more: &HeaderMap,
        body: Vec<u8>,
    ) -> Result<Answer, Trouble> {
        let token = self.access.header().map_err(Trouble::parked)?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.extend(more.clone());
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content));
        let agent = concat!("exeat/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, http::HeaderValue::from_static(agent));
        let secret = token.map(|(header, secret)| {
            headers.insert(AUTHORIZATION, header);
            secret
        });
        let exchange = async {
            let answer = match &self.way {
                Way::Direct(client) => client.request(request).await,
                Way::Proxied(client) => client.request(request).await,
            };
            let (head, body) = answer.map_err(|error| in_words(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| format!("its answer broke off: {error}"))?;
            Ok::<_, String>((head, body.to_bytes()))
        };
        let (head, body) = match tokio::time::timeout(REQUEST_LIMIT, exchange).await {
            Ok(answer) => answer.map_err(Trouble::later)?,
            Err(_) => {
                let limit = REQUEST_LIMIT.as_secs();
                return Err(Trouble::later(format!("no answer within {limit} s")));
            }
        };
        let text = String::from_utf8_lossy(&body);
        let text = secret.map_or_else(|| text.to_string(), |secret| secret.hidden_in(&text));
        let short: String = text.trim().chars().take(MAX_SHOWN).collect();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            shown: printable(&short).into_owned(),
        })
    }
}

fn plain() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("ring has every version of TLS")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

fn in_words(error: &Error) -> String {
    let words = crate::error::chain(error);
    match error.is_connect() {
        true => format!("cannot connect: {words}"),
        false => words,
    }
}

impl Answer {
    /// `503 Service Unavailable: what it said`
    pub(super) fn words(&self) -> String {
        match self.shown.is_empty() {
            true => format!("it answers {}", self.status),
            false => format!("it answers {}: {}", self.status, self.shown),
        }
    }

    /// When it wants to be asked again.
    pub(super) fn after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        let wanted = match text.trim().parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
            }
        };
        Some(wanted.min(MAX_RETRY_AFTER))
    }

    /// What a status means that is no success.
    pub(super) fn trouble(&self) -> Trouble {
        let why = self.words();
        match self.status.as_u16() {
            408 | 425 | 429 | 500..=599 => Trouble::Later {
                why,
                after: self.after(),
            },
            400 | 413 | 422 => Trouble::Indigestible { why },
            401 | 403 => Trouble::parked(format!("{why}; look at the token and what it may do")),
            404 | 405 => Trouble::parked(format!("{why}; look at the address")),
            300..=399 => Trouble::parked(format!(
                "{why}; it sends us elsewhere, and records go only where `to` says"
            )),
            _ => Trouble::parked(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, retry.parse().expect("header"));
        }
        Answer {
            status: StatusCode::from_u16(status).expect("status"),
            headers,
            body: Bytes::new(),
            shown: String::new(),
        }
    }

    #[test]
    fn a_status_says_whether_to_wait_to_stop_or_to_send_less() {
        for status in [408, 429, 500, 502, 503, 504] {
            let trouble = answer(status, None).trouble();
            assert!(matches!(trouble, Trouble::Later { .. }), "{status}");
        }
        for status in [301, 401, 403, 404, 415] {
            let trouble = answer(status, None).trouble();
            assert!(matches!(trouble, Trouble::Parked { .. }), "{status}");
        }
        for status in [400, 413] {
            let trouble = answer(status, None).trouble();
            assert!(matches!(trouble, Trouble::Indigestible { .. }), "{status}");
        }
    }

    #[test]
    fn a_receiver_says_when_to_come_again_in_seconds_or_by_the_clock_and_within_reason() {
        let after = |text| answer(503, Some(text)).after();
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        assert_eq!(answer(503, None).after(), None);
    }
}
