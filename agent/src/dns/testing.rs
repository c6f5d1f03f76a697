//! A DNS server for tests, on loopback, over UDP and TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

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
}

type Key = (String, RecordType);

#[derive(Default)]
struct Zone {
    says: BTreeMap<Key, Says>,
    turns: BTreeMap<Key, usize>,
    asked: Vec<Key>,
}

/// The server; it ends when it is dropped.
pub(crate) struct Stub {
    pub(crate) addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _tasks: JoinSet<()>,
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
        let zone = Arc::new(Mutex::new(Zone::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, zone.clone()));
        tasks.spawn(serve_tcp(tcp, zone.clone()));
        Self {
            addr,
            zone,
            _tasks: tasks,
        }
    }

    /// Sets what is said to a question. Names that have nothing set do not exist; types
    /// that have nothing set, of a name that has, are empty.
    pub(crate) fn set(&self, name: &str, qtype: RecordType, says: Says) {
        let mut zone = self.zone.lock().expect("lock");
        zone.says.insert((name.to_owned(), qtype), says);
    }

    /// Every question so far: name in lower case with its dot, and type.
    pub(crate) fn asked(&self) -> Vec<Key> {
        self.zone.lock().expect("lock").asked.clone()
    }

    /// The distinct names asked so far.
    pub(crate) fn names_asked(&self) -> BTreeSet<String> {
        self.asked().into_iter().map(|(name, _)| name).collect()
    }
}

fn name(text: &str) -> Name {
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

fn reply(query: &[u8], tcp: bool, zone: &Mutex<Zone>) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).expect("the resolver sends valid queries");
    let question = query.queries.first().expect("one question");
    let mut reply = Message::new(
        query.metadata.id,
        MessageType::Response,
        query.metadata.op_code,
    );
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    // The question with the case that it came with.
    reply.add_query(question.clone());
    match zone.lock().expect("lock").judge(question) {
        Says::Records(records) => {
            reply.add_answers(records);
        }
        Says::Code(code) => reply.metadata.response_code = code,
        Says::OnlyTcp(records) if tcp => {
            reply.add_answers(records);
        }
        Says::OnlyTcp(_) => reply.metadata.truncation = true,
        Says::Silence => return None,
        Says::InTurn(_) => unreachable!("judge gives the records of this turn"),
    }
    Some(reply.to_vec().expect("encodes"))
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 4096];
    while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = reply(&buffer[..len], false, &zone) {
            socket.send_to(&reply, peer).await.expect("send");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let zone = zone.clone();
        connections.spawn(async move {
            while let Ok(len) = stream.read_u16().await {
                let mut query = vec![0; usize::from(len)];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                let Some(reply) = reply(&query, true, &zone) else {
                    continue;
                };
                let len = u16::try_from(reply.len()).expect("fits");
                let mut framed = len.to_be_bytes().to_vec();
                framed.extend(reply);
                if stream.write_all(&framed).await.is_err() {
                    return;
                }
            }
        });
    }
}
