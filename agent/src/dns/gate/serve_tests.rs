use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::testing::{Fake, address, found};
use super::*;
use crate::dns::stats::GateStats;
use crate::leases::FailKind;

struct Running {
    v4: SocketAddr,
    v6: Option<SocketAddr>,
    backend: Arc<Fake>,
    refusals: mpsc::Receiver<GateEvent>,
    answers: mpsc::Receiver<GateEvent>,
    stats: Arc<GateStats>,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

fn start(agent: u32, room: usize) -> Running {
    start_with(agent, room, Fake::new())
}

fn start_with(agent: u32, room: usize, backend: Fake) -> Running {
    let backend = Arc::new(backend);
    let sockets = GateSockets::bind(agent, GatePorts::default()).expect("bind");
    let v4 = sockets.v4.udp.local_addr().expect("address");
    let v6 = sockets
        .v6
        .as_ref()
        .map(|pair| pair.udp.local_addr().expect("address"));
    let (records, refusals, answers) = Records::channel(room);
    let stats = Arc::new(GateStats::default());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(sockets.serve(backend.clone(), records, stats.clone(), cancel.clone()));
    Running {
        v4,
        v6,
        backend,
        refusals,
        answers,
        stats,
        cancel,
        task,
    }
}

impl Running {
    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("served");
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(
        Name::from_ascii(name).expect("name"),
        RecordType::A,
    ));
    message.to_vec().expect("encodes")
}

async fn udp_ask(to: SocketAddr, bytes: &[u8]) -> Message {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
        .parse()
        .expect("any");
    let socket = UdpSocket::bind(any).await.expect("bind");
    socket.connect(to).await.expect("connect");
    socket.send(bytes).await.expect("send");
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).await.expect("recv");
    Message::from_vec(&buffer[..len]).expect("a reply")
}

async fn tcp_read(stream: &mut TcpStream) -> Message {
    let len = stream.read_u16().await.expect("length");
    let mut buffer = vec![0; usize::from(len)];
    stream.read_exact(&mut buffer).await.expect("message");
    Message::from_vec(&buffer).expect("a reply")
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(message.len())
        .expect("fits")
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(message);
    bytes
}

