//! A flow as people and programs read it: the kernel's [`NamedEvent`] (a refusal) with its
//! names, or a question at the DNS gate, refused or answered.
//!
//! Pure: no clock and no `/proc`; what they know is an argument.

mod connection;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::process::User;
use agent_common::event::NamedEvent;
use agent_common::protocol::ProtocolClass;
use agent_common::{Addr, Hook, Protocol, Reason};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub use connection::{ConnectionRecord, GatewayFlow, InspectedRequest, ServerCertificate};

/// One flow that was refused (in monitor mode: would have been), one question that the gate
/// answered, one connection at the gateway, or one TLS connection that was let out by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Number of the record, from 1, without gaps, since the daemon started. Given by
    /// [`crate::sink::Hub::publish`]; 0 before.
    pub seq: u64,
    /// When it happened.
    pub time: Timestamp,
    /// Name of the agent.
    pub agent: String,
    /// Refused, let through by a monitor mode that would have refused, or allowed.
    pub verdict: FlowVerdict,
    /// Why it was refused; none for what was allowed.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "word::reason_if_any"
    )]
    pub reason: Option<Reason>,
    /// Where it was seen.
    #[serde(with = "word::hook")]
    pub hook: Hook,
    /// `tcp`, `udp`, `icmp` or `other`.
    #[serde(with = "word::protocol")]
    pub protocol: ProtocolClass,
    /// IP protocol number as seen.
    pub protocol_number: u8,
    /// The local end, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    /// The far end (for a bind: the local address that was asked for).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dest: Option<Endpoint>,
    /// Names whose leases hold the far end's address for this agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The host that the program's TLS hello names, where one was read: as it came, bytes that
    /// are no ASCII as `\\xNN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The question at the gate, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsQuestion>,
    /// The connection at the gateway, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionRecord>,
    /// The rule that decided; none when the default did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleText>,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// The process; none when the packet left outside of any (a timer, a retransmission),
    /// and for questions at the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessRecord>,
    /// Id of the cgroup of the task or socket; 0 if not known.
    pub cgroup: u64,
    /// `SO_COOKIE` of the socket; 0 if not known.
    pub socket_cookie: u64,
    /// For a socket that may not be made its family and type, for a socket option its
    /// level and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<[u32; 2]>,
    /// Flows of the same agent and reason (or of the same agent, allowed) that the throttle
    /// kept back before this one.
    pub suppressed: u64,
    /// What went over it, where the record is about a flow that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What went over a flow, as the kernel counted it: whole IP packets, headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes that left.
    pub sent_bytes: u64,
    /// Packets that left.
    pub sent_packets: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Packets that came.
    pub received_packets: u64,
    /// From the flow's first moment to its end, milliseconds.
    #[serde(default)]
    pub lasted_ms: u64,
}

/// The outcome in a record. Of what is let out, answers of the gate, connections at the
/// gateway, and TLS connections whose name was read make a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowVerdict {
    /// Refused.
    Deny,
    /// Let through by monitor mode, or by a budget that only reports.
    WouldDeny,
    /// Allowed.
    Allow,
}

impl FlowVerdict {
    /// The word in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::WouldDeny => "would_deny",
            Self::Allow => "allow",
        }
    }
}

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address; IPv4 never in its mapped form.
    pub ip: IpAddr,
    /// The port; 0 where the protocol has none or it is not bound.
    pub port: u16,
}

impl Endpoint {
    fn known(addr: Addr, port: u16) -> Option<Self> {
        if addr == Addr::default() && port == 0 {
            return None;
        }
        let ip = IpAddr::from(addr);
        Some(Self { ip, port })
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(end: SocketAddr) -> Self {
        Self {
            ip: end.ip().to_canonical(),
            port: end.port(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => write!(f, "{}", self.ip),
            port => write!(f, "{}", SocketAddr::new(self.ip, port)),
        }
    }
}

/// A question at the gate, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsQuestion {
    /// The name, without the final dot.
    pub name: String,
    /// The record type, such as `A` or `TXT`.
    pub qtype: String,
    /// What the gate decided, such as `answered` or `over_budget`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// The response code, such as `noerror`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rcode: String,
    /// The addresses given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The shortest TTL given, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// The aliases that led to the data, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// What was taken out of the answer: addresses that the name may not stand for, and
    /// targets of HTTPS and SVCB records that the policy does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// The server that the answer, or the failure, came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// `cache`, `upstream` or `stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// From the query's arrival to its reply, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// Why it failed, or which budget was crossed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The deciding rule as the policy has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleText {
    /// Number of the rule in its generation.
    pub number: u32,
    /// The rule in one line.
    pub text: String,
    /// The `reason` that the policy gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The process behind a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Process id of the parent; 0 if not known.
    pub ppid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The task's own name for itself: 15 bytes that the program chose.
    pub comm: String,
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<PathBuf>,
    /// The parent's program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_exe: Option<PathBuf>,
}

/// The relation of `CLOCK_BOOTTIME` to the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootClock {
    boot_ns: u64,
    wall: Timestamp,
}

