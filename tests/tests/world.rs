//! The fixtures themselves: a test that rests on a broken one proves nothing.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::http::Authority;
use exeat_tests::wait;
use exeat_tests::world::World;
use std::process::Output;

fn curl(world: &World, arguments: &[&str]) -> Output {
    world
        .laptop
        .command_as(PLAIN_USER, "/usr/bin/curl")
        .args(["-sS", "--max-time", &wait::seconds(5), "--noproxy", "*"])
        .args(arguments)
        .output()
        .expect("curl")
}

#[test]
fn an_ordinary_user_of_the_laptop_reaches_a_tls_host_by_name() {
    let world = World::new().expect("world");
    let dns = world.dns().expect("dns");
    dns.alias("www.allowed.example", "allowed.example", 60);
    dns.set("allowed.example", &["203.0.113.10", "2001:db8::10"], 60);
    let authority = Authority::new().expect("authority");
    let ca = authority.write(world.folder()).expect("certificate");
    let ca = ca.to_str().expect("path");
    let names = ["www.allowed.example"];
    let v4 = world
        .https("203.0.113.10:443", &authority, &names)
        .expect("https");
    let v6 = world
        .https("[2001:db8::10]:443", &authority, &names)
        .expect("https");
    for (family, host) in [("-4", &v4), ("-6", &v6)] {
        let output = curl(
            &world,
            &[family, "--cacert", ca, "https://www.allowed.example/path"],
        );
        assert!(
            output.status.success(),
            "{family}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let requests = host.requests();
        assert_eq!(
            requests[0].server_name.as_deref(),
            Some("www.allowed.example")
        );
        assert!(requests[0].head.starts_with("GET /path "));
    }
    assert!(dns.asked("www.allowed.example") > 0);
    let wrong = curl(
        &world,
        &[
            "--cacert",
            ca,
            "--connect-to",
            "::203.0.113.10:443",
            "https://other.example/",
        ],
    );
    assert_eq!(
        wrong.status.code(),
        Some(60),
        "a certificate for another name is refused"
    );
}

#[test]
fn the_name_server_can_rotate_fail_forget_and_go_silent() {
    let world = World::new().expect("world");
    let dns = world.dns().expect("dns");
    let _host = world.http("203.0.113.10:80").expect("http");
    let code = || curl(&world, &["http://allowed.example/"]).status.code();
    assert_eq!(code(), Some(6), "NXDOMAIN");
    dns.set("allowed.example", &["203.0.113.10"], 60);
    assert_eq!(code(), Some(0));
    dns.failing(true);
    assert_eq!(code(), Some(6), "SERVFAIL");
    dns.failing(false);
    dns.silent(true);
    assert_eq!(code(), Some(6), "no answer");
    dns.silent(false);
    dns.set("allowed.example", &["203.0.113.10", "203.0.113.11"], 60);
    dns.rotate(true);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let output = world
            .laptop
            .command("/usr/bin/getent")
            .args(["ahostsv4", "allowed.example"])
            .output();
        seen.extend(
            String::from_utf8(output.expect("getent").stdout)
                .expect("text")
                .split_whitespace()
                .next()
                .map(str::to_owned),
        );
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    dns.remove("allowed.example");
    assert_eq!(code(), Some(6), "removed");
}

#[test]
fn two_worlds_do_not_meet() {
    let (one, two) = (World::new().expect("world"), World::new().expect("world"));
    let (sniffer_one, sniffer_two) = (
        one.sniffer().expect("sniffer"),
        two.sniffer().expect("sniffer"),
    );
    let host = one.http("203.0.113.10:80").expect("http");
    let there = two
        .http("203.0.113.10:80")
        .expect("the same address in another world");
    assert_eq!(curl(&one, &["http://203.0.113.10/"]).status.code(), Some(0));
    one.settle(&sniffer_one).expect("settle");
    two.settle(&sniffer_two).expect("settle");
    assert_eq!((host.requests().len(), there.requests().len()), (1, 0));
    let address = "203.0.113.10".parse().expect("address");
    assert!(sniffer_one.count(|p| p.is_to(address) && p.protocol == 6) > 0);
    assert_eq!(sniffer_two.count(|p| p.is_to(address)), 0);
}

#[test]
fn a_sink_tells_a_connection_from_its_bytes() {
    let world = World::new().expect("world");
    let sink = world.tcp_sink("203.0.113.66:4433").expect("sink");
    let udp = world.udp_sink("203.0.113.66:4433").expect("sink");
    let script = "exec 3<>/dev/tcp/203.0.113.66/4433; echo -n stream >&3; echo -n datagram >/dev/udp/203.0.113.66/4433";
    assert!(
        world
            .laptop
            .command("/bin/bash")
            .args(["-c", script])
            .status()
            .expect("bash")
            .success()
    );
    exeat_tests::wait::until("both to arrive", exeat_tests::wait::patience(), || {
        (sink.holds("stream") && udp.holds("datagram")).then_some(())
    })
    .expect("arrival");
    assert_eq!(sink.accepted(), 1);
    assert_eq!(udp.arrivals()[0].from.ip().to_string(), "10.99.0.2");
}

#[test]
fn a_tiny_disk_fills_up_in_the_laptop_only() {
    let world = World::new().expect("world");
    let folder = world.folder().join("disk");
    std::fs::create_dir(&folder).expect("mkdir");
    let disk = exeat_tests::disk::TinyDisk::mount(&world.laptop, &folder, 65_536).expect("mount");
    disk.fill().expect("fill");
    let script = format!("echo x > {}/file", folder.display());
    let fits = || {
        world
            .laptop
            .command("/bin/sh")
            .args(["-c", &script])
            .output()
            .expect("sh")
            .status
            .success()
    };
    assert!(!fits(), "there is room left");
    assert!(!folder.join("filler").exists(), "it is mounted outside too");
    drop(disk);
    assert!(fits(), "it is still mounted");
}
