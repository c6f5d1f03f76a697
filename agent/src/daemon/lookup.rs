//! What an agent would be answered for a name: the gate's own judgement of a query that
//! nobody sent. Nothing is paid for and nothing is leased.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name as WireName, RData, Record, RecordType},
};

use super::{Shared, gates::Desk};
use crate::{
    control::{DnsRecord, DnsRemoved, DnsReport, Problem, protocol::Code},
    dns::{
        budget::WINDOW,
        clock,
        gate::{self, Asked, Backend as _, Granted, Judged, Outcome, Transport, Verdict},
        resolver::Answer,
    },
    leases::{CLIENT_TTL, canonical},
    policy::{HostName, HostPattern, Policy, Refuse, Selector},
};

/// Asks the desk of an agent.
pub(super) async fn report(
    shared: &Shared,
    agent: &str,
    name: &str,
    qtype: &str,
) -> Result<DnsReport, Problem> {
    let found = shared.with(|engine| {
        let entry = engine.agents.get(agent)?;
        Some((
            engine.gates.desk(entry.index)?,
            std::sync::Arc::clone(&entry.policy),
        ))
    });
    let Some((desk, policy)) = found else {
        return Err(Problem::new(
            Code::NoAgent,
            format!("there is no policy for an agent `{}`", agent.escape_debug()),
            "see `exeat status` for the agents that have one",
        ));
    };
    let (query, rtype) = query(name, qtype)?;
    let mut report = DnsReport {
        agent: agent.to_owned(),
        name: name.trim_end_matches('.').to_lowercase(),
        qtype: rtype.to_string(),
        rules: rules(&policy, name),
        ..DnsReport::default()
    };
    let judged = gate::judge(&query, Transport::Tcp, desk.refuse(), &|name| {
        desk.rule(name)
    });
    let outcome = match judged {
        Judged::Done(outcome) => outcome,
        Judged::Ask(asked) => look_up(&desk, &asked, &mut report).await,
    };
    tell(&mut report, &outcome, desk.refuse());
    Ok(report)
}

fn query(name: &str, qtype: &str) -> Result<(Vec<u8>, RecordType), Problem> {
    let bad = |what: String, help: &str| Problem::new(Code::BadRequest, what, help);
    let rtype: RecordType = qtype.to_ascii_uppercase().parse().map_err(|_| {
        bad(
            format!("`{}` is no record type", qtype.escape_debug()),
            "write one such as A, AAAA, HTTPS or TXT",
        )
    })?;
    let mut wire = WireName::from_utf8(name).map_err(|error| {
        bad(
            format!("`{}` is no name: {error}", name.escape_debug()),
            "write it as a program would ask for it, as in api.example.com",
        )
    })?;
    wire.set_fqdn(true);
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire, rtype));
    let bytes = message
        .to_vec()
        .map_err(|error| bad(format!("the question cannot be written: {error}"), ""))?;
    Ok((bytes, rtype))
}

/// The rules that name it, as text.
fn rules(policy: &Policy, name: &str) -> Vec<String> {
    let Some(name) = HostName::asked(name) else {
        return Vec::new();
    };
    let name = HostPattern::Exact(name);
    policy
        .rules
        .iter()
        .filter(|rule| match &rule.selector {
            Selector::Host(pattern) => pattern.covers(&name),
            Selector::Net(_) => false,
        })
        .map(ToString::to_string)
        .collect()
}

async fn look_up(desk: &Desk, asked: &Asked, report: &mut DnsReport) -> Outcome {
    let found = match desk.resolve(asked.question(desk.validate())).await {
        Ok(found) => found,
        Err(failed) => {
            report.upstream = Some(failed.upstream.to_string()).filter(|name| !name.is_empty());
            report.elapsed_us = u64::try_from(failed.elapsed.as_micros()).unwrap_or(u64::MAX);
            return gate::failed(asked, &failed);
        }
    };
    report.source = Some(found.source.as_str().to_owned());
    report.upstream = Some(found.upstream.to_string()).filter(|name| !name.is_empty());
    report.elapsed_us = u64::try_from(found.elapsed.as_micros()).unwrap_or(u64::MAX);
    report.chain = found.chain.iter().map(ToString::to_string).collect();
    if let Some(domain) = asked.rule.budget_of(&asked.name) {
        let (names, bytes, bits) = desk.spent(domain);
        report.why = format!(
            "a wildcard names it; in the last {} min this agent has used {names} names, {bytes} \
             bytes and {bits} bits of the budget of {domain}",
            WINDOW.as_secs() / 60
        );
    }
    gate::answer(asked, &found, &imagined(asked, &found), &|name| {
        desk.rule(name).is_some()
    })
}

