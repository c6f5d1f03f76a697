//! `asking: webhook:`: a service answers over HTTPS.

use super::{Folder, Scene};
use exeat_tests::asked::{self, FAR, FAR6};
use exeat_tests::collector::{Collector, Post, Reply};
use exeat_tests::http::Authority;
use exeat_tests::stage::AGENT;
use exeat_tests::wait;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Where the service is, and a host that a redirect leads to.
const SERVICE: &str = "203.0.113.60:8443";
const ELSEWHERE: &str = "203.0.113.61:8443";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Its authority, what the daemon needs to know, and lines of configuration.
fn webhook() -> (Folder, Authority, String) {
    let folder = Folder::new();
    let authority = Authority::new().expect("authority");
    folder.write("ca.pem", authority.pem(), 0o644);
    folder.write("secret", &format!("{SECRET}\n"), 0o600);
    let config = format!(
        "asking:\n  webhook:\n    url: https://{SERVICE}/exeat?room=ops\n    secret_file: {}\n    ca_file: {}\n    timeout_seconds: 300\n",
        folder.path("secret").display(),
        folder.path("ca.pem").display()
    );
    (folder, authority, config)
}

fn host(
    scene: &Scene,
    at: &str,
    authority: &Authority,
    answer: impl Fn(usize, &Post) -> Option<Reply> + Send + Sync + 'static,
) -> Collector {
    let at: SocketAddr = at.parse().expect("address");
    let tls = authority.server(&[&at.ip().to_string()]).expect("TLS");
    Collector::start(&scene.stage.world.internet, at, Some(tls), answer).expect("service")
}

/// The signature as openssl makes it.
fn signed(post: &Post) -> String {
    let folder = Folder::new();
    let body = [
        post.headers["x-exeat-timestamp"].as_bytes(),
        b".",
        &post.body,
    ]
    .concat();
    std::fs::write(folder.path("signed"), body).expect("write");
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", SECRET, "-r"])
        .arg(folder.path("signed"))
        .output()
        .expect("openssl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    format!("v1={}", text.split(' ').next().expect("a digest"))
}

fn body(post: &Post) -> Value {
    serde_json::from_slice(&post.body).expect("JSON")
}

/// The post of a kind, when it has come.
fn post(service: &Collector, at: usize) -> Post {
    wait::until("a post", wait::patience(), || {
        service.posts().into_iter().nth(at)
    })
    .unwrap_or_else(|error| panic!("{error}: {:?}", service.posts()))
}

/// A person at the service, who answers when the test says.
fn person() -> (Sender<Reply>, Arc<Mutex<Receiver<Reply>>>) {
    let (say, said) = channel();
    (say, Arc::new(Mutex::new(said)))
}

#[test]
fn a_service_that_holds_the_request_answers_when_its_person_does() {
    let (_folder, authority, config) = webhook();
    let mut scene = Scene::new("user", &config);
    let (say, said) = person();
    // Out of order at first, then thinking, then told of the end.
    let service = host(&scene, SERVICE, &authority, move |number, _| match number {
        0 => Some(Reply::new(503, "")),
        1 => said.lock().expect("lock").recv().ok(),
        _ => Some(Reply::new(204, "")),
    });
    scene.begin();
    let [first, second] = [0, 1].map(|at| post(&service, at));
    scene.still_waits();
    let text = r#"{"answer":"allow","lasts":{"seconds":900},"why":"Ann, in #ops"}"#;
    say.send(Reply::new(200, text)).expect("send");
    assert_eq!(scene.ended(), 0);
    let grant = scene.grant();
    assert_eq!(grant["by"]["via"], "webhook", "{grant}");
    assert_eq!(grant["why"], "Ann, in #ops", "{grant}");
    assert_eq!(grant["lasts"]["seconds"], 900, "{grant}");
    assert_eq!(grant["port"], asked::PORT, "{grant}");
    scene.answered("allowed", "webhook");

    let told = body(&first);
    assert_eq!(first.path, "/exeat?room=ops");
    assert_eq!(told["event"], "asked", "{told}");
    assert_eq!(told["question"]["agent"], AGENT, "{told}");
    assert_eq!(told["question"]["subject"]["address"], FAR, "{told}");
    let id = told["question"]["id"].as_str().expect("an id");
    for one in [&first, &second] {
        assert_eq!(one.headers["x-exeat-delivery"], id, "the same question");
        assert_eq!(one.headers["x-exeat-signature"], signed(one));
    }
    let end = post(&service, 2);
    assert_eq!(end.headers["x-exeat-signature"], signed(&end));
    let end = body(&end);
    assert_eq!(end["event"], "settled", "{end}");
    assert_eq!(end["settlement"]["question"], id, "{end}");
    assert_eq!(end["settlement"]["outcome"], "allowed", "{end}");
}

#[test]
fn a_service_denies_and_is_told_when_a_person_was_faster() {
    let (_folder, authority, config) = webhook();
    let mut scene = Scene::new("user", &config);
    let (_say, said) = person();
    let service = host(&scene, SERVICE, &authority, move |_, post| {
        match (body(post)["event"].as_str(), body(post).to_string()) {
            (Some("asked"), text) if text.contains(FAR) => {
                Some(Reply::new(200, r#"{"answer":"deny"}"#))
            }
            (Some("asked"), _) => said.lock().expect("lock").recv().ok(),
            _ => Some(Reply::new(204, "")),
        }
    });
    scene.begin();
    assert_ne!(scene.ended(), 0);
    scene.answered("denied", "webhook");
    scene.begin_to(FAR6);
    // asked, its end, asked.
    let asked = post(&service, 2);
    assert_eq!(body(&asked)["event"], "asked");
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["allow", &id]);
    assert_eq!(scene.ended(), 0);
    let end = body(&post(&service, 3));
    assert_eq!(end["settlement"]["question"], id, "{end}");
    assert_eq!(end["settlement"]["by"]["via"], "cli", "{end}");
}

/// Ends the first handshake and says how it went.
fn impostor(scene: &Scene, tls: Arc<rustls::ServerConfig>) -> std::thread::JoinHandle<String> {
    let at: SocketAddr = SERVICE.parse().expect("address");
    let bind = || Ok(TcpListener::bind(at)?);
    let listener = scene.stage.world.internet.run(bind).expect("bind");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut connection = rustls::ServerConnection::new(tls).expect("TLS");
        loop {
            match connection.complete_io(&mut stream) {
                Err(error) => return error.to_string(),
                Ok(_) if !connection.is_handshaking() => return "it was believed".to_owned(),
                Ok(_) => {}
            }
        }
    })
}

