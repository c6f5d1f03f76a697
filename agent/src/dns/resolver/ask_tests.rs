//! The resolver against servers on loopback, with a clock that stands until it is moved.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hickory_proto::dnssec::TrustAnchors;
use hickory_proto::rr::RecordType;
use tokio::task::JoinSet;

use super::ask::plain;
use super::*;
use crate::dns::stats::{DnsStats, Transport};
use crate::dns::testing::{Hand, Says, Stub, address, alias, name, start};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct Bench {
    resolver: Arc<Resolver>,
    stats: Arc<DnsStats>,
    hand: Hand,
}

fn config(servers: &[SocketAddr]) -> ResolverConfig {
    ResolverConfig {
        upstreams: servers.iter().copied().map(Upstream::Plain).collect(),
        timeout: Duration::from_secs(1),
        attempts: 1,
        ..ResolverConfig::default()
    }
}

fn bench(config: ResolverConfig) -> Bench {
    let hand = Hand::new();
    let stats = Arc::new(DnsStats::default());
    let anchors = TrustAnchors::empty();
    let resolver = Resolver::with(config, stats.clone(), hand.clock(), anchors).expect("valid");
    Bench {
        resolver: Arc::new(resolver),
        stats,
        hand,
    }
}

async fn one() -> (Stub, Bench) {
    let stub = Stub::start().await;
    let bench = bench(config(&[stub.addr]));
    (stub, bench)
}

fn a(name: &str) -> Question {
    plain(&name.into(), RecordType::A)
}

fn here(stub: &Stub, owner: &str, ttl: u32) {
    let records = vec![address(owner, ttl, "192.0.2.1")];
    stub.set(owner, RecordType::A, Says::Records(records));
}

fn silent(stub: &Stub, owner: &str) {
    stub.set(owner, RecordType::A, Says::Silence);
}

impl Bench {
    async fn ask(&self, name: &str) -> Answer {
        // As the gate does.
        match self.resolver.cached(&a(name), Prefetch::Hot) {
            Some(answer) => answer,
            None => self.resolver.ask(&a(name)).await.expect(name),
        }
    }

