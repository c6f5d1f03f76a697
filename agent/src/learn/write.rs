//! Rules as text, with why each is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use super::lesson::{Lesson, Seen, Target};
use super::suspect::{Suspicion, of_name, suspicions};
use crate::leases::guard;
use crate::policy::{HostName, registered_domain};

/// Names below one domain from which on a wildcard is mentioned.
const MANY: usize = 5;

/// What is to be put into a policy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Items of `allow:`, each with its comments; lines without indentation.
    pub rules: Vec<String>,
    /// What else was seen, as comments; lines without indentation.
    pub notes: Vec<String>,
    /// What a person should look at.
    pub flags: Vec<String>,
}

/// What the rules are made by.
#[derive(Debug, Default)]
pub struct How<'a> {
    /// Names that were only asked for get a rule with this port; else they are a comment.
    pub assumed_port: Option<u16>,
    /// Destinations that the history knows from before, where there is one.
    pub known: Option<&'a BTreeSet<String>>,
}

/// One rule before it is written: a target, a protocol, and every port that was seen of it.
struct Draft {
    ports: Vec<u16>,
    seen: Seen,
}

/// Writes what was learned.
pub fn write(lesson: &Lesson, how: &How<'_>) -> Written {
    let mut written = Written::default();
    let mut drafts: BTreeMap<(Target, &str), Draft> = BTreeMap::new();
    for (want, seen) in &lesson.wants {
        let key = (want.target.clone(), want.protocol);
        match drafts.get_mut(&key) {
            None => {
                let draft = Draft {
                    ports: vec![want.port],
                    seen: seen.clone(),
                };
                drafts.insert(key, draft);
            }
            Some(draft) => {
                draft.ports.push(want.port);
                add(&mut draft.seen, seen);
            }
        }
    }
    let mut asked: BTreeMap<&HostName, (Seen, BTreeSet<&str>)> = BTreeMap::new();
    for ((name, qtype), seen) in &lesson.asked {
        let known = asked.entry(name);
        let (all, types) = known.or_insert_with(|| (seen.clone(), BTreeSet::new()));
        if !types.is_empty() {
            add(all, seen);
        }
        types.insert(qtype);
    }
    let named: BTreeSet<HostName> = drafts
        .keys()
        .filter_map(|(target, _)| match target {
            Target::Name(name) => Some(name.clone()),
            Target::Address(_) => None,
        })
        .collect();
    for ((target, protocol), draft) in &drafts {
        rule(&mut written, target, protocol, draft, how);
    }
    for (name, (seen, types)) in asked.iter().filter(|(name, _)| !named.contains(**name)) {
        only_asked(&mut written, name, seen, types, how);
    }
    wildcards(&mut written, named.iter().chain(asked.keys().copied()));
    notes(&mut written, lesson);
    written
}

fn add(all: &mut Seen, more: &Seen) {
    all.count += more.count;
    all.first = all.first.min(more.first);
    all.last = all.last.max(more.last);
    for (program, count) in &more.programs {
        *all.programs.entry(program.clone()).or_default() += count;
    }
    all.addresses.extend(&more.addresses);
    all.others.extend(more.others.iter().cloned());
    all.only_said &= more.only_said;
}

fn rule(written: &mut Written, target: &Target, protocol: &str, draft: &Draft, how: &How<'_>) {
    let Draft { ports, seen } = draft;
    let mut flags = suspicions(target, protocol, ports, seen);
    flags.extend(is_new(target, how));
    let mut text = comments(seen);
    if !seen.others.is_empty() {
        let others: Vec<&str> = seen.others.iter().map(String::as_str).collect();
        let _ = writeln!(text, "# the same address is also {}", others.join(", "));
    }
    flag(&mut text, &mut written.flags, target, &flags);
    match target {
        Target::Name(name) => {
            let _ = writeln!(text, "- host: {}", scalar(name.as_str()));
        }
        Target::Address(address) => {
            let _ = writeln!(text, "- cidr: \"{address}\"");
        }
    }
    if protocol != "tcp" {
        let _ = writeln!(text, "  protocol: {protocol}");
    }
    if protocol != "icmp" {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let _ = writeln!(text, "  ports: [{}]", ports.join(", "));
    }
    if matches!(target, Target::Name(_)) {
        let private = |address| {
            guard::canonical(address, false).is_none() && guard::canonical(address, true).is_some()
        };
        if let Some(address) = seen.addresses.iter().find(|address| private(**address)) {
            let _ = writeln!(text, "  private: true   # it stands for {address}");
        }
        if flags.contains(&Suspicion::Quic) {
            text.push_str("  quic: unchecked\n");
        }
    }
    let _ = writeln!(
        text,
        "  reason: learned on {}",
        seen.last.strftime("%Y-%m-%d")
    );
    written.rules.push(text);
}

