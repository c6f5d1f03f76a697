//! Another network, a VPN that comes and goes, and a network without IPv4.

use crate::{
    HERE, NOWHERE, POLICY, SHORT, THERE, ask_the_systems_servers, connect, here_for_seconds,
    incident, incidents, leases, name_server, resolv_conf, until_connect, until_leased,
};
use exeat_tests::stage::{AGENT, ALLOWED, Stage};
use exeat_tests::wait;
use exeat_tests::world::{LAPTOP_V4, ROUTER_V4};

#[test]
fn another_network_and_a_vpn_are_told_of_and_names_are_asked_of_their_servers() {
    let mut stage = Stage::new(POLICY, SHORT).expect("stage");
    ask_the_systems_servers(&mut stage);
    here_for_seconds(&stage);
    let other = name_server(&stage, "203.0.113.54:53");
    other.set(ALLOWED, &[THERE], 1);
    let _sinks = [HERE, THERE, NOWHERE].map(|host| {
        let sink = stage.world.tcp_sink(&format!("{host}:7000"));
        sink.expect("sink")
    });
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    until_connect(&mut agent, HERE, 7000, 0);
    assert_eq!(connect(&mut agent, THERE, 7000), libc::EPERM);

    // Another address, gateway and name server.
    let (laptop, internet) = (&stage.world.laptop, &stage.world.internet);
    let seen = incidents(&stage, "network_changed").len();
    internet
        .ip("addr add 10.98.0.1/24 dev eth0")
        .expect("gateway");
    laptop
        .ip("addr add 10.98.0.2/24 dev eth0")
        .expect("address");
    laptop
        .ip("route replace default via 10.98.0.1")
        .expect("route");
    laptop
        .ip(&format!("addr del {LAPTOP_V4}/24 dev eth0"))
        .expect("address");
    resolv_conf(&stage, "203.0.113.54");
    let told = incident(&stage, "network_changed", seen);
    assert!(told.to_string().contains("addresses"), "{told}");
    until_connect(&mut agent, THERE, 7000, 0);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), libc::EPERM);
    let from = "tcp('203.0.113.77', 7000).getsockname()[0]";
    assert_eq!(agent.value(from).expect("by the new way"), "10.98.0.2");
    until_leased(&stage, HERE, false);
    assert_eq!(connect(&mut agent, HERE, 7000), libc::EPERM);

    // A VPN with a default route and a name server of its own.
    let inside = name_server(&stage, "203.0.113.55:53");
    inside.set(ALLOWED, &[HERE], 1);
    let seen = incidents(&stage, "network_changed").len();
    let peer = internet.net_path();
    laptop
        .ip(&format!(
            "link add vpn0 type veth peer name vpn0 netns {peer}"
        ))
        .expect("vpn");
    internet.ip("addr add 10.97.0.1/24 dev vpn0").expect("peer");
    internet.ip("link set vpn0 up").expect("peer");
    laptop.ip("addr add 10.97.0.2/24 dev vpn0").expect("vpn");
    laptop.ip("link set vpn0 up").expect("vpn");
    laptop
        .ip("route add 0.0.0.0/1 via 10.97.0.1")
        .expect("route");
    laptop
        .ip("route add 128.0.0.0/1 via 10.97.0.1")
        .expect("route");
    resolv_conf(&stage, "203.0.113.55");
    incident(&stage, "network_changed", seen);
    until_connect(&mut agent, HERE, 7000, 0);
    let from = "tcp('203.0.113.11', 7000).getsockname()[0]";
    assert_eq!(agent.value(from).expect("by the VPN"), "10.97.0.2");
    assert_eq!(connect(&mut agent, NOWHERE, 7000), libc::EPERM);
    // It goes, and its server with it.
    let seen = incidents(&stage, "network_changed").len();
    laptop.ip("link del vpn0").expect("vpn down");
    resolv_conf(&stage, "203.0.113.54");
    incident(&stage, "network_changed", seen);
    until_connect(&mut agent, THERE, 7000, 0);
    let from = "tcp('203.0.113.77', 7000).getsockname()[0]";
    assert_eq!(agent.value(from).expect("by the first way"), "10.98.0.2");
    assert_eq!(connect(&mut agent, NOWHERE, 7000), libc::EPERM);
    // What left went where it may, whatever the way.
    let sinks = &_sinks[2];
    assert_eq!(sinks.accepted(), 0);
}

/// What the network's own translator makes of addresses.
const NAT64: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [7000] }
      - { host: denied.example, ports: [7000] }
      - { host: lan.example, ports: [7000] }
      - { cidr: '2001:db8:64::/64', ports: [7001] }
    deny:
      - { cidr: 198.51.100.0/24 }
";

#[test]
fn without_ipv4_a_policy_means_what_translated_addresses_stand_for() {
    let mut stage = Stage::new(NAT64, SHORT).expect("stage");
    let dns64 = name_server(&stage, "[2001:db8::53]:53");
    // Synthesized behind a prefix of the network's own, as RFC 6147 and 7050 say.
    dns64.set(
        "ipv4only.arpa",
        &["2001:db8:64::c000:aa", "2001:db8:64::c000:ab"],
        60,
    );
    dns64.set(ALLOWED, &["2001:db8:64::cb00:710a"], 60);
    dns64.set("denied.example", &["2001:db8:64::c633:6407"], 60);
    dns64.set("lan.example", &["2001:db8:64::a00:1"], 60);
    let _sinks = ["cb00:710a", "c633:6407", "a00:1"].map(|end| {
        let sink = |port| {
            stage
                .world
                .tcp_sink(&format!("[2001:db8:64::{end}]:{port}"))
        };
        [sink(7000).expect("sink"), sink(7001).expect("sink")]
    });
    resolv_conf(&stage, "2001:db8::53");
    let laptop = &stage.world.laptop;
    laptop
        .ip(&format!("addr del {LAPTOP_V4}/24 dev eth0"))
        .expect("no IPv4");
    ask_the_systems_servers(&mut stage);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    wait::until("the prefix to be found", wait::patience(), || {
        stage
            .daemon
            .log()
            .contains("2001:db8:64::/96")
            .then_some(())
    })
    .expect("RFC 7050");
    until_connect(&mut agent, "2001:db8:64::cb00:710a", 7000, 0);
    until_leased(&stage, "2001:db8:64::c633:6407", true);
    // By its name and in its translated form: denied is the IPv4 network.
    for (host, port) in [("c633:6407", 7000), ("c633:6407", 7001), ("a00:1", 7000)] {
        until_connect(
            &mut agent,
            &format!("2001:db8:64::{host}"),
            port,
            libc::EPERM,
        );
    }
    assert_eq!(connect(&mut agent, "2001:db8:64::cb00:710a", 7001), 0);
    // A name may not lead into the private network behind the translator.
    let leased = leases(&stage);
    assert!(
        leased.iter().all(|one| one["name"] != "lan.example"),
        "{leased:?}"
    );
    let accepted: Vec<usize> = _sinks[1].iter().map(|sink| sink.accepted()).collect();
    assert_eq!(accepted, [0, 0]);
    // A network with IPv4 again.
    laptop_again(&stage);
    incident(&stage, "network_changed", 0);
}

fn laptop_again(stage: &Stage) {
    let laptop = &stage.world.laptop;
    laptop
        .ip(&format!("addr add {LAPTOP_V4}/24 dev eth0"))
        .expect("IPv4");
    laptop
        .ip(&format!("route replace default via {ROUTER_V4}"))
        .expect("route");
}
