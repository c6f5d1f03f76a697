//! Out through a proxy of the enterprise.

use super::{SHARED, Scene};
use exeat_tests::service::Service;
use exeat_tests::sink::{accept_each, listen};
use exeat_tests::stage::Stage;
use nix::sched::{CloneFlags, setns};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

const PROXY: &str = "203.0.113.40:3128";

/// A proxy that knows CONNECT, and one user.
struct Enterprise {
    heads: Arc<Mutex<Vec<String>>>,
    _service: Service,
}

impl Enterprise {
    /// `sends` is where everything goes, whatever name is asked for.
    fn new(stage: &Stage, sends: &str) -> Self {
        let ns = &stage.world.internet;
        let listener = listen(ns, PROXY.parse().expect("an address")).expect("listen");
        let sends: SocketAddr = sends.parse().expect("an address");
        let inside = std::fs::File::open(ns.net_path()).expect("a namespace");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&heads);
        let service = Service::spawn("enterprise proxy", move |stop| {
            setns(&inside, CloneFlags::CLONE_NEWNET).expect("enter");
            accept_each(&stop, &listener, |stream, _, _| {
                let heads = Arc::clone(&theirs);
                let server = TcpStream::connect(sends);
                std::thread::spawn(move || {
                    // Who goes away in the middle is no fault of the proxy.
                    let _ = server.map(|server| pass(stream, server, &heads));
                });
            });
        });
        Self {
            heads,
            _service: service.expect("proxy"),
        }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("lock").clone()
    }
}

fn pass(
    mut client: TcpStream,
    server: TcpStream,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    // `anna:secret` in base64.
    let known = head.contains("Basic YW5uYTpzZWNyZXQ=");
    heads.lock().expect("lock").push(head);
    if !known {
        return client
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
    let (mut client, mut server) = (client, server);
    let upward = std::thread::spawn(move || {
        let _ = std::io::copy(&mut up, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Write);
    });
    std::io::copy(&mut down, &mut client)?;
    let _ = client.shutdown(std::net::Shutdown::Write);
    let _ = upward.join();
    Ok(())
}

#[test]
fn names_leave_through_it_with_the_credentials_of_a_file() {
    let mut scene = Scene::new(&["host: unused.example, ports: [443]"]);
    let enterprise = Enterprise::new(&scene.stage, "203.0.113.30:443");
    let file = scene.stage.world.folder().join("proxy-password");
    std::fs::write(&file, "anna:secret\n").expect("write");
    let mode = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
    };
    let rule = format!(
        "host: good.example, ports: [443], via: {{ proxy: 'http://{PROXY}', credentials: {} }}",
        file.display()
    );
    // A password that others can read is none: the policy is not put in force.
    mode(0o644);
    scene
        .stage
        .daemon
        .write_policy(&super::policy(&[&rule]))
        .expect("policy");
    let output = scene.stage.daemon.reload().expect("reload");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("proxy-password") && text.contains("worker"),
        "{text}"
    );
    mode(0o600);
    scene
        .stage
        .daemon
        .enforce(&super::policy(&[&rule]))
        .expect("reload");
    scene.resolve("good.example");
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    let refused = scene.https(SHARED, "evil.example");
    assert!(refused.contains("Error"), "{refused}");
    let heads = enterprise.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(
        heads[0].starts_with("CONNECT good.example:443 "),
        "{heads:?}"
    );
    let event = scene.event(|e| e["verdict"] == "allow");
    assert_eq!(event["connection"]["proxy"], PROXY);
    let told = format!(
        "{:?}{}",
        scene.stage.daemon.events().expect("events"),
        scene.stage.daemon.log()
    );
    assert!(!told.contains("secret") && !told.contains("YW5uYTpzZWNyZXQ"));
    // A new password counts at once.
    std::fs::write(&file, "anna:wrong\n").expect("write");
    let refused = scene.https(SHARED, "good.example");
    assert!(refused.contains("Error"), "{refused}");
    let event = scene.event(|e| e["connection"]["outcome"] == "proxy_refused");
    assert_eq!(event["connection"]["proxy_status"], 407);
}
