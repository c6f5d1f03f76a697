use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, Mandatory, SvcParamKey as K, SvcParamValue as V, Unknown,
};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, NULL, SOA, SVCB, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

use super::testing::{
    address, alias, bytes, extended, found, held, ip, nsec, query, signature, wire, with_edns,
};
use super::*;
use crate::dns::budget::{Exceeded, Measure};
use crate::leases::FailKind;

pub(super) fn asked(message: &Message, transport: Transport, rule: NameRule) -> Asked {
    let rule = |_: &str| Some(rule.clone());
    match judge(&bytes(message), transport, Refuse::Refused, &rule) {
        Judged::Ask(asked) => asked,
        Judged::Done(outcome) => panic!("{:?}", outcome.record),
    }
}

fn plain(name: &str, rtype: RecordType) -> Asked {
    asked(
        &with_edns(query(name, rtype), 1232, false),
        Transport::Tcp,
        NameRule::default(),
    )
}

pub(super) fn made(asked: &Asked, found: &Answer, granted: &Granted) -> (Message, GateRecord) {
    let allowed = |name: &str| name.ends_with("in.example");
    let outcome = answer(asked, found, granted, &allowed);
    let reply = Message::from_vec(&outcome.reply.expect("a reply")).expect("a valid reply");
    assert!(
        Verdict::OUTCOMES.contains(&(outcome.record.verdict, outcome.record.rcode)),
        "{:?}",
        outcome.record
    );
    (reply, outcome.record)
}

pub(super) fn unknown(owner: &str, rtype: RecordType) -> Record {
    let data = RData::Unknown {
        code: rtype,
        rdata: NULL::with(vec![0, 1, 2, 3]),
    };
    Record::from_rdata(wire(owner), 60, data)
}

fn soa(owner: &str, ttl: u32) -> Record {
    let data = SOA::new(wire("ns.example."), wire("root.example."), 7, 1, 1, 1, 900);
    Record::from_rdata(wire(owner), ttl, RData::SOA(data))
}

#[test]
fn only_granted_addresses_leave_with_the_shortest_time_of_all() {
    let asked = plain("In.Example.", RecordType::A);
    let answer = found(vec![
        address("in.example.", 300, "192.0.2.1"),
        address("in.example.", 300, "192.0.2.2"),
        address("in.example.", 300, "192.0.2.3"),
        address("in.example.", 300, "192.0.2.4"),
    ]);
    let mut granted = held(&["192.0.2.1"], 600);
    granted
        .held
        .push((ip("192.0.2.2"), Duration::from_millis(7_900)));
    granted.held.push((ip("192.0.2.4"), Duration::ZERO));
    granted
        .held
        .push((ip("198.51.100.1"), Duration::from_secs(600)));
    let (reply, record) = made(&asked, &answer, &granted);
    let given: Vec<_> = reply
        .answers
        .iter()
        .map(|r| (r.data.clone(), r.ttl))
        .collect();
    let a = |addr: &str| match ip(addr) {
        std::net::IpAddr::V4(v4) => RData::A(A(v4)),
        std::net::IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    assert_eq!(given, [(a("192.0.2.1"), 30), (a("192.0.2.2"), 7)]);
    assert_eq!(record.addresses, [ip("192.0.2.1"), ip("192.0.2.2")]);
    assert_eq!((record.ttl, record.verdict), (Some(7), Verdict::Answered));
    // The owner as the client spelt it.
    assert!(
        reply
            .answers
            .iter()
            .all(|r| r.name.to_ascii() == "In.Example.")
    );
    let mut old = answer;
    old.ttl = 3;
    let (reply, _) = made(&asked, &old, &granted);
    assert!(
        reply.answers.iter().all(|r| r.ttl == 3),
        "what is left of it"
    );
}

#[test]
fn the_chain_is_kept_and_nothing_of_other_names() {
    let asked = plain("in.example.", RecordType::A);
    let mut answer = found(vec![
        alias("in.example.", 60, "x.cdn.example."),
        alias("X.cdn.example.", 20, "y.cdn.example."),
        address("y.CDN.example.", 60, "192.0.2.1"),
        address("other.example.", 60, "192.0.2.66"),
        address("y.cdn.example.", 60, "2001:db8::66"),
        Record::from_rdata(
            wire("in.example."),
            60,
            RData::TXT(TXT::new(vec!["x".into()])),
        ),
        signature(wire("y.cdn.example."), RecordType::A),
    ]);
    answer.chain = vec!["x.cdn.example".into(), "y.cdn.example".into()];
    assert_eq!(addresses(&asked, &answer), [(ip("192.0.2.1"), 20)]);
    let (reply, record) = made(&asked, &answer, &held(&["192.0.2.1", "192.0.2.66"], 600));
    let kinds: Vec<_> = reply.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::CNAME, RecordType::A]);
    assert_eq!(record.addresses, [ip("192.0.2.1")]);
    assert_eq!(record.chain, answer.chain);
    // An alias asked for as such is not followed.
    let cname = plain("in.example.", RecordType::CNAME);
    let (reply, record) = made(&cname, &answer, &Granted::default());
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(record.verdict, Verdict::Answered);
}

