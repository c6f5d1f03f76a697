//! Ways around the gateway, and ways to misuse it.

use super::{SHARED, Scene};
use exeat_tests::sniff::Packet;
use exeat_tests::wait;
use nix::libc;
use nix::sys::socket::SockaddrIn;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const RULE: &str = "host: good.example, ports: [443], via: gateway";

/// The ports of the agent's gateway, as the daemon remembers them.
fn ports(scene: &Scene) -> serde_json::Value {
    let state = scene.stage.daemon.runtime_dir().join("state.json");
    let state = std::fs::read(state).expect("state");
    let state: serde_json::Value = serde_json::from_slice(&state).expect("json");
    state["agents"]["worker"]["gateway"]["ports"].clone()
}

/// What is not steered has no place to go: not a byte of it is read as a destination.
#[test]
fn a_connection_to_the_gateway_itself_leads_nowhere() {
    let mut scene = Scene::new(&[RULE]);
    let ports = ports(&scene);
    let port = ports["steered4"].as_u64().expect("a port");
    let index = scene.stage.daemon.status().expect("status")["agents"][0]["index"].clone();
    let index = index.as_u64().expect("index") + 1;
    let gateway = format!("127.64.{}.{}", index >> 8, index & 0xff);
    let code = format!(
        "https({gateway:?}, 'good.example', {:?}, {port})",
        scene.authority.display()
    );
    let said = scene.asked(&code);
    assert!(said.contains("Error"), "{said}");
    scene.event(|e| e["reason"] == "unsteered");
    assert!(scene.served().is_empty());
}

/// A connection from before the rule said so goes no further.
#[test]
fn a_connection_that_was_not_steered_ends_when_its_rule_leaves_by_the_gateway() {
    let mut scene = Scene::new(&["cidr: 203.0.113.30, ports: [443]"]);
    scene
        .agent
        .value(&format!("s = tcp({SHARED:?}, 443)"))
        .expect("connected");
    let rules = ["cidr: 203.0.113.30, ports: [443], via: gateway"];
    scene
        .stage
        .daemon
        .enforce(&super::policy(&rules))
        .expect("reload");
    scene.agent.value("s.settimeout(20)").expect("set");
    let code =
        "\ntry:\n    s.sendall(b'x')\n    r = s.recv(1)\nexcept OSError as e:\n    r = e.errno\nr";
    assert_eq!(
        scene.agent.value(code).expect("aborted"),
        103,
        "ECONNABORTED"
    );
    let event = scene.stage.daemon.event(|e| e["reason"] == "unsteered");
    assert_eq!(event.expect("event")["hook"], "egress");
    // A new one goes that way.
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
}

/// A socket of the agent that somebody outside connects for it: no connect hook sees that as
/// the agent's, and its first packet is refused.
#[test]
fn a_socket_that_is_connected_from_outside_does_not_pass_by() {
    let mut scene = Scene::new(&[RULE]);
    let descriptor = "s = socket(AF_INET, SOCK_STREAM)\ns.setblocking(False)\ns.fileno()";
    let descriptor = scene.agent.value(descriptor).expect("a socket");
    let descriptor = descriptor.as_i64().expect("a number");
    // SAFETY: both calls take numbers alone, and answer with a descriptor of ours or -1.
    let taken = unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, scene.agent.pid(), 0);
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(process as i32);
        libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0)
    };
    assert!(taken >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call above has just made it for us.
    let socket = unsafe { OwnedFd::from_raw_fd(taken as i32) };
    let to = SockaddrIn::new(203, 0, 113, 30, 443);
    let begun = nix::sys::socket::connect(socket.as_raw_fd(), &to);
    assert_ne!(begun, Ok(()), "nothing answers");
    let event = scene.stage.daemon.event(|e| e["reason"] == "unsteered");
    assert_eq!(event.expect("event")["hook"], "egress");
    let to_host = |p: &Packet| p.ends.is_some_and(|(_, to)| to.to_string() == SHARED);
    let left = scene.stage.forbidden(|p| !to_host(p)).expect("sniffed");
    assert!(left.is_empty(), "{left:?}");
}

/// Data in the packet that opens a connection is the gateway's to read, as any other.
#[test]
fn fast_open_leads_to_the_gateway_too() {
    let mut scene = Scene::new(&["host: good.example, ports: [80]"]);
    let code = format!(
        "s = socket(AF_INET, SOCK_STREAM)\ns.sendto(request('evil.example'), 0x20000000, ({SHARED:?}, 80))\ns.settimeout(20)\ntext_of(s)"
    );
    let said = scene.asked(&code);
    assert!(said.contains("403"), "{said}");
    assert!(scene.served().is_empty());
}

/// The name of a server is resolved by the gateway, and never to an address of this machine.
#[test]
fn a_name_that_stands_for_this_machine_is_not_reached() {
    let mut scene = Scene::new(&["host: good.example, ports: [443], via: gateway"]);
    scene
        .stage
        .dns
        .set("good.example", &["127.0.0.1", "127.64.0.1"], 1);
    wait::until("the old answer to have ended", wait::patience(), || {
        let said = scene.https(SHARED, "good.example");
        (said != "reached").then_some(())
    })
    .expect("ended");
    scene.event(|e| e["reason"] == "rebind");
}

/// The cost of names below a wildcard is the same, whichever way they are looked up.
#[test]
fn names_that_only_a_hello_says_are_paid_for() {
    let rules = super::policy(&["host: '*.wild.example', ports: [443], via: gateway"]);
    let budget = "    dns: { budget: { names: 5 } }\n";
    let mut scene = Scene::with(&format!("{rules}{budget}"));
    let names: Vec<String> = (0..40)
        .map(|n| format!("secret-{n}.wild.example"))
        .collect();
    scene.stage.dns.set("first.wild.example", &[SHARED], 60);
    scene.resolve("first.wild.example");
    for name in &names {
        let said = scene.https(SHARED, name);
        assert!(said.contains("Error"), "{name}: {said}");
    }
    let asked = scene.stage.dns.names();
    let told: Vec<_> = asked
        .iter()
        .filter(|name| name.starts_with("secret-"))
        .collect();
    assert!((1..=5).contains(&told.len()), "{told:?}");
}

/// In a network namespace of the agent's own the gateway answers too.
#[test]
fn a_container_is_steered_to_a_gateway_of_its_own() {
    let mut scene = Scene::new(&[RULE]);
    let enter = "
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
assert libc.unshare(0x50000000) == 0  # CLONE_NEWUSER | CLONE_NEWNET
open('/proc/self/setgroups', 'w').write('deny')
open('/proc/self/uid_map', 'w').write(f'0 {uid} 1')
open('/proc/self/gid_map', 'w').write(f'0 {gid} 1')
import fcntl
with socket(AF_INET, SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))  # SIOCSIFFLAGS, IFF_UP
";
    scene
        .agent
        .value(&format!("import ctypes\n{enter}"))
        .expect("a namespace");
    wait::until("the gateway there", wait::patience(), || {
        (scene.https(SHARED, "good.example") == "reached").then_some(())
    })
    .expect("reached");
    let refused = scene.https(SHARED, "evil.example");
    assert!(refused.contains("Error"), "{refused}");
    let served = scene.served();
    assert!(
        served.iter().all(|name| name == "good.example"),
        "{served:?}"
    );
}
