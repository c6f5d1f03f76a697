//! What was found and granted, as a reply.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::dnssec::rdata::DNSSECRData;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{HTTPS, SVCB};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};

use super::judge::refusal;
use super::svcb::{self, Stripped};
use super::wire::{Draft, Extended, canonical, extended, shown};
use super::{Answer, Asked, Failed, Granted, NotGranted, Outcome, Rcode, Refuse, Source, Verdict};
use crate::dns::budget::Exceeded;
use crate::leases::{CLIENT_TTL, FailKind};
use crate::policy::BASE_TYPES;

/// Aliases that are followed within one answer; data behind more is left out.
const MAX_CHAIN: usize = 16;

const NO_ROOM_TEXT: &str =
    "the addresses of this host find no room in the agent's tables, so they are not given out";
const REBIND_TEXT: &str = "this host's addresses are private or local, and the policy does not \
                           say `private: true`";
const TARGET_TEXT: &str = "this host points to one that the policy of this agent does not name";
const BUSY_TEXT: &str = "this agent has too many look-ups under way: ask again";

/// The addresses of an answer, each with its TTL in seconds: what is to be granted before
/// the reply may leave. Empty unless addresses were asked for.
pub fn addresses(asked: &Asked, found: &Answer) -> Vec<(IpAddr, u32)> {
    let rtype = asked.client.query.query_type();
    if !matches!(rtype, RecordType::A | RecordType::AAAA) {
        return Vec::new();
    }
    let path = path(asked.client.query.name(), rtype, &found.records);
    let mut addresses = Vec::new();
    for record in found.records.iter() {
        if record.record_type() == rtype
            && path.contains(&&record.name)
            && let Some(addr) = address(&record.data)
            && !addresses.iter().any(|(known, _)| *known == addr)
        {
            addresses.push((addr, record.ttl.min(found.ttl)));
        }
    }
    addresses
}

/// The address of an A or AAAA record. An IPv4 address in IPv6's clothes is none: the kernel
/// would take it for IPv4, and it is not what was asked.
fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => aaaa
            .0
            .to_ipv4_mapped()
            .is_none()
            .then_some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// The type that a signature is of; none for a record that is no signature, or that was not
/// read as one.
fn covered(record: &Record) -> Option<RecordType> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature.input().type_covered),
        _ => None,
    }
}

/// The names from the one that was asked along its aliases, itself first.
fn path<'a>(asked: &'a WireName, rtype: RecordType, records: &'a [Record]) -> Vec<&'a WireName> {
    let mut path = vec![asked];
    let mut end = asked;
    while rtype != RecordType::CNAME && path.len() <= MAX_CHAIN {
        let next = records.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *end => Some(&alias.0),
            _ => None,
        });
        match next {
            Some(next) if !path.contains(&next) => {
                path.push(next);
                end = next;
            }
            _ => break,
        }
    }
    path
}

/// The answer to a query, from what was found and what was granted of it. `allowed` says
/// whether the policy has a name.
pub fn answer(
    asked: &Asked,
    found: &Answer,
    granted: &Granted,
    allowed: &dyn Fn(&str) -> bool,
) -> Outcome {
    let mut made = Making {
        asked,
        found,
        granted,
        allowed,
        answers: Vec::with_capacity(found.records.len()),
        data: 0,
        given: Vec::new(),
        targets: Vec::new(),
        changed: Vec::new(),
    };
    let wanted = addresses(asked, found);
    made.records();
    let negative = found.rcode == ResponseCode::NXDomain;
    let (verdict, rcode, error) = if !wanted.is_empty() && made.given.is_empty() {
        // Nothing else of the answer is worth having.
        made.answers.clear();
        // A name that stands for nothing but what it may not stand for.
        match granted.refused == 0 && !granted.rebound.is_empty() {
            true => (
                Verdict::Rebind,
                Rcode::NoError,
                Some((extended::BLOCKED, REBIND_TEXT.into())),
            ),
            false => (
                Verdict::NoRoom,
                Rcode::ServFail,
                Some((extended::OTHER, NO_ROOM_TEXT.into())),
            ),
        }
    } else if negative {
        (Verdict::NoData, Rcode::NxDomain, made.stale())
    } else if made.data == 0 {
        let error = match made.targets.is_empty() {
            true => made.stale(),
            false => Some((extended::BLOCKED, TARGET_TEXT.into())),
        };
        (Verdict::NoData, Rcode::NoError, error)
    } else {
        (Verdict::Answered, Rcode::NoError, made.stale())
    };
    made.finish(verdict, rcode, error)
}