#[test]
fn aliases_in_a_circle_end() {
    let asked = plain("in.example.", RecordType::A);
    let answer = found(vec![
        alias("in.example.", 60, "b.example."),
        alias("b.example.", 60, "in.example."),
    ]);
    assert!(addresses(&asked, &answer).is_empty());
    let (_, record) = made(&asked, &answer, &Granted::default());
    assert_eq!(record.verdict, Verdict::NoData);
}

#[test]
fn an_answer_of_which_nothing_is_held_is_no_answer() {
    let asked = plain("in.example.", RecordType::A);
    let answer = found(vec![
        alias("in.example.", 60, "x.example."),
        address("x.example.", 60, "192.0.2.1"),
    ]);
    for granted in [
        Granted::default(),
        Granted {
            refused: 1,
            ..Granted::default()
        },
        Granted {
            refused: 1,
            rebound: vec![ip("10.0.0.1")],
            ..Granted::default()
        },
    ] {
        let (reply, record) = made(&asked, &answer, &granted);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(reply.answers.is_empty());
        assert_eq!(record.verdict, Verdict::NoRoom);
        assert!(record.is_refusal());
        assert!(extended(&reply).expect("words").1.contains("no room"));
    }
    let error = NotGranted {
        why: "ENOSPC".into(),
    };
    let outcome = not_granted(&asked, &answer, &error);
    assert_eq!(outcome.record.verdict, Verdict::NoRoom);
    assert_eq!(outcome.record.detail.as_deref(), Some("ENOSPC"));
    assert_eq!(outcome.record.rcode, Rcode::ServFail);
}

#[test]
fn addresses_that_the_name_may_not_stand_for_are_taken_out() {
    let asked = plain("in.example.", RecordType::A);
    let both = found(vec![
        address("in.example.", 60, "192.0.2.1"),
        address("in.example.", 60, "127.0.0.1"),
    ]);
    let mut granted = held(&["192.0.2.1"], 600);
    granted.rebound = vec![ip("127.0.0.1")];
    let (reply, record) = made(&asked, &both, &granted);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(
        (record.verdict, record.is_refusal()),
        (Verdict::Answered, true)
    );
    let only = found(vec![address("in.example.", 60, "127.0.0.1")]);
    granted.held.clear();
    let (reply, record) = made(&asked, &only, &granted);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty() && reply.authorities.is_empty());
    assert_eq!(record.verdict, Verdict::Rebind);
    let (code, words) = extended(&reply).expect("words");
    assert!(
        code == 15 && words.contains("private: true"),
        "{code} {words}"
    );
    // IPv4 in IPv6's clothes is not what was asked for, and never an address of the answer.
    let six = plain("in.example.", RecordType::AAAA);
    let mapped = found(vec![address("in.example.", 60, "::ffff:192.0.2.1")]);
    assert!(addresses(&six, &mapped).is_empty());
    let (reply, _) = made(
        &six,
        &mapped,
        &held(&["::ffff:192.0.2.1", "192.0.2.1"], 600),
    );
    assert!(reply.answers.is_empty());
}

