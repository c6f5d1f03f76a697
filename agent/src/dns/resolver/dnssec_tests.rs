//! Validation, against a zone that is signed here and whose key is the anchor.

use std::time::Duration;

use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_proto::dnssec::{DnssecSigner, SigningKey, TrustAnchors};
use hickory_proto::rr::rdata::NS;
use hickory_proto::rr::{DNSClass, RData, RecordSet, RecordType};

use super::*;
use crate::dns::testing::{Hand, Says, Stub, address, name, start};

const ZONE: &str = "signed.example.";

struct Signed {
    stub: Stub,
    signer: DnssecSigner,
    resolver: Resolver,
    hand: Hand,
}

/// The records of a set and their signature.
fn sign(signer: &DnssecSigner, records: Vec<Record>) -> Vec<Record> {
    let first = records.first().expect("a record");
    let (owner, rtype, ttl) = (first.name.clone(), first.record_type(), first.ttl);
    let mut set = RecordSet::new(owner.clone(), rtype, 0);
    for record in &records {
        set.insert(record.clone(), 0);
    }
    let inception = rcgen::date_time_ymd(2020, 1, 1);
    let signature = RRSIG::from_rrset(&set, DNSClass::IN, inception, signer).expect("signs");
    let data = RData::DNSSEC(DNSSECRData::RRSIG(signature));
    let mut all = records;
    all.push(Record::from_rdata(owner, ttl, data));
    all
}

fn nsec(owner: &str, next: &str, types: &[RecordType]) -> Record {
    let nsec = NSEC::new(name(next), types.iter().copied());
    Record::from_rdata(name(owner), 60, RData::DNSSEC(DNSSECRData::NSEC(nsec)))
}

async fn signed() -> Signed {
    let der = Ed25519SigningKey::generate_pkcs8().expect("key");
    let key = Ed25519SigningKey::from_pkcs8(&der).expect("key");
    let public = key.to_public_key().expect("public");
    let dnskey = DNSKEY::from_key(&public);
    let thirty_years = Duration::from_secs(30 * 365 * 86_400);
    let signer = DnssecSigner::new(dnskey.clone(), Box::new(key), name(ZONE), thirty_years);
    let mut anchors = TrustAnchors::empty();
    assert!(anchors.insert_with_name(&public, name(ZONE).into()));

    let stub = Stub::start().await;
    let dnskey = RData::DNSSEC(DNSSECRData::DNSKEY(dnskey));
    let keys = sign(&signer, vec![Record::from_rdata(name(ZONE), 600, dnskey)]);
    stub.set(ZONE, RecordType::DNSKEY, Says::Records(keys));
    let config = ResolverConfig {
        upstreams: vec![super::Upstream::Plain(stub.addr)],
        attempts: 1,
        ..ResolverConfig::default()
    };
    let hand = Hand::new();
    let resolver = Resolver::with(config, Arc::default(), hand.clock(), anchors).expect("valid");
    Signed {
        stub,
        signer,
        resolver,
        hand,
    }
}

impl Signed {
    fn holds(&self, owner: &str, addr: &str) -> Vec<Record> {
        let records = sign(&self.signer, vec![address(owner, 60, addr)]);
        self.stub
            .set(owner, RecordType::A, Says::Records(records.clone()));
        records
    }

    async fn ask(&self, name: &str, dnssec_ok: bool, validate: bool) -> Result<Answer, Failed> {
        let question = Question {
            name: name.into(),
            rtype: RecordType::A,
            dnssec_ok,
            validate,
        };
        self.resolver.ask(&question).await
    }
}

#[tokio::test]
async fn what_is_signed_is_authentic_and_signatures_pass_when_wanted() {
    let zone = signed().await;
    let all = zone.holds("www.signed.example.", "192.0.2.1");
    let plain = zone
        .ask("www.signed.example", false, true)
        .await
        .expect("good");
    assert!(plain.authentic);
    assert_eq!(plain.records.len(), 1);
    let full = zone
        .ask("www.signed.example", true, true)
        .await
        .expect("good");
    assert!(full.authentic);
    assert_eq!(*full.records, *all);
    let unchecked = zone
        .ask("www.signed.example", true, false)
        .await
        .expect("good");
    assert!(!unchecked.authentic, "a server's word is not taken");
    assert_eq!(*unchecked.records, *all);
}

#[tokio::test]
async fn keys_are_not_asked_for_again_while_they_hold() {
    let zone = signed().await;
    zone.holds("a.signed.example.", "192.0.2.1");
    zone.holds("b.signed.example.", "192.0.2.2");
    let keys = || {
        let asked = zone.stub.asked();
        asked
            .iter()
            .filter(|(_, rtype)| *rtype == RecordType::DNSKEY)
            .count()
    };
    zone.ask("a.signed.example", false, true)
        .await
        .expect("good");
    zone.ask("b.signed.example", false, true)
        .await
        .expect("good");
    assert_eq!(keys(), 1);
    zone.hand.advance(Duration::from_secs(600));
    zone.ask("a.signed.example", false, true)
        .await
        .expect("good");
    // hickory remembers what it verified too; what matters is that it is still good.
    assert!(keys() <= 2);
}

