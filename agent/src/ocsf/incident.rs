//! Incidents, each kind in the class that says what it is.

use serde_json::{Value, json};

use super::{Activity, Base, Class, Device, Done, Fields, Severity, object, product, uid};
use crate::incident::{Incident, IncidentKind as K};

/// Words in the name of a fact whose value is nobody's to see. No incident has one; this is
/// for the day that somebody adds one without thinking.
const SECRETS: [&str; 5] = ["token", "secret", "password", "passphrase", "private_key"];

pub(super) fn fields(incident: &Incident, device: &Device) -> Fields {
    let (class, activity) = class(incident);
    let base = Base {
        class,
        activity,
        severity: severity(incident.kind),
        seq: incident.seq,
        time: incident.time,
        code: incident.kind.as_str(),
        message: &incident.message,
        done: done(incident.kind),
    };
    let mut event = base.fields(device);
    let failed = matches!(
        incident.kind,
        K::PolicyRefused | K::BundleRefused | K::WallMissing | K::EventsLost | K::LimitHit
    );
    let (id, word) = match failed {
        true => (2, "Failure"),
        false => (1, "Success"),
    };
    event.insert("status_id".into(), id.into());
    event.insert("status".into(), word.into());
    event.insert("status_code".into(), incident.kind.as_str().into());
    if let Some(actor) = actor(incident) {
        event.insert("actor".into(), actor);
    }
    event.extend(object(of_class(class, incident, device)));
    event.insert("unmapped".into(), unmapped(incident));
    event
}

fn class(incident: &Incident) -> (Class, Activity) {
    let of = |class, id, name| (class, Activity::new(id, name));
    match incident.kind {
        K::LimitHit | K::IdentityMismatch | K::UnknownProgram | K::Detected => {
            of(Class::Finding, 1, "Create")
        }
        K::Frozen | K::Isolated => of(Class::Remediation, 1, "Isolate"),
        K::Killed => of(Class::Remediation, 2, "Evict"),
        K::Thawed | K::Rejoined => of(Class::Remediation, 3, "Restore"),
        K::Adopted if incident.pid.is_some() => (Class::Process, Activity::other("Adopt")),
        K::Adopted => of(Class::Entity, 6, "Enroll"),
        K::Asked => (Class::Entity, Activity::other("Ask")),
        K::Answered => (Class::Entity, Activity::other("Answer")),
        K::Granted => of(Class::Entity, 1, "Create"),
        K::GrantEnded => of(Class::Entity, 4, "Delete"),
        K::WallMissing | K::PolicyLoaded | K::PolicyRefused => of(Class::ConfigState, 1, "Log"),
        K::BundleInstalled | K::BundleRefused | K::BundleRolledBack => {
            of(Class::ConfigState, 1, "Log")
        }
        K::DaemonStarted => of(Class::Lifecycle, 3, "Start"),
        K::DaemonStopped => of(Class::Lifecycle, 4, "Stop"),
        K::PortalOpened => of(Class::Entity, 1, "Create"),
        K::PortalClosed => of(Class::Entity, 4, "Delete"),
        K::ClockJumped | K::NetworkChanged => of(Class::ConfigState, 1, "Log"),
        K::EventsLost => of(Class::AppError, 1, "General Error"),
    }
}

const fn severity(kind: K) -> Severity {
    match kind {
        K::Killed | K::IdentityMismatch | K::WallMissing | K::Detected => Severity::High,
        K::LimitHit
        | K::Frozen
        | K::Isolated
        | K::UnknownProgram
        | K::PolicyRefused
        | K::BundleRefused
        | K::BundleRolledBack
        | K::PortalOpened
        | K::EventsLost => Severity::Medium,
        _ => Severity::Informational,
    }
}

const fn done(kind: K) -> Option<Done> {
    match kind {
        K::Frozen | K::Isolated | K::Killed => Some(Done::Isolated),
        K::Thawed | K::Rejoined => Some(Done::Restored),
        K::LimitHit | K::IdentityMismatch | K::UnknownProgram | K::Detected | K::WallMissing => {
            Some(Done::Alert)
        }
        _ => None,
    }
}