struct Making<'a> {
    asked: &'a Asked,
    found: &'a Answer,
    granted: &'a Granted,
    allowed: &'a dyn Fn(&str) -> bool,
    answers: Vec<Record>,
    /// Records of the type asked among `answers`.
    data: usize,
    given: Vec<IpAddr>,
    targets: Vec<String>,
    /// Owners of which something was taken out or changed: their signatures are void.
    changed: Vec<WireName>,
}

impl Making<'_> {
    fn records(&mut self) {
        let found = self.found;
        let rtype = self.asked.client.query.query_type();
        let path = path(self.asked.client.query.name(), rtype, &found.records);
        for record in found.records.iter() {
            let kind = record.record_type();
            let on_path = path.contains(&&record.name);
            if kind == rtype && on_path {
                self.data(record, &path);
            } else if matches!(record.data, RData::CNAME(_)) && on_path {
                self.push(record.clone(), None);
            } else if kind == RecordType::DNAME
                && self.asked.client.dnssec_ok()
                && path.iter().any(|name| record.name.zone_of(name))
            {
                // The alias made from it is there; only who validates needs this as well.
                self.push(record.clone(), None);
            }
        }
        if !self.asked.client.dnssec_ok() || rtype == RecordType::RRSIG {
            return;
        }
        for record in found.records.iter() {
            let owner = &record.name;
            let given = match covered(record) {
                Some(kind) if kind == rtype => {
                    path.contains(&owner) && !self.changed.contains(owner)
                }
                Some(RecordType::CNAME) => path.contains(&owner),
                Some(RecordType::DNAME) => path.iter().any(|name| owner.zone_of(name)),
                _ => false,
            };
            if given {
                self.push(record.clone(), None);
            }
        }
    }

    /// One record of the type that was asked.
    fn data(&mut self, record: &Record, path: &[&WireName]) {
        match &record.data {
            RData::A(_) | RData::AAAA(_) => {
                let left = address(&record.data).and_then(|addr| {
                    let held = &self.granted.held;
                    let (_, left) = held.iter().find(|(held, _)| *held == addr)?;
                    (!left.is_zero()).then_some((addr, *left))
                });
                match left {
                    Some((addr, left)) if !self.given.contains(&addr) => {
                        self.given.push(addr);
                        self.data += 1;
                        self.push(record.clone(), Some(left));
                    }
                    Some(_) => {}
                    None => self.changed.push(record.name.clone()),
                }
            }
            RData::HTTPS(HTTPS(service)) => {
                self.service(record, service, path, |service| {
                    RData::HTTPS(HTTPS(service))
                });
            }
            RData::SVCB(service) => self.service(record, service, path, RData::SVCB),
            // What was not read as what it says it is cannot be looked into.
            RData::Unknown { code, .. }
                if BASE_TYPES.contains(&u16::from(*code)) || code.is_dnssec() =>
            {
                self.changed.push(record.name.clone());
            }
            _ => {
                self.data += 1;
                self.push(record.clone(), None);
            }
        }
    }

    fn service(
        &mut self,
        record: &Record,
        service: &SVCB,
        path: &[&WireName],
        wrap: impl Fn(SVCB) -> RData,
    ) {
        if let Some(target) = svcb::target(service)
            && !path.contains(&target)
            && !canonical(target).is_some_and(|name| (self.allowed)(&name))
        {
            self.changed.push(record.name.clone());
            self.targets.push(shown(target));
            return;
        }
        let mut record = record.clone();
        match svcb::strip(service, self.asked.rule.keep_ech) {
            Stripped::Whole => {}
            Stripped::Changed(service) => {
                self.changed.push(record.name.clone());
                record.data = wrap(service);
            }
            Stripped::Useless => {
                self.changed.push(record.name);
                return;
            }
        }
        self.data += 1;
        self.push(record, None);
    }

    /// Takes a record in, with the owner spelt as the client spelt it and the shortest of
    /// all times.
    fn push(&mut self, mut record: Record, lease: Option<Duration>) {
        let asked = self.asked.client.query.name();
        if record.name == *asked {
            record.name = asked.clone();
        }
        record.ttl = self.ttl(record.ttl, lease);
        self.answers.push(record);
    }

    fn ttl(&self, own: u32, lease: Option<Duration>) -> u32 {
        let longest = lease.map_or(CLIENT_TTL, |left| left.min(CLIENT_TTL));
        let longest = u32::try_from(longest.as_secs()).unwrap_or(u32::MAX);
        own.min(self.found.ttl).min(longest)
    }

    fn stale(&self) -> Option<Extended> {
        let code = match (self.found.source, self.found.rcode) {
            (Source::Stale, ResponseCode::NXDomain) => extended::STALE_NXDOMAIN,
            (Source::Stale, _) => extended::STALE,
            _ => return None,
        };
        Some((
            code,
            "no server answers: this is the last known answer".into(),
        ))
    }

    /// The authority section: of a negative answer its SOA, and for those who ask for them
    /// the proofs, without which a signed answer is worth nothing: that there is nothing, or
    /// that nothing is closer to the name than the wildcard that the answer was made from.
    fn authority(&self, negative: bool) -> Vec<Record> {
        let dnssec_ok = self.asked.client.dnssec_ok();
        let keep = |record: &&Record| match (&record.data, covered(record)) {
            (RData::SOA(_), _) => negative,
            (RData::DNSSEC(DNSSECRData::NSEC(_) | DNSSECRData::NSEC3(_)), _) => dnssec_ok,
            (_, Some(RecordType::SOA)) => negative && dnssec_ok,
            (_, Some(RecordType::NSEC | RecordType::NSEC3)) => dnssec_ok,
            _ => false,
        };
        self.found
            .authority
            .iter()
            .filter(keep)
            .map(|record| {
                let mut record = record.clone();
                record.ttl = self.ttl(record.ttl, None);
                record
            })
            .collect()
    }

    fn finish(mut self, verdict: Verdict, rcode: Rcode, error: Option<Extended>) -> Outcome {
        let asked = self.asked;
        let mut record = asked.record(verdict, rcode);
        record.ttl = self.answers.iter().map(|record| record.ttl).min();
        record.addresses = std::mem::take(&mut self.given);
        record.chain = self.found.chain.clone();
        record.upstream = Some(self.found.upstream.clone());
        record.source = Some(self.found.source);
        record.rebound = self.granted.rebound.clone();
        record.targets = std::mem::take(&mut self.targets);
        if self.granted.refused > 0 {
            record.detail = Some(format!("no room for {} addresses", self.granted.refused));
        }
        let authority = match (verdict, self.changed.is_empty()) {
            // Only what the DNS itself says may be kept as its word.
            (Verdict::NoData, true) => self.authority(true),
            (Verdict::Answered, true) => self.authority(false),
            _ => Vec::new(),
        };
        let draft = Draft {
            authentic: self.found.authentic
                && self.changed.is_empty()
                && matches!(verdict, Verdict::Answered | Verdict::NoData)
                && asked.client.wants_authentic(),
            answers: self.answers,
            authority,
            error,
        };
        draft.send(&asked.client, record)
    }
}

