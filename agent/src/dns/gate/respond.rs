//! One message in, one decision out. No socket, no clock, no state.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{Answers, GateRecord, Outcome, Rcode, Transport, Verdict};
use crate::leases::CLIENT_TTL;

/// The largest reply by UDP, however much a client says that it takes: what passes
/// everywhere without fragments (DNS flag day 2020). Larger replies go by TCP.
pub const MAX_UDP_REPLY: u16 = 1232;

/// What a client takes that says nothing (RFC 1035).
const PLAIN_UDP_REPLY: u16 = 512;

const HEADER_BYTES: usize = 12;

/// EDNS option "extended DNS error" (RFC 8914) and its code 18, "prohibited", which
/// `dig` and resolver libraries show to a person who wonders about the refusal.
const EXTENDED_ERROR: u16 = 15;
const PROHIBITED: u16 = 18;
const PROHIBITED_TEXT: &str = "the policy of this agent does not name this host";

/// Judges one message.
///
/// A name of the policy is answered from `answers`; a name outside is refused, whatever
/// its type. Responses and messages too short to show that they are none get no reply,
/// so two servers cannot be made to talk to each other through a forged source.
pub fn respond(query: &[u8], transport: Transport, answers: &dyn Answers) -> Outcome {
    let Some(head) = Head::read(query) else {
        return Outcome {
            reply: None,
            record: record(Verdict::Ignored, Rcode::None),
        };
    };
    if head.opcode != u8::from(OpCode::Query) {
        return head.bare_error(Rcode::NotImp);
    }
    if !head.one_question {
        return head.bare_error(Rcode::FormErr);
    }
    let Ok(message) = Message::from_vec(query) else {
        return head.bare_error(Rcode::FormErr);
    };
    let [question] = message.queries.as_slice() else {
        return head.bare_error(Rcode::FormErr);
    };
    let decision = decide(&message, question, answers);
    let mut record = GateRecord {
        name: shown(question.name()),
        qtype: u16::from(question.query_type()),
        rcode: decision.rcode,
        addresses: decision.addresses.iter().map(|(addr, _)| *addr).collect(),
        verdict: decision.verdict,
    };
    let reply = build(&message, question, &decision, transport);
    match &reply {
        Some(reply) if !reply.truncated => {}
        _ => record.addresses.clear(),
    }
    if reply.is_none() {
        record.rcode = Rcode::None;
        record.verdict = Verdict::Malformed;
    }
    Outcome {
        reply: reply.map(|reply| reply.bytes),
        record,
    }
}

fn record(verdict: Verdict, rcode: Rcode) -> GateRecord {
    GateRecord {
        name: String::new(),
        qtype: 0,
        rcode,
        addresses: Vec::new(),
        verdict,
    }
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

    /// A header and nothing else: the question could not be read, or is of no interest.
    fn bare_error(&self, rcode: Rcode) -> Outcome {
        let mut message = Message::response(self.id, OpCode::from_u8(self.opcode));
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = match rcode {
            Rcode::NotImp => ResponseCode::NotImp,
            _ => ResponseCode::FormErr,
        };
        match message.to_vec() {
            Ok(reply) => Outcome {
                reply: Some(reply),
                record: record(Verdict::Malformed, rcode),
            },
            Err(_) => Outcome {
                reply: None,
                record: record(Verdict::Malformed, Rcode::None),
            },
        }
    }
}

struct Decision {
    verdict: Verdict,
    rcode: Rcode,
    /// Address and TTL in seconds, of the type that was asked.
    addresses: Vec<(IpAddr, u32)>,
}

impl Decision {
    fn empty(verdict: Verdict, rcode: Rcode) -> Self {
        Self {
            verdict,
            rcode,
            addresses: Vec::new(),
        }
    }
}