/// A name that was asked for and refused: which port was wanted is not known.
fn only_asked(
    written: &mut Written,
    name: &HostName,
    seen: &Seen,
    types: &BTreeSet<&str>,
    how: &How<'_>,
) {
    const ADDRESSES: [&str; 4] = ["A", "AAAA", "HTTPS", "SVCB"];
    let target = Target::Name(name.clone());
    let others: Vec<&str> = types
        .iter()
        .filter(|t| !ADDRESSES.contains(t))
        .copied()
        .collect();
    let mut flags = of_name(name.as_str());
    flags.extend(is_new(&target, how));
    let mut text = comments(seen);
    if !others.is_empty() {
        let _ = writeln!(
            text,
            "# asked for {}: `types:` would answer that",
            others.join(", ")
        );
    }
    flag(&mut text, &mut written.flags, &target, &flags);
    let port = match types.len() > others.len() {
        true => how.assumed_port,
        false => None,
    };
    let (mark, port) = match port {
        Some(port) => ("", port.to_string()),
        None => ("# ", "PORT".to_owned()),
    };
    let why = match mark {
        "" => "# asked for by name and refused: the port was not seen, it is assumed\n",
        _ => {
            "# asked for by name and refused, so no port was seen: give one (or --assume-port 443)\n"
        }
    };
    text.push_str(why);
    let _ = writeln!(text, "{mark}- host: {}", scalar(name.as_str()));
    let _ = writeln!(text, "{mark}  ports: [{port}]");
    match mark {
        "" => {
            let _ = writeln!(
                text,
                "  reason: learned on {}",
                seen.last.strftime("%Y-%m-%d")
            );
            written.rules.push(text);
        }
        _ => written.notes.push(text),
    }
}

fn is_new(target: &Target, how: &How<'_>) -> Option<Suspicion> {
    let known = how.known?;
    (!known.contains(&target.to_string())).then_some(Suspicion::New)
}

fn flag(text: &mut String, all: &mut Vec<String>, target: &Target, flags: &[Suspicion]) {
    for flag in flags {
        let _ = writeln!(text, "# LOOK: {flag}");
        all.push(format!("{target}: {flag}"));
    }
}

fn comments(seen: &Seen) -> String {
    let mut programs: Vec<(&String, &u64)> = seen.programs.iter().collect();
    programs.sort_by_key(|(program, count)| (std::cmp::Reverse(**count), *program));
    let programs: Vec<String> = programs
        .iter()
        .map(|(program, count)| match programs.len() {
            1 => (*program).clone(),
            _ => format!("{program} ({count})"),
        })
        .collect();
    let times = match seen.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    let when = match seen.first == seen.last {
        true => format!("on {}", moment(seen.first)),
        false => format!("from {} to {}", moment(seen.first), moment(seen.last)),
    };
    format!("# {}: {times}, {when}\n", programs.join(", "))
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A name as YAML takes for text and for nothing else.
fn scalar(name: &str) -> String {
    let plain = name.contains('.')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.ends_with(|c: char| c.is_ascii_lowercase());
    match plain {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    }
}

/// Many names below one domain: said, and left to a person.
fn wildcards<'a>(written: &mut Written, names: impl Iterator<Item = &'a HostName>) {
    let mut below: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        let domain = registered_domain(name.as_str());
        if domain != name.as_str() {
            below.entry(domain).or_default().insert(name.as_str());
        }
    }
    for (domain, names) in below.iter().filter(|(_, names)| names.len() >= MANY) {
        let some: Vec<&str> = names.iter().take(MANY).copied().collect();
        let more = match names.len() - some.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        written.notes.push(format!(
            "# {} names below {domain} were seen ({}{more}).\n\
             # One rule with `host: \"*.{domain}\"` would stand for them, and for every other name there:\n\
             # whoever owns the domain, or may add names to it, could be reached.\n",
            names.len(),
            some.join(", "),
        ));
    }
}

fn notes(written: &mut Written, lesson: &Lesson) {
    for (server, seen) in &lesson.servers {
        written.notes.push(format!(
            "# DNS server {server}, {} times: needs no rule, questions of an enforced agent go to Exeat's gate\n",
            seen.count
        ));
    }
    for (what, seen) in &lesson.closed {
        let who = comments(seen);
        written.notes.push(format!(
            "# no rule proposed: {what}\n{}",
            who.replace("# ", "#   ")
        ));
    }
    for (count, what) in [
        (
            lesson.kept_back,
            "records were kept back by the throttle: what they were is not known",
        ),
        (
            lesson.left_out,
            "records were beyond what is remembered, and are not in here",
        ),
    ] {
        if count > 0 {
            written.notes.push(format!("# {count} {what}\n"));
            written.flags.push(format!("{count} {what}"));
        }
    }
}