impl BootClock {
    /// `boot_ns` and `wall` are the same moment.
    pub const fn new(boot_ns: u64, wall: Timestamp) -> Self {
        Self { boot_ns, wall }
    }

    /// The calendar time of a `CLOCK_BOOTTIME` in nanoseconds.
    pub fn at(&self, boot_ns: u64) -> Timestamp {
        let delta = i128::from(boot_ns) - i128::from(self.boot_ns);
        let delta = i64::try_from(delta).unwrap_or(0);
        self.wall
            .checked_add(SignedDuration::from_nanos(delta))
            .unwrap_or(self.wall)
    }
}

/// What the daemon knows beyond the event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Name of the agent.
    pub agent: String,
    /// Names that lease the destination to this agent.
    pub names: Vec<String>,
    /// Text of the deciding rule, in the generation of the event.
    pub rule: Option<RuleText>,
    /// What `/proc` says of the process ([`crate::process::paths`]).
    pub paths: crate::process::Paths,
}

/// A question at the gate, as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateFlow {
    /// When.
    pub time: Timestamp,
    /// Name of the agent.
    pub agent: String,
    /// What was asked.
    pub question: DnsQuestion,
    /// Asked over TCP rather than UDP.
    pub tcp: bool,
    /// Who asked, as the gate saw it.
    pub source: Option<SocketAddr>,
    /// Generation of the policy that decided.
    pub generation: u32,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// Records of its kind kept back before this one.
    pub suppressed: u64,
}

impl FlowRecord {
    /// From what the kernel saw and the daemon knows.
    pub fn from_event(said: &NamedEvent, clock: &BootClock, known: Known) -> Self {
        let event = &said.flow;
        let user = match event.has_user() {
            true => Some(User {
                uid: event.uid,
                gid: event.gid,
                comm: comm(&event.comm),
            }),
            false => known.paths.user,
        };
        // Without its user a record would be shown to nobody, or to anybody.
        let process = event.has_task().then_some(user).flatten();
        let process = process.map(|user| ProcessRecord {
            pid: event.tgid,
            tid: event.pid,
            ppid: known.paths.ppid.unwrap_or(0),
            uid: user.uid,
            gid: user.gid,
            comm: user.comm,
            exe: known.paths.exe,
            parent_exe: known.paths.parent_exe,
        });
        Self {
            seq: 0,
            time: clock.at(event.boot_ns),
            agent: known.agent,
            verdict: match event.allowed() {
                true => FlowVerdict::Allow,
                false => verdict(event.monitored()),
            },
            reason: (!event.allowed()).then(|| event.reason()),
            hook: event.hook(),
            protocol: event.protocol().class(),
            protocol_number: event.protocol,
            source: Endpoint::known(event.source, event.source_port),
            dest: Endpoint::known(event.dest, event.dest_port),
            names: known.names,
            server_name: said.name().map(|name| name.escape_ascii().to_string()),
            dns: None,
            connection: None,
            rule: known.rule,
            generation: event.generation,
            process,
            cgroup: event.cgroup,
            socket_cookie: event.socket_cookie,
            detail: match event.hook() {
                Hook::SockCreate | Hook::Setsockopt => Some(event.detail),
                hook if hook.is_of_lsm() => Some(event.detail),
                _ => None,
            },
            suppressed: event.suppressed,
            traffic: None,
        }
    }