#[tokio::test]
async fn what_is_forged_or_stripped_fails_and_nothing_old_stands_in() {
    let zone = signed().await;
    let good = zone.holds("www.signed.example.", "192.0.2.1");
    zone.ask("www.signed.example", false, true)
        .await
        .expect("good");
    zone.hand.advance(Duration::from_secs(60));
    let mut forged = good.clone();
    forged[0] = address("www.signed.example.", 60, "192.0.2.66");
    let stripped = vec![good[0].clone()];
    for (what, records) in [("forged", forged), ("stripped", stripped)] {
        let says = Says::Records(records);
        zone.stub.set("www.signed.example.", RecordType::A, says);
        let failed = zone
            .ask("www.signed.example", false, true)
            .await
            .expect_err(what);
        assert_eq!(failed.kind, FailKind::ServFail, "{what}");
        assert_eq!(*failed.upstream, zone.stub.addr.to_string(), "{what}");
        zone.ask("www.signed.example", false, false)
            .await
            .expect("who does not ask gets it");
        zone.hand.advance(Duration::from_secs(60));
    }
    // A server that is away is no forger: the old answer is good then.
    zone.holds("www.signed.example.", "192.0.2.1");
    zone.ask("www.signed.example", false, true)
        .await
        .expect("good again");
    zone.hand.advance(Duration::from_secs(60));
    zone.stub.set(
        "www.signed.example.",
        RecordType::A,
        Says::Code(ResponseCode::ServFail),
    );
    let stale = zone
        .ask("www.signed.example", false, true)
        .await
        .expect("stale");
    assert_eq!((stale.source, stale.authentic), (Source::Stale, true));
}

/// What is logged goes here.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Takes what this thread logs until the guard goes.
    pub(super) fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // With only one listener in the process, another thread that meets a line first would
        // settle for all that nobody wants it.
        static ANOTHER: std::sync::OnceLock<tracing::Dispatch> = std::sync::OnceLock::new();
        ANOTHER.get_or_init(|| tracing::Dispatch::new(tracing_subscriber::registry()));
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Those with some text.
    pub(super) fn with(&self, text: &str) -> Vec<String> {
        let bytes = self.0.lock().expect("lock").clone();
        let all = String::from_utf8(bytes).expect("text");
        let lines = all.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_flood_of_answers_that_do_not_validate_is_a_few_lines() {
    let lines = Lines::default();
    let _guard = lines.listen();
    let zone = signed().await;
    let bare = vec![address("www.signed.example.", 60, "192.0.2.1")];
    let says = Says::Records(bare);
    zone.stub.set("www.signed.example.", RecordType::A, says);
    for _ in 0..20 {
        let failed = zone.ask("www.signed.example", false, true).await;
        assert_eq!(failed.expect_err("bare").kind, FailKind::ServFail);
    }
    let told = lines.with("is not signed");
    assert_eq!(told.len(), 5, "{told:?}");
    // A minute later there is room for one, which says how many were kept back.
    zone.hand.advance(Duration::from_secs(60));
    for _ in 0..2 {
        let failed = zone.ask("www.signed.example", false, true).await;
        failed.expect_err("bare");
    }
    let told = lines.with("is not signed");
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told[5].contains("kept_back=15"), "{told:?}");
}

#[tokio::test]
async fn that_there_is_none_must_be_proven() {
    let zone = signed().await;
    let soa = || sign(&zone.signer, vec![start(ZONE, 60, 60)]);
    let types = [RecordType::TXT, RecordType::RRSIG, RecordType::NSEC];
    let mut proof = soa();
    proof.extend(sign(
        &zone.signer,
        vec![nsec("www.signed.example.", ZONE, &types)],
    ));
    let says = Says::Whole(ResponseCode::NoError, vec![], proof);
    zone.stub.set("www.signed.example.", RecordType::A, says);
    let none = zone
        .ask("www.signed.example", true, true)
        .await
        .expect("proven");
    assert!(none.authentic && none.records.is_empty());
    assert_eq!(none.authority.len(), 4, "SOA, NSEC and their signatures");
    let bare = zone
        .ask("www.signed.example", false, true)
        .await
        .expect("proven");
    assert!(bare.authentic);
    assert_eq!(bare.authority.len(), 1);

    let says = Says::Whole(ResponseCode::NXDomain, vec![], soa());
    zone.stub.set("gone.signed.example.", RecordType::A, says);
    let failed = zone
        .ask("gone.signed.example", false, true)
        .await
        .expect_err("no proof");
    assert_eq!(failed.kind, FailKind::ServFail);
}

#[tokio::test]
async fn what_is_proven_to_be_unsigned_is_used_and_not_authentic() {
    let zone = signed().await;
    let mut proof = sign(&zone.signer, vec![start(ZONE, 60, 60)]);
    let types = [RecordType::NS, RecordType::RRSIG, RecordType::NSEC];
    proof.extend(sign(
        &zone.signer,
        vec![nsec("open.signed.example.", ZONE, &types)],
    ));
    let says = Says::Whole(ResponseCode::NoError, vec![], proof);
    zone.stub.set("open.signed.example.", RecordType::DS, says);
    // By its NS hickory finds where the zone above ends.
    let ns = RData::NS(NS(name("ns.example.")));
    let ns = vec![Record::from_rdata(name("open.signed.example."), 60, ns)];
    zone.stub
        .set("open.signed.example.", RecordType::NS, Says::Records(ns));
    let records = vec![address("open.signed.example.", 60, "192.0.2.1")];
    zone.stub.set(
        "open.signed.example.",
        RecordType::A,
        Says::Records(records),
    );
    let open = zone
        .ask("open.signed.example", false, true)
        .await
        .expect("insecure");
    assert!(!open.authentic);
    assert_eq!(open.records.len(), 1);
}
