//! A backend for tests, and messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use hickory_proto::dnssec::Algorithm;
use hickory_proto::dnssec::rdata::{DNSSECRData, NSEC, RRSIG, SigInput};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};
use tokio::sync::Semaphore;

use super::*;
use crate::asking::Ruling;
use crate::dns::budget::{Exceeded, Measure, Spent};
use crate::leases::{FailKind, Name};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(super) fn wire(text: &str) -> WireName {
    WireName::from_ascii(text).expect("name")
}

pub(super) fn address(owner: &str, ttl: u32, addr: &str) -> Record {
    let data = match ip(addr) {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(wire(owner), ttl, data)
}

pub(super) fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(wire(owner), ttl, RData::CNAME(CNAME(wire(target))))
}

/// A signature of the records of a type, by nobody's key.
pub(super) fn signature(owner: WireName, type_covered: RecordType) -> Record {
    let input = SigInput {
        type_covered,
        algorithm: Algorithm::ED25519,
        num_labels: owner.num_labels(),
        original_ttl: 60,
        sig_expiration: 2_000_000_000.into(),
        sig_inception: 1_000_000_000.into(),
        key_tag: 7,
        signer_name: wire("example."),
    };
    let data = DNSSECRData::RRSIG(RRSIG::from_sig(input, vec![7; 64]));
    Record::from_rdata(owner, 60, RData::DNSSEC(data))
}

/// A proof that between two names of a zone there is none.
pub(super) fn nsec(owner: WireName) -> Record {
    let data = DNSSECRData::NSEC(NSEC::new(wire("z.example."), [RecordType::A]));
    Record::from_rdata(owner, 60, RData::DNSSEC(data))
}

pub(super) fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(name), rtype));
    message
}

pub(super) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("encodes")
}

pub(super) fn with_edns(mut message: Message, payload: u16, dnssec_ok: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    edns.set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message
}

/// The extended error of a reply: code and words.
pub(super) fn extended(reply: &Message) -> Option<(u16, String)> {
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    match reply.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(15, data) => {
            let (code, text) = data.split_first_chunk::<2>()?;
            let text = String::from_utf8(text.to_vec()).expect("UTF-8");
            Some((u16::from_be_bytes(*code), text))
        }
        _ => None,
    }
}

pub(super) fn found(records: Vec<Record>) -> Answer {
    Answer {
        rcode: ResponseCode::NoError,
        ttl: records.iter().map(|record| record.ttl).min().unwrap_or(60),
        records: records.into(),
        authority: Default::default(),
        authentic: false,
        chain: Vec::new(),
        source: Source::Upstream,
        upstream: "192.0.2.53:53".into(),
        elapsed: Duration::from_millis(3),
    }
}

pub(super) fn held(addresses: &[&str], left: u64) -> Granted {
    let left = Duration::from_secs(left);
    Granted {
        held: addresses.iter().map(|addr| (ip(addr), left)).collect(),
        ..Granted::default()
    }
}

/// Names that end in `.wild.example` match a wildcard; the rest is listed. Every look-up and
/// every write is logged, and waits for a permit of `pass` unless `open` is set.
pub(super) struct Fake {
    pub(super) rules: Mutex<BTreeMap<String, NameRule>>,
    pub(super) answers: Mutex<BTreeMap<(String, RecordType), Result<Answer, FailKind>>>,
    pub(super) at_hand: AtomicBool,
    pub(super) open: AtomicBool,
    pub(super) pass: Semaphore,
    pub(super) asked: Mutex<Vec<Question>>,
    pub(super) written: Mutex<Vec<(Name, Vec<IpAddr>)>>,
    pub(super) grants: Mutex<Result<Granted, NotGranted>>,
    /// Grant exactly what was asked for, and not `grants`.
    pub(super) generous: AtomicBool,
    pub(super) refuse: Refuse,
    pub(super) spent: AtomicBool,
    pub(super) repeated: AtomicBool,
    pub(super) ended: AtomicBool,
    /// A person is asked about names below `ask.example`; what is said to the next who asks.
    pub(super) rulings: tokio::sync::watch::Sender<Option<Ruling>>,
}

impl Fake {
    pub(super) fn new() -> Self {
        let names = ["a.example", "many.example", "v6.example", "panics.example"];
        let rules = names.map(|name| (name.to_owned(), NameRule::default()));
        let many = (0..64).map(|n| address("many.example.", 60, &format!("192.0.2.{n}")));
        let answers = [
            (
                "a.example",
                RecordType::A,
                found(vec![address("a.example.", 60, "192.0.2.1")]),
            ),
            ("many.example", RecordType::A, found(many.collect())),
            (
                "v6.example",
                RecordType::AAAA,
                found(vec![address("v6.example.", 60, "2001:db8::1")]),
            ),
        ];
        Self {
            rules: Mutex::new(rules.into()),
            answers: Mutex::new(
                answers
                    .map(|(name, rtype, answer)| ((name.to_owned(), rtype), Ok(answer)))
                    .into(),
            ),
            at_hand: AtomicBool::new(false),
            open: AtomicBool::new(true),
            pass: Semaphore::new(0),
            asked: Mutex::default(),
            written: Mutex::default(),
            grants: Mutex::new(Ok(Granted::default())),
            generous: AtomicBool::new(true),
            refuse: Refuse::Refused,
            spent: AtomicBool::new(false),
            repeated: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            rulings: tokio::sync::watch::Sender::new(None),
        }
    }

