//! The real hickory resolver against a server on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::dns::clock;
use crate::dns::stats::DnsStats;
use crate::dns::testing::{Says, Stub, address, alias};
use crate::leases::{FailKind, LeaseConfig, Leases, Name};

fn config(servers: &[SocketAddr]) -> ResolverConfig {
    ResolverConfig {
        upstreams: servers.iter().copied().map(Upstream::Plain).collect(),
        timeout: Duration::from_secs(2),
        attempts: 1,
        ..ResolverConfig::default()
    }
}

struct Bench {
    stub: Stub,
    stats: Arc<DnsStats>,
    upstreams: Upstreams,
}

async fn bench() -> Bench {
    let stub = Stub::start().await;
    let stats = Arc::new(DnsStats::default());
    let upstreams = Upstreams::new(config(&[stub.addr]), stats.clone()).expect("valid");
    Bench {
        stub,
        stats,
        upstreams,
    }
}

impl Bench {
    async fn resolve(&self, name: &str) -> Found {
        let resolution = self.upstreams.lookup(Name::from(name)).await;
        assert_eq!(&*resolution.name, name);
        assert_eq!(resolution.upstream, self.stub.addr.to_string());
        resolution.result
    }

    fn failures(&self, kind: FailKind) -> u64 {
        let (_, upstream) = self.stats.upstream(&self.stub.addr.to_string());
        upstream.failures[kind.index()].load(Relaxed)
    }
}

fn found(list: &[(&str, u32)]) -> Found {
    Ok(list
        .iter()
        .map(|(addr, ttl)| (addr.parse().expect("address"), *ttl))
        .collect())
}

#[tokio::test]
async fn both_families_are_found_with_their_ttl_and_one_is_enough() {
    let bench = bench().await;
    let v4 = address("both.example.", 60, "192.0.2.1");
    let v6 = address("both.example.", 30, "2001:db8::1");
    bench
        .stub
        .set("both.example.", RecordType::A, Says::Records(vec![v4]));
    bench
        .stub
        .set("both.example.", RecordType::AAAA, Says::Records(vec![v6]));
    assert_eq!(
        bench.resolve("both.example").await,
        found(&[("192.0.2.1", 60), ("2001:db8::1", 30)])
    );

    let v4 = address("four.example.", 60, "192.0.2.4");
    bench
        .stub
        .set("four.example.", RecordType::A, Says::Records(vec![v4]));
    assert_eq!(
        bench.resolve("four.example").await,
        found(&[("192.0.2.4", 60)])
    );

    let v4 = address("half.example.", 60, "192.0.2.5");
    bench
        .stub
        .set("half.example.", RecordType::A, Says::Records(vec![v4]));
    bench.stub.set(
        "half.example.",
        RecordType::AAAA,
        Says::Code(ResponseCode::ServFail),
    );
    assert_eq!(
        bench.resolve("half.example").await,
        found(&[("192.0.2.5", 60)])
    );
    assert_eq!(
        bench.failures(FailKind::ServFail),
        1,
        "and yet it is counted"
    );

    let (_, upstream) = bench.stats.upstream(&bench.stub.addr.to_string());
    assert_eq!(upstream.requests(), 6);
}

#[tokio::test]
async fn nothing_is_cached_whatever_the_ttl() {
    let bench = bench().await;
    for (name, ttl) in [
        ("zero.example", 0),
        ("one.example", 1),
        ("long.example", 3600),
    ] {
        let owner = format!("{name}.");
        let turns = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
            .map(|addr| vec![address(&owner, ttl, addr)])
            .to_vec();
        bench.stub.set(&owner, RecordType::A, Says::InTurn(turns));
        for addr in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"] {
            assert_eq!(bench.resolve(name).await, found(&[(addr, ttl)]));
        }
    }
    // What does not exist is asked again too.
    assert_eq!(
        bench.resolve("later.example").await,
        Err(FailKind::NxDomain)
    );
    let v4 = address("later.example.", 60, "192.0.2.9");
    bench
        .stub
        .set("later.example.", RecordType::A, Says::Records(vec![v4]));
    assert_eq!(
        bench.resolve("later.example").await,
        found(&[("192.0.2.9", 60)])
    );
}

