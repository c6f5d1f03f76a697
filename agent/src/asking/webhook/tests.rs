use super::*;
use crate::asking::outside::tests::question;
use crate::asking::{Lasts, Outcome, Ruling};

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A request as the service got it.
#[derive(Debug)]
struct Got {
    time: String,
    signature: String,
    delivery: String,
    body: String,
}

/// A service behind TLS that gives these answers in turn, the last one for ever.
struct Service {
    address: SocketAddr,
    ca: String,
    got: mpsc::UnboundedReceiver<Got>,
}

async fn service(answers: &'static [(u16, &'static str)]) -> Service {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (tell, got) = mpsc::unbounded_channel();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                return;
            };
            let (acceptor, tell, count) = (acceptor.clone(), tell.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let serve = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (tell, count) = (tell.clone(), count.clone());
                    async move {
                        let header = |name: &str| {
                            let value = request.headers().get(name).expect(name);
                            value.to_str().expect("text").to_owned()
                        };
                        let (time, signature) = (header(TIME), header(SIGNATURE));
                        let delivery = header(DELIVERY);
                        let body = request.into_body().collect().await?.to_bytes();
                        let _ = tell.send(Got {
                            time,
                            signature,
                            delivery,
                            body: String::from_utf8_lossy(&body).into_owned(),
                        });
                        let turn = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        let (status, text) = answers[turn.min(answers.len() - 1)];
                        let mut response =
                            Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                        *response.status_mut() = StatusCode::from_u16(status).expect("status");
                        response.headers_mut().insert(
                            header::LOCATION,
                            header::HeaderValue::from_static("https://localhost:1/else"),
                        );
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve)
                    .await;
            });
        }
    });
    Service {
        address,
        ca: made.cert.pem(),
        got,
    }
}

impl Service {
    fn webhook(&self, trusted: bool) -> Webhook {
        let dir = tempfile::tempdir().expect("folder");
        let ca_file = dir.path().join("ca.pem");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("other");
        std::fs::write(
            &ca_file,
            if trusted {
                self.ca.clone()
            } else {
                other.cert.pem()
            },
        )
        .expect("write");
        let config = WebhookConfig {
            url: format!("https://localhost:{}/ask", self.address.port()),
            secret_file: secret(dir.path(), SECRET, 0o600),
            ca_file: Some(ca_file),
            timeout_seconds: 20,
        };
        config.check().expect("sound");
        Webhook::new(&config).expect("webhook")
    }
}

fn secret(dir: &Path, text: &str, mode: u32) -> PathBuf {
    let path = dir.join("secret");
    std::fs::write(&path, format!("{text}\n")).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
    path
}

#[tokio::test]
async fn a_question_is_posted_signed_and_the_answer_taken() {
    let mut service = service(&[(
        200,
        r#"{"answer":"allow","lasts":"hour","why":"ok by Ann"}"#,
    )])
    .await;
    let answer = service
        .webhook(true)
        .ask(&question("k3w9qd"))
        .await
        .expect("an answer");
    assert_eq!(answer.choice.ruling, Ruling::Allow);
    assert_eq!(answer.choice.lasts, Lasts::For { seconds: 3600 });
    assert_eq!(answer.why.as_deref(), Some("ok by Ann"));
    let got = service.got.recv().await.expect("a request");
    let sent: serde_json::Value = serde_json::from_str(&got.body).expect("JSON");
    assert_eq!(sent["event"], "asked");
    assert_eq!(sent["question"]["id"], "k3w9qd");
    assert_eq!(got.delivery, "k3w9qd");
    // As another implementation makes it.
    let signed = format!("{}.{}", got.time, got.body);
    let out = {
        use std::io::Write as _;
        let mut child = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-hmac", SECRET])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("openssl");
        let mut stdin = child.stdin.take().expect("stdin");
        stdin.write_all(signed.as_bytes()).expect("write");
        drop(stdin);
        child.wait_with_output().expect("output")
    };
    let text = String::from_utf8_lossy(&out.stdout);
    let expected = text.trim().rsplit(' ').next().expect("a digest");
    assert_eq!(got.signature, format!("v1={expected}"));
    let skew = Timestamp::now().as_second() - got.time.parse::<i64>().expect("seconds");
    assert!((0..60).contains(&skew), "{skew}");
}

#[tokio::test]
async fn a_service_that_stumbles_is_asked_again() {
    let answers = &[(503, ""), (429, ""), (200, r#"{"answer":"deny"}"#)];
    let mut service = service(answers).await;
    let answer = service
        .webhook(true)
        .ask(&question("q"))
        .await
        .expect("an answer");
    assert_eq!(answer.choice.ruling, Ruling::Deny);
    for _ in answers {
        assert_eq!(service.got.recv().await.expect("a request").delivery, "q");
    }
}

#[tokio::test]
async fn what_is_no_answer_answers_nothing() {
    for answers in [
        &[(202, r#"{"answer":"allow"}"#)],
        &[(204, "")],
        &[(200, "")],
        &[(200, "allow")],
        &[(400, r#"{"answer":"allow"}"#)],
        // A redirect is not followed.
        &[(307, r#"{"answer":"allow"}"#)],
    ] as [&'static [(u16, &'static str)]; 6]
    {
        let service = service(answers).await;
        let answer = service.webhook(true).ask(&question("q")).await;
        assert_eq!(answer, None, "{answers:?}");
    }
}

#[tokio::test]
async fn a_service_without_the_right_certificate_is_told_nothing() {
    let mut service = service(&[(200, r#"{"answer":"allow"}"#)]).await;
    let mut brief = question("q");
    brief.expires = Timestamp::now();
    assert_eq!(service.webhook(false).ask(&brief).await, None);
    assert!(service.got.try_recv().is_err(), "it got the question");
}

#[tokio::test]
async fn an_end_is_told_without_being_asked_about() {
    let mut service = service(&[(500, ""), (200, "")]).await;
    let end = Settlement {
        question: "k3w9qd".into(),
        agent: "builder".into(),
        outcome: Outcome::TimedOut,
        by: None,
    };
    service.webhook(true).tell(&end).await;
    for _ in 0..2 {
        let got = service.got.recv().await.expect("a request");
        assert_eq!(got.delivery, "k3w9qd-end");
        assert!(got.body.contains(r#""event":"settled""#), "{}", got.body);
        assert!(
            got.body.contains(r#""outcome":"timed_out""#),
            "{}",
            got.body
        );
    }
}

#[test]
fn secrets_and_addresses_are_checked() {
    let dir = tempfile::tempdir().expect("folder");
    let config = |url: &str| WebhookConfig {
        url: url.into(),
        secret_file: "/etc/exeat/secret".into(),
        ca_file: None,
        timeout_seconds: 30,
    };
    assert_eq!(
        config("https://chat.example/hook?token=t0ken").check(),
        Ok(())
    );
    for url in [
        "http://chat.example/t0ken",
        "https://u:t0ken@chat.example/",
        "/t0ken",
        "https:t0ken",
    ] {
        let (key, text) = config(url).check().expect_err(url);
        assert_eq!(key, "asking.webhook.url");
        assert!(!text.contains("t0ken"), "{text}");
    }
    let with = |text: &str, mode| {
        let mut config = config("https://chat.example/");
        config.secret_file = secret(dir.path(), text, mode);
        Webhook::new(&config).err()
    };
    let open = with(SECRET, 0o644).expect("others can read it");
    assert!(
        open.contains("chmod 600") && !open.contains(SECRET),
        "{open}"
    );
    let short = with("short", 0o600).expect("too short");
    assert!(short.contains("openssl rand"), "{short}");
}
