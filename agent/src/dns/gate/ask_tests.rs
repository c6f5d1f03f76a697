//! Queries that are held while a person is asked.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::serve::{Begun, Done, Gate, Waiting};
use super::testing::{Fake, bytes, query};
use super::*;
use crate::asking::Ruling;
use crate::dns::stats::GateStats;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

fn gate(backend: Fake) -> Arc<Gate<Fake>> {
    let (records, _refusals, _answers) = Records::channel(16);
    Arc::new(Gate::new(
        7,
        Arc::new(backend),
        records,
        Arc::new(GateStats::default()),
    ))
}

fn begin(gate: &Gate<Fake>, name: &str, rtype: RecordType) -> Begun {
    gate.begin(&bytes(&query(name, rtype)), Transport::Udp, PEER)
}

fn held(gate: &Gate<Fake>, name: &str) -> Box<Waiting> {
    match begin(gate, name, RecordType::A) {
        Begun::Waits(waiting) => waiting,
        Begun::Done(done) => panic!("{:?}", done.event.record),
    }
}

fn refused(gate: &Gate<Fake>, name: &str, rtype: RecordType) {
    match begin(gate, name, rtype) {
        Begun::Done(done) => assert_eq!(done.event.record.verdict, Verdict::Refused, "{name}"),
        Begun::Waits(_) => panic!("{name} waits"),
    }
}

fn reply(done: &Done) -> Message {
    Message::from_vec(done.reply.as_ref().expect("a reply")).expect("it decodes")
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_is_answered_and_what_is_denied_refused() {
    let open = gate(Fake::new());
    let waiting = held(&open, "a.ask.example.");
    let (backend, finish) = (
        open.clone(),
        tokio::spawn(async move { open.finish(*waiting).await }),
    );
    tokio::task::yield_now().await;
    assert_eq!(backend.backend().times_asked(), 0, "nothing leaves before");
    backend.backend().rulings.send_replace(Some(Ruling::Allow));
    let done = finish.await.expect("no panic");
    assert_eq!(reply(&done).answers.len(), 1);
    assert_eq!(done.event.record.verdict, Verdict::Answered);

    for (refuse, code) in [
        (Refuse::Refused, ResponseCode::Refused),
        (Refuse::NxDomain, ResponseCode::NXDomain),
    ] {
        let closed = gate(Fake {
            refuse,
            ..Fake::new()
        });
        closed.backend().rulings.send_replace(Some(Ruling::Deny));
        let waiting = held(&closed, "a.ask.example.");
        let done = closed.finish(*waiting).await;
        assert_eq!(reply(&done).metadata.response_code, code);
        assert_eq!(done.event.record.verdict, Verdict::Denied);
        assert!(done.event.record.is_refusal());
        assert_eq!(closed.backend().times_asked(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_and_the_client_is_left_to_ask_again() {
    let gate = gate(Fake::new());
    let waiting = held(&gate, "a.ask.example.");
    let begun = Instant::now();
    let done = gate.finish(*waiting).await;
    assert!(begun.elapsed() <= HELD_TIME, "{:?}", begun.elapsed());
    assert!(done.reply.is_none());
    assert_eq!(done.event.record.verdict, Verdict::Asked);
    assert_eq!(done.event.record.rcode, Rcode::None);
}

#[tokio::test(start_paused = true)]
async fn so_many_are_held_and_no_more() {
    let gate = gate(Fake::new());
    let all: Vec<_> = (0..MAX_HELD)
        .map(|n| held(&gate, &format!("n{n}.ask.example.")))
        .collect();
    refused(&gate, "more.ask.example.", RecordType::A);
    drop(all);
    held(&gate, "more.ask.example.");
}

#[tokio::test]
async fn what_no_answer_would_help_is_not_asked() {
    let gate = gate(Fake::new());
    for rtype in [
        RecordType::TXT,
        RecordType::MX,
        RecordType::ANY,
        RecordType::PTR,
    ] {
        refused(&gate, "a.ask.example.", rtype);
    }
    refused(&gate, "elsewhere.example.", RecordType::A);
    for rtype in [RecordType::AAAA, RecordType::HTTPS] {
        assert!(
            matches!(begin(&gate, "a.ask.example.", rtype), Begun::Waits(_)),
            "{rtype}"
        );
    }
}
