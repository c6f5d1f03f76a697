//! A policy file as it is written: typed, every value with its place, but not yet
//! judged. Names are not checked, groups not looked up, rules may contradict each other
//! ([`super::validate`] sees to that). The JSON Schema is made from these types.
//!
//! They are filled by [`super::read`] and not by serde's derived code, because that
//! stops at the first mistake; a test holds the keys of both together.

use super::diagnostic::Pos;
use super::name::MAX_NAME;
use super::ports::PortRange;
use super::rrtype;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

mod ask;
mod gateway;
mod identity;
mod inspect;
mod limits;
mod matching;
mod require;
mod sandbox;
pub use ask::{AskFile, AsksFile};
pub use gateway::{DoorFile, DoorsFile, GatewayFile, HttpFile, ProxyFile, ViaFile};
pub use identity::{DigestsFile, IdentityFile, KeysFile, PackagesFile};
pub use inspect::{InspectFile, PatternActionFile, PatternFile, RequestFile};
pub use limits::{IoFile, LimitsFile};
pub use matching::{MatchFile, SelectorFile};
pub use require::RequireFile;
pub use sandbox::{DbusFile, HomeFile, NetworkFile, OpeningsFile, ProjectFile, SandboxFile};

/// The only version of the policy language.
pub const VERSION: u32 = 1;

/// A value and where it is written.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Pos,
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A policy file of Exeat: which destinations each agent may reach. What no rule allows
/// is refused.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, title = "Exeat policy")]
pub struct PolicyFile {
    /// Version of the policy language: 1.
    #[schemars(extend("const" = VERSION))]
    pub version: At<u32>,
    /// The agents, by name. A name is also the name of a cgroup folder.
    #[schemars(default, schema_with = "agents_schema")]
    pub agents: BTreeMap<String, At<AgentFile>>,
    /// Named lists of rules that agents of any file may use.
    #[schemars(default, schema_with = "groups_schema")]
    pub groups: BTreeMap<String, At<Vec<At<RuleFile>>>>,
}

/// What one agent may reach. An agent without rules reaches nothing.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "agent")]
pub struct AgentFile {
    /// `enforce` (the default) refuses; `monitor` only reports what it would refuse.
    pub mode: Option<At<ModeFile>>,
    /// What the agent may reach.
    #[schemars(default)]
    pub allow: Vec<At<RuleFile>>,
    /// What it may not reach, even where an allow rule is narrower. In a deny rule,
    /// `protocol` and `ports` that are not said mean every protocol and every port.
    #[schemars(default)]
    pub deny: Vec<At<RuleFile>>,
    /// Which peers may connect to which local TCP ports of the agent.
    #[schemars(default)]
    pub listen: Vec<At<ListenFile>>,
    /// How Exeat's gate answers the agent's questions to the DNS.
    pub dns: Option<At<DnsFile>>,
    /// Which sockets of local services the agent sees: paths below `/run`, or `all`. Without
    /// it the agent sees none but those of its user.
    pub services: Option<At<ServicesFile>>,
    /// The agent's gateway, where programs may ask it for a way out themselves.
    pub gateway: Option<At<GatewayFile>>,
    /// Walls without which `exeat run` starts nothing; `exeat status --agent` lists them all.
    pub require: Option<At<RequireFile>>,
    /// Who is asked about a destination that no rule decides: `user`, `admin` or `nobody` (the
    /// default).
    pub ask: Option<At<AskFile>>,
    /// What the sandbox of `exeat run` leaves open, or `none` for no sandbox. Without it the
    /// sandbox is whole.
    pub sandbox: Option<At<SandboxFile>>,
    /// How much of the machine the agent may take, all of its runs together.
    pub limits: Option<At<LimitsFile>>,
    /// Which programs may be started as the agent; not said: any.
    pub identity: Option<At<IdentityFile>>,
    /// Programs and cgroups that are the agent's, however they were started.
    #[schemars(default, rename = "match")]
    pub matching: MatchFile,
}

/// Sockets of local services.
#[derive(Clone, Debug)]
pub enum ServicesFile {
    /// `all`.
    All,
    /// Paths as they are written.
    Paths(Vec<At<String>>),
}

