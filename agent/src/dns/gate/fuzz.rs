//! Random messages against a whole gate, with random answers behind it.
//!
//! `cargo xtask fuzz gate --seconds N` runs it for a time; the ordinary tests run it for a
//! moment, and over `corpus.txt`. Messages are built from parts that mean something and
//! then damaged, so that most reach deep into the gate and some are noise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey as K, SvcParamValue as V, Unknown,
};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, NULL, SOA, SVCB, TXT};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::serve::{Begun, Done, Gate};
use super::testing::{nsec, signature};
use super::*;
use crate::dns::budget::{Exceeded, Measure, Spent};
use crate::dns::stats::GateStats;
use crate::leases::{FailKind, Name};

const CORPUS: &str = include_str!("corpus.txt");

/// Names that are asked and that answers are made of; those with `ok` are in the policy.
const NAMES: [&str; 12] = [
    "ok.example.",
    "txt.ok.example.",
    "ech.ok.example.",
    "a.wild.ok.example.",
    "b.c.wild.ok.example.",
    "OK.eXample.",
    "wild.example.",
    "out.example.",
    "x.ok.example.out.",
    ".",
    "localhost.",
    "1.2.0.192.in-addr.arpa.",
];

const TYPES: [u16; 16] = [
    1, 1, 28, 28, 5, 64, 65, 65, 16, 15, 33, 255, 252, 41, 46, 65_400,
];

/// Types whose data may come unread. TXT never does, nor do those here that the resolver
/// reads; but whatever it hands over, what nobody looked into must not leave.
const OPAQUE: [u16; 9] = [1, 28, 5, 64, 65, 46, 47, 39, 65_400];

fn rule(name: &str) -> Option<NameRule> {
    let mut rule = NameRule::default();
    match name {
        "ok.example" => {}
        "txt.ok.example" => rule.types.extend([16, 255, 41, 252, 65_400]),
        "ech.ok.example" => rule.keep_ech = true,
        _ if name.ends_with(".wild.ok.example") => {
            rule.wildcard = "wild.ok.example".parse().ok();
        }
        _ => return None,
    }
    Some(rule)
}

/// Gives random answers and random grants, and remembers them.
struct Random {
    rng: Mutex<StdRng>,
    refuse: Refuse,
    granted: Mutex<Vec<IpAddr>>,
    /// What reached the backend and must not have.
    wrong: Mutex<Vec<String>>,
}

impl Random {
    fn with<T>(&self, make: impl FnOnce(&mut StdRng) -> T) -> T {
        make(&mut self.rng.lock().expect("lock"))
    }

    fn check(&self, question: &Question) {
        let rtype = u16::from(question.rtype);
        let allowed = rule(&question.name).is_some_and(|rule| {
            matches!(rtype, 1 | 28 | 5 | 64 | 65)
                || rule.types.contains(&rtype) && !matches!(rtype, 41 | 128..=255)
        });
        if !allowed {
            let wrong = format!("{} {} was looked up", question.name, question.rtype);
            self.wrong.lock().expect("lock").push(wrong);
        }
    }

    fn grants(&self, addresses: &[(IpAddr, u32)]) -> Granted {
        self.with(|rng| {
            let mut granted = Granted::default();
            for (addr, _) in addresses {
                let left = Duration::from_millis(rng.random_range(0..60_000));
                match rng.random_range(0..8) {
                    0 => granted.refused += 1,
                    1 => granted.rebound.push(*addr),
                    _ => granted.held.push((*addr, left)),
                }
            }
            let held = granted.held.iter().map(|(addr, _)| *addr);
            self.granted.lock().expect("lock").extend(held);
            granted
        })
    }
}

impl Backend for Random {
    fn rule(&self, name: &str) -> Option<NameRule> {
        rule(name)
    }

    fn refuse(&self) -> Refuse {
        self.refuse
    }

    fn spend(&self, _name: &str, _rule: &NameRule) -> Spent {
        let exceeded = Exceeded {
            domain: "ok.example".into(),
            measure: Measure::Bytes,
            limit: 1,
            tell: true,
        };
        match self.with(|rng| rng.random_range(0..10)) {
            0 => Spent::Blocked(exceeded),
            1 => Spent::Reported(exceeded),
            2..=5 => Spent::Known,
            _ => Spent::Within,
        }
    }

