//! What a notification says, and what its buttons mean.
//!
//! Names, paths and task names are chosen by the program that asks. They come out in letters,
//! digits and plain signs only: no markup, no line of their own making, no sign that turns the
//! direction of writing, and no name in letters that look like others.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use unicode_security::{RestrictionLevel, RestrictionLevelDetection as _, skeleton};

use crate::asking::{Breadth, Choice, Lasts, Question, Ruling, Subject};

/// Characters of a name that are shown; the registered domain has a line of its own besides.
const NAME: usize = 64;
/// Characters of a registered domain that are shown.
const DOMAIN: usize = 80;
/// Characters of a path that are shown.
const PATH: usize = 60;
/// Seconds of "for an hour".
const HOUR: u64 = 3600;

/// A button.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Button {
    /// Not now, and no more questions of this kind from this run.
    Deny,
    /// For what waits.
    Once,
    /// Until the run ends.
    Run,
    /// For an hour.
    Hour,
    /// Until it is revoked.
    Always,
}

impl Button {
    /// Those that a question has, in the order that they are shown in.
    pub fn of(question: &Question) -> Vec<Self> {
        // Some desktops show the first three only, or as many as there is room for.
        let all = [Self::Deny, Self::Once, Self::Run, Self::Hour, Self::Always];
        all.into_iter()
            .filter(|button| *button != Self::Run || question.run.is_some())
            .collect()
    }

    /// What is written on it: the notification asks "May … reach …?".
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Once => "Once",
            Self::Run => "This run",
            Self::Hour => "1 hour",
            Self::Always => "Always",
        }
    }

    /// The answer: what it allows is never more than what the notification names. A denial
    /// holds for the run, or an hour: asking again until somebody gives in must not be free.
    pub fn choice(self, question: &Question) -> Choice {
        let (ruling, lasts) = match self {
            Self::Deny if question.run.is_some() => (Ruling::Deny, Lasts::Run),
            Self::Deny => (Ruling::Deny, Lasts::For { seconds: HOUR }),
            Self::Once => (Ruling::Allow, Lasts::Once),
            Self::Run => (Ruling::Allow, Lasts::Run),
            Self::Hour => (Ruling::Allow, Lasts::For { seconds: HOUR }),
            Self::Always => (Ruling::Allow, Lasts::Always),
        };
        let breadth = match (ruling, &question.subject) {
            // A name is denied whole: without its look-up no port of it is reached.
            (Ruling::Deny, Subject::Name { .. }) => Breadth::This,
            _ => narrowest(question),
        };
        Choice {
            ruling,
            lasts,
            breadth,
        }
    }
}

/// The least that lets what was asked about go on.
pub fn narrowest(question: &Question) -> Breadth {
    match question.port {
        Some(port) => Breadth::Port { port },
        None => Breadth::This,
    }
}

/// What a server can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Can {
    /// Buttons.
    pub actions: bool,
    /// Anything below the first line.
    pub body: bool,
    /// Bold print, and so entities.
    pub markup: bool,
}

/// The texts of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The first line: never markup.
    pub summary: String,
    /// The rest, as the server reads it.
    pub body: String,
}