impl JsonSchema for ServicesFile {
    fn schema_name() -> Cow<'static, str> {
        "services".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let path = serde_json::json!({ "type": "string", "pattern": "^/run/." });
        json_schema!({
            "description": "Paths below `/run`, or `all`.",
            "anyOf": [
                { "const": "all" },
                path,
                { "type": "array", "items": path }
            ]
        })
    }
}

/// What is done with a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "mode", rename_all = "lowercase")]
pub enum ModeFile {
    /// Refuse.
    Enforce,
    /// Report and let through.
    Monitor,
}

/// A destination: exactly one of `host`, `cidr` and `group`.
#[derive(Debug, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    rename = "rule",
    extend("oneOf" = [{"required": ["host"]}, {"required": ["cidr"]}, {"required": ["group"]}])
)]
pub struct RuleFile {
    /// A host name such as `api.example.com`, or a wildcard such as `*.example.com`: every
    /// name below `example.com` at any depth, but not `example.com` itself.
    pub host: Option<At<String>>,
    /// A network such as `10.20.0.0/16`, or one address.
    pub cidr: Option<At<String>>,
    /// The name of a group; its rules stand here in its place.
    pub group: Option<At<String>>,
    /// `tcp` when not said; in a deny rule, every protocol. `icmp` is also ICMPv6.
    pub protocol: Option<At<ProtocolFile>>,
    /// A port, a list of ports and ranges, or `all`. An allow rule for tcp or udp must
    /// say it; icmp has none.
    pub ports: Option<At<PortsFile>>,
    /// Of an allow rule with `host`: whether private, loopback and other special addresses
    /// stay in the answers of the DNS.
    pub private: Option<At<bool>>,
    /// Of an allow rule with `host`: types of DNS records that are answered besides A,
    /// AAAA, CNAME, HTTPS and SVCB.
    pub types: Option<At<TypesFile>>,
    /// Of an allow rule with `host`: `keep` leaves ECH keys and address hints in HTTPS and
    /// SVCB records.
    pub ech: Option<At<EchFile>>,
    /// Of an allow rule with `host` for tcp: `sni` reads the server name of every TLS
    /// connection on its ports, `none` of none; when not said, of those on port 443.
    pub tls: Option<At<TlsFile>>,
    /// Of an allow rule with `host` for udp that has port 443: `unchecked` says that the
    /// address is enough there. It must be said: names in QUIC are not read.
    pub quic: Option<At<QuicFile>>,
    /// Of an allow rule with `host` for tcp: `host` judges every plain HTTP request on its
    /// ports by its host, `none` none; when not said, those on port 80.
    pub http: Option<At<HttpFile>>,
    /// Of an allow rule for tcp: `gateway` lets connections out through Exeat's gateway, which
    /// may ask a proxy in its turn; when not said, they leave from the agent's own socket.
    pub via: Option<At<ViaFile>>,
    /// Of an allow rule with `host` for tcp on ports where the name in TLS counts: TLS ends at
    /// the gateway, which judges each request. Programs must trust the machine's own authority.
    pub inspect: Option<At<InspectFile>>,
    /// Why the rule is there; shown in events.
    #[schemars(length(max = super::validate::MAX_REASON))]
    pub reason: Option<At<String>>,
    /// Something in the rule could not be read and is reported already, so what seems to
    /// be missing may not be.
    #[schemars(skip)]
    pub broken: bool,
}

/// Peers that may connect to local TCP ports of the agent.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "listen_rule")]
pub struct ListenFile {
    /// The network or address of the peers.
    pub cidr: At<String>,
    /// The agent's own ports: a port, a list of ports and ranges, or `all`.
    pub ports: At<PortsFile>,
    /// Why the rule is there; shown in events.
    #[schemars(length(max = super::validate::MAX_REASON))]
    pub reason: Option<At<String>>,
}

/// A protocol that a rule can name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, JsonSchema)]
#[schemars(rename = "protocol", rename_all = "lowercase")]
pub enum ProtocolFile {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// Ports as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortsFile {
    /// `all`.
    All,
    /// Single ports and ranges, in the order of the file.
    Ranges(Vec<PortRange>),
}

