//! What somebody tries who has no session, or wants to use somebody else's.

use crate::double::{Double, question};
use crate::http::{Said, read, send};
use exeat_tests::browser::Browser;
use exeat_tests::ui::Running;
use exeat_tests::wait;
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Instant;

const JSON: &str = "Content-Type: application/json";
const ANSWER: &str = r#"{"question":"q00001","choice":{"ruling":"allow","lasts":{"kind":"always"},"breadth":{"kind":"this"}}}"#;

struct Scene {
    double: Double,
    ui: Running,
    at: SocketAddr,
    host: String,
    origin: String,
}

impl Scene {
    fn new() -> Self {
        let double = Double::new();
        double.ask(question("q00001", "registry.example.net"));
        double.listen();
        let ui = Running::of(double.folder()).expect("ui");
        let at = ui.address();
        Self {
            host: format!("Host: {at}"),
            origin: format!("Origin: http://{at}"),
            double,
            ui,
            at,
        }
    }

    fn begin(&self, token: &str) -> Said {
        let lines = ["POST /session HTTP/1.1", &self.host, &self.origin, JSON];
        send(self.at, &lines, &json!({ "token": token }).to_string())
    }

    /// A session: the lines of its cookie and of its key.
    fn session(&self) -> (String, String) {
        let said = self.begin(self.ui.token());
        assert_eq!(said.status, 200, "{said:?}");
        let cookie = said.header("set-cookie").expect("a cookie");
        let (cookie, rest) = cookie.split_once(';').expect("attributes");
        assert_eq!(rest, " Path=/; HttpOnly; SameSite=Strict");
        let body: Value = serde_json::from_str(&said.body).expect("JSON");
        let key = body["key"].as_str().expect("a key");
        (format!("Cookie: {cookie}"), format!("X-Exeat-Key: {key}"))
    }

    fn answer(&self, lines: &[&str]) -> Said {
        let all: Vec<&str> = ["POST /answer HTTP/1.1"]
            .iter()
            .chain(lines)
            .copied()
            .collect();
        send(self.at, &all, ANSWER)
    }
}

#[test]
fn nothing_is_answered_without_all_that_a_session_is() {
    let scene = Scene::new();
    let (host, origin) = (scene.host.as_str(), scene.origin.as_str());
    for wrong in ["", "x", &"A".repeat(43), &scene.ui.token()[1..], "\u{0}"] {
        assert_eq!(scene.begin(wrong).status, 401, "{wrong:?}");
    }
    assert_eq!(
        scene.answer(&[host, origin, JSON]).status,
        401,
        "no session"
    );
    let (cookie, key) = scene.session();
    assert_eq!(
        scene.begin(scene.ui.token()).status,
        401,
        "a token is good once"
    );
    let (cookie, key) = (cookie.as_str(), key.as_str());

    let port = scene.at.port();
    let rebound = format!("Host: evil.example:{port}");
    let (by_name, no_port) = (format!("Host: localhost:{port}"), "Host: 127.0.0.1");
    for (what, status, lines) in [
        ("no cookie", 401, vec![host, origin, JSON, key]),
        ("no key", 401, vec![host, origin, JSON, cookie]),
        (
            "another key",
            401,
            vec![host, origin, JSON, cookie, "X-Exeat-Key: x"],
        ),
        (
            "another cookie",
            401,
            vec![host, origin, JSON, "Cookie: exeat=x", key],
        ),
        (
            "two cookies",
            401,
            vec![host, origin, JSON, cookie, cookie, key],
        ),
        (
            "rebound name",
            421,
            vec![&rebound, origin, JSON, cookie, key],
        ),
        ("localhost", 421, vec![&by_name, origin, JSON, cookie, key]),
        ("no port", 421, vec![no_port, origin, JSON, cookie, key]),
        (
            "two hosts",
            400,
            vec![host, &rebound, origin, JSON, cookie, key],
        ),
        ("no origin", 403, vec![host, JSON, cookie, key]),
        (
            "another origin",
            403,
            vec![host, "Origin: http://evil.example", JSON, cookie, key],
        ),
        (
            "another port",
            403,
            vec![host, "Origin: http://127.0.0.1:1", JSON, cookie, key],
        ),
        ("null", 403, vec![host, "Origin: null", JSON, cookie, key]),
        (
            "two origins",
            403,
            vec![host, origin, "Origin: null", JSON, cookie, key],
        ),
        (
            "a form",
            403,
            vec![host, origin, "Content-Type: text/plain", cookie, key],
        ),
        ("no type", 403, vec![host, origin, cookie, key]),
        (
            "another site",
            403,
            vec![host, origin, JSON, cookie, key, "Sec-Fetch-Site: same-site"],
        ),
    ] {
        let said = scene.answer(&lines);
        // hyper itself may refuse two hosts, or the check for one does.
        let fine = said.status == status || (what == "two hosts" && said.status == 421);
        assert!(fine, "{what}: {said:?}");
    }
    assert!(
        scene.double.was_told_no_more(),
        "nothing reached the daemon"
    );

    let live = |lines: &[&str]| {
        let all: Vec<&str> = ["GET /live HTTP/1.1"]
            .iter()
            .chain(lines)
            .copied()
            .collect();
        send(scene.at, &all, "").status
    };
    assert_eq!(live(&[host]), 401);
    assert_eq!(live(&[host, cookie]), 401);
    assert_eq!(live(&[host, key]), 401);
    assert_eq!(
        live(&[host, cookie, key, "Sec-Fetch-Site: cross-site"]),
        403
    );

    let said = scene.answer(&[host, origin, JSON, cookie, key]);
    assert_eq!(said.status, 200, "with all of it: {said:?}");
    scene.double.told();
    let said = scene.answer(&[host, origin, JSON, cookie, key]);
    assert_eq!(said.status, 410, "it is settled: {said:?}");
}

