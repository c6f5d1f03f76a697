//! One message in: a finished reply, or what is to be looked up.

use std::borrow::Cow;

use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{DNSClass, Name as WireName, RData, Record};

use super::wire::{Client, Draft, bare_error, canonical, extended};
use super::{GateRecord, NameRule, Outcome, Question, Rcode, Refuse, Transport, Verdict};
use crate::leases::Name;

const HEADER_BYTES: usize = 12;

/// For how long a client may remember that a name does not exist for it: long enough to
/// break a tight loop, short enough that a policy that was just widened is noticed.
const REFUSAL_TTL: u32 = 5;

const OUTSIDE_TEXT: &str = "the policy of this agent does not name this host";
const TYPE_TEXT: &str = "the policy of this agent does not list this record type for this host";
const META_TEXT: &str = "queries of this type are not served: ask for one record type";
const CLASS_TEXT: &str = "only the class IN is served";

/// A query that the policy allows: what is left is to pay for it, resolve and answer it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) client: Client,
    /// The name, canonical.
    pub name: Name,
    /// What the policy allows of it.
    pub rule: NameRule,
    /// A budget that was crossed and only reported.
    pub(super) over: Option<crate::dns::budget::Exceeded>,
}

impl Asked {
    /// What to ask the resolver.
    pub fn question(&self, validate: bool) -> Question {
        Question {
            name: self.name.clone(),
            rtype: self.client.query.query_type(),
            dnssec_ok: self.client.dnssec_ok(),
            validate,
        }
    }

    pub(super) fn record(&self, verdict: Verdict, rcode: Rcode) -> GateRecord {
        GateRecord {
            over: self.over.clone(),
            ..self.client.record(verdict, rcode)
        }
    }
}

/// A message judged.
#[derive(Clone, Debug)]
pub enum Judged {
    /// Nothing needs to be looked up.
    Done(Outcome),
    /// The policy allows it.
    Ask(Asked),
}

/// Judges one message. `rule` says what the policy allows of a canonical name.
///
/// Responses and messages too short to show that they are none get no reply, so two
/// servers cannot be made to talk to each other through a forged source.
///
/// A name outside the policy is refused whatever the type, as `refuse` says. Of a name
/// inside, the rule's types are answered: [`crate::policy::BASE_TYPES`], and what it lists. Other
/// types of it are REFUSED; where refusals are NXDOMAIN they are empty answers instead,
/// because NXDOMAIN would say of the *name* that it does not exist (RFC 8020) and a client
/// may keep that for the types that it has. Types that ask for more than one thing (ANY,
/// AXFR, IXFR, …) or that are no records are REFUSED, listed or not.
pub fn judge(
    query: &[u8],
    transport: Transport,
    refuse: Refuse,
    rule: &dyn Fn(&str) -> Option<NameRule>,
) -> Judged {
    let Some(head) = Head::read(query) else {
        return Judged::Done(Outcome {
            reply: None,
            record: GateRecord::default(),
        });
    };
    if head.opcode != u8::from(OpCode::Query) {
        return head.error(Rcode::NotImp);
    }
    if !head.one_question {
        return head.error(Rcode::FormErr);
    }
    let Ok(message) = Message::from_vec(query) else {
        return head.error(Rcode::FormErr);
    };
    let [question] = message.queries.as_slice() else {
        return head.error(Rcode::FormErr);
    };
    let client = Client {
        metadata: message.metadata,
        query: question.clone(),
        edns: message
            .edns
            .as_ref()
            .map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        transport,
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        let record = client.record(Verdict::Malformed, Rcode::BadVers);
        return Judged::Done(Draft::default().send(&client, record));
    }
    if client.query.query_class() != DNSClass::IN {
        return refused(&client, CLASS_TEXT);
    }
    let name = canonical(client.query.name());
    let Some((name, rule)) = name.and_then(|name| rule(&name).map(|rule| (name, rule))) else {
        return Judged::Done(outside(&client, refuse));
    };
    let rtype = u16::from(client.query.query_type());
    if is_meta(rtype) {
        return refused(&client, META_TEXT);
    }
    if !rule.types.contains(&rtype) {
        return match refuse {
            Refuse::Refused => refused(&client, TYPE_TEXT),
            Refuse::NxDomain => empty(&client),
        };
    }
    Judged::Ask(Asked {
        client,
        name: Name::from(name),
        rule,
        over: None,
    })
}

