//! HTTPS and SVCB records (RFC 9460) without what would lead a client around the gate.
//!
//! Kept are `mandatory`, `alpn`, `no-default-alpn` and `port`. Address hints go always:
//! they are addresses that nobody granted, and a client that gets none asks for A and AAAA.
//! The keys of Encrypted Client Hello go unless the rule keeps them: with them the name in
//! a TLS handshake cannot be checked. Keys that are not known go too, because nobody knows
//! where they lead.

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::{Mandatory, SvcParamKey, SvcParamValue};

/// What became of a record.
#[derive(Debug, PartialEq)]
pub(super) enum Stripped {
    /// Nothing had to go.
    Whole,
    /// This is left.
    Changed(SVCB),
    /// It may only be used with something that has to go.
    Useless,
}

/// The parameters that a client may have.
pub(super) fn strip(record: &SVCB, keep_ech: bool) -> Stripped {
    let keeps = |key: SvcParamKey| match key {
        SvcParamKey::Mandatory
        | SvcParamKey::Alpn
        | SvcParamKey::NoDefaultAlpn
        | SvcParamKey::Port => true,
        SvcParamKey::EchConfigList => keep_ech,
        _ => false,
    };
    let mut whole = true;
    let mut params = Vec::with_capacity(record.svc_params.len());
    for (key, value) in &record.svc_params {
        if !keeps(*key) {
            whole = false;
            continue;
        }
        let SvcParamValue::Mandatory(Mandatory(keys)) = value else {
            params.push((*key, value.clone()));
            continue;
        };
        // A hint that is mandatory is one that a client must understand, which it still
        // does. Anything else that is mandatory says "not without this".
        let hint = |key| matches!(key, SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint);
        if keys.iter().any(|key| !keeps(*key) && !hint(*key)) {
            return Stripped::Useless;
        }
        let left: Vec<_> = keys.iter().copied().filter(|key| keeps(*key)).collect();
        whole &= left.len() == keys.len();
        if !left.is_empty() {
            params.push((*key, SvcParamValue::Mandatory(Mandatory(left))));
        }
    }
    if whole {
        return Stripped::Whole;
    }
    Stripped::Changed(SVCB::new(
        record.svc_priority,
        record.target_name.clone(),
        params,
    ))
}

/// The name that the record leads to, if it is another than its owner. The root stands for
/// the owner in service mode, and for "there is no service" in alias mode.
pub(super) fn target(record: &SVCB) -> Option<&Name> {
    (!record.target_name.is_root()).then_some(&record.target_name)
}