#[test]
fn every_answer_has_its_guards_and_no_path_leads_out() {
    let scene = Scene::new();
    let host = scene.host.as_str();
    let (cookie, key) = scene.session();
    for (request, status) in [
        ("GET / HTTP/1.1", 200),
        ("GET /app.js HTTP/1.1", 200),
        ("GET /app.css HTTP/1.1", 200),
        ("GET /icon.svg HTTP/1.1", 200),
        ("GET /../../../etc/passwd HTTP/1.1", 404),
        ("GET /..%2f..%2fetc/passwd HTTP/1.1", 404),
        ("GET //etc/passwd HTTP/1.1", 404),
        ("GET /app.js/../../../etc/passwd HTTP/1.1", 404),
        ("GET /%00 HTTP/1.1", 404),
        ("GET http://evil.example/ HTTP/1.1", 200),
        ("OPTIONS /answer HTTP/1.1", 401),
        ("PUT / HTTP/1.1", 405),
        ("TRACE / HTTP/1.1", 405),
        ("GET /answer HTTP/1.1", 401),
    ] {
        let said = send(scene.at, &[request, host], "");
        assert_eq!(said.status, status, "{request}: {said:?}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
            ("connection", "close"),
        ] {
            assert_eq!(said.header(name), Some(value), "{request}: {name}");
        }
        let csp = said.header("content-security-policy").expect("a policy");
        assert!(
            csp.starts_with("default-src 'none'; script-src 'self';"),
            "{csp}"
        );
        assert!(
            csp.contains("frame-ancestors 'none'") && !csp.contains("unsafe"),
            "{csp}"
        );
        let open = said.head.to_ascii_lowercase().contains("access-control");
        assert!(!open, "{request}: {}", said.head);
        assert!(!said.body.contains("root:"), "{request}");
    }
    // Bodies that are too long, or no JSON.
    let post = |path: &str, body: &str| {
        let first = format!("POST {path} HTTP/1.1");
        let lines = [first.as_str(), host, &scene.origin, JSON, &cookie, &key];
        send(scene.at, &lines, body).status
    };
    assert_eq!(post("/answer", &"x".repeat(5000)), 413);
    assert_eq!(post("/answer", "{}"), 400);
    assert_eq!(
        post(
            "/answer",
            &ANSWER.replace("{\"question\"", "{\"agent\":\"a\",\"question\"")
        ),
        400
    );
    assert_eq!(
        post("/revoke", r#"{"agent":"build-bot"}"#),
        400,
        "one grant, not all"
    );
    assert!(scene.double.was_told_no_more());
}

#[test]
fn it_listens_on_loopback_alone() {
    let scene = Scene::new();
    assert!(scene.at.ip().is_loopback());
    let text = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
    let port = format!(":{:04X} ", scene.at.port());
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(&port) && line.contains(" 0A "))
        .collect();
    assert!(own.len() == 1 && own[0].contains("0100007F:"), "{own:?}");
}

