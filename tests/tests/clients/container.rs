//! A program of the agent in a network namespace of its own, wired up from outside as a
//! container is.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::{self, Answer, Puppet};
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, OTHER, OTHER_V4, POLICY, Stage};
use exeat_tests::wait;
use exeat_tests::world::{LAPTOP_V4, NAME_SERVER};
use serde_json::json;
use std::process::Command;

/// The wire between the laptop and the container.
const OUTER: &str = "10.97.0.1";
const INNER: &str = "10.97.0.2";

/// A puppet in a namespace of its own that leads out through the laptop.
fn contained(stage: &Stage) -> Puppet {
    let unshare = ["/usr/bin/unshare", "--map-root-user", "--net"].map(str::to_owned);
    let argv: Vec<String> = unshare.into_iter().chain(puppet::arguments()).collect();
    let puppet = Puppet::start(stage.daemon.run_command(AGENT, PLAIN_USER, &argv));
    let puppet = puppet.expect("puppet");
    let (laptop, internet) = (&stage.world.laptop, &stage.world.internet);
    let pid = puppet.pid().to_string();
    for line in [
        &format!("link add box0 type veth peer name eth0 netns {pid}"),
        &format!("addr add {OUTER}/30 dev box0"),
        "link set box0 up",
    ] {
        laptop.ip(line).expect(line);
    }
    laptop.sysctl("ipv4/ip_forward", "1").expect("forwarding");
    internet
        .ip(&format!("route add {INNER}/32 via {LAPTOP_V4}"))
        .expect("the way back");
    for line in [
        "link set lo up",
        &format!("addr add {INNER}/30 dev eth0"),
        "link set eth0 up",
        &format!("route add default via {OUTER}"),
    ] {
        let mut inside = Command::new("nsenter");
        inside.args(["--net", "--target", &pid, "ip"]);
        let status = inside.args(line.split(' ')).status();
        assert!(status.expect("nsenter").success(), "{line}");
    }
    puppet
}

/// What a container does is judged as anything else of the agent.
#[test]
fn the_policy_holds_in_a_container() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let mut agent = contained(&stage);
    // Plain HTTP goes by the gateway, which is opened there soon.
    let connect = format!("tcp({ALLOWED_V4:?}, 80).getpeername()[0]");
    let reached = wait::until("the gateway in the container", wait::patience(), || {
        agent.value(&connect).ok()
    });
    assert_eq!(reached.expect("connect"), ALLOWED_V4);
    let errno = agent.errno(&format!("tcp({OTHER_V4:?}, 80)")).expect("ask");
    assert_eq!(errno, libc::EPERM);
}

/// The gate's addresses are loopback, and a container has a loopback of its own, where the
/// gate answers too.
#[test]
fn the_gate_answers_in_a_container_and_no_question_leaves() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let pid = stage.daemon.pid().expect("daemon");
    let sockets = || {
        let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
        let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
        let targets = folder.filter_map(|entry| target(entry.ok()?));
        targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = sockets();
    let mut agent = contained(&stage);
    let answered = |server: &str| Answer::Value(json!([[server, 53], 0, [ALLOWED_V4]]));
    let refused = |server: &str| Answer::Value(json!([[server, 53], 5, []]));
    let mut ask = |way: &str, server: &str, name: &str| {
        let code = format!("{way}({server:?}, {name:?})");
        agent.ask(&code).expect(&code)
    };
    wait::until("the gate in the container", wait::patience(), || {
        let asked = ask("dns_tcp", NAME_SERVER, ALLOWED);
        (asked == answered(NAME_SERVER)).then_some(())
    })
    .expect("the gate");
    assert!(sockets() > before);
    for way in ["dns_unconnected", "dns_connected", "dns_message", "dns_tcp"] {
        for server in [NAME_SERVER, OUTER] {
            assert_eq!(ask(way, server, ALLOWED), answered(server), "{way}");
            assert_eq!(ask(way, server, OTHER), refused(server), "{way}");
        }
    }
    // By the program's own resolver, and then to where the name leads.
    let found = agent.value(&format!(
        "tcp(getaddrinfo({ALLOWED:?}, 80, type=SOCK_STREAM)[0][4][0], 80).getpeername()[0]"
    ));
    assert_eq!(found.expect("connect"), ALLOWED_V4);
    // The sockets do not keep the namespace when the container is gone.
    drop(agent);
    wait::until("the gate to leave", wait::patience(), || {
        (sockets() <= before).then_some(())
    })
    .expect("left");
    assert_eq!(stage.dns.asked(OTHER), 0);
    stage.world.settle(&stage.sniffer).expect("settle");
    let left = stage.sniffer.count(|p| p.contains(b"\x05other\x07example"));
    assert_eq!(left, 0);
}
