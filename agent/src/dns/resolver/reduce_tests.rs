use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{NS, NULL, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;

use super::reduce::{End, MAX_CHAIN, Part, reduce};
use crate::dns::testing::{address, alias, name, start};
use crate::leases::FailKind;

fn message(code: ResponseCode, answers: Vec<Record>, authority: Vec<Record>) -> Message {
    let mut message = Message::query();
    message.metadata.response_code = code;
    message.add_answers(answers);
    message.add_authorities(authority);
    message
}

fn of(asked: &str, rtype: RecordType, message: &Message) -> Result<Part, FailKind> {
    reduce(&name(asked), rtype, false, message, |_| true)
}

fn a(asked: &str, answers: Vec<Record>) -> Result<Part, FailKind> {
    of(
        asked,
        RecordType::A,
        &message(ResponseCode::NoError, answers, vec![]),
    )
}

fn owners(part: &Part) -> Vec<String> {
    part.records.iter().map(|r| r.name.to_ascii()).collect()
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|text| name(text)).collect()
}

fn dname(owner: &str, ttl: u32, target: &str) -> Record {
    let rdata = NULL::with(name(target).to_bytes().expect("encodes"));
    let code = RecordType::DNAME;
    Record::from_rdata(name(owner), ttl, RData::Unknown { code, rdata })
}

#[test]
fn a_chain_is_followed_in_any_order_with_its_shortest_ttl() {
    let part = a(
        "A.example.",
        vec![
            address("c.example.", 300, "192.0.2.1"),
            alias("b.example.", 20, "C.example."),
            alias("a.EXAMPLE.", 60, "b.example."),
        ],
    )
    .expect("good");
    assert_eq!(owners(&part), ["a.example.", "b.example.", "c.example."]);
    assert_eq!(part.chain, names(&["b.example.", "c.example."]));
    assert_eq!((part.ttl, part.end), (20, End::Data));
}

#[test]
fn records_of_other_names_types_and_places_are_left_alone() {
    let part = a(
        "a.example.",
        vec![
            address("evil.example.", 1, "192.0.2.66"),
            address("a.example.", 60, "192.0.2.1"),
            address("a.example.", 1, "2001:db8::1"),
            alias("evil.example.", 1, "a.example."),
            dname("evil.example.", 1, "b.example."),
        ],
    )
    .expect("good");
    assert_eq!(owners(&part), ["a.example."]);
    assert_eq!(part.ttl, 60);
}

#[test]
fn circles_and_endless_chains_are_no_answer() {
    let two = vec![
        alias("a.example.", 60, "b.example."),
        alias("b.example.", 60, "a.example."),
    ];
    assert_eq!(a("a.example.", two), Err(FailKind::BadAnswer));
    let itself = vec![alias("a.example.", 60, "A.example.")];
    assert_eq!(a("a.example.", itself), Err(FailKind::BadAnswer));
    let chain = |links: usize| {
        let mut records: Vec<_> = (0..links)
            .map(|n| {
                alias(
                    &format!("n{n}.example."),
                    60,
                    &format!("n{}.example.", n + 1),
                )
            })
            .collect();
        records.push(address(&format!("n{links}.example."), 60, "192.0.2.1"));
        a("n0.example.", records)
    };
    assert_eq!(chain(MAX_CHAIN).expect("just right").chain.len(), MAX_CHAIN);
    assert_eq!(chain(MAX_CHAIN + 1), Err(FailKind::BadAnswer));
}

#[test]
fn a_dname_makes_the_alias_whatever_cname_came_with_it() {
    for extra in [vec![], vec![alias("x.y.old.example.", 9, "evil.example.")]] {
        let mut records = vec![
            dname("old.example.", 30, "new.example."),
            address("x.y.new.example.", 60, "192.0.2.1"),
            address("evil.example.", 60, "192.0.2.66"),
        ];
        records.extend(extra);
        let part = a("x.y.old.example.", records).expect("good");
        assert_eq!(
            owners(&part),
            ["old.example.", "x.y.old.example.", "x.y.new.example."]
        );
        assert_eq!(
            part.records[1],
            alias("x.y.old.example.", 30, "x.y.new.example.")
        );
        assert_eq!(part.chain, names(&["x.y.new.example."]));
    }
    // Not of the owner itself.
    let part = a(
        "old.example.",
        vec![dname("old.example.", 30, "new.example.")],
    )
    .expect("good");
    assert!(part.records.is_empty());
    let too_long = "x".repeat(60);
    let long = format!("{too_long}.{too_long}.{too_long}.example.");
    let records = vec![dname("old.example.", 30, &long)];
    let part = a(&format!("{too_long}.{too_long}.old.example."), records).expect("nothing of it");
    assert!(part.chain.is_empty());
}