impl JsonSchema for PortsFile {
    fn schema_name() -> Cow<'static, str> {
        "ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = serde_json::json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
        let text = serde_json::json!({
            "type": "string",
            "pattern": "^ *[0-9]{1,5} *(- *[0-9]{1,5} *)?$"
        });
        json_schema!({
            "description": "A port, a range such as \"4000-4010\", a list of both, or `all`.",
            "anyOf": [
                number,
                { "const": "all" },
                text,
                { "type": "array", "minItems": 1, "items": { "anyOf": [number, text] } }
            ]
        })
    }
}

/// Types of DNS records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypesFile(pub BTreeSet<u16>);

impl JsonSchema for TypesFile {
    fn schema_name() -> Cow<'static, str> {
        "types".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = rrtype::names().collect();
        let one = [
            serde_json::json!({ "enum": names }),
            serde_json::json!({ "type": "integer", "minimum": 1, "maximum": 65534 }),
        ];
        json_schema!({
            "description": "A type of DNS records by name or number, or a list of them.",
            "anyOf": [
                one[0],
                one[1],
                { "type": "array", "minItems": 1, "items": { "anyOf": one } }
            ]
        })
    }
}

/// What is done with ECH keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "ech", rename_all = "lowercase")]
pub enum EchFile {
    /// They stay in the answer.
    Keep,
}

/// Whether the name in a TLS ClientHello must be one that the policy allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "tls", rename_all = "lowercase")]
pub enum TlsFile {
    /// On every port of the rule.
    Sni,
    /// On none: the address is enough.
    None,
}

/// That names in QUIC are not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "quic", rename_all = "lowercase")]
pub enum QuicFile {
    /// The address is enough.
    Unchecked,
}

/// How Exeat's gate answers an agent's questions to the DNS.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "dns")]
pub struct DnsFile {
    /// The answer to a name that no rule allows; `refused` when not said.
    pub refuse: Option<At<RefuseFile>>,
    /// `validate`: answers of signed zones must pass DNSSEC validation.
    pub dnssec: Option<At<DnssecFile>>,
    /// What names below wildcards may cost, an hour and registered domain.
    pub budget: Option<At<BudgetFile>>,
    /// What happens beyond the budget; `block` when not said.
    pub over_budget: Option<At<OverBudgetFile>>,
}

/// The answer to a name that no rule allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "refuse", rename_all = "lowercase")]
pub enum RefuseFile {
    /// REFUSED.
    Refused,
    /// There is no such name.
    NxDomain,
}

/// What is done about DNSSEC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "dnssec", rename_all = "lowercase")]
pub enum DnssecFile {
    /// Answers of signed zones must be valid.
    Validate,
}

/// What happens beyond the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(rename = "over_budget", rename_all = "lowercase")]
pub enum OverBudgetFile {
    /// The question is refused and reported.
    Block,
    /// It is answered and reported.
    Report,
}

/// What names below wildcards may cost, an hour and registered domain.
#[derive(Clone, Default, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "budget")]
pub struct BudgetFile {
    /// Different names; 300 when not said.
    #[schemars(default, schema_with = "count_schema")]
    pub names: Option<At<u32>>,
    /// Bytes of names before the registered domain, as in `8192` or `8KiB`; 8 KiB when
    /// not said.
    #[schemars(default, schema_with = "bytes_schema")]
    pub bytes: Option<At<u32>>,
    /// Bits of entropy in those names; 24000 when not said.
    #[schemars(default, schema_with = "count_schema")]
    pub entropy_bits: Option<At<u32>>,
    /// Bits that the choice among names that were asked before may carry when they are asked
    /// upstream again; 24000 when not said.
    #[schemars(default, schema_with = "count_schema")]
    pub repeat_bits: Option<At<u32>>,
}

fn count_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })
}

fn bytes_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            { "type": "string", "pattern": "^[0-9]{1,10} ?(KiB|MiB)$" }
        ]
    })
}

fn name_pattern() -> String {
    format!("^[a-z0-9][a-z0-9._-]{{0,{}}}$", MAX_NAME - 1)
}

fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let value = generator.subschema_for::<T>();
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": name_pattern() },
        "additionalProperties": value,
    })
}

fn agents_schema(generator: &mut SchemaGenerator) -> Schema {
    named::<AgentFile>(generator)
}

fn groups_schema(generator: &mut SchemaGenerator) -> Schema {
    named::<Vec<RuleFile>>(generator)
}
