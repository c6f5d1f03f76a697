//! Policies: from YAML as people write it to the tables that verdicts are made from.
//!
//! ```text
//! text ─tree─► nodes with places ─read─► PolicyFile ─validate─► PolicySet ─compile─► Compiled
//! ```
//!
//! Only [`load`] touches the file system; nothing here knows the time.

pub mod ask;
pub mod autorun;
pub mod compile;
pub mod diagnostic;
mod dns;
pub mod file;
mod gateway;
mod host;
mod http;
pub mod identity;
mod inspect;
pub mod limits;
mod lint;
mod load;
pub mod matching;
mod model;
mod name;
mod names;
mod net;
mod pattern;
mod ports;
mod providers;
mod read;
pub mod require;
mod routes;
mod rrtype;
pub mod sandbox;
mod schema;
pub mod services;
mod suffix;
mod tls;
mod tree;
mod validate;
mod via;

#[cfg(test)]
mod tests;

pub use ask::Ask;
pub use compile::{Change, CompileError, Compiled};
pub use diagnostic::{Diagnostic, PolicyErrors, Pos};
pub use dns::{Answers, BudgetLimits, DnsPolicy, OverBudget, Refuse};
pub use gateway::GatewayPolicy;
pub use host::{HostError, HostName};
pub use http::Http;
pub use identity::Identity;
pub use inspect::{DataPattern, Inspect, RequestRule, path_glob};
pub use limits::{IoLimits, Limits};
pub use load::{PolicyText, load, load_with_texts, none_written, parse, parse_all};
pub use matching::MatchBy;
pub use model::{Origin, Policy, PolicySet, Rule, RuleProtocol, Selector, action_str, mode_str};
pub use name::{AgentName, NameError};
pub use names::{NameRule, NameRules};
pub use pattern::HostPattern;
pub use ports::{ALL_PORTS, PortRange};
pub use routes::{RouteRule, Routes, Shown};
pub use rrtype::{BASE_TYPES, type_name};
pub use sandbox::{Openings, Sandbox};
pub use schema::{SCHEMA_ID, schema};
pub use services::Services;
pub use suffix::registered_domain;
pub use tls::Tls;
pub use via::{ProxyRule, Via};
