use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::dns::stats::GateStats;

struct OneName;

impl Answers for OneName {
    fn lookup(&self, name: &str) -> Option<Vec<(IpAddr, Duration)>> {
        let many = (0..64).map(|n| (IpAddr::from([192, 0, 2, n]), Duration::from_secs(60)));
        match name {
            "a.example" => Some(many.take(1).collect()),
            "many.example" => Some(many.collect()),
            "panics.example" => panic!("as a parser might"),
            _ => None,
        }
    }
}

struct Running {
    v4: SocketAddr,
    v6: Option<SocketAddr>,
    records: mpsc::Receiver<GateEvent>,
    stats: Arc<GateStats>,
    cancel: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

fn start(agent: u32, room: usize) -> Running {
    let sockets = GateSockets::bind(agent, GatePorts::default()).expect("bind");
    let v4 = sockets.v4.udp.local_addr().expect("address");
    let v6 = sockets
        .v6
        .as_ref()
        .map(|pair| pair.udp.local_addr().expect("address"));
    let (sender, records) = mpsc::channel(room);
    let stats = Arc::new(GateStats::default());
    let cancel = CancellationToken::new();
    let task =
        tokio::spawn(sockets.serve(Arc::new(OneName), sender, stats.clone(), cancel.clone()));
    Running {
        v4,
        v6,
        records,
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
        let event = gate.records.recv().await.expect("a record");
        assert_eq!(event.agent, 0x1401);
        assert_eq!(event.transport, Transport::Udp);
        assert_eq!(event.peer.is_ipv4(), to.is_ipv4());
        assert_eq!(event.record.name, "a.example");
        let reply = udp_ask(to, &query(8, "b.example.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        let event = gate.records.recv().await.expect("a record");
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
async fn every_message_of_a_stream_is_judged_in_order() {
    let gate = start(0x1402, 16);
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
    assert!(gate.records.recv().await.is_some());
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
