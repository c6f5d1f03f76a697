//! A bundle over HTTPS. Whom the bytes come from decides nothing (the signatures do); TLS keeps
//! others from seeing which bundle a laptop has, and tells the server which laptop asks.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ETAG, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::MAX_BYTES;
use super::config::BundleConfig;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// From the request to the end of the answer.
const LIMIT: Duration = Duration::from_secs(120);
/// Between attempts after a failure, at first; twice as long each time, up to `every`.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// What an answer was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// What is there was there before.
    Same,
    /// A bundle, and the tag by which to ask again.
    New(Vec<u8>, Option<HeaderValue>),
}

/// Asks once. Errors are in words.
pub async fn pull(
    config: &BundleConfig,
    url: &Uri,
    tag: Option<&HeaderValue>,
) -> Result<Pulled, String> {
    let identity = config
        .certificate_file
        .as_deref()
        .zip(config.key_file.as_deref());
    let tls = crate::ship::tls_client(config.ca_file.as_deref(), identity)?;
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    // One connection an hour is not worth keeping.
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = url.clone();
    let agent = HeaderValue::from_static(concat!("exeat/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    if let Some(tag) = tag {
        request.headers_mut().insert(IF_NONE_MATCH, tag.clone());
    }
    let exchange = async {
        let answer = client.request(request).await;
        let (head, body) = answer
            .map_err(|error| crate::error::chain(&error))?
            .into_parts();
        match head.status {
            StatusCode::NOT_MODIFIED => return Ok(Pulled::Same),
            StatusCode::OK => {}
            status => return Err(format!("it answers {status}")),
        }
        let body = Limited::new(body, MAX_BYTES as usize).collect().await;
        let body = body.map_err(|error| format!("its answer broke off: {error}"))?;
        Ok(Pulled::New(
            body.to_bytes().to_vec(),
            head.headers.get(ETAG).cloned(),
        ))
    };
    let answer = tokio::time::timeout(LIMIT, exchange).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
}

/// How long until the next attempt. `chance` is from 0 to 1: laptops that start together do not
/// ask together.
pub fn pause(every: Duration, failures: u32, chance: f64) -> Duration {
    let chance = chance.clamp(0.0, 1.0);
    match failures {
        0 => every.mul_f64(1.0 + chance / 10.0),
        n => {
            let longest = FIRST_PAUSE.saturating_mul(1 << (n - 1).min(20)).min(every);
            // Anywhere in the second half: as many failed, so as many would come back.
            longest.mul_f64(0.5 + chance / 2.0)
        }
    }
}