    fn repeat(&self, name: &str, rule: &NameRule) -> Spent {
        self.spend(name, rule)
    }

    fn cached(&self, question: &Question, _rule: &NameRule) -> Option<Answer> {
        self.check(question);
        self.with(|rng| rng.random_bool(0.5).then(|| found(rng, question)))
    }

    fn ended(&self, question: &Question) -> Option<Answer> {
        self.check(question);
        self.with(|rng| rng.random_bool(0.5).then(|| found(rng, question)))
    }

    async fn resolve(&self, question: Question) -> Result<Answer, Failed> {
        self.check(&question);
        self.with(|rng| match rng.random_range(0..10) {
            0 => Err(Failed {
                kind: *FailKind::ALL.choose(rng).expect("kinds"),
                upstream: Arc::from("192.0.2.53:53"),
                elapsed: Duration::ZERO,
            }),
            _ => Ok(found(rng, &question)),
        })
    }

    fn granted(
        &self,
        _name: &Name,
        addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Option<Granted> {
        let at_hand = self.with(|rng| rng.random_bool(0.5));
        at_hand.then(|| self.grants(addresses))
    }

    async fn grant(
        &self,
        _name: &Name,
        addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Result<Granted, NotGranted> {
        if self.with(|rng| rng.random_range(0..10)) == 0 {
            let why = "no".to_owned();
            return Err(NotGranted { why });
        }
        Ok(self.grants(addresses))
    }
}

fn name(rng: &mut StdRng) -> WireName {
    let text = NAMES.choose(rng).expect("names");
    WireName::from_ascii(text).expect("name")
}

fn some_address(rng: &mut StdRng) -> RData {
    match rng.random_range(0..3) {
        0 => RData::A(A(Ipv4Addr::from(rng.random::<u32>()))),
        1 => RData::AAAA(AAAA(Ipv6Addr::from(rng.random::<u128>()))),
        _ => RData::AAAA(AAAA(Ipv4Addr::from(rng.random::<u32>()).to_ipv6_mapped())),
    }
}

fn service(rng: &mut StdRng) -> SVCB {
    let params = [
        (
            K::Mandatory,
            V::Mandatory(Mandatory(vec![K::Ipv4Hint, K::EchConfigList])),
        ),
        (K::Alpn, V::Alpn(Alpn(vec!["h2".into()]))),
        (K::Port, V::Port(443)),
        (K::Ipv4Hint, V::Ipv4Hint(IpHint(vec![A::new(10, 0, 0, 1)]))),
        (
            K::EchConfigList,
            V::EchConfigList(EchConfigList(vec![7; 9])),
        ),
        (
            K::Ipv6Hint,
            V::Ipv6Hint(IpHint(vec![AAAA::new(1, 0, 0, 0, 0, 0, 0, 1)])),
        ),
        (K::Unknown(9), V::Unknown(Unknown(vec![1, 2]))),
    ];
    let params = params
        .into_iter()
        .filter(|_| rng.random_bool(0.5))
        .collect();
    SVCB::new(rng.random_range(0..3), name(rng), params)
}

fn data(rng: &mut StdRng, asked: RecordType) -> RData {
    match rng.random_range(0..11) {
        0 => RData::CNAME(CNAME(name(rng))),
        1 => RData::TXT(TXT::new(vec!["x".repeat(rng.random_range(0..255))])),
        2 => RData::SOA(SOA::new(name(rng), name(rng), 1, 2, 3, 4, 5)),
        3 => RData::Unknown {
            code: RecordType::from(*OPAQUE.choose(rng).expect("types")),
            rdata: NULL::with(vec![0; rng.random_range(1..40)]),
        },
        4 => some_address(rng),
        5 => {
            let others = [RecordType::CNAME, RecordType::NSEC, RecordType::SOA];
            let covered = match rng.random() {
                true => asked,
                false => *others.choose(rng).expect("types"),
            };
            signature(name(rng), covered).data
        }
        6 => nsec(name(rng)).data,
        _ => match asked {
            RecordType::A => RData::A(A(Ipv4Addr::from(rng.random::<u32>()))),
            RecordType::AAAA => RData::AAAA(AAAA(Ipv6Addr::from(rng.random::<u128>()))),
            RecordType::HTTPS => RData::HTTPS(HTTPS(service(rng))),
            RecordType::SVCB => RData::SVCB(service(rng)),
            _ => RData::TXT(TXT::new(vec!["x".into()])),
        },
    }
}

fn records(rng: &mut StdRng, question: &Question) -> Arc<[Record]> {
    let count = match rng.random_range(0..20) {
        0 => rng.random_range(0..400),
        _ => rng.random_range(0..8),
    };
    (0..count)
        .map(|_| {
            let owner = match rng.random_bool(0.7) {
                // As it came: not every name that can be asked for can be written as text.
                true => WireName::from_labels(question.name.split('.').map(str::as_bytes))
                    .expect("name"),
                false => name(rng),
            };
            let ttl = match rng.random_bool(0.1) {
                true => rng.random(),
                false => rng.random_range(0..400),
            };
            Record::from_rdata(owner, ttl, data(rng, question.rtype))
        })
        .collect()
}

fn found(rng: &mut StdRng, question: &Question) -> Answer {
    Answer {
        rcode: match rng.random_range(0..6) {
            0 => ResponseCode::NXDomain,
            _ => ResponseCode::NoError,
        },
        records: records(rng, question),
        authority: records(rng, question),
        authentic: rng.random(),
        ttl: rng.random_range(0..1_000),
        chain: Vec::new(),
        source: *[Source::Cache, Source::Upstream, Source::Stale]
            .choose(rng)
            .expect("sources"),
        upstream: Arc::from("192.0.2.53:53"),
        elapsed: Duration::ZERO,
    }
}

/// The messages of `corpus.txt`: hexadecimal, with a word on each after `#`.
fn corpus() -> Vec<Vec<u8>> {
    CORPUS
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .map(|hex| hex.split_whitespace().collect::<String>())
        .filter(|hex| !hex.is_empty())
        .map(|hex| {
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
                .collect()
        })
        .collect()
}

/// A query made of parts that mean something.
fn query(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = rng.random::<[u8; 2]>().to_vec();
    bytes.push(u8::from(rng.random_bool(0.9)));
    bytes.push(rng.random::<u8>() & 0x30);
    let edns = rng.random_bool(0.6);
    bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    for label in name(rng).iter() {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    let rtype = match rng.random_bool(0.1) {
        true => rng.random(),
        false => *TYPES.choose(rng).expect("types"),
    };
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(if rng.random_bool(0.95) {
        [0, 1]
    } else {
        rng.random()
    });
    if edns {
        let payload: u16 = *[0, 512, 1232, 4096, u16::MAX].choose(rng).expect("sizes");
        let options: &[u8] = [
            &[][..],
            &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 12, 0, 3, 0, 0, 0],
        ]
        .choose(rng)
        .expect("options");
        bytes.extend([0, 0, 41]);
        bytes.extend(payload.to_be_bytes());
        let version = u8::from(rng.random_bool(0.05));
        let dnssec_ok = if rng.random_bool(0.5) { 0x80 } else { 0 };
        bytes.extend([0, version, dnssec_ok, 0]);
        bytes.extend(u16::try_from(options.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(options);
    }
    bytes
}

fn damage(rng: &mut StdRng, message: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = rng.random_range(0..=message.len());
    match rng.random_range(0..7) {
        0 => {
            if let Some(byte) = message.get_mut(at) {
                *byte = rng.random();
            }
        }
        1 => {
            if let Some(byte) = message.get_mut(at) {
                *byte ^= 1 << rng.random_range(0..8);
            }
        }
        2 => message.truncate(at),
        3 => {
            let noise: Vec<u8> = (0..rng.random_range(1..40)).map(|_| rng.random()).collect();
            message.splice(at..at, noise);
        }
        4 => {
            let other = corpus.choose(rng).expect("a corpus");
            let from = at.min(other.len());
            message.truncate(at);
            message.extend_from_slice(&other[from..]);
        }
        // A compression pointer, forwards or backwards or to itself.
        5 => {
            let to = rng.random_range(0..=message.len().min(0x3fff));
            let pointer = 0xc000 | u16::try_from(to).expect("14 bits");
            message.splice(at..at, pointer.to_be_bytes());
        }
        _ => {
            let end = rng.random_range(at..=message.len());
            let piece = message[at..end].to_vec();
            let to = rng.random_range(0..=message.len());
            message.splice(to..to, piece);
        }
    }
}

struct Fuzzer {
    rng: StdRng,
    corpus: Vec<Vec<u8>>,
    runtime: tokio::runtime::Runtime,
    /// Replies that held data: without any the fuzzer would prove nothing.
    answered: u64,
}

impl Fuzzer {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            corpus: corpus(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("runtime"),
            answered: 0,
        }
    }

    fn message(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut message = match rng.random_range(0..10) {
            0 => (0..rng.random_range(0..600))
                .map(|_| rng.random())
                .collect(),
            1..=2 => self.corpus.choose(rng).expect("a corpus").clone(),
            _ => query(rng),
        };
        if rng.random_bool(0.6) {
            for _ in 0..rng.random_range(1..5) {
                damage(rng, &mut message, &self.corpus);
            }
        }
        message.truncate(MAX_MESSAGE);
        message
    }

    fn step(&mut self) {
        let message = self.message();
        let transport = match self.rng.random() {
            true => Transport::Udp,
            false => Transport::Tcp,
        };
        self.run(&message, transport);
    }

    /// One message through a gate of its own; panics with the message if anything that must
    /// hold does not.
    fn run(&mut self, message: &[u8], transport: Transport) {
        let refuse = match self.rng.random() {
            true => Refuse::Refused,
            false => Refuse::NxDomain,
        };
        let backend = Arc::new(Random {
            rng: Mutex::new(StdRng::seed_from_u64(self.rng.random())),
            refuse,
            granted: Mutex::default(),
            wrong: Mutex::default(),
        });
        let (records, mut refusals, mut answers) = Records::channel(1);
        let stats = Arc::new(GateStats::default());
        let gate = Gate::new(1, Arc::clone(&backend), records, Arc::clone(&stats));
        let peer = SocketAddr::from(([127, 0, 0, 1], 4000));
        let Done { reply, event } = match gate.begin(message, transport, peer) {
            Begun::Done(done) => *done,
            Begun::Waits(query) => self.runtime.block_on(gate.finish(*query)),
        };
        gate.tell(event);
        let fault = |what: String| -> ! {
            let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
            panic!("{what}\n{transport:?} {hex}");
        };
        if let Some(wrong) = backend.wrong.lock().expect("lock").first() {
            fault(wrong.clone());
        }
        // What panics inside the gate is caught there, and counted as this.
        if stats.queries(Verdict::Malformed, Rcode::None) > 0 {
            fault("something panicked, or a reply could not be written".into());
        }
        if gate.flying() > 0 {
            fault("a look-up was left behind".into());
        }
        let counted: u64 = Verdict::OUTCOMES
            .iter()
            .map(|(verdict, rcode)| stats.queries(*verdict, *rcode))
            .sum();
        if counted != 1 {
            fault(format!("{counted} outcomes of those that occur"));
        }
        let told = refusals.try_recv().or_else(|_| answers.try_recv()).ok();
        let Some(reply) = reply else {
            if message.get(2).is_some_and(|flags| flags & 0x80 == 0) {
                fault("a query without a reply".into());
            }
            return;
        };
        let granted = backend.granted.lock().expect("lock");
        match check(message, &reply, transport, &granted) {
            Err(what) => fault(what),
            Ok(0) => {}
            Ok(_) => {
                self.answered += 1;
                if told.is_none() {
                    fault("an answer that is not told".into());
                }
            }
        }
    }
}

/// What must hold for every reply. Gives the number of records in its answer.
fn check(
    message: &[u8],
    reply: &[u8],
    transport: Transport,
    granted: &[IpAddr],
) -> Result<usize, String> {
    if reply.len() < 12 || reply[..2] != message[..2] || reply[2] & 0x80 == 0 {
        return Err("not a response to this message".into());
    }
    if message[2] & 0x80 != 0 {
        return Err("a response was answered".into());
    }
    if transport == Transport::Udp && reply.len() > usize::from(MAX_UDP_REPLY) {
        return Err(format!("{} bytes by UDP", reply.len()));
    }
    let read = Message::from_vec(reply).map_err(|e| format!("an unreadable reply: {e}"))?;
    if read.queries.is_empty() {
        let bare = reply.len() == 12 && matches!(reply[3] & 0x0f, 1 | 4);
        return bare.then_some(0).ok_or("no question and no error".into());
    }
    let sent = Message::from_vec(message).map_err(|e| format!("an answer to nonsense: {e}"))?;
    let (theirs, ours) = (&sent.queries[0], &read.queries[0]);
    if !theirs.name().eq_case(ours.name())
        || theirs.query_type() != ours.query_type()
        || theirs.query_class() != ours.query_class()
    {
        return Err("another question".into());
    }
    let limit = sent.edns.as_ref().map_or(512, |edns| edns.max_payload());
    if transport == Transport::Udp && reply.len() > usize::from(limit.max(512)) {
        return Err("more than the client takes".into());
    }
    if sent.edns.is_some() != read.edns.is_some() {
        return Err("EDNS to a client without, or none to one with it".into());
    }
    let dnssec_ok = sent.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok);
    if read.metadata.authentic_data && !(dnssec_ok || sent.metadata.authentic_data) {
        return Err("AD to a client that did not ask".into());
    }
    if read.metadata.response_code == ResponseCode::Refused && !read.answers.is_empty() {
        return Err("a refusal with an answer".into());
    }
    for record in read.all_sections() {
        if matches!(record.data, RData::DNSSEC(_)) && !dnssec_ok {
            return Err(format!("a signature that nobody asked for: {record}"));
        }
        inspect(record, ours, granted)?;
    }
    Ok(read.answers.len())
}

fn inspect(record: &Record, query: &Query, granted: &[IpAddr]) -> Result<(), String> {
    let asked = query.query_type();
    if record.ttl > 30 {
        return Err(format!("a TTL of {}", record.ttl));
    }
    let service = match &record.data {
        RData::A(a) if asked == RecordType::A && granted.contains(&IpAddr::V4(a.0)) => {
            return Ok(());
        }
        RData::AAAA(a) if asked == RecordType::AAAA && granted.contains(&IpAddr::V6(a.0)) => {
            return Ok(());
        }
        RData::A(_) | RData::AAAA(_) => return Err(format!("not granted: {record}")),
        RData::HTTPS(HTTPS(service)) | RData::SVCB(service) => service,
        _ => return Ok(()),
    };
    // The rule of the name that was asked, whatever its aliases are called.
    let keep_ech = query.name().to_lowercase().to_ascii() == "ech.ok.example.";
    for (key, value) in &service.svc_params {
        let fine = match key {
            K::Mandatory => match value {
                V::Mandatory(Mandatory(keys)) => !keys
                    .iter()
                    .any(|key| matches!(key, K::Ipv4Hint | K::Ipv6Hint | K::Unknown(_))),
                _ => false,
            },
            K::Alpn | K::NoDefaultAlpn | K::Port => true,
            K::EchConfigList => keep_ech,
            _ => false,
        };
        if !fine {
            return Err(format!("{key} in {record}"));
        }
    }
    Ok(())
}

#[test]
fn the_corpus_leaves_every_invariant_intact() {
    let mut fuzzer = Fuzzer::new(1);
    let corpus = corpus();
    assert!(corpus.len() > 20);
    for message in &corpus {
        for transport in [Transport::Udp, Transport::Tcp] {
            for _ in 0..20 {
                fuzzer.run(message, transport);
            }
        }
    }
    assert!(fuzzer.answered > 0);
}

#[test]
fn random_messages_and_answers_leave_every_invariant_intact() {
    let mut fuzzer = Fuzzer::new(2);
    for _ in 0..15_000 {
        fuzzer.step();
    }
    assert!(fuzzer.answered > 500, "{} answered", fuzzer.answered);
}

#[test]
#[ignore = "runs for as long as it is told: `cargo xtask fuzz gate --seconds N`"]
fn for_a_time() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(number("EXEAT_FUZZ_SECONDS").unwrap_or(10));
    let seed = number("EXEAT_FUZZ_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}, {} s", time.as_secs());
    let mut fuzzer = Fuzzer::new(seed);
    let begun = Instant::now();
    let mut messages = 0u64;
    while begun.elapsed() < time {
        for _ in 0..1_000 {
            fuzzer.step();
        }
        messages += 1_000;
        if messages.is_multiple_of(1_000_000) {
            println!("{messages} messages, {} answered", fuzzer.answered);
        }
    }
    println!(
        "{messages} messages, {} answered, no fault",
        fuzzer.answered
    );
}
