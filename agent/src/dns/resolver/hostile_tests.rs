//! Servers that lie, and those who speak in their place.

use std::time::Duration;

use hickory_proto::rr::RecordType;

use super::ask::plain;
use super::*;
use crate::dns::testing::{Forgery, Says, Stub, address};

async fn resolver(mix_case: bool) -> (Stub, Resolver) {
    let stub = Stub::start().await;
    let config = ResolverConfig {
        upstreams: vec![Upstream::Plain(stub.addr)],
        timeout: Duration::from_secs(5),
        attempts: 1,
        case_randomization: mix_case,
        ..ResolverConfig::default()
    };
    let resolver = Resolver::new(config, Arc::default()).expect("valid");
    (stub, resolver)
}

const NAME: &str = "averylongname.with.many.letters.example";

fn honest() -> Vec<Record> {
    vec![address(&format!("{NAME}."), 60, "192.0.2.1")]
}

fn forged() -> Vec<Record> {
    vec![address(&format!("{NAME}."), 60, "192.0.2.66")]
}

async fn survives(forgery: Forgery) -> Stub {
    let (stub, resolver) = resolver(true).await;
    let says = Says::Forged(forgery, forged(), honest());
    stub.set(&format!("{NAME}."), RecordType::A, says);
    let question = plain(&NAME.into(), RecordType::A);
    let answer = resolver.ask(&question).await.expect("an answer");
    assert_eq!(*answer.records, honest(), "{forgery:?}");
    stub
}

#[tokio::test]
async fn a_forged_id_name_or_port_is_not_heard() {
    for forgery in [Forgery::Id, Forgery::Name, Forgery::Port] {
        let stub = survives(forgery).await;
        assert_eq!(
            stub.asked().len(),
            1,
            "and the honest answer is: {forgery:?}"
        );
    }
}

#[tokio::test]
async fn a_forged_case_sends_the_question_by_tcp() {
    let stub = survives(Forgery::Case).await;
    assert_eq!(stub.asked().len(), 2);
    assert_eq!(stub.by_connection(), 1);
}

#[tokio::test]
async fn the_case_is_mixed_only_where_configured() {
    let (stub, resolver) = resolver(false).await;
    let says = Says::Forged(Forgery::Case, honest(), forged());
    stub.set(&format!("{NAME}."), RecordType::A, says);
    let question = plain(&NAME.into(), RecordType::A);
    let answer = resolver.ask(&question).await.expect("an answer");
    assert_eq!(*answer.records, honest(), "the first one holds then");
}

#[tokio::test]
async fn broken_and_oversized_answers_are_failures() {
    let (stub, resolver) = resolver(true).await;
    for (name, bytes) in [
        ("short.example", vec![0x81, 0x80]),
        (
            "counts.example",
            [0x81, 0x80].into_iter().chain([0xff; 8]).collect(),
        ),
        ("junk.example", vec![0xff; 3000]),
    ] {
        stub.set(&format!("{name}."), RecordType::A, Says::Bytes(bytes));
        let failed = resolver
            .ask(&plain(&name.into(), RecordType::A))
            .await
            .expect_err(name);
        assert!(
            matches!(failed.kind, FailKind::BadAnswer | FailKind::Network),
            "{name}: {failed:?}"
        );
    }
    // Much, by TCP, is an answer.
    let many: Vec<_> = (0..1000)
        .map(|n| {
            address(
                "many.example.",
                60,
                &format!("10.0.{}.{}", n / 250, n % 250),
            )
        })
        .collect();
    stub.set("many.example.", RecordType::A, Says::OnlyTcp(many));
    let question = plain(&"many.example".into(), RecordType::A);
    let large = resolver.ask(&question).await.expect("large");
    assert_eq!(large.records.len(), 1000);
}

#[tokio::test]
async fn another_question_answered_over_tcp_is_a_failure() {
    let (stub, resolver) = resolver(true).await;
    // Truncated over UDP by hand, then bytes for another name over TCP.
    let mut bytes = vec![0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(b"\x05other\x07example\x00\x00\x01\x00\x01");
    stub.set("a.example.", RecordType::A, Says::OnlyTcp(vec![]));
    let question = plain(&"a.example".into(), RecordType::A);
    resolver.ask(&question).await.expect("empty, but honest");
    stub.set("a.example.", RecordType::A, Says::Wrong(bytes));
    let failed = resolver.refresh(&question).await.expect_err("not ours");
    assert_eq!(failed.kind, FailKind::BadAnswer);
}

#[tokio::test]
async fn ids_ports_and_case_differ_from_question_to_question() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let config = ResolverConfig {
        upstreams: vec![Upstream::Plain(socket.local_addr().expect("address"))],
        timeout: Duration::from_millis(50),
        attempts: 1,
        ..ResolverConfig::default()
    };
    let resolver = Resolver::new(config, Arc::default()).expect("valid");
    let (mut ids, mut ports, mut names) = (vec![], vec![], vec![]);
    let question = plain(&NAME.into(), RecordType::A);
    for _ in 0..16 {
        let mut buffer = [0; 512];
        let (failed, got) = tokio::join!(resolver.ask(&question), socket.recv_from(&mut buffer));
        assert_eq!(failed.expect_err("silence").kind, FailKind::Timeout);
        let (_, peer) = got.expect("a query");
        ids.push([buffer[0], buffer[1]]);
        ports.push(peer.port());
        names.push(buffer[12..12 + NAME.len()].to_vec());
    }
    // 16 draws of 65,536 ids or 64,512 ports give three equal ones about never.
    let distinct = |mut list: Vec<Vec<u8>>| {
        list.sort();
        list.dedup();
        list.len()
    };
    assert!(distinct(ids.iter().map(|id| id.to_vec()).collect()) >= 14);
    assert!(
        distinct(
            ports
                .iter()
                .map(|port| port.to_be_bytes().to_vec())
                .collect()
        ) >= 14
    );
    assert!(distinct(names) >= 14);
}