#[tokio::test]
async fn aliases_are_followed_and_other_names_records_are_not_taken() {
    let bench = bench().await;
    let chain = vec![
        alias("www.example.", 600, "cdn.example."),
        alias("cdn.example.", 7, "edge.example."),
        address("edge.example.", 60, "192.0.2.1"),
        address("evil.example.", 60, "192.0.2.66"),
    ];
    bench
        .stub
        .set("www.example.", RecordType::A, Says::Records(chain));
    let only = vec![alias("www.example.", 600, "cdn.example.")];
    bench
        .stub
        .set("www.example.", RecordType::AAAA, Says::Records(only));
    let rest = vec![
        alias("cdn.example.", 9, "edge.example."),
        address("edge.example.", 60, "2001:db8::1"),
    ];
    bench
        .stub
        .set("cdn.example.", RecordType::AAAA, Says::Records(rest));
    let edge = vec![address("edge.example.", 60, "2001:db8::1")];
    bench
        .stub
        .set("edge.example.", RecordType::AAAA, Says::Records(edge));
    assert_eq!(
        bench.resolve("www.example").await,
        found(&[("192.0.2.1", 7), ("2001:db8::1", 9)])
    );
}

#[tokio::test]
async fn failures_are_told_apart_and_counted() {
    let bench = bench().await;
    bench.stub.set(
        "servfail.example.",
        RecordType::A,
        Says::Code(ResponseCode::ServFail),
    );
    bench.stub.set(
        "servfail.example.",
        RecordType::AAAA,
        Says::Code(ResponseCode::ServFail),
    );
    bench.stub.set(
        "refused.example.",
        RecordType::A,
        Says::Code(ResponseCode::Refused),
    );
    bench.stub.set(
        "refused.example.",
        RecordType::AAAA,
        Says::Code(ResponseCode::Refused),
    );
    bench
        .stub
        .set("silent.example.", RecordType::A, Says::Silence);
    bench
        .stub
        .set("silent.example.", RecordType::AAAA, Says::Silence);
    bench
        .stub
        .set("empty.example.", RecordType::TXT, Says::Records(vec![]));
    bench.stub.set(
        "odd.example.",
        RecordType::A,
        Says::Code(ResponseCode::NotImp),
    );
    bench.stub.set(
        "odd.example.",
        RecordType::AAAA,
        Says::Code(ResponseCode::NotImp),
    );
    for (name, kind, counted) in [
        ("nowhere.example", FailKind::NxDomain, 0),
        ("servfail.example", FailKind::ServFail, 2),
        ("refused.example", FailKind::Refused, 2),
        ("silent.example", FailKind::Timeout, 2),
        ("odd.example", FailKind::BadAnswer, 2),
        ("empty.example", FailKind::NoAddresses, 0),
    ] {
        assert_eq!(bench.resolve(name).await, Err(kind), "{name}");
        assert_eq!(bench.failures(kind), counted, "{name}");
    }
}

#[tokio::test]
async fn a_long_answer_comes_over_tcp() {
    let bench = bench().await;
    let many: Vec<_> = (1..=100)
        .map(|n| address("many.example.", 60, &format!("192.0.2.{n}")))
        .collect();
    bench
        .stub
        .set("many.example.", RecordType::A, Says::OnlyTcp(many));
    assert_eq!(
        bench
            .resolve("many.example")
            .await
            .expect("addresses")
            .len(),
        100
    );
}

#[tokio::test]
async fn addresses_come_as_they_are_for_the_leases_to_judge() {
    let bench = bench().await;
    let mixed = vec![
        address("mixed.example.", 60, "127.0.0.1"),
        address("mixed.example.", 60, "192.0.2.1"),
    ];
    bench
        .stub
        .set("mixed.example.", RecordType::A, Says::Records(mixed));
    assert_eq!(
        bench.resolve("mixed.example").await,
        found(&[("127.0.0.1", 60), ("192.0.2.1", 60)])
    );
}