fn servfail(asked: &Asked, verdict: Verdict, code: u16, text: Cow<'static, str>) -> Outcome {
    let record = asked.record(verdict, Rcode::ServFail);
    Draft::error(code, text).send(&asked.client, record)
}

/// The reply when nothing could be found out: SERVFAIL, with the reason.
pub fn failed(asked: &Asked, failed: &Failed) -> Outcome {
    let code = match failed.kind {
        FailKind::Timeout => extended::NO_REACHABLE,
        FailKind::Network => extended::NETWORK,
        FailKind::NoUpstream => extended::NOT_READY,
        _ => extended::OTHER,
    };
    let why = failed.kind.as_str();
    let text = match failed.kind {
        FailKind::NoUpstream => "no upstream server is known".to_owned(),
        _ => format!("the upstream server gave no usable answer: {why}"),
    };
    let mut outcome = servfail(asked, Verdict::Failed, code, text.into());
    outcome.record.detail = Some(why.to_owned());
    outcome.record.upstream = Some(failed.upstream.clone()).filter(|name| !name.is_empty());
    outcome
}

/// The reply when the kernel's maps do not hold the addresses: SERVFAIL, never the answer.
pub fn not_granted(asked: &Asked, found: &Answer, error: &NotGranted) -> Outcome {
    let mut outcome = servfail(asked, Verdict::NoRoom, extended::OTHER, NO_ROOM_TEXT.into());
    outcome.record.detail = Some(error.why.clone());
    outcome.record.upstream = Some(found.upstream.clone());
    outcome.record.source = Some(found.source);
    outcome.record.chain = found.chain.clone();
    outcome
}

/// The reply beyond the bound of look-ups under way.
pub fn busy(asked: &Asked) -> Outcome {
    servfail(asked, Verdict::Busy, extended::NOT_READY, BUSY_TEXT.into())
}

/// The refusal of a name whose budget is spent.
pub fn over_budget(asked: &Asked, exceeded: Exceeded, refuse: Refuse) -> Outcome {
    let text = format!("the budget of this agent is spent: {}", exceeded.text());
    let mut outcome = refusal(&asked.client, refuse, Verdict::OverBudget, text.into());
    outcome.record.over = Some(exceeded);
    outcome
}
