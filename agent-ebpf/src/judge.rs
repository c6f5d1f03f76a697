//! The verdict as functions of their own for the verifier.
//!
//! Inlined into egress the two loops are verified once for every way of reaching them, and
//! the program passes the limit of a million instructions (6.18). A global function is
//! verified once, for any arguments (kernel 5.6, `btf_check_func_arg_match`), but takes
//! only five registers: so the query goes in as words, and the verdict comes out as one.

use agent_common::{
    Addr, Protocol, Reason,
    verdict::{self, Check, NO_RULE, Query, SetRef, Verdict},
};

use crate::agent::{Agent, KernelTables};

const ALLOW: u64 = 1 << 40;

/// A verdict as the word that functions give each other.
#[inline(always)]
pub(crate) fn pack(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Allow { rule, check } => ALLOW | (check as u64) << 32 | u64::from(rule),
        Verdict::Deny { reason, rule } => (reason.number() as u64) << 32 | u64::from(rule),
    }
}

/// The verdict of that word.
#[inline(always)]
pub(crate) fn unpack(word: u64) -> Verdict {
    let rule = word as u32;
    if word & ALLOW != 0 {
        return Verdict::Allow {
            rule,
            check: Check::from_number((word >> 32) as u8),
        };
    }
    Verdict::Deny {
        reason: Reason::from_number((word >> 32) as u8).unwrap_or(Reason::State),
        rule,
    }
}

#[inline(always)]
fn words(addr: &Addr) -> (u64, u64) {
    let [a, b, c, d] = addr.words();
    (
        u64::from(a) << 32 | u64::from(b),
        u64::from(c) << 32 | u64::from(d),
    )
}

#[inline(always)]
fn query(high: u64, low: u64, port: u64) -> Query {
    Query {
        addr: Addr::from_words([
            (high >> 32) as u32,
            high as u32,
            (low >> 32) as u32,
            low as u32,
        ]),
        port: port as u16,
        protocol: Protocol::new((port >> 16) as u8),
    }
}

#[inline(always)]
fn port_word(query: &Query) -> u64 {
    u64::from(query.port) | u64::from(query.protocol.number()) << 16
}

const NO_TABLES: Verdict = Verdict::Deny {
    reason: Reason::State,
    rule: NO_RULE,
};

/// [`verdict::judge`] on the tables of a bank.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_judge(bank: u64, high: u64, low: u64, port: u64) -> u64 {
    pack(match KernelTables::of(bank as u32) {
        Some(tables) => verdict::judge(&tables, &query(high, low, port)),
        None => NO_TABLES,
    })
}

/// [`verdict::judge_reply`] on the tables of a bank.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn exeat_judge_reply(bank: u64, high: u64, low: u64, port: u64) -> u64 {
    pack(match KernelTables::of(bank as u32) {
        Some(tables) => verdict::judge_reply(&tables, &query(high, low, port)),
        None => NO_TABLES,
    })
}

/// Judges a flow that the agent opens.
#[inline(always)]
pub(crate) fn forward(agent: &Agent, query: &Query) -> Verdict {
    let (high, low) = words(&query.addr);
    unpack(exeat_judge(
        u64::from(agent.bank),
        high,
        low,
        port_word(query),
    ))
}

/// Judges an answer on a connection that the agent accepted.
#[inline(always)]
pub(crate) fn reply(agent: &Agent, query: &Query) -> Verdict {
    let (high, low) = words(&query.addr);
    unpack(exeat_judge_reply(
        u64::from(agent.bank),
        high,
        low,
        port_word(query),
    ))
}

/// Judges a bind. Its programs are small, so this one is inlined.
#[inline(always)]
pub(crate) fn bind(agent: &Agent, protocol: Protocol, port: u16) -> Verdict {
    let listeners: SetRef = agent.info.listeners;
    match KernelTables::of(agent.bank) {
        Some(tables) => verdict::judge_bind(&tables, listeners, protocol, port),
        None => NO_TABLES,
    }
}