#[tokio::test]
async fn udp_is_answered_at_both_families_and_recorded() {
    let mut gate = start(0x1401, 16);
    for to in [Some(gate.v4), gate.v6].into_iter().flatten() {
        let reply = udp_ask(to, &query(7, "a.example.")).await;
        assert_eq!((reply.metadata.id, reply.answers.len()), (7, 1));
        let event = gate.answers.recv().await.expect("a record");
        assert_eq!(event.agent, 0x1401);
        assert_eq!(event.transport, Transport::Udp);
        assert_eq!(event.peer.is_ipv4(), to.is_ipv4());
        assert_eq!(event.record.name, "a.example");
        let reply = udp_ask(to, &query(8, "b.example.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        let event = gate.refusals.recv().await.expect("a record");
        assert_eq!(event.record.verdict, Verdict::Refused);
    }
    let families = if gate.v6.is_some() { 2 } else { 1 };
    assert_eq!(
        gate.stats.queries(Verdict::Answered, Rcode::NoError),
        families
    );
    assert_eq!(
        gate.stats.queries(Verdict::Refused, Rcode::Refused),
        families
    );
    gate.stop().await;
}

#[tokio::test]
async fn every_message_of_a_stream_is_judged_and_what_is_at_hand_keeps_its_order() {
    let gate = start(0x1402, 16);
    gate.backend.at_hand.store(true, SeqCst);
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    let mut sent = Vec::new();
    for (id, name) in [
        (1, "a.example."),
        (2, "b.example."),
        (3, "many.example."),
        (4, "A.EXAMPLE."),
    ] {
        sent.extend(framed(&query(id, name)));
    }
    // Cut in the middle of a message, so that it comes in two pieces.
    let (first, second) = sent.split_at(40);
    stream.write_all(first).await.expect("write");
    assert_eq!(tcp_read(&mut stream).await.metadata.id, 1);
    stream.write_all(second).await.expect("write");
    let refused = tcp_read(&mut stream).await;
    assert_eq!(refused.metadata.id, 2);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert!(refused.answers.is_empty());
    assert_eq!(tcp_read(&mut stream).await.answers.len(), 64);
    assert_eq!(tcp_read(&mut stream).await.answers.len(), 1);
    gate.stop().await;
}

#[tokio::test]
async fn a_reply_cut_for_udp_is_whole_over_tcp() {
    let gate = start(0x1403, 16);
    let cut = udp_ask(gate.v4, &query(1, "many.example.")).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    stream
        .write_all(&framed(&query(2, "many.example.")))
        .await
        .expect("write");
    assert_eq!(tcp_read(&mut stream).await.answers.len(), 64);
    gate.stop().await;
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_and_counted() {
    let gate = start(0x1404, 1024);
    let mut open = Vec::new();
    for id in 0..MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
        let id = u16::try_from(id).expect("small");
        stream
            .write_all(&framed(&query(id, "a.example.")))
            .await
            .expect("write");
        assert_eq!(tcp_read(&mut stream).await.metadata.id, id);
        open.push(stream);
    }
    let mut extra = TcpStream::connect(gate.v4).await.expect("connect");
    // The end of the stream, or a reset: closed either way.
    assert!(matches!(extra.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(gate.stats.connections_refused.load(Relaxed), 1);

    // A place is free again once a connection has ended, which the gate learns in its
    // own time: so try until it serves.
    drop(open);
    loop {
        let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
        let sent = stream.write_all(&framed(&query(9, "a.example."))).await;
        if sent.is_ok() && stream.read_u16().await.is_ok() {
            break;
        }
    }
    gate.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_connection() {
    let gate = start(0x1405, 16);
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    let announced = u16::try_from(MAX_MESSAGE + 1).expect("fits");
    stream
        .write_all(&announced.to_be_bytes())
        .await
        .expect("write");
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(gate.stats.oversized.load(Relaxed), 1);
    gate.stop().await;
}

#[tokio::test]
async fn records_without_room_are_lost_and_counted_and_the_answer_goes_out() {
    let mut gate = start(0x1406, 1);
    for id in 0..3 {
        let reply = udp_ask(gate.v4, &query(id, "a.example.")).await;
        assert_eq!(reply.answers.len(), 1);
    }
    assert_eq!(gate.stats.records_lost.load(Relaxed), 2);
    assert!(gate.answers.recv().await.is_some());
    gate.stop().await;
}

#[tokio::test]
async fn a_panic_while_judging_costs_that_message_only() {
    let gate = start(0x1407, 16);
    let socket = UdpSocket::bind("0.0.0.0:0").await.expect("bind");
    socket.connect(gate.v4).await.expect("connect");
    socket
        .send(&query(1, "panics.example."))
        .await
        .expect("send");
    socket.send(&query(2, "a.example.")).await.expect("send");
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).await.expect("recv");
    let reply = Message::from_vec(&buffer[..len]).expect("reply");
    assert_eq!(reply.metadata.id, 2, "the first has no reply");
    assert_eq!(gate.stats.queries(Verdict::Malformed, Rcode::None), 1);
    gate.stop().await;
}

#[tokio::test]
async fn stopping_closes_sockets_and_connections() {
    let gate = start(0x1408, 16);
    let to = gate.v4;
    let mut stream = TcpStream::connect(to).await.expect("connect");
    stream
        .write_all(&framed(&query(1, "a.example.")))
        .await
        .expect("write");
    assert_eq!(tcp_read(&mut stream).await.metadata.id, 1);
    gate.stop().await;
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(to).await.is_err());
    let again = GateSockets::bind(
        0x1408,
        GatePorts {
            v4: to.port(),
            v6: 0,
        },
    )
    .expect("bind");
    assert_eq!(
        again.port4(),
        to.port(),
        "a new daemon gets the same port at once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_its_time() {
    let gate = start(0x1409, 16);
    // With the clock paused the runtime moves it on when there is nothing else to do.
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    assert_eq!(stream.read(&mut [0]).await.expect("closed"), 0);
    assert!(begun.elapsed() >= TCP_IDLE);
    gate.stop().await;
}

/// Waits until something holds: what the gate does meanwhile has no signal of its own.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::task::yield_now().await;
    }
}

async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").await.expect("bind");
    socket.connect(to).await.expect("connect");
    socket
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).await.expect("recv");
    Message::from_vec(&buffer[..len]).expect("reply")
}