#[tokio::test]
async fn names_are_absolute_and_the_hosts_file_is_not_read() {
    let bench = bench().await;
    assert_eq!(bench.resolve("single").await, Err(FailKind::NxDomain));
    assert_eq!(
        bench.stub.names_asked(),
        BTreeSet::from(["single.".to_owned()])
    );

    // Whatever /etc/hosts calls this machine is asked of the server.
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = hosts.lines().find_map(|line| {
        let line = line.split('#').next()?;
        line.split_whitespace()
            .skip(1)
            .find(|word| !word.contains("localhost"))
    });
    if let Some(name) = known {
        let name = name.to_ascii_lowercase();
        assert_eq!(bench.resolve(&name).await, Err(FailKind::NxDomain));
        for family in [RecordType::A, RecordType::AAAA] {
            assert!(bench.stub.asked().contains(&(format!("{name}."), family)));
        }
    }
    // These are never asked and never stand for anything.
    let before = bench.stub.asked().len();
    for name in ["localhost", "a.localhost", "a.onion", "a.invalid"] {
        let resolution = bench.upstreams.lookup(Name::from(name)).await;
        assert_eq!(resolution.result, Err(FailKind::NxDomain), "{name}");
    }
    assert_eq!(bench.stub.asked().len(), before);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_a_failure_of_the_network() {
    let stub = Stub::start().await;
    let addr = stub.addr;
    stub.stop().await;
    let upstreams = Upstreams::new(config(&[addr]), Arc::default()).expect("valid");
    let resolution = upstreams.lookup(Name::from("a.example")).await;
    // A refused port is told by ICMP, which a connected socket gets to see.
    assert_eq!(resolution.result, Err(FailKind::Network));
}

#[tokio::test]
async fn the_systems_servers_are_read_again_when_their_file_changes() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("resolv.conf");
    let settings = ResolverConfig {
        resolv_conf: path.clone(),
        ..config(&[])
    };
    let upstreams = Upstreams::new(settings, Arc::default()).expect("valid");
    let resolution = upstreams.lookup(Name::from("a.example")).await;
    assert_eq!(resolution.result, Err(FailKind::NoUpstream), "no file");
    assert_eq!(resolution.upstream, "");

    std::fs::write(&path, "search corp.example\nnameserver 192.0.2.53\n").expect("write");
    assert_eq!(upstreams.labels(), ["192.0.2.53:53"]);
    let next = dir.path().join("next");
    std::fs::write(&next, "nameserver 192.0.2.54\nnameserver 2001:db8::53\n").expect("write");
    std::fs::rename(&next, &path).expect("rename");
    assert_eq!(upstreams.labels(), ["192.0.2.54:53", "[2001:db8::53]:53"]);
    std::fs::remove_file(&path).expect("remove");
    assert!(upstreams.labels().is_empty());
}

#[tokio::test]
async fn a_rotating_name_with_a_short_ttl_fills_its_leases() {
    let bench = bench().await;
    let turns = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        .map(|addr| vec![address("a.example.", 1, addr)])
        .to_vec();
    bench
        .stub
        .set("a.example.", RecordType::A, Says::InTurn(turns));
    let name = Name::from("a.example");
    let names = Arc::new(BTreeSet::from([name.clone()]));
    let mut leases = Leases::new(LeaseConfig::default()).expect("valid");

    // Refreshed by the TTL alone, a second each; the least time is set out of the way.
    let pace = Pace {
        min_ttl: Duration::from_millis(100),
        ..Pace::new(&ResolverConfig::default(), &LeaseConfig::default())
    };
    let (_names, receiver) = watch::channel(names);
    let (sender, mut results) = mpsc::channel(8);
    let lookup = Arc::new(bench.upstreams);
    let (refresher, _handle) = Refresher::new(lookup, pace, clock::boottime(), receiver, sender);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(refresher.run(cancel.clone()));
    let begun = clock::now();
    for n in 1..=3 {
        let resolution = results.recv().await.expect("a result");
        let addresses = resolution.result.expect("addresses");
        assert_eq!(
            leases
                .answered(0, &name, &addresses, false, clock::now())
                .changes
                .len(),
            1
        );
        assert_eq!(leases.len(), n, "what rotated out is kept for its grace");
    }
    let took = clock::now() - begun;
    assert!(
        took >= Duration::from_millis(1600),
        "two pauses of at least 0.8 s: {took:?}"
    );
    let views = leases.addresses(0, &name, clock::now());
    assert_eq!(views.filter(|view| view.fresh).count(), 1, "the latest");
    cancel.cancel();
    task.await.expect("no panic");
}