#[test]
fn who_cannot_show_the_services_certificate_answers_nothing() {
    let (_folder, authority, config) = webhook();
    let mut scene = Scene::new("user", &config);
    let other = Authority::new().expect("authority");
    let host_of = SERVICE.split(':').next().expect("a host");
    // Another authority's, then the right one's for another host.
    for tls in [
        other.server(&[host_of]).expect("TLS"),
        authority.server(&["chat.example"]).expect("TLS"),
    ] {
        let impostor = impostor(&scene, tls);
        if asked::questions(&scene.stage, 0).expect("ask").is_empty() {
            scene.begin();
        }
        let said = impostor.join().expect("impostor");
        println!("{said}");
        assert!(said.contains("alert"), "{said}");
        scene.still_waits();
    }
    // The service itself, at last: it is tried again as long as the question stands.
    let service = host(&scene, SERVICE, &authority, |_, _| {
        Some(Reply::new(200, r#"{"answer":"allow"}"#))
    });
    assert_eq!(scene.ended(), 0);
    assert_eq!(body(&post(&service, 0))["event"], "asked");
}

#[test]
fn a_redirect_leads_nowhere_and_noise_is_no_answer() {
    let (_folder, authority, config) = webhook();
    let mut scene = Scene::new("user", &config);
    let elsewhere = host(&scene, ELSEWHERE, &authority, |_, _| {
        Some(Reply::new(200, r#"{"answer":"allow"}"#))
    });
    let _service = host(&scene, SERVICE, &authority, |_, post| {
        let to = format!("https://{ELSEWHERE}/exeat");
        Some(match body(post).to_string().contains(FAR) {
            true => Reply::new(307, r#"{"answer":"allow"}"#).with("Location", to),
            false => Reply::new(200, r#"{"answer":"allow","if":"it is day"}"#),
        })
    });
    scene.begin();
    scene.daemon_says("307 Temporary Redirect");
    scene.still_waits();
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["deny", &id]);
    assert_ne!(scene.ended(), 0);
    scene.begin_to(FAR6);
    scene.daemon_says("its answer cannot be read");
    assert!(asked::waits(&mut scene.puppet).expect("puppet"));
    assert!(elsewhere.posts().is_empty(), "{:?}", elsewhere.posts());
    let log = scene.stage.daemon.log();
    assert!(!log.contains(SECRET), "the secret is in the log");
}