    /// From a question at the gate.
    pub fn from_gate(flow: GateFlow) -> Self {
        let protocol = match flow.tcp {
            true => Protocol::TCP,
            false => Protocol::UDP,
        };
        Self {
            seq: 0,
            time: flow.time,
            agent: flow.agent,
            verdict: flow.verdict,
            reason: flow.reason,
            hook: Hook::Dns,
            protocol: protocol.class(),
            protocol_number: protocol.number(),
            source: flow.source.map(Into::into),
            dest: None,
            names: Vec::new(),
            server_name: None,
            dns: Some(flow.question),
            connection: None,
            rule: None,
            generation: flow.generation,
            process: None,
            cgroup: 0,
            socket_cookie: 0,
            detail: None,
            suppressed: flow.suppressed,
            traffic: None,
        }
    }

    /// User id of the process, if there is one.
    pub fn uid(&self) -> Option<u32> {
        self.process.as_ref().map(|p| p.uid)
    }

    /// The record in one line, safe to show on a terminal; times in `zone`.
    pub fn line(&self, zone: &TimeZone) -> String {
        use fmt::Write as _;
        let time = self.time.to_zoned(zone.clone()).strftime("%H:%M:%S");
        let agent = printable(&self.agent);
        let verdict = self.verdict.as_str();
        let protocol = match self.protocol {
            _ if self.hook == Hook::SockCreate => "socket".to_owned(),
            _ if self.hook.is_of_lsm() => self.hook.as_str().to_owned(),
            ProtocolClass::Other => format!("proto-{}", self.protocol_number),
            class => class.as_str().to_owned(),
        };
        let mut line = format!("{time} {agent}  {verdict}  {protocol} ");
        // Writing to a String cannot fail.
        let _ = self.write_ends(&mut line);
        if let Some(connection) = &self.connection {
            let _ = connection.write(&mut line);
        }
        if let Some(reason) = self.reason {
            let _ = write!(line, "  {}", reason.as_str());
        }
        if let Some(rule) = &self.rule {
            let _ = write!(line, " [{}]", printable(&rule.text));
            if let Some(reason) = &rule.reason {
                let _ = write!(line, " ({})", printable(reason));
            }
        }
        if let Some(p) = &self.process {
            let _ = write!(line, "  {}[{}] uid {}", printable(&p.comm), p.pid, p.uid);
            if let Some(exe) = &p.exe {
                let _ = write!(line, " ({})", printable(&exe.to_string_lossy()));
            }
        }
        if let Some(traffic) = &self.traffic {
            let _ = write!(
                line,
                "  ended: {} bytes sent, {} received, {} ms",
                traffic.sent_bytes, traffic.received_bytes, traffic.lasted_ms
            );
        }
        if self.suppressed > 0 {
            let _ = write!(line, "  +{} more not shown", self.suppressed);
        }
        line
    }

    fn write_ends(&self, out: &mut String) -> fmt::Result {
        use fmt::Write as _;
        if let Some(q) = &self.dns {
            return q.write(out);
        }
        match (self.hook, self.detail) {
            (Hook::SockCreate, Some([family, kind])) => {
                let (kind, number) = (kind & 0xff, kind >> 8);
                return write!(out, "family {family} type {kind} protocol {number}");
            }
            (Hook::Setsockopt, Some([level, name])) => {
                return write!(out, "option level {level} name {name}");
            }
            (hook, Some(detail)) if hook.is_of_lsm() => return write_wall(out, hook, detail),
            _ => {}
        }
        if matches!(self.hook, Hook::Bind4 | Hook::Bind6) {
            out.push_str("listen ");
        } else if let Some(source) = self.source {
            write!(out, "{source} → ")?;
        }
        match self.dest {
            Some(dest) => write!(out, "{dest}")?,
            None => out.push('?'),
        }
        if !self.names.is_empty() {
            write!(out, " ({})", printable(&self.names.join(", ")))?;
        }
        if let Some(name) = &self.server_name {
            write!(out, " as {}", printable(name))?;
        }
        Ok(())
    }
}