/// The agent, its process, and the user: of the process, or who asked for it.
fn actor(incident: &Incident) -> Option<Value> {
    let mut actor = json!({});
    if incident.is_of_agent() {
        actor["app_name"] = incident.agent.as_str().into();
    }
    if let Some(pid) = incident.pid {
        actor["process"] = json!({"pid": pid});
    }
    if let Some(uid) = incident.uid {
        actor["user"] = json!({"uid": uid.to_string()});
    }
    actor
        .as_object()
        .is_some_and(|actor| !actor.is_empty())
        .then_some(actor)
}

/// What the class asks for beyond what all have.
fn of_class(class: Class, incident: &Incident, device: &Device) -> Value {
    match class {
        Class::Finding => {
            let mut finding = json!({
                "finding_info": {
                    "uid": uid(incident.seq, incident.time, device),
                    "title": incident.kind.as_str(),
                    "desc": incident.message,
                    "created_time": incident.time.as_millisecond(),
                    "types": [incident.kind.as_str()],
                },
            });
            if let Some(rule) = incident.facts.get("rule").filter(|rule| !rule.is_empty()) {
                finding["finding_info"]["analytic"] =
                    json!({"type_id": 1, "type": "Rule", "name": rule});
            }
            if let Some(pid) = incident.pid {
                finding["evidences"] = json!([{"process": {"pid": pid}}]);
            }
            finding
        }
        Class::Remediation => {
            // No command has a number here: what was done to which agent is what is known.
            json!({"command_uid": format!("{}/{}", incident.kind, incident.agent)})
        }
        Class::Process => json!({
            "process": {"pid": incident.pid.unwrap_or(0)},
            // Whoever started it is not who is told of here: the daemon put it there.
            "actor": {"app_name": "exeat"},
        }),
        Class::Entity => json!({"entity": entity(incident)}),
        Class::ConfigState => config(incident),
        Class::Lifecycle => json!({"app": product(device)}),
        Class::Kernel | Class::Network | Class::Dns | Class::AppError => json!({}),
    }
}

/// A grant or a question is a piece of policy; an adopted agent is an entity of its own.
fn entity(incident: &Incident) -> Value {
    let fact = |key: &str| incident.facts.get(key).filter(|value| !value.is_empty());
    match incident.kind {
        K::Adopted => json!({"name": incident.agent, "type_id": 99, "type": "Agent"}),
        kind => {
            let mut entity = json!({"name": incident.agent, "type_id": 5, "type": "Policy"});
            let id = match kind {
                K::Granted | K::GrantEnded => fact("grant").or_else(|| fact("id")),
                _ => fact("question").or_else(|| fact("id")),
            };
            if let Some(id) = id {
                entity["uid"] = id.as_str().into();
            }
            entity
        }
    }
}

fn config(incident: &Incident) -> Value {
    match incident.kind {
        K::WallMissing => json!({
            "state_id": 1,
            "state": "Disabled",
            "security_level_id": 2,
            "security_level": "At Risk",
            "security_states": [{"state_id": 4, "state": "Protection off"}],
        }),
        K::PolicyRefused | K::BundleRefused => json!({
            "state_id": 99,
            "state": "Refused",
            "security_states": [{"state_id": 2, "state": "Policy mismatch"}],
        }),
        _ => json!({"state_id": 2, "state": "Enabled"}),
    }
}

fn unmapped(incident: &Incident) -> Value {
    let mut rest = object(json!({"kind": incident.kind.as_str()}));
    if incident.is_of_agent() {
        rest.insert("agent".into(), incident.agent.as_str().into());
    }
    if let Some(run) = &incident.run {
        rest.insert("run".into(), run.as_str().into());
    }
    if !incident.facts.is_empty() {
        let facts: Fields = incident.facts.iter().map(shown).collect();
        rest.insert("facts".into(), facts.into());
    }
    rest.into()
}

fn shown((key, value): (&String, &String)) -> (String, Value) {
    let lower = key.to_ascii_lowercase();
    let secret = SECRETS.iter().any(|word| lower.contains(word));
    let value = if secret { "(withheld)" } else { value.as_str() };
    (key.clone(), value.into())
}