#[test]
fn negative_answers_bring_the_authority_and_no_more() {
    let mut none = found(vec![]);
    none.rcode = ResponseCode::NXDomain;
    none.ttl = 20;
    none.authority = vec![
        soa("example.", 900),
        signature(wire("example."), RecordType::SOA),
        nsec(wire("in.example.")),
        address("example.", 60, "192.0.2.66"),
    ]
    .into();
    let (reply, record) = made(
        &plain("in.example.", RecordType::A),
        &none,
        &Granted::default(),
    );
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        (record.verdict, record.rcode),
        (Verdict::NoData, Rcode::NxDomain)
    );
    let kinds: Vec<_> = reply
        .authorities
        .iter()
        .map(|r| (r.record_type(), r.ttl))
        .collect();
    assert_eq!(kinds, [(RecordType::SOA, 20)]);
    let message = with_edns(query("in.example.", RecordType::A), 1232, true);
    let validating = asked(&message, Transport::Tcp, NameRule::default());
    let (reply, _) = made(&validating, &none, &Granted::default());
    assert_eq!(
        reply.authorities.len(),
        3,
        "with the proofs, without the address"
    );
    none.rcode = ResponseCode::NoError;
    let (reply, record) = made(
        &plain("in.example.", RecordType::A),
        &none,
        &Granted::default(),
    );
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(
        (record.verdict, record.rcode),
        (Verdict::NoData, Rcode::NoError)
    );
}

fn service(target: &str, params: Vec<(K, V)>) -> SVCB {
    SVCB::new(1, wire(target), params)
}

fn full() -> Vec<(K, V)> {
    vec![
        (K::Alpn, V::Alpn(Alpn(vec!["h2".into()]))),
        (K::Port, V::Port(8443)),
        (
            K::Ipv4Hint,
            V::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 66)])),
        ),
        (
            K::EchConfigList,
            V::EchConfigList(EchConfigList(vec![1, 2, 3])),
        ),
        (
            K::Ipv6Hint,
            V::Ipv6Hint(IpHint(vec![AAAA::new(1, 2, 3, 4, 5, 6, 7, 8)])),
        ),
        (
            K::Unknown(7),
            V::Unknown(Unknown(b"/dns-query{?dns}".to_vec())),
        ),
    ]
}

