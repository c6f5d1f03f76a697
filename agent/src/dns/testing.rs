//! A DNS server for tests, on loopback, over UDP and TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::clock::Clock;

/// What the server says to a question.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// These records (in the order given), code NOERROR.
    Records(Vec<Record>),
    /// The next of these at every question, round and round.
    InTurn(Vec<Vec<Record>>),
    /// This code and nothing else.
    Code(ResponseCode),
    /// Nothing at all.
    Silence,
    /// Over UDP only that it is too long, over TCP these records.
    OnlyTcp(Vec<Record>),
    /// A code, answers and authority.
    Whole(ResponseCode, Vec<Record>, Vec<Record>),
    /// Over UDP a forged answer with the first records, then these; over TCP these.
    Forged(Forgery, Vec<Record>, Vec<Record>),
    /// Bytes as they are, after the id of the question.
    Bytes(Vec<u8>),
    /// Over UDP that it is too long, over TCP bytes as they are, after the id.
    Wrong(Vec<u8>),
}

/// What is wrong with a forged answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forgery {
    /// The id is not that of the question.
    Id,
    /// The name is another.
    Name,
    /// The letters' case is not that of the question.
    Case,
    /// It comes from another port.
    Port,
}

type Key = (String, RecordType);

#[derive(Default)]
struct Zone {
    says: BTreeMap<Key, Says>,
    turns: BTreeMap<Key, usize>,
    asked: Vec<Key>,
    /// The DO bit of each.
    signed: Vec<bool>,
    tcp: usize,
}

/// What connections share with the server.
#[derive(Clone)]
pub(crate) struct Shared {
    zone: Arc<Mutex<Zone>>,
    held: watch::Receiver<bool>,
}

/// The server; it ends when it is dropped.
pub(crate) struct Stub {
    pub(crate) addr: SocketAddr,
    pub(crate) shared: Shared,
    hold: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bind UDP");
            let addr = udp.local_addr().expect("address");
            if let Ok(tcp) = TcpListener::bind(addr).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().expect("address");
        let (hold, held) = watch::channel(false);
        let shared = Shared {
            zone: Arc::default(),
            held,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, shared.clone()));
        tasks.spawn(serve_tcp(tcp, shared.clone()));
        Self {
            addr,
            shared,
            hold,
            tasks,
        }
    }

    /// Ends it, and waits until its port is closed.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// Lets questions come in and nothing go out until [`Stub::release`].
    pub(crate) fn hold(&self) {
        self.hold.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }

    /// Waits until this many questions have come in.
    pub(crate) async fn until_asked(&self, count: usize) {
        while self.asked().len() < count {
            tokio::task::yield_now().await;
        }
    }

    /// Whether each question so far asked for signatures.
    pub(crate) fn signed(&self) -> Vec<bool> {
        self.shared.zone.lock().expect("lock").signed.clone()
    }

    /// Questions so far that did not come by UDP.
    pub(crate) fn by_connection(&self) -> usize {
        self.shared.zone.lock().expect("lock").tcp
    }

    /// Sets what is said to a question. Names that have nothing set do not exist; types
    /// that have nothing set, of a name that has, are empty.
    pub(crate) fn set(&self, name: &str, qtype: RecordType, says: Says) {
        let mut zone = self.shared.zone.lock().expect("lock");
        zone.says.insert((name.to_owned(), qtype), says);
    }

    /// Every question so far: name in lower case with its dot, and type.
    pub(crate) fn asked(&self) -> Vec<Key> {
        self.shared.zone.lock().expect("lock").asked.clone()
    }

    /// The distinct names asked so far.
    pub(crate) fn names_asked(&self) -> BTreeSet<String> {
        self.asked().into_iter().map(|(name, _)| name).collect()
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("name")
}

/// An A or AAAA record.
pub(crate) fn address(owner: &str, ttl: u32, addr: &str) -> Record {
    let data = match addr.parse().expect("address") {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(name(owner), ttl, data)
}

/// An alias.
pub(crate) fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

/// The start of authority, for negative answers.
pub(crate) fn start(owner: &str, ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(
        name("ns.example."),
        name("root.example."),
        1,
        3600,
        600,
        86_400,
        minimum,
    );
    Record::from_rdata(name(owner), ttl, RData::SOA(soa))
}

/// A clock that stands until it is moved.
#[derive(Clone)]
pub(crate) struct Hand(Arc<Mutex<Duration>>);

impl Hand {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Duration::from_secs(1_000))))
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = self.0.clone();
        Arc::new(move || *now.lock().expect("lock"))
    }

    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().expect("lock") += by;
    }
}

impl Zone {
    fn judge(&mut self, question: &Query) -> Says {
        let owner = question.name().to_lowercase().to_ascii();
        let key = (owner.clone(), question.query_type());
        self.asked.push(key.clone());
        match self.says.get(&key) {
            Some(Says::InTurn(all)) => {
                let turn = self.turns.entry(key).or_default();
                let records = all[*turn % all.len()].clone();
                *turn += 1;
                Says::Records(records)
            }
            Some(says) => says.clone(),
            None if self.says.keys().any(|(known, _)| *known == owner) => Says::Records(vec![]),
            None => Says::Code(ResponseCode::NXDomain),
        }
    }
}