fn decide(message: &Message, question: &Query, answers: &dyn Answers) -> Decision {
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Decision::empty(Verdict::Malformed, Rcode::BadVers);
    }
    let refused = || Decision::empty(Verdict::Refused, Rcode::Refused);
    if question.query_class() != DNSClass::IN {
        return refused();
    }
    let Some(leased) = canonical(question.name()).and_then(|name| answers.lookup(&name)) else {
        return refused();
    };
    let wants_v4 = match question.query_type() {
        RecordType::A => true,
        RecordType::AAAA => false,
        // HTTPS and SVCB records could carry addresses of their own; a client that gets
        // none asks for A and AAAA.
        _ => return Decision::empty(Verdict::NoData, Rcode::NoError),
    };
    let usable: Vec<_> = leased
        .into_iter()
        .filter(|(_, remaining)| !remaining.is_zero())
        .map(|(addr, remaining)| {
            let ttl = remaining.min(CLIENT_TTL).as_secs().max(1);
            (addr.to_canonical(), u32::try_from(ttl).unwrap_or(1))
        })
        .collect();
    if usable.is_empty() {
        return Decision::empty(Verdict::Unresolved, Rcode::ServFail);
    }
    let addresses: Vec<_> = usable
        .into_iter()
        .filter(|(addr, _)| addr.is_ipv4() == wants_v4)
        .collect();
    Decision {
        verdict: if addresses.is_empty() {
            Verdict::NoData
        } else {
            Verdict::Answered
        },
        rcode: Rcode::NoError,
        addresses,
    }
}

/// The name as policies write it, or `None` when no policy could: then it is outside.
/// Only letters, digits, `-` and `_` pass, so that a label that *contains* a dot cannot
/// look like two labels.
fn canonical(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The name for a record: whatever it is made of, printable ASCII without blanks.
fn shown(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => {
                    text.push('\\');
                    text.push(char::from(*byte));
                }
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

struct Reply {
    bytes: Vec<u8>,
    truncated: bool,
}

fn build(
    message: &Message,
    question: &Query,
    decision: &Decision,
    transport: Transport,
) -> Option<Reply> {
    let mut reply = Message::new(
        message.metadata.id,
        MessageType::Response,
        message.metadata.op_code,
    );
    reply.metadata = Metadata::response_from_request(&message.metadata);
    // Go's resolver takes a server without recursion for a lame one.
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = match decision.rcode {
        Rcode::NoError | Rcode::None => ResponseCode::NoError,
        Rcode::FormErr => ResponseCode::FormErr,
        Rcode::ServFail => ResponseCode::ServFail,
        Rcode::NotImp => ResponseCode::NotImp,
        Rcode::Refused => ResponseCode::Refused,
        Rcode::BadVers => ResponseCode::BADVERS,
    };
    reply.add_query(question.clone());
    reply.add_answers(decision.addresses.iter().map(|(addr, ttl)| {
        let data = match addr {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        };
        Record::from_rdata(question.name().clone(), *ttl, data)
    }));
    let mut limit = PLAIN_UDP_REPLY;
    if let Some(theirs) = &message.edns {
        limit = theirs.max_payload().clamp(PLAIN_UDP_REPLY, MAX_UDP_REPLY);
        reply.set_edns(our_edns(decision));
    }
    let bytes = reply.to_vec().ok()?;
    let limit = match transport {
        Transport::Udp => usize::from(limit),
        Transport::Tcp => usize::from(u16::MAX),
    };
    if bytes.len() <= limit {
        return Some(Reply {
            bytes,
            truncated: false,
        });
    }
    let bytes = reply.truncate().to_vec().ok()?;
    Some(Reply {
        bytes,
        truncated: true,
    })
}

fn our_edns(decision: &Decision) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_REPLY);
    match decision.rcode {
        Rcode::BadVers => {
            edns.set_rcode_high(ResponseCode::BADVERS.high());
        }
        Rcode::Refused => {
            let mut data = PROHIBITED.to_be_bytes().to_vec();
            data.extend_from_slice(PROHIBITED_TEXT.as_bytes());
            edns.options_mut()
                .insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
        }
        _ => {}
    }
    edns
}