    pub(super) fn says(&self, name: &str, rtype: RecordType, answer: Result<Answer, FailKind>) {
        let mut rules = self.rules.lock().expect("lock");
        rules.entry(name.to_owned()).or_default();
        drop(rules);
        let mut answers = self.answers.lock().expect("lock");
        answers.insert((name.to_owned(), rtype), answer);
    }

    pub(super) fn times_asked(&self) -> usize {
        self.asked.lock().expect("lock").len()
    }

    pub(super) fn names_asked(&self) -> BTreeSet<String> {
        let asked = self.asked.lock().expect("lock");
        asked.iter().map(|q| q.name.to_string()).collect()
    }

    pub(super) fn times_written(&self) -> usize {
        self.written.lock().expect("lock").len()
    }

    fn answer(&self, question: &Question) -> Result<Answer, Failed> {
        let answers = self.answers.lock().expect("lock");
        let answer = answers.get(&(question.name.to_string(), question.rtype));
        match answer {
            Some(Ok(answer)) => Ok(answer.clone()),
            Some(Err(kind)) => Err(Failed {
                kind: *kind,
                upstream: "192.0.2.53:53".into(),
                elapsed: Duration::ZERO,
            }),
            None => Ok(found(vec![])),
        }
    }

    fn give(&self, addresses: &[(IpAddr, u32)]) -> Result<Granted, NotGranted> {
        if !self.generous.load(SeqCst) {
            return self.grants.lock().expect("lock").clone();
        }
        let left = Duration::from_secs(600);
        Ok(Granted {
            held: addresses.iter().map(|(addr, _)| (*addr, left)).collect(),
            ..Granted::default()
        })
    }

    async fn wait(&self) {
        if !self.open.load(SeqCst) {
            self.pass.acquire().await.expect("open").forget();
        }
    }
}

impl Backend for Fake {
    fn rule(&self, name: &str) -> Option<NameRule> {
        assert_ne!(name, "panics.example", "as a parser might");
        let rule = self.rules.lock().expect("lock").get(name).cloned();
        rule.or_else(|| {
            name.ends_with(".wild.example").then(|| NameRule {
                wildcard: Some("wild.example".parse().expect("host")),
                ..NameRule::default()
            })
        })
    }

    fn refuse(&self) -> Refuse {
        self.refuse
    }

    fn asks(&self, name: &Name) -> bool {
        name.ends_with(".ask.example")
    }

    async fn ask(&self, name: Name) -> Ruling {
        let mut ruling = self.rulings.subscribe();
        let ruling = ruling.wait_for(Option::is_some).await.expect("it lives");
        let ruling = ruling.expect("a ruling");
        if ruling == Ruling::Allow {
            let addresses = found(vec![address(&format!("{name}."), 60, "192.0.2.9")]);
            self.says(&name, RecordType::A, Ok(addresses));
        }
        ruling
    }

    fn spend(&self, _name: &str, rule: &NameRule) -> Spent {
        assert!(rule.wildcard.is_some(), "only wildcards are paid for");
        match self.spent.load(SeqCst) {
            true => Spent::Blocked(Exceeded {
                domain: "wild.example".into(),
                measure: Measure::Names,
                limit: 300,
                tell: true,
            }),
            false if self.repeated.load(SeqCst) => Spent::Known,
            false => Spent::Within,
        }
    }

    fn repeat(&self, _name: &str, rule: &NameRule) -> Spent {
        assert!(rule.wildcard.is_some(), "only wildcards are paid for");
        Spent::Blocked(Exceeded {
            domain: "wild.example".into(),
            measure: Measure::Repeats,
            limit: 24_000,
            tell: true,
        })
    }

    fn ended(&self, question: &Question) -> Option<Answer> {
        let ended = self.ended.load(SeqCst);
        ended.then(|| self.answer(question).ok()).flatten()
    }

    fn cached(&self, question: &Question, _rule: &NameRule) -> Option<Answer> {
        let at_hand = self.at_hand.load(SeqCst);
        at_hand.then(|| self.answer(question).ok()).flatten()
    }

    async fn resolve(&self, question: Question) -> Result<Answer, Failed> {
        self.asked.lock().expect("lock").push(question.clone());
        self.wait().await;
        assert_ne!(
            &*question.name, "breaks.wild.example",
            "as a resolver might"
        );
        self.answer(&question)
    }

    fn granted(
        &self,
        _name: &Name,
        addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Option<Granted> {
        let at_hand = self.at_hand.load(SeqCst);
        at_hand.then(|| self.give(addresses).ok()).flatten()
    }

    async fn grant(
        &self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Result<Granted, NotGranted> {
        let all = addresses.iter().map(|(addr, _)| *addr).collect();
        self.written.lock().expect("lock").push((name.clone(), all));
        self.wait().await;
        self.give(addresses)
    }
}