#[test]
fn a_cname_asked_for_is_data_and_so_is_anything() {
    let records = vec![alias("a.example.", 60, "b.example.")];
    let said = message(ResponseCode::NoError, records, vec![]);
    let part = of("a.example.", RecordType::CNAME, &said).expect("good");
    assert_eq!((part.records.len(), part.end), (1, End::Data));
    assert!(part.chain.is_empty());
    let text = RData::TXT(TXT::new(vec!["v=1".to_owned()]));
    let records = vec![Record::from_rdata(name("a.example."), 60, text)];
    let said = message(ResponseCode::NoError, records, vec![]);
    let part = of("a.example.", RecordType::TXT, &said).expect("good");
    assert_eq!((part.records.len(), part.end), (1, End::Data));
}

#[test]
fn negative_answers_hold_as_long_as_their_soa_says() {
    use ResponseCode::{NXDomain, NoError};
    let soa = |owner: &str| start(owner, 600, 120);
    let none = |code, ttl| End::None { code, ttl };
    let cases: [(&str, ResponseCode, Vec<Record>, End, usize); 6] = [
        (
            "no such name",
            NXDomain,
            vec![soa("example.")],
            none(NXDomain, Some(120)),
            1,
        ),
        (
            "no such type",
            NoError,
            vec![soa("EXAMPLE.")],
            none(NoError, Some(120)),
            1,
        ),
        (
            "SOA with the shorter TTL",
            NXDomain,
            vec![start("example.", 7, 120)],
            none(NXDomain, Some(7)),
            1,
        ),
        ("no SOA", NXDomain, vec![], none(NXDomain, None), 0),
        (
            "another zone's SOA",
            NXDomain,
            vec![soa("evil.test.")],
            none(NXDomain, None),
            0,
        ),
        (
            "SOA below",
            NXDomain,
            vec![soa("b.a.example.")],
            none(NXDomain, None),
            0,
        ),
    ];
    for (what, code, authority, end, kept) in cases {
        let part = of(
            "a.example.",
            RecordType::A,
            &message(code, vec![], authority),
        )
        .expect(what);
        assert_eq!((part.end, part.authority.len()), (end, kept), "{what}");
    }
    let records = vec![alias("a.example.", 60, "b.example.")];
    let part = of(
        "a.example.",
        RecordType::A,
        &message(NXDomain, records, vec![soa("example.")]),
    )
    .expect("an alias of nothing");
    assert_eq!(part.end, none(NXDomain, Some(120)));
    assert_eq!(part.records.len(), 1);
}

#[test]
fn an_end_that_was_not_told_is_asked_for() {
    let open = vec![alias("a.example.", 60, "b.example.")];
    assert_eq!(
        a("a.example.", open).expect("good").end,
        End::Follow(name("b.example."))
    );
    // The server may not speak for the target.
    let records = vec![
        alias("a.example.", 60, "b.corp.example."),
        address("b.corp.example.", 60, "192.0.2.66"),
    ];
    let said = message(ResponseCode::NoError, records, vec![]);
    let ours = |target: &Name| !name("corp.example.").zone_of(target);
    let part = reduce(&name("a.example."), RecordType::A, false, &said, ours).expect("good");
    assert_eq!(part.end, End::Follow(name("b.corp.example.")));
    assert_eq!(part.records.len(), 1);
}

#[test]
fn contradictions_and_referrals_are_no_answer() {
    let data = vec![address("a.example.", 60, "192.0.2.1")];
    let said = message(ResponseCode::NXDomain, data, vec![]);
    assert_eq!(
        of("a.example.", RecordType::A, &said),
        Err(FailKind::BadAnswer)
    );
    let ns = Record::from_rdata(name("example."), 60, RData::NS(NS(name("ns.example."))));
    let said = message(ResponseCode::NoError, vec![], vec![ns]);
    assert_eq!(
        of("a.example.", RecordType::A, &said),
        Err(FailKind::BadAnswer)
    );
}
