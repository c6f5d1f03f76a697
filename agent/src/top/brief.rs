//! A record in the few columns that a pane has: what for first, by whom last.

use agent_common::Hook;
use agent_common::protocol::ProtocolClass;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::flow::{FlowRecord, FlowVerdict, printable};
use crate::incident::Incident;

/// A line of the pane of refusals and incidents. Its texts are safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// When.
    pub time: Timestamp,
    /// Name of the agent.
    pub agent: String,
    /// The verdict, or what kind of incident.
    pub word: &'static str,
    /// Whether a flow, refused or almost; or an incident, of a quiet day or not.
    pub weight: Weight,
    /// The rest.
    pub text: String,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Refused.
    Refused,
    /// Would have been refused, or an incident that wants to be looked at.
    Look,
    /// An incident of a quiet day.
    Routine,
}

impl Brief {
    /// A flow that was refused, or would have been; none of an allowed one.
    pub fn of_flow(flow: &FlowRecord) -> Option<Self> {
        let weight = match flow.verdict {
            FlowVerdict::Allow => return None,
            FlowVerdict::Deny => Weight::Refused,
            FlowVerdict::WouldDeny => Weight::Look,
        };
        let mut parts = vec![what(flow)];
        parts.extend(flow.reason.map(|reason| reason.as_str().to_owned()));
        parts.extend(flow.process.as_ref().map(|process| {
            let exe = process.exe.as_ref().and_then(|exe| exe.file_name());
            match exe {
                Some(exe) => format!("{}[{}]", printable(&exe.to_string_lossy()), process.pid),
                None => format!("{}[{}]", printable(&process.comm), process.pid),
            }
        }));
        if flow.suppressed > 0 {
            parts.push(format!("+{} more", flow.suppressed));
        }
        Some(Self {
            time: flow.time,
            agent: printable(&flow.agent).into_owned(),
            word: flow.verdict.as_str(),
            weight,
            text: parts.join("  "),
        })
    }

    /// An incident.
    pub fn of_incident(incident: &Incident) -> Self {
        Self {
            time: incident.time,
            agent: printable(&incident.agent).into_owned(),
            word: incident.kind.as_str(),
            weight: match incident.kind.is_routine() {
                true => Weight::Routine,
                false => Weight::Look,
            },
            text: printable(&incident.message).into_owned(),
        }
    }

    /// The time of day.
    pub fn clock(&self, zone: &TimeZone) -> String {
        clock(self.time, zone)
    }
}

/// The time of day.
pub(super) fn clock(time: Timestamp, zone: &TimeZone) -> String {
    let time = time.to_zoned(zone.clone());
    time.strftime("%H:%M:%S").to_string()
}

fn what(flow: &FlowRecord) -> String {
    if let Some(dns) = &flow.dns {
        return format!("query {} {}", printable(&dns.name), printable(&dns.qtype));
    }
    let protocol = match flow.protocol {
        ProtocolClass::Other => format!("proto-{}", flow.protocol_number),
        class => class.as_str().to_owned(),
    };
    let end = match (flow.hook, flow.dest) {
        (Hook::Bind4 | Hook::Bind6, Some(end)) => format!("{protocol} listen {end}"),
        (_, Some(end)) => format!("{protocol} {end}"),
        // A wall, a socket that may not be made: there is no far end.
        (hook, None) => hook.as_str().to_owned(),
    };
    let name = flow.server_name.as_ref().or(flow.names.first());
    match name {
        Some(name) => format!("{end} ({})", printable(name)),
        None => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::DnsQuestion;
    use crate::flow::tests::record;

    #[test]
    fn a_refusal_says_what_for_and_by_whom() {
        let brief = Brief::of_flow(&record()).expect("a refusal");
        assert_eq!(brief.text, "tcp 203.0.113.9:443  no_rule  curl[1234]");
        assert_eq!((brief.word, brief.weight), ("deny", Weight::Refused));
        assert_eq!(brief.clock(&TimeZone::UTC), "12:00:01");
        let mut allowed = record();
        allowed.verdict = FlowVerdict::Allow;
        assert_eq!(Brief::of_flow(&allowed), None);
    }

    #[test]
    fn what_programs_chose_cannot_drive_the_terminal() {
        let mut flow = record();
        flow.names = vec!["a\u{1b}[2Jb".into()];
        flow.agent = "x\u{202e}y".into();
        let process = flow.process.as_mut().expect("a process");
        process.exe = None;
        process.comm = "\u{9b}31m".into();
        let by_name = Brief::of_flow(&flow).expect("a refusal");
        flow.dns = Some(DnsQuestion {
            name: "q\n\u{7f}".into(),
            qtype: "TXT\r".into(),
            ..DnsQuestion::default()
        });
        let by_query = Brief::of_flow(&flow).expect("a refusal");
        for brief in [by_name, by_query] {
            for text in [&brief.text, &brief.agent] {
                assert!(!text.chars().any(crate::flow::is_unsafe), "{text:?}");
            }
        }
    }
}