/// More connections than it takes at once, each with half a request: they are ended, and what
/// waited behind them is served.
#[test]
fn slow_clients_hold_nobody_up_for_long() {
    let scene = Scene::new();
    // More than there are places for (32), and fewer than would take them twice.
    let half: Vec<TcpStream> = (0..48)
        .map(|_| {
            let mut stream = TcpStream::connect(scene.at).expect("connect");
            stream.write_all(b"GET / HTTP/1.1\r\nHost:").expect("send");
            stream
        })
        .collect();
    let began = Instant::now();
    let said = send(scene.at, &["GET / HTTP/1.1", &scene.host], "");
    assert_eq!(said.status, 200, "{said:?}");
    let limit = wait::scaled(std::time::Duration::from_secs(60));
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    for stream in half.into_iter().take(32) {
        assert_ne!(read(stream).status, 200);
    }
    // Pages that stay are bounded too.
    let (cookie, key) = scene.session();
    let lines = format!(
        "GET /live HTTP/1.1\r\n{}\r\n{cookie}\r\n{key}\r\n\r\n",
        scene.host
    );
    let pages: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(scene.at).expect("connect");
            stream.write_all(lines.as_bytes()).expect("send");
            let mut first = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut first).expect("an answer");
            assert_eq!(&first, b"HTTP/1.1 200");
            stream
        })
        .collect();
    let live = ["GET /live HTTP/1.1", &scene.host, &cookie, &key];
    assert_eq!(send(scene.at, &live, "").status, 503);
    drop(pages);
    wait::until(
        "the places of pages that were closed",
        wait::patience(),
        || {
            let mut stream = TcpStream::connect(scene.at).ok()?;
            stream.write_all(lines.as_bytes()).ok()?;
            let mut first = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut first).ok()?;
            (&first == b"HTTP/1.1 200").then_some(())
        },
    )
    .expect("a place");
}

/// A page of somebody else on this very host, such as a development server that an agent runs:
/// the browser gives it the cookie, and lets it send requests.
#[test]
fn another_page_of_the_same_host_can_do_nothing_with_the_session() {
    let Some(mut browser) = Browser::start(|program| Command::new(program)).expect("browser")
    else {
        return;
    };
    let scene = Scene::new();
    browser.open(&scene.ui.url).expect("page");
    browser
        .until("document.querySelector('#questions').innerText.includes('registry')")
        .expect("in session");

    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let evil = listener.local_addr().expect("address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).expect("head");
            head.push(byte[0]);
        }
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<title>evil</title>";
        stream.write_all(page.as_bytes()).expect("page");
        String::from_utf8_lossy(&head).into_owned()
    });
    browser.open(&format!("http://{evil}/")).expect("page");
    let head = server.join().expect("server");
    // Cookies know no ports: this is why a cookie alone opens nothing.
    assert!(
        head.contains(&format!("exeat-{}=", scene.at.port())),
        "{head}"
    );
    for init in [
        "{ method: 'POST', body: BODY, credentials: 'include' }",
        "{ method: 'POST', body: BODY, credentials: 'include', mode: 'no-cors' }",
        "{ method: 'POST', body: BODY, credentials: 'include', headers: { 'content-type': 'application/json', 'x-exeat-key': 'x' } }",
    ] {
        let tried = format!(
            "fetch('http://{}/answer', {}).then((r) => r.type + r.status, (e) => 'refused')",
            scene.at,
            init.replace("BODY", &format!("'{ANSWER}'"))
        );
        let said = browser.value(&tried).expect("tried");
        assert!(said == "refused" || said == "opaque0", "{said}");
    }
    let live = format!(
        "fetch('http://{}/live', {{ credentials: 'include' }}).then((r) => r.status, () => 'refused')",
        scene.at
    );
    assert_eq!(browser.value(&live).expect("tried"), "refused");
    // It cannot be put into a frame either.
    let framed = format!(
        "new Promise((done) => {{ const f = document.createElement('iframe'); f.src = 'http://{}/'; \
         f.onload = () => {{ let t = 'closed'; try {{ t = f.contentDocument.title; }} catch {{}} done(t); }}; \
         document.body.append(f); }})",
        scene.at
    );
    assert_eq!(browser.value(&framed).expect("tried"), "closed");
    assert!(scene.double.was_told_no_more());
}
