//! The page, with friendly and with hostile words in it.

use jiff::{Timestamp, tz::TimeZone};

use super::*;
use crate::asking::{Grant, GrantSubject, Lasts, Ruling, Who};
use crate::control::status::{Wall, WallState};
use crate::incident::{Incident, IncidentKind};

fn at(text: &str) -> Timestamp {
    text.parse().expect("time")
}

const fn amounts(allowed: u64, refused: u64, sent: u64, received: u64) -> Amounts {
    Amounts {
        allowed,
        refused,
        sent_bytes: sent,
        received_bytes: received,
    }
}

/// A report in which every text is `text`.
fn report(text: &str) -> Report {
    let (since, until) = (at("2026-03-01T00:00:00Z"), at("2026-03-08T00:00:00Z"));
    let own = || text.to_owned();
    let first = at("2026-03-04T12:00:00Z");
    let destination = |destination: String, new| Destination {
        destination,
        amounts: amounts(40, 2, 5_300_000, 900_000),
        last: first,
        new,
    };
    let incident = |kind| Incident {
        time: first,
        run: Some(own()),
        ..Incident::new(kind, own(), own())
    };
    Report {
        machine: own(),
        version: own(),
        made: until,
        since,
        until,
        only: Some(own()),
        total: amounts(80, 4, 10_600_000, 1_800_000),
        agents: vec![
            AgentPart {
                agent: own(),
                mode: Some("monitor".into()),
                total: amounts(80, 4, 10_600_000, 1_800_000),
                destinations: vec![destination(own(), true), destination(own(), false)],
                more: 3,
            },
            AgentPart {
                agent: own(),
                mode: Some(own()),
                ..AgentPart::default()
            },
        ],
        refused: vec![
            RefusedPart {
                reason: "no_rule".into(),
                flows: 3,
                let_through: 1,
                examples: vec![Refused {
                    agent: own(),
                    what: own(),
                    program: Some(own()),
                    flows: 3,
                    last: first,
                    let_through: true,
                }],
                more: 2,
            },
            RefusedPart {
                reason: own(),
                flows: 1,
                let_through: 0,
                examples: vec![],
                more: 0,
            },
        ],
        hours: (0..168)
            .map(|hour| Hour {
                begin: Timestamp::from_second(since.as_second() + hour * 3600).expect("time"),
                amounts: amounts(
                    (hour as u64 * 7) % 23,
                    u64::from(hour % 31 == 0),
                    hour as u64 * 1000,
                    0,
                ),
            })
            .collect(),
        new: vec![NewDestination {
            agent: own(),
            destination: own(),
            first,
            amounts: amounts(1, 0, 10, 10),
        }],
        questions: vec![
            incident(IncidentKind::Asked),
            incident(IncidentKind::Granted),
        ],
        incidents: vec![incident(IncidentKind::LimitHit)],
        grants: vec![Grant {
            id: own(),
            agent: own(),
            run: Some(own()),
            ruling: Ruling::Allow,
            subject: GrantSubject::Domain { domain: own() },
            port: Some(443),
            lasts: Lasts::Always,
            by: Who {
                uid: 1000,
                name: Some(own()),
                via: own(),
            },
            why: Some(own()),
            question: Some(own()),
            program: Some(own()),
            given: first,
            until: None,
        }],
        walls: vec![MissingWall {
            agent: Some(own()),
            wall: Wall {
                name: own(),
                hook: own(),
                state: WallState::Failed,
                detail: own(),
                leaves_out: vec![],
            },
        }],
        complete: Completeness {
            history_begins: Some(at("2026-02-01T00:00:00Z")),
            incidents_since: Some(since),
            everybody: true,
            lost: 0,
            throttled: 2,
            health: vec![own()],
            notes: vec![own()],
        },
    }
}

/// Every tag with its attributes, in order: what a browser makes of the page, but for its texts.
fn tags(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some(open) = rest.find('<') {
        rest = &rest[open..];
        // No attribute of ours has a `>`.
        let close = rest.find('>').expect("a tag has an end");
        found.push(rest[..=close].to_owned());
        rest = &rest[close + 1..];
    }
    found
}

