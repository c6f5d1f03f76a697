use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reference::one_of_each;
use super::*;
use crate::dns::stats::{DnsStats, Transport};

fn full() -> Snapshot {
    let mut s = one_of_each();
    s.enforcing = true;
    s.policy_loaded_at = 1_772_625_600.5;
    s.dns = dns();
    s.launches[Launch::Refused.index()] = 2;
    s.events_lost[LossStage::Ring.index()] = 5;
    s.sinks.file.failed = 6;
    s.places[0].delivered = 12;
    s.places[0].queued = 13;
    s.places[0].last_success = Some("2026-03-04T12:00:00.5Z".parse().expect("time"));
    s.process = ProcessSample::read();
    s.maps[0].entries = 9;
    s.maps[0].max_entries = 1024;
    let a = &mut s.agents[0];
    a.name = "build-bot".into();
    a.stats.blocked[usize::from(Reason::NoRule.number())][ProtocolClass::Tcp as usize] = 7;
    a.stats.allowed[ProtocolClass::Udp as usize] = 8;
    a.stats.sent_bytes = 9000;
    a.incidents[IncidentKind::Frozen.index()] = 25;
    a.gate.queries[DnsVerdict::Deny.index()][Rcode::Refused.index()] = 4;
    for (n, outcome) in a.gate.outcomes.iter_mut().enumerate() {
        *outcome = 10 + n as u64;
    }
    a.gate.budgets_crossed = 21;
    a.gate.drops = [22, 23, 24];
    s
}