    async fn fails(&self, name: &str) -> FailKind {
        self.resolver.ask(&a(name)).await.expect_err(name).kind
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_its_ttl_and_counts_down() {
    let (stub, bench) = one().await;
    here(&stub, "a.example.", 60);
    assert_eq!(bench.resolver.cached(&a("a.example"), Prefetch::Hot), None);
    assert_eq!(bench.resolver.cached_now(), (0, 0));
    let first = bench.ask("a.example").await;
    assert_eq!((first.source, first.ttl), (Source::Upstream, 60));
    assert_eq!(*first.upstream, stub.addr.to_string());
    bench.hand.advance(secs(59));
    let again = bench
        .resolver
        .cached(&a("A.Example"), Prefetch::Hot)
        .expect("kept");
    assert_eq!((again.source, again.ttl), (Source::Cache, 1));
    assert_eq!(again.records, first.records);
    let (entries, bytes) = bench.resolver.cached_now();
    assert!(entries == 1 && bytes > 512, "{entries} {bytes}");
    bench.hand.advance(secs(1));
    assert_eq!(bench.resolver.cached(&a("a.example"), Prefetch::Hot), None);
    assert_eq!(bench.ask("a.example").await.source, Source::Upstream);
    assert_eq!(stub.asked().len(), 2);
    let cache = &bench.stats.cache;
    assert_eq!(
        (cache.hits.load(Relaxed), cache.misses.load(Relaxed)),
        (1, 2)
    );
}

#[tokio::test]
async fn ttls_stay_within_their_bounds() {
    let (stub, bench) = one().await;
    for (owner, ttl, left) in [("zero", 0, 5), ("long", 1_000_000, 3600)] {
        let owner = format!("{owner}.example");
        here(&stub, &format!("{owner}."), ttl);
        assert_eq!(bench.ask(&owner).await.ttl, left);
    }
    let soa = vec![start("example.", 86_400, 86_400)];
    let says = Says::Whole(ResponseCode::NXDomain, vec![], soa);
    stub.set("none.example.", RecordType::A, says);
    let none = bench.ask("none.example").await;
    assert_eq!((none.rcode, none.ttl), (ResponseCode::NXDomain, 300));
}

#[tokio::test]
async fn negative_answers_are_kept_as_their_soa_says_and_never_stale() {
    let (stub, bench) = one().await;
    for (owner, code) in [
        ("nx", ResponseCode::NXDomain),
        ("empty", ResponseCode::NoError),
    ] {
        let owner = format!("{owner}.example");
        let says = Says::Whole(code, vec![], vec![start("example.", 600, 30)]);
        stub.set(&format!("{owner}."), RecordType::A, says);
        let answer = bench.ask(&owner).await;
        assert_eq!((answer.rcode, answer.ttl), (code, 30));
        assert_eq!(answer.authority.len(), 1);
        bench.hand.advance(secs(29));
        assert_eq!(bench.ask(&owner).await.source, Source::Cache);
        bench.hand.advance(secs(1));
        silent(&stub, &format!("{owner}."));
        assert_eq!(bench.fails(&owner).await, FailKind::Timeout);
    }
    // Without an SOA it is not known how long.
    let before = stub.asked().len();
    for _ in 0..2 {
        assert_eq!(bench.ask("gone.example").await.ttl, 0);
    }
    assert_eq!(stub.asked().len(), before + 2);
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_make_one_request() {
    let (stub, bench) = one().await;
    here(&stub, "a.example.", 60);
    stub.hold();
    let mut askers = JoinSet::new();
    for _ in 0..100 {
        let resolver = bench.resolver.clone();
        askers.spawn(async move { resolver.ask(&a("a.example")).await });
    }
    while bench.stats.cache.joined.load(Relaxed) < 99 {
        tokio::task::yield_now().await;
    }
    stub.until_asked(1).await;
    assert_eq!(bench.resolver.flights(), 1);
    stub.release();
    let answers = askers.join_all().await;
    assert!(answers.iter().all(|answer| answer.is_ok()));
    assert_eq!(stub.asked().len(), 1);
    assert_eq!(bench.resolver.flights(), 0);
}

#[tokio::test]
async fn the_first_asker_may_leave_and_the_last_ends_it() {
    let (stub, bench) = one().await;
    here(&stub, "a.example.", 60);
    stub.hold();
    let spawn = || {
        let resolver = bench.resolver.clone();
        tokio::spawn(async move { resolver.ask(&a("a.example")).await })
    };
    let first = spawn();
    stub.until_asked(1).await;
    let second = spawn();
    while bench.stats.cache.joined.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.expect_err("left").is_cancelled());
    stub.release();
    assert!(second.await.expect("no panic").is_ok());
    assert_eq!(stub.asked().len(), 1);

    bench.hand.advance(secs(60));
    stub.hold();
    let alone = spawn();
    stub.until_asked(2).await;
    alone.abort();
    assert!(alone.await.expect_err("left").is_cancelled());
    assert_eq!(bench.resolver.flights(), 0, "nobody waits, nothing is kept");
    stub.release();
    assert!(spawn().await.expect("no panic").is_ok());
}

#[tokio::test]
async fn when_no_server_answers_an_old_answer_stands_in_for_a_while() {
    let (stub, bench) = one().await;
    here(&stub, "a.example.", 60);
    bench.ask("a.example").await;
    bench.hand.advance(secs(60));
    silent(&stub, "a.example.");
    let stale = bench.ask("a.example").await;
    assert_eq!((stale.source, stale.ttl), (Source::Stale, STALE_TTL));
    let asked = stub.asked().len();
    // For as long as clients keep it servers are left in peace.
    bench.hand.advance(secs(29));
    assert_eq!(bench.ask("a.example").await.source, Source::Stale);
    assert_eq!(
        bench
            .resolver
            .cached(&a("a.example"), Prefetch::Hot)
            .expect("held")
            .source,
        Source::Stale
    );
    assert_eq!(stub.asked().len(), asked);
    bench.hand.advance(secs(1));
    assert_eq!(bench.ask("a.example").await.source, Source::Stale);
    assert_eq!(stub.asked().len(), asked + 1);
    assert_eq!(bench.stats.cache.stale.load(Relaxed), 4);
    // A refresh is never stale: the daemon has to know.
    let refreshed = bench.resolver.refresh(&a("a.example")).await;
    assert_eq!(refreshed.expect_err("silence").kind, FailKind::Timeout);
    // An answer that it is gone is an answer.
    stub.set(
        "a.example.",
        RecordType::A,
        Says::Code(ResponseCode::NXDomain),
    );
    bench.hand.advance(secs(30));
    assert_eq!(bench.ask("a.example").await.rcode, ResponseCode::NXDomain);
    silent(&stub, "a.example.");
    assert_eq!(bench.fails("a.example").await, FailKind::Timeout);

    here(&stub, "b.example.", 60);
    bench.ask("b.example").await;
    silent(&stub, "b.example.");
    bench.hand.advance(secs(60 + 3600));
    assert_eq!(bench.fails("b.example").await, FailKind::Timeout, "too old");
}

#[tokio::test]
async fn staleness_can_be_turned_off() {
    let stub = Stub::start().await;
    let bench = bench(ResolverConfig {
        serve_stale: Duration::ZERO,
        ..config(&[stub.addr])
    });
    here(&stub, "a.example.", 60);
    bench.ask("a.example").await;
    bench.hand.advance(secs(60));
    silent(&stub, "a.example.");
    assert_eq!(bench.fails("a.example").await, FailKind::Timeout);
}

#[tokio::test]
async fn what_is_hot_is_fetched_anew_before_it_ends() {
    let (stub, bench) = one().await;
    for name in ["hot.example", "cold.example"] {
        here(&stub, &format!("{name}."), 100);
        bench.ask(name).await;
    }
    bench.ask("hot.example").await;
    bench.hand.advance(secs(91));
    assert_eq!(bench.ask("cold.example").await.source, Source::Cache);
    stub.hold();
    for _ in 0..3 {
        let hot = bench.ask("hot.example").await;
        assert_eq!(
            (hot.source, hot.ttl),
            (Source::Cache, 9),
            "nobody waits for it"
        );
    }
    stub.until_asked(3).await;
    stub.release();
    while bench.resolver.flights() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.ask("hot.example").await.ttl, 100);
    assert_eq!(stub.asked().len(), 3);
    assert_eq!(bench.stats.cache.prefetches.load(Relaxed), 1);
}

#[tokio::test]
async fn what_is_not_to_be_sent_is_not_prefetched_and_an_ended_answer_stands_in() {
    let (stub, bench) = one().await;
    here(&stub, "hot.example.", 100);
    let hot = a("hot.example");
    bench.ask("hot.example").await;
    assert_eq!(bench.resolver.ended(&hot), None, "it has not ended");
    bench.ask("hot.example").await;
    bench.hand.advance(secs(91));
    let cached = bench.resolver.cached(&hot, Prefetch::Never);
    assert_eq!(cached.expect("kept").source, Source::Cache);
    bench.resolver.ask(&hot).await.expect("kept");
    assert_eq!(bench.resolver.flights(), 0);
    bench.hand.advance(secs(9));
    assert_eq!(bench.resolver.cached(&hot, Prefetch::Never), None);
    let ended = bench.resolver.ended(&hot).expect("ended");
    assert_eq!((ended.source, ended.ttl), (Source::Stale, STALE_TTL));
    assert_eq!(stub.asked().len(), 1);
    bench.hand.advance(secs(3600));
    assert_eq!(bench.resolver.ended(&hot), None, "too old");
}

#[tokio::test]
async fn prefetches_are_bounded() {
    let (stub, bench) = one().await;
    let names: Vec<_> = (0..2 * MAX_PREFETCHES)
        .map(|n| format!("n{n}.example"))
        .collect();
    for name in &names {
        here(&stub, &format!("{name}."), 100);
        bench.ask(name).await;
        bench.ask(name).await;
    }
    bench.hand.advance(secs(91));
    stub.hold();
    for name in &names {
        bench.ask(name).await;
    }
    assert_eq!(
        bench.stats.cache.prefetches.load(Relaxed),
        MAX_PREFETCHES as u64
    );
    stub.release();
}

#[tokio::test]
async fn a_chain_is_followed_from_server_to_server_within_its_zone() {
    let (general, corp) = (Stub::start().await, Stub::start().await);
    let bench = bench(ResolverConfig {
        zones: vec![Zone {
            zone: ZoneName::try_from("corp.example".to_owned()).expect("zone"),
            upstreams: vec![Upstream::Plain(corp.addr)],
            insecure: false,
        }],
        ..config(&[general.addr])
    });
    // The general server lies about the private name that it leads to.
    let lie = vec![
        alias("www.example.", 50, "in.corp.example."),
        address("in.corp.example.", 60, "192.0.2.66"),
    ];
    general.set("www.example.", RecordType::A, Says::Records(lie));
    here(&corp, "in.corp.example.", 40);
    let answer = bench.ask("www.example").await;
    assert_eq!(answer.chain, [Name::from("in.corp.example")]);
    assert_eq!(
        *answer.records,
        [
            alias("www.example.", 50, "in.corp.example."),
            address("in.corp.example.", 40, "192.0.2.1"),
        ]
    );
    assert_eq!(answer.ttl, 40);
    assert_eq!(*answer.upstream, corp.addr.to_string());
    // And a circle over both ends.
    corp.set(
        "loop.corp.example.",
        RecordType::A,
        Says::Records(vec![alias("loop.corp.example.", 60, "loop.example.")]),
    );
    general.set(
        "loop.example.",
        RecordType::A,
        Says::Records(vec![alias("loop.example.", 60, "loop.corp.example.")]),
    );
    assert_eq!(bench.fails("loop.corp.example").await, FailKind::BadAnswer);
    // To the machine itself nothing leads.
    general.set(
        "self.example.",
        RecordType::A,
        Says::Records(vec![
            alias("self.example.", 60, "localhost."),
            address("localhost.", 60, "127.0.0.1"),
        ]),
    );
    let itself = bench.ask("self.example").await;
    assert_eq!(itself.rcode, ResponseCode::NXDomain);
    assert_eq!(itself.records.len(), 1);
}

#[tokio::test]
async fn a_private_name_is_asked_of_its_zone_alone_and_the_longest_holds() {
    let (general, corp, lab) = (
        Stub::start().await,
        Stub::start().await,
        Stub::start().await,
    );
    let zone = |name: &str, stub: &Stub| Zone {
        zone: ZoneName::try_from(name.to_owned()).expect("zone"),
        upstreams: vec![Upstream::Plain(stub.addr)],
        insecure: false,
    };
    let bench = bench(ResolverConfig {
        zones: vec![zone("corp.example", &corp), zone("lab.corp.example", &lab)],
        ..config(&[general.addr])
    });
    here(&corp, "a.corp.example.", 60);
    here(&lab, "a.lab.corp.example.", 60);
    here(&general, "notcorp.example.", 60);
    for (name, stub) in [
        ("a.corp.example", &corp),
        ("a.lab.corp.example", &lab),
        ("notcorp.example", &general),
    ] {
        assert_eq!(*bench.ask(name).await.upstream, stub.addr.to_string());
    }
    for bad in [
        Says::Silence,
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::Refused),
    ] {
        corp.set("b.corp.example.", RecordType::A, bad);
        bench
            .resolver
            .ask(&a("b.corp.example"))
            .await
            .expect_err("no other is asked");
    }
    corp.stop().await;
    assert_eq!(bench.fails("c.corp.example").await, FailKind::Network);
    assert_eq!(
        general.names_asked(),
        ["notcorp.example.".to_owned()].into()
    );
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_gives_no_answer_and_only_then() {
    let (first, second) = (Stub::start().await, Stub::start().await);
    let bench = bench(config(&[first.addr, second.addr]));
    assert_eq!(
        bench.ask("none.example").await.rcode,
        ResponseCode::NXDomain
    );
    assert!(
        second.asked().is_empty(),
        "that it does not exist is an answer"
    );
    for (n, bad) in [
        Says::Code(ResponseCode::ServFail),
        Says::Code(ResponseCode::Refused),
        Says::Bytes(vec![0xff; 40]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("n{n}.example");
        first.set(&format!("{name}."), RecordType::A, bad);
        here(&second, &format!("{name}."), 60);
        assert_eq!(*bench.ask(&name).await.upstream, second.addr.to_string());
        assert_eq!(first.asked().len(), 2 + n, "it was asked first");
    }
    let (_, failures) = bench.stats.upstream(&first.addr.to_string());
    for kind in [FailKind::ServFail, FailKind::Refused] {
        assert_eq!(failures.failures[kind.index()].load(Relaxed), 1);
    }
}

#[tokio::test]
async fn a_server_that_failed_is_asked_last_until_a_probe_is_answered() {
    let (first, second) = (Stub::start().await, Stub::start().await);
    let bench = bench(config(&[first.addr, second.addr]));
    silent(&first, "dead.example.");
    first.set(".", RecordType::NS, Says::Silence);
    for n in 0..4 {
        here(&first, &format!("n{n}.example."), 60);
        here(&second, &format!("n{n}.example."), 60);
    }
    here(&second, "dead.example.", 60);
    let from = |answer: Answer| answer.upstream.to_string();
    let well = || -> Vec<bool> {
        let servers = bench.resolver.servers();
        let ways = [Transport::Udp, Transport::Tcp];
        assert!(servers.iter().all(|server| server.transports == ways));
        servers.iter().map(|server| server.well).collect()
    };
    assert_eq!(well(), [true, true], "not asked yet");
    assert_eq!(
        from(bench.ask("dead.example").await),
        second.addr.to_string()
    );
    assert_eq!(well(), [false, true]);
    assert_eq!(from(bench.ask("n0.example").await), second.addr.to_string());
    assert_eq!(first.asked().len(), 1);
    // Its pause ends: a probe goes out beside the question, in vain.
    bench.hand.advance(secs(1));
    assert_eq!(from(bench.ask("n1.example").await), second.addr.to_string());
    first.until_asked(2).await;
    assert_eq!(first.asked()[1], (".".to_owned(), RecordType::NS));
    let timeout = FailKind::Timeout.index();
    let (_, failures) = bench.stats.upstream(&first.addr.to_string());
    while failures.failures[timeout].load(Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    // The next pause is twice as long; then it answers, and is the first again.
    first.set(".", RecordType::NS, Says::Code(ResponseCode::Refused));
    bench.hand.advance(secs(1));
    assert_eq!(from(bench.ask("n2.example").await), second.addr.to_string());
    assert_eq!(first.asked().len(), 2);
    bench.hand.advance(secs(1));
    bench
        .resolver
        .refresh(&a("n2.example"))
        .await
        .expect("an answer");
    let refused = FailKind::Refused.index();
    while failures.failures[refused].load(Relaxed) < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(from(bench.ask("n3.example").await), first.addr.to_string());
    assert_eq!(well(), [true, true]);
}

#[tokio::test]
async fn a_server_that_comes_and_goes_is_a_few_lines() {
    let lines = super::dnssec_tests::Lines::default();
    let _guard = lines.listen();
    let (stub, bench) = one().await;
    here(&stub, "here.example.", 1);
    silent(&stub, "silent.example.");
    for _ in 0..6 {
        assert_eq!(bench.fails("silent.example").await, FailKind::Timeout);
        bench.hand.advance(secs(10));
        bench.ask("here.example").await;
    }
    let told = lines.with("this DNS server");
    assert_eq!(told.len(), 6, "{told:?}");
    bench.hand.advance(secs(300));
    assert_eq!(bench.fails("silent.example").await, FailKind::Timeout);
    let told = lines.with("this DNS server");
    assert_eq!(told.len(), 7, "{told:?}");
    assert!(told[6].contains("kept_back=6"), "{told:?}");
}

#[tokio::test]
async fn servers_of_zones_are_told_of_and_one_that_two_routes_have_once() {
    let shared: SocketAddr = ([192, 0, 2, 1], 53).into();
    let zone = |name: &str, upstreams: &[Upstream]| Zone {
        zone: ZoneName::try_from(name.to_owned()).expect("zone"),
        upstreams: upstreams.to_vec(),
        insecure: false,
    };
    let other = Upstream::Plain(([192, 0, 2, 2], 53).into());
    let bench = bench(ResolverConfig {
        zones: vec![
            zone("a.example", &[Upstream::Plain(shared)]),
            zone("b.example", &[other]),
        ],
        ..config(&[shared])
    });
    let servers = bench.resolver.servers();
    let mut labels: Vec<_> = servers.iter().map(|server| &*server.label).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["192.0.2.1:53", "192.0.2.2:53"]);
}

#[tokio::test]
async fn ailing_servers_are_asked_when_nobody_else_answers() {
    let (first, second) = (Stub::start().await, Stub::start().await);
    let bench = bench(config(&[first.addr, second.addr]));
    silent(&first, "a.example.");
    silent(&second, "a.example.");
    assert_eq!(bench.fails("a.example").await, FailKind::Timeout);
    here(&second, "a.example.", 60);
    assert_eq!(
        *bench.ask("a.example").await.upstream,
        second.addr.to_string()
    );
}

#[tokio::test]
async fn truncated_answers_come_by_tcp_and_each_transport_is_counted() {
    let (stub, bench) = one().await;
    let many: Vec<_> = (1..=100)
        .map(|n| address("many.example.", 60, &format!("192.0.2.{n}")))
        .collect();
    stub.set("many.example.", RecordType::A, Says::OnlyTcp(many));
    for _ in 0..2 {
        let answer = bench
            .resolver
            .refresh(&a("many.example"))
            .await
            .expect("long");
        assert_eq!(answer.records.len(), 100);
    }
    let (_, stats) = bench.stats.upstream(&stub.addr.to_string());
    for (transport, count) in [
        (Transport::Udp, 2),
        (Transport::Tcp, 2),
        (Transport::Tls, 0),
        (Transport::Https, 0),
    ] {
        assert_eq!(stats.durations(transport).count(), count, "{transport:?}");
    }
}

#[tokio::test]
async fn signatures_are_asked_for_only_when_wanted_and_kept_apart() {
    let (stub, bench) = one().await;
    here(&stub, "a.example.", 60);
    let signed = Question {
        dnssec_ok: true,
        ..a("a.example")
    };
    bench.ask("a.example").await;
    bench.resolver.ask(&signed).await.expect("an answer");
    bench.resolver.ask(&signed).await.expect("an answer");
    assert_eq!(stub.signed(), [false, true]);
}

#[tokio::test]
async fn names_that_are_none_fail_and_without_servers_everything_does() {
    let (stub, bench) = one().await;
    for bad in ["a..example", "x".repeat(64).as_str()] {
        assert_eq!(bench.fails(bad).await, FailKind::BadAnswer);
        assert_eq!(bench.resolver.cached(&a(bad), Prefetch::Hot), None);
    }
    assert!(stub.asked().is_empty());
    let nobody = self::bench(ResolverConfig {
        resolv_conf: "/nonexistent/resolv.conf".into(),
        ..config(&[])
    });
    assert_eq!(nobody.fails("a.example").await, FailKind::NoUpstream);
    assert_eq!(name("a.example.").num_labels(), 2);
}
