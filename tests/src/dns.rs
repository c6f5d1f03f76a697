//! A name server whose answers a test can change while it runs.

use crate::ns::Ns;
use crate::service::{Service, Stop};
use crate::sink::{accept_each, listen};
use anyhow::Context;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What a name stands for.
#[derive(Clone, Debug, Default)]
struct Zone {
    addresses: Vec<IpAddr>,
    alias: Option<String>,
    /// Of other types, or with a TTL of their own.
    records: Vec<RData>,
    ttl: u32,
}

#[derive(Default)]
struct State {
    zones: HashMap<String, Zone>,
    asked: HashMap<String, usize>,
    types: HashMap<(String, RecordType), usize>,
    log: Vec<String>,
    silent: bool,
    failing: bool,
    window: Option<usize>,
    given: HashMap<IpAddr, Instant>,
}

/// Answers from a map (with CNAME chains), NXDOMAIN for other names. `*.zone.example` stands
/// for every name below that has no entry of its own.
pub struct DnsHost {
    state: Arc<Mutex<State>>,
    _service: Service,
}

impl State {
    fn zone(&self, name: &str) -> Option<&Zone> {
        let above = || {
            let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            parents
                .filter_map(|parent| self.zones.get(&format!("*.{parent}")))
                .next()
        };
        self.zones.get(name).or_else(above)
    }
}

impl DnsHost {
    /// Serves UDP and TCP at `address`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(ns: &Ns, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = ns
            .run(|| Ok(UdpSocket::bind(address)?))
            .with_context(|| format!("bind udp {address}"))?;
        let listener = listen(ns, address)?;
        let state = Arc::new(Mutex::new(State::default()));
        let udp = state.clone();
        let mut service = Service::spawn("dns-udp", move |stop| serve_udp(&stop, &socket, &udp))?;
        let tcp = state.clone();
        service.add("dns-tcp", move |stop| {
            accept_each(&stop, &listener, |stream, _, stop| {
                let (state, stop) = (tcp.clone(), stop.clone());
                std::thread::spawn(move || serve_tcp(&stop, stream, &state));
            });
        })?;
        Ok(Self {
            state,
            _service: service,
        })
    }

    /// From now on `name` has these addresses, for `ttl` seconds.
    pub fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses
            .iter()
            .map(|a| a.parse().expect("an address"))
            .collect();
        self.put(
            name,
            Zone {
                addresses,
                ttl,
                ..Zone::default()
            },
        );
    }

    /// From now on `name` has these records besides its addresses.
    pub fn records(&self, name: &str, records: &[RData], ttl: u32) {
        let mut state = self.lock();
        let zone = state.zones.entry(fold(name)).or_default();
        zone.records = records.to_vec();
        zone.ttl = ttl;
    }

    /// From now on `name` is an alias of `target`.
    pub fn alias(&self, name: &str, target: &str, ttl: u32) {
        self.put(
            name,
            Zone {
                alias: Some(fold(target)),
                ttl,
                ..Zone::default()
            },
        );
    }

    fn put(&self, name: &str, zone: Zone) {
        self.lock().zones.insert(fold(name), zone);
    }

    /// From now on `name` does not exist.
    pub fn remove(&self, name: &str) {
        self.lock().zones.remove(&fold(name));
    }

    /// Whether it answers nothing at all.
    pub fn silent(&self, silent: bool) {
        self.lock().silent = silent;
    }

    /// Whether it answers everything with SERVFAIL.
    pub fn failing(&self, failing: bool) {
        self.lock().failing = failing;
    }

    /// Whether each answer holds one address only, the next one at each query.
    pub fn rotate(&self, rotate: bool) {
        self.show(rotate.then_some(1));
    }

    /// How many addresses of a name an answer holds, others at each query; all of them when
    /// not said.
    pub fn show(&self, window: Option<usize>) {
        self.lock().window = window;
    }

    /// How often `name` was asked for a type, whatever the outcome.
    pub fn asked_for(&self, name: &str, kind: RecordType) -> usize {
        let key = (fold(name), kind);
        self.lock().types.get(&key).copied().unwrap_or(0)
    }

    /// How often `name` was asked for, whatever the type and the outcome.
    pub fn asked(&self, name: &str) -> usize {
        self.lock().asked.get(&fold(name)).copied().unwrap_or(0)
    }

    /// When an address was first part of an answer.
    pub fn given(&self, address: IpAddr) -> Option<Instant> {
        self.lock().given.get(&address).copied()
    }

    /// The name of each question, in the order in which they came.
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Every name that was asked for, but the one by which the daemon itself looks for
    /// translators (RFC 7050).
    pub fn names(&self) -> Vec<String> {
        let state = self.lock();
        let names = state
            .asked
            .keys()
            .filter(|name| *name != exeat::nat64::PROBE);
        names.cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("dns lock")
    }
}

