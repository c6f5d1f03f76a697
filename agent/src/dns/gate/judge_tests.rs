use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, RecordType};

use super::testing::{bytes, extended, query, wire, with_edns};
use super::*;

/// `in.example` is in the policy, `text.example` with TXT and a private type.
fn rule(name: &str) -> Option<NameRule> {
    let mut rule = NameRule::default();
    match name {
        "in.example" | "a.b.example" | "5.2.0.192.in-addr.arpa" => {}
        "text.example" => rule.types.extend([16, 65_400, 255, 252, 41]),
        _ => return None,
    }
    Some(rule)
}

fn judged(message: &[u8], refuse: Refuse) -> Judged {
    judge(message, Transport::Udp, refuse, &rule)
}

fn done(message: &[u8]) -> Outcome {
    match judged(message, Refuse::Refused) {
        Judged::Done(outcome) => outcome,
        Judged::Ask(asked) => panic!("let through: {}", asked.name),
    }
}

fn reply(outcome: &Outcome) -> Message {
    let bytes = outcome.reply.as_ref().expect("a reply");
    Message::from_vec(bytes).expect("a valid reply")
}

#[test]
fn names_and_types_of_the_policy_go_on() {
    use RecordType as T;
    for (name, rtype) in [
        ("in.example.", T::A),
        ("IN.eXample.", T::AAAA),
        ("in.example.", T::CNAME),
        ("in.example.", T::HTTPS),
        ("in.example.", T::SVCB),
        ("text.example.", T::TXT),
        ("text.example.", T::A),
        ("text.example.", T::from(65_400)),
        ("5.2.0.192.in-addr.arpa.", T::A),
    ] {
        match judged(&bytes(&query(name, rtype)), Refuse::Refused) {
            Judged::Ask(asked) => {
                assert_eq!(&*asked.name, name.to_lowercase().trim_end_matches('.'));
                let question = asked.question(true);
                assert_eq!(question.rtype, rtype);
                assert!(question.validate && !question.dnssec_ok);
            }
            Judged::Done(outcome) => panic!("{name} {rtype}: {:?}", outcome.record),
        }
    }
}

#[test]
fn everything_else_is_refused_at_once() {
    use RecordType as T;
    for (name, rtype, text) in [
        ("out.example.", T::A, "does not name"),
        ("out.example.", T::TXT, "does not name"),
        ("out.example.", T::ANY, "does not name"),
        ("x.in.example.", T::A, "does not name"),
        ("in.example.search.lan.", T::A, "does not name"),
        ("printer.", T::A, "does not name"),
        ("printer.local.", T::A, "does not name"),
        ("1.2.0.192.in-addr.arpa.", T::PTR, "does not name"),
        (".", T::NS, "does not name"),
        ("in.example.", T::TXT, "record type"),
        ("in.example.", T::MX, "record type"),
        ("in.example.", T::from(65_400), "record type"),
        ("5.2.0.192.in-addr.arpa.", T::PTR, "record type"),
        ("in.example.", T::ANY, "one record type"),
        ("text.example.", T::ANY, "one record type"),
        ("text.example.", T::AXFR, "one record type"),
        ("in.example.", T::IXFR, "one record type"),
        ("text.example.", T::from(41), "one record type"),
        ("in.example.", T::from(249), "one record type"),
        ("in.example.", T::from(253), "one record type"),
        ("in.example.", T::ZERO, "one record type"),
    ] {
        let outcome = done(&bytes(&with_edns(query(name, rtype), 1232, false)));
        let case = format!("{name} {rtype}");
        let reply = reply(&outcome);
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::Refused,
            "{case}"
        );
        assert_eq!(reply.metadata.id, 0x1234, "{case}");
        assert_eq!(reply.metadata.message_type, MessageType::Response, "{case}");
        assert!(reply.metadata.recursion_available, "{case}");
        assert!(
            reply.answers.is_empty() && reply.authorities.is_empty(),
            "{case}"
        );
        assert_eq!(outcome.record.verdict, Verdict::Refused, "{case}");
        assert_eq!(outcome.record.qtype, u16::from(rtype), "{case}");
        let (code, words) = extended(&reply).expect("an extended error");
        assert_eq!(code, 18, "{case}");
        assert!(words.contains(text), "{case}: {words}");
    }
}

