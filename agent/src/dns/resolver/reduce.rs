//! From a server's message to what it says of the name that was asked.

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::dnssec::{Proof, rdata::RRSIG};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::leases::FailKind;

/// The longest chain of aliases that is followed.
pub const MAX_CHAIN: usize = 16;

/// What a message says of a name.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    /// The chain, in order, then the data.
    pub(super) records: Vec<Record>,
    /// SOA and proofs.
    pub(super) authority: Vec<Record>,
    /// The names after the asked one.
    pub(super) chain: Vec<Name>,
    /// The shortest TTL among records and chain, in seconds.
    pub(super) ttl: u32,
    /// All that was kept is proven.
    pub(super) secure: bool,
    pub(super) end: End,
}

/// How the chain ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the data asked for.
    Data,
    /// With a name that has none (NOERROR), or that does not exist.
    None {
        code: ResponseCode,
        /// How long that holds (RFC 2308), in seconds; `None` when no SOA says so, and then
        /// it is told once and not kept: "negative responses without SOA records SHOULD NOT
        /// be cached" (section 5), because nothing says when they end.
        ttl: Option<u32>,
    },
    /// With a name that has to be asked itself.
    Follow(Name),
}

/// Reduces a message. `ours` says whether this server may speak for an alias's target;
/// what it may not is asked again, elsewhere.
///
/// # Errors
/// [`FailKind::BadAnswer`] when the message contradicts itself or runs in circles.
pub(super) fn reduce(
    asked: &Name,
    rtype: RecordType,
    dnssec_ok: bool,
    message: &Message,
    ours: impl Fn(&Name) -> bool,
) -> Result<Part, FailKind> {
    let source = Source {
        answers: &message.answers,
        dnssec_ok,
    };
    let mut part = Part {
        records: Vec::new(),
        authority: Vec::new(),
        chain: Vec::new(),
        ttl: u32::MAX,
        secure: true,
        end: End::Data,
    };
    let mut current = asked.to_lowercase();
    let found = loop {
        if source.take(&mut part, &current, rtype) {
            break true;
        }
        // These are said of the name itself, whatever it is an alias of.
        if matches!(rtype, RecordType::CNAME | RecordType::ANY) {
            break false;
        }
        let Some(target) = source.alias(&mut part, &current) else {
            break false;
        };
        if part.chain.len() >= MAX_CHAIN || target == *asked || part.chain.contains(&target) {
            return Err(FailKind::BadAnswer);
        }
        part.chain.push(target.clone());
        current = target;
        if !ours(&current) {
            part.end = End::Follow(current);
            return Ok(part);
        }
    };
    let code = message.metadata.response_code;
    let apex = negative(&mut part, message, &current, dnssec_ok, found);
    match (found, code) {
        (true, ResponseCode::NoError) => {}
        (true, _) => return Err(FailKind::BadAnswer),
        (false, ResponseCode::NoError) if apex.is_none() && !part.chain.is_empty() => {
            part.end = End::Follow(current);
        }
        (false, ResponseCode::NoError) if apex.is_none() && is_referral(message) => {
            return Err(FailKind::BadAnswer);
        }
        (false, code) => part.end = End::None { code, ttl: apex },
    }
    Ok(part)
}

/// A server that does not resolve for us points elsewhere instead.
fn is_referral(message: &Message) -> bool {
    let ns = |record: &Record| record.record_type() == RecordType::NS;
    message.answers.is_empty() && message.authorities.iter().any(ns)
}

struct Source<'a> {
    answers: &'a [Record],
    dnssec_ok: bool,
}