fn fold(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn serve_udp(stop: &Stop, socket: &UdpSocket, state: &Mutex<State>) {
    let mut buffer = [0u8; 4096];
    while stop.readable(&[socket.as_fd()]).is_some() {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(reply) = reply(&buffer[..length], state) {
            let _ = socket.send_to(&fitted(&buffer[..length], reply), from);
        }
    }
}

/// The reply, or where it is larger than the asker takes over UDP (512 bytes, or what its
/// EDNS record says) an empty one that says so.
fn fitted(query: &[u8], reply: Vec<u8>) -> Vec<u8> {
    let Ok(query) = Message::from_vec(query) else {
        return reply;
    };
    if reply.len() <= usize::from(query.max_payload()) {
        return reply;
    }
    let mut short = query.into_response();
    short.metadata.recursion_available = true;
    short.metadata.truncation = true;
    short.to_vec().unwrap_or(reply)
}

fn serve_tcp(stop: &Stop, mut stream: TcpStream, state: &Mutex<State>) {
    while stop.readable(&[stream.as_fd()]).is_some() {
        let mut length = [0u8; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut query = vec![0u8; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let Some(reply) = reply(&query, state) else {
            return;
        };
        let length = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes();
        if stream
            .write_all(&[&length, reply.as_slice()].concat())
            .is_err()
        {
            return;
        }
    }
}

/// The answer to one query; `None` where the server keeps silent.
fn reply(query: &[u8], state: &Mutex<State>) -> Option<Vec<u8>> {
    let message = Message::from_vec(query).ok()?;
    let question = message.queries.first()?.clone();
    let name = fold(&question.name().to_string());
    let mut state = state.lock().expect("dns lock");
    let of_type = (name.clone(), question.query_type());
    *state.types.entry(of_type).or_default() += 1;
    state.log.push(name.clone());
    let turn = state.asked.entry(name.clone()).or_default();
    *turn += 1;
    let turn = *turn;
    if state.silent {
        return None;
    }
    let mut reply = message.into_response();
    reply.metadata.recursion_available = true;
    if state.failing {
        reply.metadata.response_code = ResponseCode::ServFail;
    } else if !answer(
        &state,
        &mut reply,
        question.name(),
        &name,
        question.query_type(),
        turn,
    ) {
        reply.metadata.response_code = ResponseCode::NXDomain;
    }
    let now = Instant::now();
    for address in reply.answers.iter().filter_map(|one| one.data.ip_addr()) {
        state.given.entry(address).or_insert(now);
    }
    reply.to_vec().ok()
}

/// Fills the answers; false if the name does not exist.
fn answer(
    state: &State,
    reply: &mut Message,
    owner: &Name,
    name: &str,
    kind: RecordType,
    turn: usize,
) -> bool {
    let mut owner = owner.clone();
    let mut name = name.to_owned();
    // Bounded, so that a test may also set up a loop of aliases.
    for _ in 0..16 {
        let Some(zone) = state.zone(&name) else {
            return false;
        };
        if let Some(alias) = &zone.alias {
            let Ok(target) = Name::from_ascii(format!("{alias}.")) else {
                return false;
            };
            reply.add_answer(Record::from_rdata(
                owner,
                zone.ttl,
                RData::CNAME(CNAME(target.clone())),
            ));
            (owner, name) = (target, alias.clone());
            continue;
        }
        let mut addresses: Vec<&IpAddr> = zone
            .addresses
            .iter()
            .filter(|a| {
                matches!(
                    (a, kind),
                    (IpAddr::V4(_), RecordType::A) | (IpAddr::V6(_), RecordType::AAAA)
                )
            })
            .collect();
        if let Some(window) = state.window
            && !addresses.is_empty()
        {
            let first = turn * window % addresses.len();
            addresses.rotate_left(first);
            addresses.truncate(window);
        }
        for address in addresses {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            reply.add_answer(Record::from_rdata(owner.clone(), zone.ttl, data));
        }
        for data in zone
            .records
            .iter()
            .filter(|data| data.record_type() == kind)
        {
            reply.add_answer(Record::from_rdata(owner.clone(), zone.ttl, data.clone()));
        }
        return true;
    }
    true
}
