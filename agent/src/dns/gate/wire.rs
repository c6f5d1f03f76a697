//! Replies as bytes.

use std::borrow::Cow;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, Record};

use super::{GateRecord, Outcome, Rcode, Transport, Verdict};

/// The largest reply by UDP, however much a client says that it takes: what passes
/// everywhere without fragments (DNS flag day 2020). Larger replies go by TCP.
pub const MAX_UDP_REPLY: u16 = 1232;

/// What a client takes that says nothing (RFC 1035).
const PLAIN_UDP_REPLY: u16 = 512;

/// EDNS option "extended DNS error" (RFC 8914): `dig` and resolver libraries show it to a
/// person who wonders.
const EXTENDED_ERROR: u16 = 15;

/// Codes of extended errors.
pub(super) mod extended {
    pub(in super::super) const OTHER: u16 = 0;
    pub(in super::super) const STALE: u16 = 3;
    pub(in super::super) const NOT_READY: u16 = 14;
    pub(in super::super) const BLOCKED: u16 = 15;
    pub(in super::super) const PROHIBITED: u16 = 18;
    pub(in super::super) const STALE_NXDOMAIN: u16 = 19;
    pub(in super::super) const NO_REACHABLE: u16 = 22;
    pub(in super::super) const NETWORK: u16 = 23;
}

/// A query that could be read.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) metadata: Metadata,
    pub(super) query: Query,
    /// What the client said by EDNS: the payload that it takes, and whether it wants
    /// signatures.
    pub(super) edns: Option<(u16, bool)>,
    pub(super) transport: Transport,
}

impl Client {
    pub(super) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    /// Whether the client understands the AD bit (RFC 6840 section 5.7).
    pub(super) fn wants_authentic(&self) -> bool {
        self.metadata.authentic_data || self.dnssec_ok()
    }

    /// A record with what was asked; the rest is for the caller to fill.
    pub(super) fn record(&self, verdict: Verdict, rcode: Rcode) -> GateRecord {
        GateRecord {
            name: shown(self.query.name()),
            qtype: u16::from(self.query.query_type()),
            verdict,
            rcode,
            ..GateRecord::default()
        }
    }
}

/// An extended error: its code, and words.
pub(super) type Extended = (u16, Cow<'static, str>);

/// What a reply says.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) answers: Vec<Record>,
    pub(super) authority: Vec<Record>,
    pub(super) authentic: bool,
    pub(super) error: Option<Extended>,
}

impl Draft {
    pub(super) fn error(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            error: Some((code, text.into())),
            ..Self::default()
        }
    }

    /// Encodes the reply that `record` tells of. A reply that had to be cut for UDP gave no
    /// addresses, and the record is changed to say so.
    pub(super) fn send(self, client: &Client, mut record: GateRecord) -> Outcome {
        let reply = self.encode(client, record.rcode);
        match &reply {
            Some((_, false)) => {}
            Some((_, true)) => {
                record.addresses.clear();
                record.ttl = None;
            }
            None => {
                record.addresses.clear();
                record.ttl = None;
                record.rcode = Rcode::None;
                record.verdict = Verdict::Malformed;
            }
        }
        Outcome {
            reply: reply.map(|(bytes, _)| bytes),
            record,
        }
    }

    /// The bytes, and whether they were cut.
    fn encode(self, client: &Client, rcode: Rcode) -> Option<(Vec<u8>, bool)> {
        let mut reply = Message::response(client.metadata.id, client.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&client.metadata);
        // Go's resolver takes a server without recursion for a lame one.
        reply.metadata.recursion_available = true;
        reply.metadata.authentic_data = self.authentic;
        reply.metadata.response_code = code(rcode);
        reply.queries.push(client.query.clone());
        reply.answers = self.answers;
        reply.authorities = self.authority;
        let mut limit = PLAIN_UDP_REPLY;
        if let Some((payload, dnssec_ok)) = client.edns {
            limit = payload.clamp(PLAIN_UDP_REPLY, MAX_UDP_REPLY);
            reply.set_edns(our_edns(rcode, dnssec_ok, self.error));
        }
        let limit = match client.transport {
            Transport::Udp => usize::from(limit),
            Transport::Tcp => usize::from(u16::MAX),
        };
        match reply.to_vec() {
            // The encoder leaves out what does not fit and says so by TC.
            Ok(bytes) if bytes.len() <= limit && bytes.get(2).is_some_and(|b| b & 2 == 0) => {
                Some((bytes, false))
            }
            _ => Some((reply.truncate().to_vec().ok()?, true)),
        }
    }
}

const fn code(rcode: Rcode) -> ResponseCode {
    match rcode {
        Rcode::NoError | Rcode::None => ResponseCode::NoError,
        Rcode::FormErr => ResponseCode::FormErr,
        Rcode::ServFail => ResponseCode::ServFail,
        Rcode::NxDomain => ResponseCode::NXDomain,
        Rcode::NotImp => ResponseCode::NotImp,
        Rcode::Refused => ResponseCode::Refused,
        Rcode::BadVers => ResponseCode::BADVERS,
    }
}

fn our_edns(rcode: Rcode, dnssec_ok: bool, error: Option<Extended>) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_REPLY);
    edns.set_dnssec_ok(dnssec_ok);
    if rcode == Rcode::BadVers {
        edns.set_rcode_high(ResponseCode::BADVERS.high());
    }
    if let Some((code, text)) = error {
        let mut data = code.to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        edns.options_mut()
            .insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    }
    edns
}

/// A header and nothing else: the question could not be read, or is of no interest.
pub(super) fn bare_error(id: u16, opcode: u8, recursion_desired: bool, rcode: Rcode) -> Outcome {
    let mut message = Message::response(id, OpCode::from_u8(opcode));
    message.metadata.recursion_desired = recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code(rcode);
    let reply = message.to_vec().ok();
    let rcode = match reply {
        Some(_) => rcode,
        None => Rcode::None,
    };
    Outcome {
        reply,
        record: GateRecord {
            verdict: Verdict::Malformed,
            rcode,
            ..GateRecord::default()
        },
    }
}

/// The name as policies write it, or `None` when no policy could: then it is outside.
/// Only letters, digits, `-` and `_` pass, so that a label that *contains* a dot cannot
/// look like two labels.
pub(super) fn canonical(name: &Name) -> Option<String> {
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
pub(super) fn shown(name: &Name) -> String {
    use std::fmt::Write as _;
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
                _ => {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\{byte:03}");
                }
            }
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}