/// What a confined program might call itself, or ask for.
fn hostile() -> Vec<String> {
    let mut all: Vec<String> = [
        "<script>alert(1)</script>",
        "</style><script>alert(1)</script>",
        "</title><img src=x onerror=alert(1)>",
        "\"><svg onload=alert(1)>",
        "' onmouseover='alert(1)",
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "<!--",
        "-->",
        "]]>",
        "<![CDATA[",
        "</svg></figure></main>",
        "&lt;script&gt;",
        "&#60;script&#62;",
        "\u{0}nul\u{0}",
        "\u{202e}gpj.exe\u{202c}\u{2066}",
        "\u{1b}[2Jcleared",
        "a\r\nSet-Cookie: x=y",
        "\u{feff}\u{200b}\u{ad}",
        "\u{fffd}\u{10ffff}\u{e0041}",
        "<bdi>",
        "{{7*7}}${7*7}",
        "=cmd|' /C calc'!A0",
    ]
    .map(str::to_owned)
    .into();
    all.push("<".repeat(100_000));
    all.push("a".repeat(100_000));
    all.push("\u{202e}".repeat(5_000));
    all
}

#[test]
fn hostile_words_change_no_tag_of_the_page() {
    let friendly = tags(&page(&report("build-bot"), &TimeZone::UTC));
    for text in hostile() {
        let page = page(&report(&text), &TimeZone::UTC);
        assert_eq!(tags(&page), friendly, "{text:.80}");
        for c in page.chars() {
            let fine = c == '\n' || !crate::flow::is_unsafe(c);
            assert!(fine, "{c:?} of {text:.80}");
        }
        // A hundred thousand characters in thirty places: cut, not printed.
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }
}

#[test]
fn nothing_is_loaded_run_or_linked_outside() {
    let page = page(&report("http://example.com/"), &TimeZone::UTC);
    for tag in tags(&page) {
        let tag = tag.to_ascii_lowercase();
        for never in [
            "<script",
            "<link",
            "<iframe",
            "<img",
            "<object",
            "<embed",
            "<base",
            "<form",
            " src=",
            " on",
            " style=",
            "url(",
            "@import",
            "javascript:",
        ] {
            // `content=…` is the only attribute with spaces in it but for labels of our own.
            let own = tag.starts_with("<meta") || tag.contains("aria-label");
            assert!(own || !tag.contains(never), "{never} in {tag}");
        }
        if let Some((_, link)) = tag.split_once(" href=\"") {
            assert!(link.starts_with('#'), "{tag}");
        }
    }
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    assert!(!page.contains("unsafe-inline"));
    for never in ["url(", "@import"] {
        assert!(!include_str!("style.css").contains(never));
    }
}

#[test]
fn a_person_finds_what_matters() {
    let page = page(&report("build-bot"), &TimeZone::UTC);
    for text in [
        "What the agents of <bdi>build-bot</bdi> did on the network",
        "Sun 1 Mar 2026, 00:00 to Sun 8 Mar 2026, 00:00 (7 days)",
        "Not on the list",
        "everything that is not named is refused",
        "10.6 MB",
        "role=\"img\"",
        "let through: only watched",
        "A person was asked",
        "build-bot and everything below",
        "1 protection of this machine or of an agent missing",
        "The record of the period is not whole",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

/// `EXEAT_WRITE_REPORT=FILE cargo test report::tests::written`: to look at it.
#[test]
fn written() {
    if let Some(file) = std::env::var_os("EXEAT_WRITE_REPORT") {
        let page = page(&report("registry.npmjs.org"), &TimeZone::UTC);
        std::fs::write(file, page).expect("write");
    }
}

#[test]
fn an_empty_report_says_that_there_is_nothing() {
    let (since, until) = (at("2026-03-01T00:00:00Z"), at("2026-03-08T00:00:00Z"));
    let empty = Report {
        machine: "laptop".into(),
        version: "1".into(),
        made: until,
        since,
        until,
        only: None,
        total: Amounts::default(),
        agents: vec![],
        refused: vec![],
        hours: vec![],
        new: vec![],
        questions: vec![],
        incidents: vec![],
        grants: vec![],
        walls: vec![],
        complete: Completeness::default(),
    };
    let page = page(&empty, &TimeZone::UTC);
    assert!(page.contains("No agent used the network"), "{page}");
    assert!(!page.contains("<svg"), "{page}");
    assert!(page.contains("There is no history"), "{page}");
}