/// What a grant would give if there is room.
fn imagined(asked: &Asked, found: &Answer) -> Granted {
    let mut granted = Granted::default();
    for (addr, _) in gate::addresses(asked, found) {
        match canonical(addr, asked.rule.private) {
            Some(addr) => granted.held.push((addr, CLIENT_TTL)),
            None => granted.rebound.push(addr),
        }
    }
    granted
}

fn tell(report: &mut DnsReport, outcome: &Outcome, refuse: Refuse) {
    let record = &outcome.record;
    report.verdict = record.verdict.as_str().to_owned();
    report.rcode = record.rcode.as_str().to_owned();
    let reply = outcome.reply.as_deref();
    let answers = reply
        .and_then(|bytes| Message::from_vec(bytes).ok())
        .map(|message| message.answers)
        .unwrap_or_default();
    report.records = answers.iter().map(shown).collect();
    report.removed = record
        .rebound
        .iter()
        .map(|address| DnsRemoved {
            address: *address,
            why: rebound(*address).to_owned(),
        })
        .collect();
    let why = match record.verdict {
        Verdict::Answered if report.why.is_empty() => "a rule names it",
        Verdict::Answered => return,
        Verdict::NoData if record.rcode == gate::Rcode::NxDomain => {
            "a rule names it, and the DNS says that there is no such name"
        }
        Verdict::NoData => "a rule names it, and there is no record of this type that may pass",
        Verdict::Rebind => {
            "a rule names it, but every address is one that the name may not stand for"
        }
        Verdict::Failed => match &record.detail {
            Some(detail) => {
                report.why = format!("a rule names it, but no server gave an answer: {detail}");
                return;
            }
            None => "a rule names it, but no server gave an answer",
        },
        Verdict::Refused => match (report.rules.is_empty(), refuse) {
            (true, _) => "no rule of this agent names it: nothing of it leaves the machine",
            (false, _) => {
                "a rule names it, but a deny rule refuses it or the type is not in its `types`"
            }
        },
        Verdict::Malformed | Verdict::Ignored => "the gate cannot read such a question",
        Verdict::Asked => "no rule names it, and a person is asked",
        Verdict::Denied => "no rule names it, and the person who was asked denied it",
        Verdict::OverBudget | Verdict::NoRoom | Verdict::Busy => "the gate has no room for it now",
    };
    report.why = why.to_owned();
}

fn rebound(address: IpAddr) -> &'static str {
    match canonical(address, true) {
        Some(_) => "private: the rule does not say `private: true`",
        None => "of this machine or link, or of nobody: no name may stand for it",
    }
}

fn shown(record: &Record) -> DnsRecord {
    let address = match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    DnsRecord {
        name: record.name.to_string().trim_end_matches('.').to_owned(),
        rtype: record.record_type().to_string(),
        ttl: record.ttl,
        data: record.data.to_string(),
        address,
        leased: None,
    }
}

/// Says of the addresses for how long the agent has them already.
pub(super) fn with_leases(shared: &Shared, report: &mut DnsReport) {
    let now = clock::now();
    shared.with(|engine| {
        let Some(entry) = engine.agents.get(&report.agent) else {
            return;
        };
        let name = crate::leases::Name::from(report.name.as_str());
        let held: Vec<_> = engine
            .leases
            .addresses(entry.index, &name, now)
            .filter(|view| entry.holds(view.addr, &name))
            .collect();
        for record in &mut report.records {
            let view = held.iter().find(|view| Some(view.addr) == record.address);
            record.leased = view.map(|view| view.remaining.as_secs());
        }
    });
}