#[test]
fn nxdomain_where_it_is_chosen_may_be_kept_for_seconds() {
    let ask = |name: &str, rtype| match judged(&bytes(&query(name, rtype)), Refuse::NxDomain) {
        Judged::Done(outcome) => (reply(&outcome), outcome.record),
        Judged::Ask(_) => panic!("{name} let through"),
    };
    let (reply, record) = ask("OUT.example.", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        (record.verdict, record.rcode),
        (Verdict::Refused, Rcode::NxDomain)
    );
    let [soa] = reply.authorities.as_slice() else {
        panic!("{:?}", reply.authorities);
    };
    assert_eq!(soa.name, wire("out.example."), "it speaks of no other name");
    match &soa.data {
        RData::SOA(data) => assert_eq!((soa.ttl, data.minimum), (5, 5)),
        other => panic!("{other:?}"),
    }
    // The name exists for A: NXDOMAIN would say that it has nothing at all.
    let (reply, record) = ask("in.example.", RecordType::TXT);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(
        (record.verdict, record.rcode),
        (Verdict::Refused, Rcode::NoError)
    );
    assert_eq!(reply.authorities.len(), 1);
    let (reply, _) = ask("in.example.", RecordType::ANY);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    let (reply, _) = ask(".", RecordType::NS);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn the_question_comes_back_byte_for_byte() {
    for name in ["oUt.ExAmPlE.", "OUT.EXAMPLE.", "out.example."] {
        let sent = bytes(&query(name, RecordType::A));
        let reply = done(&sent).reply.expect("reply");
        assert_eq!(reply[12..], sent[12..], "{name}");
    }
}

#[test]
fn a_label_that_contains_a_dot_is_not_two_labels() {
    let mut message = query("in.example.", RecordType::A);
    let odd = WireName::from_labels([&b"a.b"[..], &b"example"[..]]).expect("name");
    message.queries = vec![Query::query(odd, RecordType::A)];
    assert_eq!(done(&bytes(&message)).record.name, "a\\.b.example");
    let plain = judged(
        &bytes(&query("a.b.example.", RecordType::A)),
        Refuse::Refused,
    );
    assert!(matches!(plain, Judged::Ask(_)));
}

#[test]
fn control_characters_do_not_reach_records() {
    let mut message = query("in.example.", RecordType::A);
    let odd = WireName::from_labels([&b"\x1b[2J\n \xff"[..]]).expect("name");
    message.queries = vec![Query::query(odd, RecordType::A)];
    assert_eq!(
        done(&bytes(&message)).record.name,
        "\\027[2j\\010\\032\\255"
    );
}

#[test]
fn other_classes_are_refused() {
    let mut message = query("in.example.", RecordType::A);
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE] {
        message.queries[0].set_query_class(class);
        let outcome = done(&bytes(&message));
        assert_eq!(outcome.record.rcode, Rcode::Refused, "{class}");
        assert_eq!(outcome.record.verdict, Verdict::Refused, "{class}");
    }
}

#[test]
fn other_operations_are_not_implemented() {
    for opcode in [1u8, 2, 4, 5, 6, 15] {
        let mut sent = bytes(&query("in.example.", RecordType::A));
        sent[2] = opcode << 3 | 1;
        let outcome = done(&sent);
        let reply = outcome.reply.expect("reply");
        assert_eq!(reply[..2], [0x12, 0x34]);
        assert_eq!(reply[2] >> 3 & 0x0f, opcode);
        assert_eq!(reply[3] & 0x0f, 4);
        assert_eq!(outcome.record.rcode, Rcode::NotImp);
    }
}

#[test]
fn what_is_not_one_question_is_a_format_error() {
    let one = query("in.example.", RecordType::A);
    let mut two = one.clone();
    two.add_query(one.queries[0].clone());
    let mut none = one.clone();
    none.queries.clear();
    let mut cut = bytes(&one);
    cut.truncate(20);
    let mut answer_inside = bytes(&one);
    answer_inside[7] = 1;
    let mut loops = bytes(&one);
    loops[12..14].copy_from_slice(&[0xc0, 12]);
    // Two EDNS records (RFC 6891 section 6.1.1).
    let mut twice = bytes(&with_edns(one.clone(), 1232, false));
    twice[11] = 2;
    twice.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    let cases = [
        ("two questions", bytes(&two)),
        ("no question", bytes(&none)),
        ("a cut question", cut),
        ("an answer announced", answer_inside),
        ("a name that points at itself", loops),
        ("two EDNS records", twice),
        ("an id and flags", vec![0x12, 0x34, 1]),
        ("a header", vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ];
    for (case, sent) in cases {
        let outcome = done(&sent);
        let reply = outcome
            .reply
            .unwrap_or_else(|| panic!("no reply to {case}"));
        assert_eq!(reply.len(), 12, "{case}");
        assert_eq!(reply[..2], [0x12, 0x34], "{case}");
        assert_eq!(reply[2] & 0x80, 0x80, "{case}");
        assert_eq!(reply[3] & 0x0f, 1, "{case}");
        assert_eq!(outcome.record.rcode, Rcode::FormErr, "{case}");
    }
}

#[test]
fn responses_and_scraps_get_no_reply() {
    let mut response = bytes(&query("in.example.", RecordType::A));
    response[2] |= 0x80;
    for sent in [&response[..], &[], &[1], &[1, 2], &[1, 2, 0x80]] {
        let outcome = done(sent);
        assert_eq!(outcome.reply, None);
        assert_eq!(outcome.record.verdict, Verdict::Ignored);
    }
}

#[test]
fn edns_is_spoken_only_to_those_who_do() {
    assert_eq!(
        reply(&done(&bytes(&query("out.example.", RecordType::A)))).edns,
        None
    );
    let sent = with_edns(query("out.example.", RecordType::A), 4096, true);
    let edns = reply(&done(&bytes(&sent))).edns.expect("EDNS");
    assert_eq!((edns.max_payload(), edns.version()), (MAX_UDP_REPLY, 0));
    assert!(edns.flags().dnssec_ok, "the bit is copied (RFC 3225)");
}

#[test]
fn a_newer_edns_gets_badvers() {
    let mut sent = with_edns(query("in.example.", RecordType::A), 1232, false);
    if let Some(edns) = &mut sent.edns {
        edns.set_version(1);
    }
    let outcome = done(&bytes(&sent));
    let reply = reply(&outcome);
    // 16 is BADVERS here and BADSIG in a signed message; hickory names it the latter.
    assert_eq!(u16::from(reply.metadata.response_code), 16);
    assert_eq!(reply.edns.expect("EDNS").version(), 0);
    assert_eq!(outcome.record.rcode, Rcode::BadVers);
}