#[tokio::test]
async fn what_waits_holds_nothing_else_up() {
    let gate = start(0x1410, 16);
    gate.backend.open.store(false, SeqCst);
    let socket = client(gate.v4).await;
    socket.send(&query(1, "a.example.")).await.expect("send");
    until(|| gate.backend.times_asked() == 1).await;
    socket.send(&query(2, "b.example.")).await.expect("send");
    let refused = receive(&socket).await;
    assert_eq!(refused.metadata.id, 2);
    gate.backend.at_hand.store(true, SeqCst);
    socket.send(&query(3, "a.example.")).await.expect("send");
    assert_eq!(receive(&socket).await.metadata.id, 3, "what is at hand");
    // One for the look-up, one for the write.
    gate.backend.pass.add_permits(2);
    let late = receive(&socket).await;
    assert_eq!((late.metadata.id, late.answers.len()), (1, 1));
    gate.stop().await;
}

#[tokio::test]
async fn nobody_is_answered_before_the_write_and_all_wait_for_the_same_one() {
    let gate = start(0x1411, 64);
    gate.backend.open.store(false, SeqCst);
    let socket = client(gate.v4).await;
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    for id in 0..20 {
        socket.send(&query(id, "a.example.")).await.expect("send");
    }
    stream
        .write_all(&framed(&query(20, "A.example.")))
        .await
        .expect("write");
    until(|| gate.backend.times_asked() == 1).await;
    gate.backend.pass.add_permits(1);
    until(|| gate.backend.times_written() == 1).await;
    // The gate has taken every query once it has answered one that came after them.
    socket.send(&query(99, "b.example.")).await.expect("send");
    assert_eq!(
        receive(&socket).await.metadata.id,
        99,
        "no reply before the write"
    );
    let mut byte = [0];
    assert!(stream.try_read(&mut byte).is_err());
    gate.backend.pass.add_permits(1);
    let mut ids = Vec::new();
    for _ in 0..20 {
        let reply = receive(&socket).await;
        assert_eq!(reply.answers.len(), 1);
        ids.push(reply.metadata.id);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..20));
    let reply = tcp_read(&mut stream).await;
    assert_eq!((reply.metadata.id, reply.answers.len()), (20, 1));
    assert_eq!(gate.backend.times_asked(), 1);
    assert_eq!(gate.backend.times_written(), 1);
    gate.stop().await;
}