/// Types that are no data: reserved, OPT, and 128 to 255, which RFC 6895 keeps for
/// questions (ANY, AXFR, IXFR, MAILA, MAILB) and for records about a message (TSIG, TKEY).
const fn is_meta(rtype: u16) -> bool {
    matches!(rtype, 0 | 41 | 128..=255 | u16::MAX)
}

fn refused(client: &Client, text: &'static str) -> Judged {
    let record = client.record(Verdict::Refused, Rcode::Refused);
    Judged::Done(Draft::error(extended::PROHIBITED, text).send(client, record))
}

/// A type that the rule does not list, where REFUSED is not wanted.
fn empty(client: &Client) -> Judged {
    let mut draft = Draft::error(extended::PROHIBITED, TYPE_TEXT);
    draft.authority = vec![made_soa(client.query.name())];
    let record = client.record(Verdict::Refused, Rcode::NoError);
    Judged::Done(draft.send(client, record))
}

/// The refusal of a name that the policy does not have.
pub(super) fn outside(client: &Client, refuse: Refuse) -> Outcome {
    refusal(client, refuse, Verdict::Refused, OUTSIDE_TEXT.into())
}

/// A refusal of a name, in the way that the policy chose.
pub(super) fn refusal(
    client: &Client,
    refuse: Refuse,
    verdict: Verdict,
    text: Cow<'static, str>,
) -> Outcome {
    let mut draft = Draft::error(extended::PROHIBITED, text);
    let rcode = match refuse {
        // The root exists, whatever a policy says.
        Refuse::NxDomain if !client.query.name().is_root() => {
            draft.authority = vec![made_soa(client.query.name())];
            Rcode::NxDomain
        }
        _ => Rcode::Refused,
    };
    draft.send(client, client.record(verdict, rcode))
}

/// What makes a negative answer one that may be kept (RFC 2308 section 5: without an SOA it
/// should not be). Its owner is the name that was asked, so that it says nothing about any
/// other. glibc, musl and Go keep no answers; c-ares, systemd-resolved, dnsmasq and
/// browsers do, for the lesser of its TTL and its minimum.
fn made_soa(name: &WireName) -> Record {
    let server = WireName::from_labels([&b"exeat"[..], &b"invalid"[..]]).unwrap_or_default();
    let second = i32::try_from(REFUSAL_TTL).unwrap_or(i32::MAX);
    let soa = SOA::new(
        server,
        WireName::root(),
        1,
        second,
        second,
        second,
        REFUSAL_TTL,
    );
    Record::from_rdata(name.clone(), REFUSAL_TTL, RData::SOA(soa))
}

/// What must be known before a message is worth parsing.
struct Head {
    id: u16,
    opcode: u8,
    recursion_desired: bool,
    /// One question and neither answers nor authority: a query as every client sends it.
    one_question: bool,
}

impl Head {
    /// `None` for a response, or when there are not even the bytes that tell.
    fn read(query: &[u8]) -> Option<Self> {
        let [id_high, id_low, flags, ..] = *query else {
            return None;
        };
        if flags & 0x80 != 0 {
            return None;
        }
        Some(Self {
            id: u16::from_be_bytes([id_high, id_low]),
            opcode: flags >> 3 & 0x0f,
            recursion_desired: flags & 1 != 0,
            one_question: query.len() > HEADER_BYTES && query[4..10] == [0, 1, 0, 0, 0, 0],
        })
    }

    fn error(&self, rcode: Rcode) -> Judged {
        Judged::Done(bare_error(
            self.id,
            self.opcode,
            self.recursion_desired,
            rcode,
        ))
    }
}