fn keys(record: &Record) -> Vec<K> {
    match &record.data {
        RData::HTTPS(HTTPS(service)) | RData::SVCB(service) => {
            service.svc_params.iter().map(|(key, _)| *key).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn service_records_lose_hints_and_keys_that_would_lead_around_the_gate() {
    let wrap = |s: SVCB| Record::from_rdata(wire("in.example."), 60, RData::HTTPS(HTTPS(s)));
    let with = |keep_ech| {
        let rule = NameRule {
            keep_ech,
            ..NameRule::default()
        };
        let message = with_edns(query("in.example.", RecordType::HTTPS), 1232, true);
        asked(&message, Transport::Tcp, rule)
    };
    let mut answer = found(vec![
        wrap(service(".", full())),
        signature(wire("in.example."), RecordType::HTTPS),
    ]);
    answer.authentic = true;
    let none = Granted::default();
    let (reply, record) = made(&with(false), &answer, &none);
    assert_eq!(keys(&reply.answers[0]), [K::Alpn, K::Port]);
    assert_eq!(reply.answers.len(), 1, "the signature is of what it was");
    assert!(!reply.metadata.authentic_data);
    assert_eq!(record.verdict, Verdict::Answered);
    assert!(!record.is_refusal());
    let (reply, _) = made(&with(true), &answer, &none);
    assert_eq!(
        keys(&reply.answers[0]),
        [K::Alpn, K::Port, K::EchConfigList]
    );
    // Nothing to take out: whole, signed and authentic.
    answer.records = vec![
        wrap(service(".", full()[..2].to_vec())),
        signature(wire("in.example."), RecordType::HTTPS),
    ]
    .into();
    let (reply, _) = made(&with(false), &answer, &none);
    assert_eq!(reply.answers.len(), 2);
    assert!(reply.metadata.authentic_data);
    // What is mandatory and goes takes the record along; a hint does not.
    let mandatory = |keys: &[K]| {
        let mut params = full();
        params.insert(0, (K::Mandatory, V::Mandatory(Mandatory(keys.to_vec()))));
        found(vec![wrap(service(".", params))])
    };
    let (reply, record) = made(&with(false), &mandatory(&[K::EchConfigList]), &none);
    assert!(reply.answers.is_empty());
    assert_eq!(record.verdict, Verdict::NoData);
    let (reply, _) = made(&with(true), &mandatory(&[K::EchConfigList]), &none);
    assert_eq!(keys(&reply.answers[0])[0], K::Mandatory);
    let (reply, _) = made(&with(false), &mandatory(&[K::Ipv4Hint]), &none);
    assert_eq!(keys(&reply.answers[0]), [K::Alpn, K::Port]);
    // Mandatory and not there at all: no client could use it, and no key is named that goes.
    let absent = vec![(K::Mandatory, V::Mandatory(Mandatory(vec![K::Ipv4Hint])))];
    let (reply, _) = made(
        &with(false),
        &found(vec![wrap(service(".", absent))]),
        &none,
    );
    assert!(keys(&reply.answers[0]).is_empty());
    let (reply, _) = made(&with(false), &mandatory(&[K::Alpn, K::Ipv6Hint]), &none);
    match &reply.answers[0].data {
        RData::HTTPS(HTTPS(s)) => {
            assert_eq!(s.svc_params[0].1, V::Mandatory(Mandatory(vec![K::Alpn])));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn data_that_was_not_read_as_what_it_is_stays_here() {
    for rtype in [
        RecordType::A,
        RecordType::AAAA,
        RecordType::HTTPS,
        RecordType::SVCB,
    ] {
        let answer = found(vec![unknown("in.example.", rtype)]);
        let (reply, record) = made(&plain("in.example.", rtype), &answer, &Granted::default());
        assert!(reply.answers.is_empty(), "{rtype}");
        assert_eq!(record.verdict, Verdict::NoData, "{rtype}");
    }
    let asked = plain("in.example.", RecordType::A);
    let answer = found(vec![
        unknown("in.example.", RecordType::CNAME),
        address("in.example.", 60, "192.0.2.1"),
    ]);
    let (reply, _) = made(&asked, &answer, &held(&["192.0.2.1"], 600));
    assert_eq!(reply.answers.len(), 1);
}

#[test]
fn service_records_that_lead_outside_are_taken_out_and_told() {
    let asked = plain("in.example.", RecordType::SVCB);
    let wrap = |s: SVCB| Record::from_rdata(wire("in.example."), 60, RData::SVCB(s));
    let lead = |priority, target| SVCB::new(priority, wire(target), Vec::new());
    let answer = found(vec![
        wrap(lead(0, "alias.outside.example.")),
        wrap(lead(1, "Service.Outside.example.")),
        wrap(lead(2, "pool.in.example.")),
        wrap(lead(3, "in.example.")),
        wrap(lead(4, ".")),
    ]);
    let (reply, record) = made(&asked, &answer, &Granted::default());
    assert_eq!(reply.answers.len(), 3);
    assert_eq!(
        record.targets,
        ["alias.outside.example", "service.outside.example"]
    );
    assert!(record.is_refusal());
    let answer = found(vec![wrap(lead(0, "alias.outside.example."))]);
    let (reply, record) = made(&asked, &answer, &Granted::default());
    assert_eq!(record.verdict, Verdict::NoData);
    assert!(extended(&reply).expect("words").1.contains("points to"));
    // A name behind an alias of the answer itself is the same host.
    let answer = found(vec![
        alias("in.example.", 60, "edge.cdn.example."),
        Record::from_rdata(
            wire("edge.cdn.example."),
            60,
            RData::SVCB(lead(1, "edge.cdn.example.")),
        ),
    ]);
    let (reply, record) = made(&asked, &answer, &Granted::default());
    assert_eq!(reply.answers.len(), 2);
    assert!(record.targets.is_empty());
}

#[test]
fn replies_keep_to_the_size_that_the_client_takes() {
    let many: Vec<String> = (1..=60).map(|n| format!("192.0.2.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let answer = found(
        many.iter()
            .map(|a| address("many.example.", 60, a))
            .collect(),
    );
    let granted = held(&many, 600);
    let plain = query("many.example.", RecordType::A);
    // 60 addresses of 16 bytes, and 30 of header and question: 990, with EDNS 1001.
    let cases = [
        (plain.clone(), Transport::Udp, 512, true),
        (
            with_edns(plain.clone(), 512, false),
            Transport::Udp,
            512,
            true,
        ),
        (
            with_edns(plain.clone(), 1000, false),
            Transport::Udp,
            1000,
            true,
        ),
        (
            with_edns(plain.clone(), 1001, false),
            Transport::Udp,
            1001,
            false,
        ),
        (
            with_edns(plain.clone(), 65_535, false),
            Transport::Udp,
            1232,
            false,
        ),
        (plain.clone(), Transport::Tcp, 65_535, false),
        (
            with_edns(plain.clone(), 512, false),
            Transport::Tcp,
            65_535,
            false,
        ),
    ];
    for (sent, transport, limit, truncated) in cases {
        let asked = asked(&sent, transport, NameRule::default());
        let outcome = super::answer(&asked, &answer, &granted, &|_| true);
        let reply = outcome.reply.expect("reply");
        assert!(reply.len() <= limit, "{} of {limit}", reply.len());
        let parsed = Message::from_vec(&reply).expect("valid");
        assert_eq!(
            parsed.metadata.truncation, truncated,
            "{limit} {transport:?}"
        );
        assert_eq!(parsed.answers.len(), if truncated { 0 } else { 60 });
        assert_eq!(outcome.record.addresses.len(), parsed.answers.len());
        assert_eq!(outcome.record.ttl.is_none(), truncated);
        assert_eq!(parsed.edns.is_some(), sent.edns.is_some());
        assert_eq!(outcome.record.verdict, Verdict::Answered);
    }
}

#[test]
fn answers_up_to_the_bound_of_a_stream_are_whole_and_longer_ones_are_not_cut_silently() {
    let text = |n: usize| {
        let strings = (0..n).map(|_| "x".repeat(250)).collect();
        let data = RData::TXT(TXT::new(strings));
        found(vec![Record::from_rdata(wire("in.example."), 60, data)])
    };
    let rule = NameRule {
        types: [16].into(),
        ..NameRule::default()
    };
    let ask = |transport| {
        let message = with_edns(query("in.example.", RecordType::TXT), 4096, false);
        asked(&message, transport, rule.clone())
    };
    let (reply, _) = made(&ask(Transport::Tcp), &text(200), &Granted::default());
    assert_eq!(reply.answers.len(), 1);
    assert!(!reply.metadata.truncation);
    let (reply, _) = made(&ask(Transport::Udp), &text(200), &Granted::default());
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    let two = found([text(200).records.to_vec(), text(201).records.to_vec()].concat());
    let (reply, _) = made(&ask(Transport::Tcp), &two, &Granted::default());
    assert!(reply.metadata.truncation && reply.answers.is_empty());
}

#[test]
fn failures_say_what_happened() {
    let asked = plain("in.example.", RecordType::A);
    for (kind, code) in [
        (FailKind::Timeout, 22),
        (FailKind::Network, 23),
        (FailKind::NoUpstream, 14),
        (FailKind::ServFail, 0),
        (FailKind::BadAnswer, 0),
    ] {
        let why = Failed {
            kind,
            upstream: "192.0.2.53:53".into(),
            elapsed: Duration::ZERO,
        };
        let outcome = failed(&asked, &why);
        let reply = Message::from_vec(&outcome.reply.expect("reply")).expect("valid");
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(extended(&reply).expect("words").0, code, "{kind:?}");
        assert_eq!(outcome.record.verdict, Verdict::Failed);
        assert_eq!(outcome.record.detail.as_deref(), Some(kind.as_str()));
        assert_eq!(outcome.record.upstream.as_deref(), Some("192.0.2.53:53"));
        assert!(!outcome.record.is_refusal());
    }
    let outcome = busy(&asked);
    let reply = Message::from_vec(&outcome.reply.expect("reply")).expect("valid");
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(extended(&reply).expect("words").1.contains("ask again"));
    let over = Exceeded {
        domain: "example.com".into(),
        measure: Measure::Bytes,
        limit: 8192,
        tell: true,
    };
    for (refuse, rcode) in [
        (Refuse::Refused, Rcode::Refused),
        (Refuse::NxDomain, Rcode::NxDomain),
    ] {
        let outcome = over_budget(&asked, over.clone(), refuse);
        assert_eq!(
            (outcome.record.verdict, outcome.record.rcode),
            (Verdict::OverBudget, rcode)
        );
        let reply = Message::from_vec(&outcome.reply.expect("reply")).expect("valid");
        let (code, words) = extended(&reply).expect("words");
        assert_eq!(code, 18);
        assert!(
            words.contains("budget") && words.contains("8192 bytes"),
            "{words}"
        );
    }
}

#[test]
fn a_stale_answer_says_so() {
    let asked = plain("in.example.", RecordType::A);
    let mut answer = found(vec![address("in.example.", 60, "192.0.2.1")]);
    answer.source = Source::Stale;
    let (reply, record) = made(&asked, &answer, &held(&["192.0.2.1"], 600));
    assert_eq!(extended(&reply).expect("words").0, 3);
    assert_eq!(record.source, Some(Source::Stale));
    let mut none = found(vec![]);
    (none.source, none.rcode) = (Source::Stale, ResponseCode::NXDomain);
    let (reply, _) = made(&asked, &none, &Granted::default());
    assert_eq!(extended(&reply).expect("words").0, 19);
}