#[tokio::test]
async fn a_grant_that_fails_is_no_answer() {
    let mut gate = start(0x1412, 16);
    gate.backend.generous.store(false, SeqCst);
    let why = "the map is full".to_owned();
    *gate.backend.grants.lock().expect("lock") = Err(NotGranted { why });
    let reply = udp_ask(gate.v4, &query(1, "a.example.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(reply.answers.is_empty());
    let event = gate.refusals.recv().await.expect("a record");
    assert_eq!(event.record.verdict, Verdict::NoRoom);
    assert_eq!(event.record.detail.as_deref(), Some("the map is full"));
    assert_eq!(gate.stats.queries(Verdict::NoRoom, Rcode::ServFail), 1);
    gate.stop().await;
}

#[tokio::test]
async fn what_became_of_queries_is_counted() {
    let mut gate = start(0x1414, 16);
    for name in ["a.example.", "outside.example.", "nothing.wild.example."] {
        udp_ask(gate.v4, &query(1, name)).await;
    }
    assert_eq!(gate.stats.budgets_crossed.load(Relaxed), 0);
    gate.backend.spent.store(true, SeqCst);
    for _ in 0..2 {
        let reply = udp_ask(gate.v4, &query(2, "y.wild.example.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        let crossed = gate.refusals.recv().await.expect("a record");
        let budget = |event: &GateEvent| event.record.over.is_some();
        assert!(budget(&crossed) || budget(&gate.refusals.recv().await.expect("a record")));
    }
    let counts = Verdict::ALL.map(|verdict| gate.stats.verdicts(verdict));
    let expected = Verdict::ALL.map(|verdict| match verdict {
        Verdict::OverBudget => 2,
        Verdict::Answered | Verdict::NoData | Verdict::Refused => 1,
        _ => 0,
    });
    assert_eq!(counts, expected);
    // The stand-in says of each that it is the first of its hour.
    assert_eq!(gate.stats.budgets_crossed.load(Relaxed), 2);
    gate.stop().await;
}

#[tokio::test]
async fn look_ups_over_the_bound_are_servfail_and_the_rest_goes_on() {
    let gate = start(0x1413, 1024);
    gate.backend.open.store(false, SeqCst);
    let socket = client(gate.v4).await;
    for id in 0..MAX_LOOK_UPS {
        let id = u16::try_from(id).expect("small");
        let name = format!("n{id}.wild.example.");
        socket.send(&query(id, &name)).await.expect("send");
        until(|| gate.backend.times_asked() == usize::from(id) + 1).await;
    }
    socket
        .send(&query(999, "one-more.wild.example."))
        .await
        .expect("send");
    let reply = receive(&socket).await;
    assert_eq!(reply.metadata.id, 999);
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(gate.stats.queries(Verdict::Busy, Rcode::ServFail), 1);
    assert_eq!(gate.backend.times_asked(), MAX_LOOK_UPS);
    gate.backend.pass.add_permits(2 * MAX_LOOK_UPS);
    for _ in 0..MAX_LOOK_UPS {
        assert_ne!(receive(&socket).await.metadata.id, 999);
    }
    let reply = udp_ask(gate.v4, &query(7, "a.example.")).await;
    assert_eq!(reply.answers.len(), 1, "there is room again");
    gate.stop().await;
}

#[tokio::test]
async fn a_stream_is_answered_as_replies_are_ready_and_reads_no_more_than_its_bound() {
    let gate = start(0x1414, 1024);
    gate.backend.open.store(false, SeqCst);
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    let mut sent = framed(&query(500, "n.wild.example."));
    sent.extend(framed(&query(501, "b.example.")));
    stream.write_all(&sent).await.expect("write");
    assert_eq!(
        tcp_read(&mut stream).await.metadata.id,
        501,
        "the refusal overtakes"
    );
    let mut sent = Vec::new();
    for id in 0..60 {
        sent.extend(framed(&query(id, &format!("n{id}.wild.example."))));
    }
    stream.write_all(&sent).await.expect("write");
    until(|| gate.backend.times_asked() == MAX_PIPELINED).await;
    // Another connection is served, and this one has not read on meanwhile.
    let reply = udp_ask(gate.v4, &query(1, "b.example.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert_eq!(gate.backend.times_asked(), MAX_PIPELINED);
    gate.backend.open.store(true, SeqCst);
    gate.backend.pass.add_permits(2 * MAX_PIPELINED);
    let mut ids = Vec::new();
    for _ in 0..61 {
        ids.push(tcp_read(&mut stream).await.metadata.id);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq((0..60).chain([500])));
    gate.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_answers() {
    let gate = start(0x1415, 16);
    gate.backend.open.store(false, SeqCst);
    let mut stream = TcpStream::connect(gate.v4).await.expect("connect");
    stream
        .write_all(&framed(&query(1, "a.example.")))
        .await
        .expect("write");
    stream.shutdown().await.expect("shutdown");
    until(|| gate.backend.times_asked() == 1).await;
    gate.backend.pass.add_permits(2);
    assert_eq!(tcp_read(&mut stream).await.answers.len(), 1);
    assert_eq!(stream.read(&mut [0]).await.expect("end"), 0);
    gate.stop().await;
}

#[tokio::test]
async fn a_panic_in_a_look_up_costs_that_query_only() {
    let gate = start(0x1416, 16);
    let socket = client(gate.v4).await;
    socket
        .send(&query(1, "breaks.wild.example."))
        .await
        .expect("send");
    until(|| gate.stats.queries(Verdict::Malformed, Rcode::None) == 1).await;
    socket.send(&query(2, "a.example.")).await.expect("send");
    assert_eq!(receive(&socket).await.metadata.id, 2);
    gate.stop().await;
}

#[tokio::test]
async fn a_name_that_left_the_policy_meanwhile_is_refused() {
    let gate = start(0x1417, 16);
    gate.backend.open.store(false, SeqCst);
    let socket = client(gate.v4).await;
    socket.send(&query(1, "a.example.")).await.expect("send");
    until(|| gate.backend.times_asked() == 1).await;
    gate.backend.rules.lock().expect("lock").remove("a.example");
    gate.backend.pass.add_permits(2);
    let reply = receive(&socket).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert!(reply.answers.is_empty());
    gate.stop().await;
}

/// A question below the wildcard is refused, and recorded as beyond the budget.
async fn is_over_budget(gate: &mut Running) {
    let reply = udp_ask(gate.v4, &query(1, "x.wild.example.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    let event = gate.refusals.recv().await.expect("a record");
    assert_eq!(event.record.verdict, Verdict::OverBudget);
}

#[tokio::test]
async fn a_spent_budget_stops_the_question_here() {
    let mut gate = start(0x1418, 16);
    gate.backend.spent.store(true, SeqCst);
    is_over_budget(&mut gate).await;
    assert_eq!(gate.backend.times_asked(), 0);
    let reply = udp_ask(gate.v4, &query(2, "a.example.")).await;
    assert_eq!(reply.answers.len(), 1, "an exact name is not paid for");
    assert!(gate.backend.names_asked().into_iter().eq(["a.example"]));
    gate.stop().await;
}

#[tokio::test]
async fn a_repeat_beyond_the_budget_gets_the_answer_that_has_ended_or_none() {
    let mut gate = start(0x141b, 16);
    gate.backend.repeated.store(true, SeqCst);
    is_over_budget(&mut gate).await;

    let answer = Ok(found(vec![address("x.wild.example.", 60, "192.0.2.9")]));
    let asked = ("x.wild.example".to_owned(), RecordType::A);
    let answers = &gate.backend.answers;
    answers.lock().expect("lock").insert(asked, answer);
    gate.backend.ended.store(true, SeqCst);
    let reply = udp_ask(gate.v4, &query(2, "x.wild.example.")).await;
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(gate.backend.times_written(), 1, "it is granted anew");
    let event = gate.refusals.recv().await.expect("it is told");
    assert_eq!(event.record.verdict, Verdict::Answered);
    assert!(event.record.over.is_some_and(|over| over.tell));

    gate.backend.at_hand.store(true, SeqCst);
    let reply = udp_ask(gate.v4, &query(3, "x.wild.example.")).await;
    assert_eq!(reply.answers.len(), 1, "what is at hand costs nothing");
    assert_eq!(gate.backend.times_asked(), 0);
    gate.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_up_without_end_is_servfail_in_time() {
    let gate = start(0x1419, 16);
    gate.backend.open.store(false, SeqCst);
    let begun = tokio::time::Instant::now();
    let reply = udp_ask(gate.v4, &query(1, "a.example.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(begun.elapsed() >= LOOK_UP_TIME);
    gate.stop().await;
}

#[tokio::test]
async fn failures_and_refusals_have_queues_of_their_own() {
    let mut gate = start(0x141a, 2);
    let answer = Ok(found(vec![address("c.example.", 60, "192.0.2.9")]));
    gate.backend.says("c.example", RecordType::A, answer);
    gate.backend
        .says("d.example", RecordType::A, Err(FailKind::Timeout));
    for id in 0..10 {
        udp_ask(
            gate.v4,
            &query(id, ["c.example.", "d.example."][usize::from(id % 2)]),
        )
        .await;
    }
    udp_ask(gate.v4, &query(10, "secret.example.")).await;
    let event = gate
        .refusals
        .recv()
        .await
        .expect("chatter crowds nothing out");
    assert_eq!(event.record.name, "secret.example");
    let verdicts = [(); 2].map(|()| gate.answers.try_recv().expect("a record").record.verdict);
    assert_eq!(verdicts, [Verdict::Answered, Verdict::Failed]);
    assert_eq!(gate.stats.records_lost.load(Relaxed), 8);
    gate.stop().await;
}