/// The text for a question. `closed` is why it cannot be answered here, where it cannot.
pub fn text(question: &Question, can: Can, closed: Option<&str>, zone: &TimeZone) -> Text {
    let bold = |text: &str| match can.markup {
        true => format!("<b>{}</b>", escape(text)),
        false => text.to_owned(),
    };
    let plain = |text: &str| match can.markup {
        true => escape(text),
        false => text.to_owned(),
    };
    let agent = cut(&clean(&question.agent), 40);
    let what = subject(question);
    let mut lines = Vec::new();
    let mut first = bold(&what.name);
    if let Some(port) = question.port {
        let _ = write!(first, ", port {port}");
    }
    if let Some(protocol) = question.protocol {
        let _ = write!(first, " {}", plain(protocol.as_str()));
    }
    lines.push(first);
    if let Some(domain) = &what.domain {
        lines.push(format!("Site: {}", bold(domain)));
    }
    if let Some(note) = &what.note {
        lines.push(plain(note));
    }
    if let Some(process) = &question.process {
        let comm = cut(&clean(&process.comm), 20);
        let mut by = format!("Asked for by {comm}, process {}", process.pid);
        if let Some(exe) = &process.exe {
            let _ = write!(by, ": {}", cut(&clean(&exe.to_string_lossy()), PATH));
        }
        lines.push(plain(&by));
    }
    let until = question.expires.to_zoned(zone.clone()).strftime("%H:%M:%S");
    let mut end = format!("Denied at {until} if nobody answers");
    if question.waiting > 1 {
        let _ = write!(end, "; {} wait", question.waiting);
    }
    lines.push(end);
    let id = clean(&question.id);
    match closed {
        Some(why) => {
            lines.push(plain(&format!("Not to be answered here: {}", clean(why))));
            lines.push(plain(&format!("In a terminal: exeat ask allow {id}")));
        }
        None if !can.actions => {
            lines.push(plain(&format!(
                "In a terminal: exeat ask allow {id}, or exeat ask deny {id}"
            )));
        }
        None => {}
    }
    let mut summary = format!("May {agent} reach {}?", what.short);
    if !can.body {
        let _ = write!(summary, " exeat ask allow {id}");
    }
    Text {
        summary,
        body: lines.join("\n"),
    }
}

/// A destination as it is shown.
struct Shown {
    /// For the first line.
    short: String,
    /// Its own name.
    name: String,
    /// The registered domain, if that is not the name.
    domain: Option<String>,
    /// What a person should know of it.
    note: Option<String>,
}

fn subject(question: &Question) -> Shown {
    let name = match &question.subject {
        Subject::Address { address } => {
            return Shown {
                short: address.to_string(),
                name: address.to_string(),
                domain: None,
                note: Some("A bare address: nobody can say whose it is".to_owned()),
            };
        }
        Subject::Name { name } => name,
    };
    let domain = question.domain.as_deref();
    let cleaned = clean(name);
    let mut shown = cut(&cleaned, NAME);
    // What is left out is never of the end that says whose name it is.
    if let Some(domain) = domain
        && cleaned.chars().count() > NAME
        && let Some(below) = cleaned.strip_suffix(&clean(domain))
    {
        let room = NAME.saturating_sub(domain.chars().count()).max(16);
        shown = format!("{}{}", cut(below, room), cut(&clean(domain), DOMAIN));
    }
    let (unicode, note) = readable(name);
    if let Some(unicode) = unicode {
        shown = format!("{shown} ({})", cut(&unicode, NAME));
    }
    let site = domain.unwrap_or(name);
    Shown {
        short: cut(&clean(site), 48),
        name: shown,
        domain: domain
            .filter(|domain| domain != name)
            .map(|domain| cut(&clean(domain), DOMAIN)),
        note,
    }
}

/// The name in its own letters, where they cannot be taken for others; else what is wrong.
fn readable(name: &str) -> (Option<String>, Option<String>) {
    if !name.split('.').any(|label| label.starts_with("xn--")) {
        return (None, None);
    }
    let warning = || {
        let text = "Its letters look like others: compare the name letter by letter";
        (None, Some(text.to_owned()))
    };
    let (unicode, result) = idna::domain_to_unicode(name);
    if result.is_err() || unicode != clean(&unicode) {
        return warning();
    }
    let sound = unicode.split('.').all(|label| {
        let one_script = label.detect_restriction_level() <= RestrictionLevel::SingleScript;
        // A whole word of another alphabet can look like one of ours.
        let looks: String = skeleton(label).collect();
        one_script && (label.is_ascii() || !looks.is_ascii())
    });
    match sound {
        true => (Some(unicode), None),
        false => warning(),
    }
}

/// Letters, digits and plain signs stay; everything else is written out.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => out.push(c),
            // Alphabets alone: no marks that pile up, no spaces that take no room, no signs that
            // turn the direction.
            c if c.is_alphanumeric() => out.push(c),
            c => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    out
}

/// At most `most` characters: what is too much is left out in the middle.
pub fn cut(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let keep = most.saturating_sub(1);
    let (head, tail) = (keep.div_ceil(2), keep / 2);
    let mut out: String = text.chars().take(head).collect();
    out.push('…');
    out.extend(text.chars().skip(count - tail));
    out
}

/// Text as markup that says the same.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests;