impl Source<'_> {
    fn at<'a>(&'a self, owner: &'a Name) -> impl Iterator<Item = &'a Record> {
        self.answers
            .iter()
            .filter(move |r| r.dns_class == DNSClass::IN && r.name == *owner)
    }

    /// Takes the records of a type, with their signatures.
    fn take(&self, part: &mut Part, owner: &Name, rtype: RecordType) -> bool {
        let before = part.records.len();
        for record in self.at(owner) {
            if rtype == RecordType::ANY || record.record_type() == rtype {
                part.keep(record.clone());
            }
        }
        let found = part.records.len() > before;
        if found && rtype != RecordType::ANY && rtype != RecordType::RRSIG {
            self.take_signatures(part, owner, rtype);
        }
        found
    }

    fn take_signatures(&self, part: &mut Part, owner: &Name, rtype: RecordType) {
        if !self.dnssec_ok {
            return;
        }
        for record in self.at(owner) {
            if signature(record).is_some_and(|sig| sig.input().type_covered == rtype) {
                part.keep(record.clone());
            }
        }
    }

    /// What the name is an alias of, by a DNAME above it or a CNAME.
    fn alias(&self, part: &mut Part, current: &Name) -> Option<Name> {
        let above = self.answers.iter().find_map(|record| {
            let made = by_dname(record, current)?;
            Some((record, made))
        });
        if let Some((dname, target)) = above {
            let owner = dname.name.to_lowercase();
            // Made here: the server's own is unsigned, and may not fit.
            let mut cname = Record::from_rdata(
                current.clone(),
                dname.ttl,
                RData::CNAME(CNAME(target.clone())),
            );
            cname.proof = dname.proof;
            part.keep(dname.clone());
            self.take_signatures(part, &owner, RecordType::DNAME);
            part.keep(cname);
            return Some(target);
        }
        let (cname, target) = self.at(current).find_map(|record| match &record.data {
            RData::CNAME(target) => Some((record, target.0.to_lowercase())),
            _ => None,
        })?;
        // Of several, which is an error of the zone, one.
        part.keep(cname.clone());
        self.take_signatures(part, current, RecordType::CNAME);
        Some(target)
    }
}

impl Part {
    fn keep(&mut self, mut record: Record) {
        record.name = record.name.to_lowercase();
        self.ttl = self.ttl.min(record.ttl);
        if record.record_type() != RecordType::RRSIG {
            self.secure &= record.proof == Proof::Secure;
        }
        self.records.push(record);
    }
}

fn signature(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature),
        _ => None,
    }
}

/// The name that a DNAME makes of one below its owner (RFC 6672). hickory has no type for
/// its data, which is a name without compression.
fn by_dname(record: &Record, current: &Name) -> Option<Name> {
    let RData::Unknown { code, rdata } = &record.data else {
        return None;
    };
    let below = record.name.zone_of(current) && record.name != *current;
    if *code != RecordType::DNAME || record.dns_class != DNSClass::IN || !below {
        return None;
    }
    let target = Name::read(&mut BinDecoder::new(&rdata.anything)).ok()?;
    let kept = usize::from(current.num_labels() - record.name.num_labels());
    let prefix = Name::from_labels(current.iter().take(kept)).ok()?;
    Some(prefix.append_domain(&target).ok()?.to_lowercase())
}

/// Keeps what the authority section says of the end of the chain: the SOA of a zone that
/// it is in when there is no data, and proofs from that zone. Gives how long it holds.
fn negative(
    part: &mut Part,
    message: &Message,
    current: &Name,
    dnssec_ok: bool,
    found: bool,
) -> Option<u32> {
    let authority = || {
        let usable = |r: &&Record| r.dns_class == DNSClass::IN;
        message.authorities.iter().filter(usable)
    };
    let soa = authority().find_map(|record| match &record.data {
        RData::SOA(soa) if record.name.zone_of(current) => Some((record, soa)),
        _ => None,
    });
    let (apex, ttl) = match (found, soa) {
        (false, Some((record, soa))) => (record.name.clone(), Some(record.ttl.min(minimum(soa)))),
        (false, None) => return None,
        // The proof that a wildcard may stand for it comes from the zone that signed it.
        (true, _) => {
            let signer = part.records.iter().rev().find_map(signature);
            let apex = signer.map(|sig| sig.input().signer_name.clone())?;
            if !apex.zone_of(current) {
                return None;
            }
            (apex, None)
        }
    };
    for record in authority() {
        let covered = signature(record).map(|sig| sig.input().type_covered);
        let rtype = covered.unwrap_or(record.record_type());
        let wanted = match rtype {
            RecordType::SOA => !found && record.name == apex,
            RecordType::NSEC | RecordType::NSEC3 => dnssec_ok && apex.zone_of(&record.name),
            _ => false,
        };
        if wanted && (covered.is_none() || dnssec_ok) {
            if covered.is_none() {
                part.secure &= record.proof == Proof::Secure;
            }
            let mut record = record.clone();
            record.name = record.name.to_lowercase();
            part.authority.push(record);
        }
    }
    ttl
}

fn minimum(soa: &SOA) -> u32 {
    soa.minimum
}