/// A number of its own for everything.
fn dns() -> DnsSample {
    let stats = DnsStats::default();
    stats.grants.add(Duration::from_micros(4));
    stats.grants.add(Duration::from_micros(40));
    let (_, server) = stats.upstream("192.0.2.53:53");
    server.request(Transport::Udp, Duration::from_millis(3));
    server.request(Transport::Tcp, Duration::from_secs(9));
    let requests = [Transport::Udp, Transport::Tcp]
        .map(|transport| (transport, server.durations(transport).into()));
    let mut failures = [0; UpstreamFailure::COUNT];
    failures[UpstreamFailure::Timeout.index()] = 31;
    DnsSample {
        cache: CacheSample {
            hits: 41,
            misses: 42,
            stale: 43,
            prefetches: 44,
            entries: 45,
            bytes: 46,
            max_bytes: 47,
        },
        upstreams: vec![
            UpstreamSample {
                label: "192.0.2.53:53".into(),
                well: Some(false),
                requests: requests.into(),
                failures,
            },
            UpstreamSample {
                label: "tls://192.0.2.54:853#dns.example".into(),
                ..UpstreamSample::default()
            },
        ],
        grants: (&stats.grants).into(),
        rebind_dropped: 3,
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    let text = encode(&full()).expect("text");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed: install the package `prometheus`");
    let mut stdin = promtool.stdin.take().expect("stdin");
    stdin.write_all(text.as_bytes()).expect("write");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn numbers_arrive_under_their_names() {
    let text = encode(&full()).expect("text");
    for line in [
        "exeat_build_info{revision=\"0\",version=\"0\"} 1",
        "exeat_enforcement_active 1",
        "exeat_agents 1",
        "exeat_walls{state=\"up\",wall=\"connect4\"} 1",
        "exeat_walls{state=\"failed\",wall=\"connect4\"} 0",
        "exeat_flows_blocked_total{agent=\"build-bot\",protocol=\"tcp\",reason=\"no_rule\"} 7",
        "exeat_flows_blocked_total{agent=\"build-bot\",protocol=\"icmp\",reason=\"gate\"} 0",
        "exeat_flows_allowed_total{agent=\"build-bot\",protocol=\"udp\"} 8",
        "exeat_sent_bytes_total{agent=\"build-bot\"} 9000",
        "exeat_incidents_total{agent=\"build-bot\",kind=\"frozen\"} 25",
        "exeat_incidents_total{agent=\"build-bot\",kind=\"limit_hit\"} 0",
        "exeat_dns_queries_total{agent=\"build-bot\",rcode=\"refused\",verdict=\"deny\"} 4",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"answered\"} 10",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"no_data\"} 11",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"failed\"} 12",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"refused\"} 13",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"over_budget\"} 16",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"rebind\"} 17",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"no_room\"} 18",
        "exeat_dns_outcomes_total{agent=\"build-bot\",outcome=\"busy\"} 19",
        "exeat_dns_budgets_crossed_total{agent=\"build-bot\"} 21",
        "exeat_dns_gate_drops_total{agent=\"build-bot\",kind=\"reply\"} 22",
        "exeat_dns_gate_drops_total{agent=\"build-bot\",kind=\"message\"} 24",
        "exeat_dns_cache_hits_total 41",
        "exeat_dns_cache_misses_total 42",
        "exeat_dns_cache_stale_total 43",
        "exeat_dns_cache_prefetches_total 44",
        "exeat_dns_cache_entries 45",
        "exeat_dns_cache_bytes 46",
        "exeat_dns_cache_max_bytes 47",
        "exeat_dns_grant_duration_seconds_bucket{le=\"0.000005\"} 1",
        "exeat_dns_grant_duration_seconds_bucket{le=\"0.00002\"} 1",
        "exeat_dns_grant_duration_seconds_bucket{le=\"0.00005\"} 2",
        "exeat_dns_grant_duration_seconds_sum 0.000044",
        "exeat_dns_grant_duration_seconds_count 2",
        "exeat_dns_upstream_request_duration_seconds_bucket{transport=\"udp\",upstream=\"192.0.2.53:53\",le=\"0.0025\"} 0",
        "exeat_dns_upstream_request_duration_seconds_bucket{transport=\"udp\",upstream=\"192.0.2.53:53\",le=\"0.005\"} 1",
        "exeat_dns_upstream_request_duration_seconds_bucket{transport=\"tcp\",upstream=\"192.0.2.53:53\",le=\"5\"} 0",
        "exeat_dns_upstream_request_duration_seconds_bucket{transport=\"tcp\",upstream=\"192.0.2.53:53\",le=\"+Inf\"} 1",
        "exeat_dns_upstream_request_duration_seconds_sum{transport=\"tcp\",upstream=\"192.0.2.53:53\"} 9",
        "exeat_dns_upstream_failures_total{reason=\"timeout\",upstream=\"192.0.2.53:53\"} 31",
        "exeat_dns_upstream_failures_total{reason=\"invalid\",upstream=\"tls://192.0.2.54:853#dns.example\"} 0",
        "exeat_dns_upstream_up{upstream=\"192.0.2.53:53\"} 0",
        "exeat_dns_rebind_answers_dropped_total 3",
        "exeat_policy_last_load_success_timestamp_seconds 1772625600.5",
        "exeat_policy_load_failures_total{reason=\"invalid\"} 0",
        "exeat_bpf_map_entries{map=\"exact\"} 9",
        "exeat_bpf_map_max_entries{map=\"exact\"} 1024",
        "exeat_events_lost_total{stage=\"ring\"} 5",
        "exeat_events_throttled_total{agent=\"build-bot\"} 0",
        "exeat_sink_events_total{outcome=\"failed\",sink=\"file\"} 6",
        "exeat_sink_events_total{outcome=\"ok\",sink=\"siem\"} 12",
        "exeat_sink_queue_length{sink=\"siem\"} 13",
        "exeat_sink_last_success_timestamp_seconds{sink=\"siem\"} 1772625600.5",
        "exeat_sandbox_launches_total{outcome=\"refused\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
    }
    // A server of another network is neither up nor down.
    assert_eq!(text.matches("exeat_dns_upstream_up{").count(), 1, "{text}");
    let blocked = text.matches("exeat_flows_blocked_total{").count();
    assert_eq!(blocked, Reason::ALL.len() * ProtocolClass::ALL.len());
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes"] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
}

#[test]
fn an_empty_daemon_has_its_closed_children() {
    let text = encode(&Snapshot::default()).expect("text");
    for line in [
        "exeat_enforcement_active 0",
        "exeat_agents 0",
        "exeat_policy_rules{kind=\"listen\"} 0",
        "exeat_dns_cache_stale_total 0",
        "exeat_dns_grant_duration_seconds_count 0",
        "exeat_sandbox_launches_total{outcome=\"ok\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn agent_names_cannot_break_the_page() {
    let mut s = full();
    s.agents[0].name = "a\"} 1\nexeat_agents 99\\".into();
    let text = encode(&s).expect("text");
    assert!(!text.lines().any(|l| l == "exeat_agents 99"), "{text}");
}

#[test]
fn our_own_process_is_measured() {
    let p = ProcessSample::read().expect("process");
    assert!(p.open_fds > 0 && p.resident_bytes > 1 << 20 && p.threads > 0);
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!(p.start_time_seconds <= now + 1.0 && p.start_time_seconds > now - 86_400.0);
}

#[test]
fn the_reference_in_docs_is_this_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let text = reference().expect("reference");
    if std::env::var_os("EXEAT_WRITE_DOCS").is_some() {
        std::fs::write(path, &text).expect("write");
    }
    let found = std::fs::read_to_string(path).expect("docs/metrics.md");
    assert_eq!(
        found, text,
        "write it anew: EXEAT_WRITE_DOCS=1 cargo test -p exeat the_reference_in_docs"
    );
}

async fn started(
    life: Duration,
    places: usize,
    snapshot: Snapshot,
) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let any = "127.0.0.1:0".parse().expect("address");
    let page = Page::bind_with(any, life, places).await.expect("bind");
    let (addr, cancel) = (page.addr(), CancellationToken::new());
    let serve = page.serve(cancel.clone(), move || std::future::ready(snapshot.clone()));
    (addr, cancel, tokio::spawn(serve))
}

async fn ask(addr: SocketAddr, request: &'static str) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).expect("connect");
        stream.write_all(request.as_bytes()).expect("write");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    })
    .await
    .expect("asked")
}

