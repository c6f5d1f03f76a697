//! What a client that validates gets, and others do not.

use std::sync::Arc;

use hickory_proto::rr::rdata::{NULL, SOA};
use hickory_proto::rr::{RData, Record, RecordType};

use super::answer_tests::{asked, made, unknown};
use super::testing::{address, alias, found, held, nsec, query, signature, wire, with_edns};
use super::*;

fn kinds(records: &[Record]) -> Vec<RecordType> {
    records.iter().map(Record::record_type).collect()
}

fn validating(rtype: RecordType, rule: NameRule) -> Asked {
    let message = with_edns(query("in.example.", rtype), 1232, true);
    asked(&message, Transport::Tcp, rule)
}

fn dname(owner: &str, target: &[u8]) -> Record {
    let data = RData::Unknown {
        code: RecordType::DNAME,
        rdata: NULL::with(target.to_vec()),
    };
    Record::from_rdata(wire(owner), 60, data)
}

#[test]
fn signatures_and_the_ad_bit_are_for_those_who_ask() {
    let mut answer = found(vec![
        address("in.example.", 60, "192.0.2.1"),
        signature(wire("in.example."), RecordType::A),
    ]);
    answer.authentic = true;
    let granted = held(&["192.0.2.1"], 600);
    let with = |dnssec_ok: bool, ad: bool| {
        let mut message = with_edns(query("in.example.", RecordType::A), 1232, dnssec_ok);
        message.metadata.authentic_data = ad;
        message.metadata.checking_disabled = true;
        asked(&message, Transport::Tcp, NameRule::default())
    };
    for (dnssec_ok, ad, records, authentic) in [
        (false, false, 1, false),
        (false, true, 1, true),
        (true, false, 2, true),
    ] {
        let (reply, _) = made(&with(dnssec_ok, ad), &answer, &granted);
        assert_eq!(reply.answers.len(), records, "{dnssec_ok} {ad}");
        assert_eq!(reply.metadata.authentic_data, authentic, "{dnssec_ok} {ad}");
        assert!(reply.metadata.checking_disabled, "copied (RFC 4035)");
    }
    // A set that is not whole is not what was signed.
    let mut two = answer.records.to_vec();
    two.push(address("in.example.", 60, "10.0.0.1"));
    answer.records = two.into();
    let (reply, _) = made(&with(true, true), &answer, &granted);
    assert_eq!(reply.answers.len(), 1);
    assert!(!reply.metadata.authentic_data);
    answer.authentic = false;
    let (reply, _) = made(
        &with(true, true),
        &answer,
        &held(&["192.0.2.1", "10.0.0.1"], 9),
    );
    assert!(!reply.metadata.authentic_data);
}

#[test]
fn only_signatures_of_what_is_given_leave() {
    let target = b"\x03cdn\x07example\x00";
    let answer = found(vec![
        dname("example.", target),
        signature(wire("example."), RecordType::DNAME),
        alias("in.example.", 60, "in.cdn.example."),
        signature(wire("in.example."), RecordType::CNAME),
        address("in.cdn.example.", 60, "192.0.2.1"),
        signature(wire("in.cdn.example."), RecordType::A),
        // Of nothing that is here.
        signature(wire("in.cdn.example."), RecordType::TXT),
        signature(wire("example."), RecordType::A),
        signature(wire("other.example."), RecordType::A),
    ]);
    let asked = validating(RecordType::A, NameRule::default());
    let (reply, record) = made(&asked, &answer, &held(&["192.0.2.1"], 600));
    assert_eq!(record.verdict, Verdict::Answered);
    assert_eq!(
        kinds(&reply.answers),
        [
            RecordType::DNAME,
            RecordType::CNAME,
            RecordType::A,
            RecordType::RRSIG,
            RecordType::RRSIG,
            RecordType::RRSIG,
        ]
    );
    let signed: Vec<_> = reply.answers[3..]
        .iter()
        .map(|r| r.name.to_ascii())
        .collect();
    assert_eq!(signed, ["example.", "in.example.", "in.cdn.example."]);
    // The addresses are no longer what was signed; the alias to them is.
    let mut two = answer.records.to_vec();
    two.push(address("in.cdn.example.", 60, "10.0.0.1"));
    let (reply, _) = made(&asked, &found(two), &held(&["192.0.2.1"], 600));
    assert_eq!(reply.answers.len(), 5);
}

#[test]
fn what_was_not_read_as_a_signature_or_a_proof_is_none() {
    let mut answer = found(vec![
        address("in.example.", 60, "192.0.2.1"),
        unknown("in.example.", RecordType::RRSIG),
    ]);
    answer.authority = [RecordType::SOA, RecordType::NSEC, RecordType::RRSIG]
        .map(|rtype| unknown("example.", rtype))
        .into();
    let asked = validating(RecordType::A, NameRule::default());
    let (reply, _) = made(&asked, &answer, &held(&["192.0.2.1"], 600));
    assert_eq!(kinds(&reply.answers), [RecordType::A]);
    answer.records = Arc::default();
    let (reply, record) = made(&asked, &answer, &Granted::default());
    assert_eq!(record.verdict, Verdict::NoData);
    assert!(reply.authorities.is_empty());
    // Asked for as such, where a rule lists the type.
    let rule = NameRule {
        types: [46, 47].into(),
        ..NameRule::default()
    };
    for (rtype, real) in [
        (
            RecordType::RRSIG,
            signature(wire("in.example."), RecordType::A),
        ),
        (RecordType::NSEC, nsec(wire("in.example."))),
    ] {
        let asked = validating(rtype, rule.clone());
        let answer = found(vec![unknown("in.example.", rtype), real]);
        let (reply, _) = made(&asked, &answer, &Granted::default());
        assert_eq!(kinds(&reply.answers), [rtype]);
    }
}

/// Without it, whoever validates must take an answer that a wildcard of the zone made for a
/// forgery (RFC 4035 section 5.3.4).
#[test]
fn the_proof_of_a_wildcard_comes_with_its_answer() {
    let mut answer = found(vec![
        address("in.example.", 60, "192.0.2.1"),
        signature(wire("in.example."), RecordType::A),
    ]);
    let soa = SOA::new(wire("ns.example."), wire("root.example."), 7, 1, 1, 1, 900);
    answer.authority = vec![
        nsec(wire("a.example.")),
        signature(wire("a.example."), RecordType::NSEC),
        Record::from_rdata(wire("example."), 60, RData::SOA(soa)),
        signature(wire("example."), RecordType::SOA),
        address("example.", 60, "192.0.2.66"),
    ]
    .into();
    let granted = held(&["192.0.2.1"], 600);
    let (reply, _) = made(
        &validating(RecordType::A, NameRule::default()),
        &answer,
        &granted,
    );
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(
        kinds(&reply.authorities),
        [RecordType::NSEC, RecordType::RRSIG]
    );
    assert!(reply.authorities.iter().all(|record| record.ttl <= 30));
    let plain = asked(
        &with_edns(query("in.example.", RecordType::A), 1232, false),
        Transport::Tcp,
        NameRule::default(),
    );
    let (reply, _) = made(&plain, &answer, &granted);
    assert!(reply.authorities.is_empty());
    // Of a set that was changed there is nothing to prove.
    let mut two = answer.records.to_vec();
    two.push(address("in.example.", 60, "10.0.0.1"));
    answer.records = two.into();
    let (reply, _) = made(
        &validating(RecordType::A, NameRule::default()),
        &answer,
        &granted,
    );
    assert!(reply.authorities.is_empty());
}
