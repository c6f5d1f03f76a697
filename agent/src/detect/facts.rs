//! What the expressions see of a record: the same names for every kind, with an empty value where
//! a record has none, so that no expression fails for what is absent.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Value};

use crate::dns::budget::entropy_bits;
use crate::flow::FlowRecord;
use crate::incident::Incident;
use crate::policy::registered_domain;
use crate::sink::Record;

/// Names of variables that are of the record.
pub(super) const NAMES: [&str; 21] = [
    "kind",
    "agent",
    "time",
    "verdict",
    "reason",
    "hook",
    "protocol",
    "destination",
    "domain",
    "address",
    "port",
    "names",
    "question",
    "qtype",
    "program",
    "comm",
    "uid",
    "sent_bytes",
    "received_bytes",
    "suppressed",
    "facts",
];

/// Functions beside those of CEL.
pub(super) const FUNCTIONS: [&str; 2] = ["entropy", "registered_domain"];

/// A context with what every rule may call.
pub(super) fn context<'a>(env: &Arc<Env>) -> Context<'a, 'a> {
    let mut context = Context::with_env(Arc::clone(env));
    // They fail only for names that the standard library has, and a test calls both.
    let _ = context.add_function("entropy", |text: Arc<String>| -> i64 {
        entropy_bits(&text).into()
    });
    let _ = context.add_function("registered_domain", |name: Arc<String>| -> Arc<String> {
        Arc::new(registered_domain(&name).to_owned())
    });
    context
}

/// Puts a record's facts into the context; gives back what it is about, for people.
pub(super) fn put(context: &mut Context<'_, '_>, record: &Record) {
    match record {
        Record::Flow(flow) => put_flow(context, flow),
        Record::Incident(incident) => put_incident(context, incident),
    }
}

/// The far end as people know it: the name that was asked for, said or leased, else the address.
pub(super) fn destination(flow: &FlowRecord) -> String {
    let asked = flow.dns.as_ref().map(|question| question.name.clone());
    asked
        .or_else(|| flow.server_name.clone())
        .or_else(|| flow.names.first().cloned())
        .or_else(|| flow.dest.map(|dest| dest.ip.to_string()))
        .unwrap_or_default()
}

fn put_flow(context: &mut Context<'_, '_>, flow: &FlowRecord) {
    let destination = destination(flow);
    let is_name = destination.parse::<std::net::IpAddr>().is_err();
    let domain = match is_name {
        true => registered_domain(&destination).to_owned(),
        false => String::new(),
    };
    let process = flow.process.as_ref();
    let exe = process.and_then(|process| process.exe.as_ref());
    let traffic = flow.traffic.unwrap_or_default();
    let question = flow.dns.as_ref();
    let text = |text: &str| Value::from(text.to_owned());
    let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let kind = match question {
        Some(_) => "dns",
        None => "flow",
    };
    let all: [(&str, Value); NAMES.len()] = [
        ("kind", text(kind)),
        ("agent", text(&flow.agent)),
        ("time", Value::Int(flow.time.as_second())),
        ("verdict", text(flow.verdict.as_str())),
        ("reason", text(flow.reason.map_or("", |r| r.as_str()))),
        ("hook", text(flow.hook.as_str())),
        ("protocol", text(flow.protocol.as_str())),
        ("domain", Value::from(domain)),
        (
            "address",
            Value::from(
                flow.dest
                    .map(|dest| dest.ip.to_string())
                    .unwrap_or_default(),
            ),
        ),
        ("port", number(flow.dest.map_or(0, |dest| dest.port.into()))),
        ("names", Value::from(flow.names.clone())),
        ("question", text(question.map_or("", |q| &q.name))),
        ("qtype", text(question.map_or("", |q| &q.qtype))),
        (
            "program",
            Value::from(exe.map(|exe| exe.display().to_string()).unwrap_or_default()),
        ),
        ("comm", text(process.map_or("", |p| &p.comm))),
        (
            "uid",
            process.map_or(Value::Int(-1), |p| number(p.uid.into())),
        ),
        ("sent_bytes", number(traffic.sent_bytes)),
        ("received_bytes", number(traffic.received_bytes)),
        ("suppressed", number(flow.suppressed)),
        ("facts", Value::from(HashMap::<String, String>::new())),
        ("destination", Value::from(destination)),
    ];
    for (name, value) in all {
        context.add_variable_from_value(name, value);
    }
}

fn put_incident(context: &mut Context<'_, '_>, incident: &Incident) {
    let text = |text: &str| Value::from(text.to_owned());
    let facts: HashMap<String, String> = incident.facts.clone().into_iter().collect();
    let said = |fact: &str| text(incident.facts.get(fact).map_or("", String::as_str));
    for name in NAMES {
        let value = match name {
            "kind" => text(incident.kind.as_str()),
            "agent" => text(&incident.agent),
            "time" => Value::Int(incident.time.as_second()),
            "verdict" => said("outcome"),
            "destination" => said("subject"),
            "uid" => Value::Int(incident.uid.map_or(-1, i64::from)),
            "port" | "sent_bytes" | "received_bytes" | "suppressed" => Value::Int(0),
            "names" => Value::from(Vec::<String>::new()),
            "facts" => Value::from(facts.clone()),
            _ => text(""),
        };
        context.add_variable_from_value(name, value);
    }
}