impl Shared {
    /// The datagrams that answer a question: forged ones first, from another port where
    /// `true`.
    pub(crate) async fn replies(&self, query: &[u8], tcp: bool) -> Vec<(Vec<u8>, bool)> {
        let replies = self.decide(query, tcp);
        let mut held = self.held.clone();
        // The sender is gone when the server is.
        let _ = held.wait_for(|held| !held).await;
        replies
    }

    fn decide(&self, query: &[u8], tcp: bool) -> Vec<(Vec<u8>, bool)> {
        let query = Message::from_vec(query).expect("the resolver sends valid queries");
        let question = query.queries.first().expect("one question");
        let mut zone = self.zone.lock().expect("lock");
        let says = zone.judge(question);
        let dnssec_ok = query
            .edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok);
        zone.signed.push(dnssec_ok);
        zone.tcp += usize::from(tcp);
        drop(zone);
        let answer = |change: &dyn Fn(&mut Message)| {
            let mut reply = Message::new(
                query.metadata.id,
                MessageType::Response,
                query.metadata.op_code,
            );
            reply.metadata.recursion_desired = true;
            reply.metadata.recursion_available = true;
            // The question with the case that it came with.
            reply.add_query(question.clone());
            change(&mut reply);
            reply.to_vec().expect("encodes")
        };
        let records = |records: &[Record]| {
            answer(&|reply: &mut Message| {
                reply.add_answers(records.to_vec());
            })
        };
        let one = |bytes: Vec<u8>| vec![(bytes, false)];
        match says {
            Says::Records(list) => one(records(&list)),
            Says::Code(code) => one(answer(&|reply| reply.metadata.response_code = code)),
            Says::OnlyTcp(list) if tcp => one(records(&list)),
            Says::OnlyTcp(_) => one(answer(&|reply| reply.metadata.truncation = true)),
            Says::Silence => vec![],
            Says::Whole(code, answers, authority) => one(answer(&|reply| {
                reply.metadata.response_code = code;
                reply.add_answers(answers.clone());
                reply.add_authorities(authority.clone());
            })),
            Says::Forged(_, _, honest) if tcp => one(records(&honest)),
            Says::Forged(forgery, forged, honest) => {
                let bad = answer(&|reply| {
                    reply.add_answers(forged.clone());
                    match forgery {
                        Forgery::Id => reply.metadata.id = !query.metadata.id,
                        Forgery::Name => reply.queries[0].name = name("other.example."),
                        Forgery::Case => reply.queries[0].name = other_case(question.name()),
                        Forgery::Port => {}
                    }
                });
                let elsewhere = matches!(forgery, Forgery::Port);
                vec![(bad, elsewhere), (records(&honest), false)]
            }
            Says::Wrong(_) if !tcp => one(answer(&|reply| reply.metadata.truncation = true)),
            Says::Bytes(bytes) | Says::Wrong(bytes) => {
                let mut all = query.metadata.id.to_be_bytes().to_vec();
                all.extend(bytes);
                one(all)
            }
            Says::InTurn(_) => unreachable!("judge gives the records of this turn"),
        }
    }

    /// Serves a connection until it ends.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        while let Ok(len) = stream.read_u16().await {
            let mut query = vec![0; usize::from(len)];
            if stream.read_exact(&mut query).await.is_err() {
                return;
            }
            for (reply, _) in self.replies(&query, true).await {
                let len = u16::try_from(reply.len()).expect("fits");
                let mut framed = len.to_be_bytes().to_vec();
                framed.extend(reply);
                if stream.write_all(&framed).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The name with every letter in the other case.
fn other_case(asked: &Name) -> Name {
    let flip = |c: char| match c.is_ascii_uppercase() {
        true => c.to_ascii_lowercase(),
        false => c.to_ascii_uppercase(),
    };
    name(&asked.to_ascii().chars().map(flip).collect::<String>())
}

async fn serve_udp(socket: UdpSocket, shared: Shared) {
    let mut buffer = [0; 4096];
    let other = UdpSocket::bind("127.0.0.1:0").await.expect("bind UDP");
    let socket = Arc::new(socket);
    let other = Arc::new(other);
    let mut tasks = JoinSet::new();
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        let (socket, other, shared) = (socket.clone(), other.clone(), shared.clone());
        let query = buffer[..len].to_vec();
        tasks.spawn(async move {
            for (reply, elsewhere) in shared.replies(&query, false).await {
                let from = if elsewhere { &other } else { &socket };
                // Whoever asked may be gone.
                let _ = from.send_to(&reply, peer).await;
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(shared.clone().serve(stream));
        while connections.try_join_next().is_some() {}
    }
}