#[tokio::test]
async fn the_page_health_and_nothing_else() {
    let (addr, cancel, task) = started(Duration::from_secs(10), 4, full()).await;
    let metrics = ask(addr, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("text/plain; version=0.0.4"));
    assert!(metrics.contains("\nexeat_agents 1\n"));
    let health = ask(addr, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"),
        "{health}"
    );
    let other = ask(addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(other.starts_with("HTTP/1.1 404"), "{other}");
    let post = ask(
        addr,
        "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    cancel.cancel();
    task.await.expect("ended");
}

#[tokio::test]
async fn degraded_health_gives_its_reasons() {
    let mut s = full();
    s.degraded = vec!["wall connect6 fell".into()];
    let (addr, cancel, task) = started(Duration::from_secs(10), 4, s).await;
    let health = ask(addr, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    assert!(
        health.ends_with("degraded\nwall connect6 fell\n"),
        "{health}"
    );
    cancel.cancel();
    task.await.expect("ended");
}

#[tokio::test]
async fn half_a_request_gives_its_place_back() {
    let (addr, cancel, task) = started(Duration::from_millis(50), 1, full()).await;
    let half = ask(addr, "GET /metrics HTTP/1.1\r\nHos");
    assert!(!half.await.contains("200 OK"));
    let whole = ask(addr, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    cancel.cancel();
    task.await.expect("ended");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let any = "127.0.0.1:0".parse().expect("address");
    let first = Page::bind(any).await.expect("bind");
    let second = Page::bind(first.addr())
        .await
        .err()
        .expect("in use")
        .to_string();
    assert!(second.contains(&first.addr().to_string()), "{second}");
    assert!(second.contains("`metrics:`"), "{second}");
}