/// What a wall of BPF LSM saw.
fn write_wall(out: &mut String, hook: Hook, [first, second]: [u32; 2]) -> fmt::Result {
    use fmt::Write as _;
    match hook {
        Hook::FileReceive if second == 2 => write!(out, "family {first} passed out"),
        Hook::FileReceive => write!(out, "family {first} passed in"),
        Hook::PtraceAccess | Hook::PtraceTraceme => write!(out, "process {first}"),
        Hook::SocketCreate => {
            let (kind, number) = (second & 0xff, second >> 8);
            write!(out, "family {first} type {kind} protocol {number}")
        }
        Hook::Bpf => write!(out, "command {first}"),
        Hook::Mount => write!(out, "flags {first:#x}"),
        Hook::FileOpen => out.write_str("a file of cgroupfs"),
        Hook::Clone => out.write_str("into another cgroup"),
        _ => out.write_str("refused"),
    }
}

impl DnsQuestion {
    /// `query api.example.com A → 192.0.2.1, 192.0.2.2`, or the code instead of addresses.
    fn write(&self, out: &mut String) -> fmt::Result {
        use fmt::Write as _;
        write!(
            out,
            "query {} {}",
            printable(&self.name),
            printable(&self.qtype)
        )?;
        if !self.addresses.is_empty() {
            out.push_str(" →");
            for (n, addr) in self.addresses.iter().enumerate() {
                write!(out, "{} {addr}", if n == 0 { "" } else { "," })?;
            }
        } else if !self.rcode.is_empty() {
            write!(out, " → {}", printable(&self.rcode))?;
        }
        if !self.left_out.is_empty() {
            write!(out, " without {}", printable(&self.left_out.join(", ")))?;
        }
        if let Some(detail) = &self.detail {
            write!(out, " ({})", printable(detail))?;
        }
        Ok(())
    }
}

const fn verdict(monitored: bool) -> FlowVerdict {
    match monitored {
        true => FlowVerdict::WouldDeny,
        false => FlowVerdict::Deny,
    }
}

fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Text that cannot drive a terminal or reorder its line: control characters (C0, DEL
/// and C1), line separators, direction marks and other invisible format characters are
/// written as `\u{..}`, and the backslash is doubled so that nothing can pose as one.
///
/// Task names, file names and DNS names are chosen by the program that is confined.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c == '\\' || is_unsafe(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Whether a character acts instead of showing.
pub(crate) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The closed enums as their words.
pub(crate) mod word {
    macro_rules! by_word {
        ($name:ident, $ty:ty, $what:literal) => {
            pub(super) mod $name {
                use serde::{Deserialize, Deserializer, Serializer, de::Error};

                #[allow(dead_code, reason = "one word is only read by itself")]
                pub(crate) fn serialize<S: Serializer>(v: &$ty, s: S) -> Result<S::Ok, S::Error> {
                    s.serialize_str(v.as_str())
                }

                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                    d: D,
                ) -> Result<$ty, D::Error> {
                    let word = std::borrow::Cow::<str>::deserialize(d)?;
                    let found = <$ty>::ALL.iter().find(|v| v.as_str() == word);
                    found.copied().ok_or_else(|| {
                        D::Error::custom(format!(concat!("`{}` is no ", $what), word))
                    })
                }
            }
        };
    }
    by_word!(reason, agent_common::Reason, "reason");

    /// The same for a word that may not be there.
    macro_rules! by_word_if_any {
        ($name:ident, $of:ident, $ty:ty) => {
            pub(crate) mod $name {
                use serde::{Deserialize, Deserializer, Serialize, Serializer};

                struct Word($ty);

                impl<'de> Deserialize<'de> for Word {
                    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                        super::$of::deserialize(d).map(Self)
                    }
                }

                pub(crate) fn serialize<S: Serializer>(
                    v: &Option<$ty>,
                    s: S,
                ) -> Result<S::Ok, S::Error> {
                    v.map(|word| word.as_str()).serialize(s)
                }

                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                    d: D,
                ) -> Result<Option<$ty>, D::Error> {
                    Ok(Option::<Word>::deserialize(d)?.map(|word| word.0))
                }
            }
        };
    }
    by_word_if_any!(reason_if_any, reason, agent_common::Reason);
    by_word_if_any!(
        protocol_if_any,
        protocol,
        agent_common::protocol::ProtocolClass
    );

    by_word!(hook, agent_common::Hook, "hook");
    by_word!(protocol, agent_common::protocol::ProtocolClass, "protocol");
}

#[cfg(test)]
pub(crate) mod tests;
