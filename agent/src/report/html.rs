//! The report as one file: no script, nothing that is fetched. Every word in it may come from a
//! confined program; maud escapes each, and none becomes an attribute or a link.

use data_encoding::BASE64;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::model::{AgentPart, Amounts, Report};
use super::plot::{Bars, Series};
use super::{parts, words};
use crate::cli::output::bytes;
use crate::flow::printable;

const STYLE: &str = include_str!("style.css");
/// Characters of one text that are shown.
const LONGEST: usize = 160;

/// The page. Times are in `zone`.
pub fn page(report: &Report, zone: &TimeZone) -> String {
    let title = format!("Exeat report: {}", plain(&report.machine));
    let bars = Bars::new(&report.hours, report.since, report.until, zone);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(csp());
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(report, zone))
                main {
                    (short(report, &bars, zone))
                    (tiles(report))
                    (parts::when(report, &bars, zone))
                    (parts::talked(report, zone))
                    (parts::refused(report, zone))
                    (parts::new(report, zone))
                    (parts::questions(report, zone))
                    (parts::incidents(report, zone))
                    (parts::walls(report))
                    (parts::complete(report, zone))
                }
                footer {
                    p {
                        "Made by Exeat " (plain(&report.version)) " on " (moment(report.made, zone))
                        ". Times are of " (plain(&zone_name(report.made, zone)))
                        ". This file is complete in itself: it loads nothing and runs nothing."
                    }
                }
            }
        }
    }
    .into_string()
}

/// Nothing may be loaded or run; the style is the one that the page has.
fn csp() -> String {
    let hash = BASE64.encode(&Sha256::digest(STYLE.as_bytes()));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

fn head(report: &Report, zone: &TimeZone) -> Markup {
    html! {
        header {
            h1 { "What the agents of " (shown(&report.machine)) " did on the network" }
            p.soft {
                (moment(report.since, zone)) " to " (moment(report.until, zone))
                " (" (length(report.until.duration_since(report.since))) ")"
                @if let Some(agent) = &report.only { ", agent " (shown(agent)) " alone" }
            }
            nav aria-label="Parts of the report" {
                ul {
                    @for (id, name) in [
                        ("when", "When"),
                        ("talked", "Who talked to what"),
                        ("refused", "What was refused"),
                        ("new", "What is new"),
                        ("questions", "Questions and answers"),
                        ("incidents", "Incidents"),
                        ("walls", "Protections"),
                        ("complete", "How complete this is"),
                    ] {
                        li { a href={ "#" (id) } { (name) } }
                    }
                }
            }
        }
    }
}

/// What somebody reads who reads nothing else.
fn short(report: &Report, bars: &Bars, zone: &TimeZone) -> Markup {
    let active = report
        .agents
        .iter()
        .filter(|a| a.total != Amounts::default())
        .count();
    let whole = report.complete.is_whole(report.since);
    let sound = whole && report.walls.is_empty();
    html! {
        section.short.bad[!sound] aria-labelledby="short" {
            h2 #short { "In short" }
            ul {
                @if active == 0 {
                    li { "No agent used the network, as far as it is recorded." }
                } @else {
                    li {
                        (count(active as u64, "agent")) " used the network: "
                        b { (count(report.total.allowed, "connection")) } " let out, "
                        b { (number(report.total.refused)) } " refused, "
                        b { (bytes(report.total.sent_bytes)) } " sent and "
                        b { (bytes(report.total.received_bytes)) } " received."
                    }
                }
                @if let Some(most) = most(&report.agents) {
                    li { "The most was sent by " (shown(&most.agent)) ": " (bytes(most.total.sent_bytes)) "." }
                }
                @if let Some(part) = report.refused.first() {
                    li {
                        "Most refusals: “" (plain(&words::of_reason(&part.reason).title)) "” ("
                        (number(part.flows)) ")."
                        @if let Some((flows, begin)) = bars.peak(Series::Refused) {
                            " The peak was " (number(flows)) " on " (moment(begin, zone)) "."
                        }
                    }
                }
                @if !report.new.is_empty() {
                    li { (count(report.new.len() as u64, "destination")) " seen for the first time." }
                }
                @if !report.incidents.is_empty() {
                    li { (count(report.incidents.len() as u64, "incident")) "." }
                }
                @if !report.walls.is_empty() {
                    li { b.warn { (count(report.walls.len() as u64, "protection")) " of this machine or of an agent missing." } }
                }
                @if whole {
                    li { "The record of the period is whole: nothing is known to be missing." }
                } @else {
                    li { b.warn { "The record of the period is not whole" } ": see " a href="#complete" { "how complete this is" } "." }
                }
            }
        }
    }
}

fn most(agents: &[AgentPart]) -> Option<&AgentPart> {
    let most = agents.iter().max_by_key(|a| a.total.sent_bytes)?;
    (agents.len() > 1 && most.total.sent_bytes > 0).then_some(most)
}

fn tiles(report: &Report) -> Markup {
    let total = &report.total;
    let destinations: u64 = report
        .agents
        .iter()
        .map(|a| a.destinations.len() as u64 + a.more)
        .sum();
    html! {
        ul.tiles {
            li { b { (number(report.agents.len() as u64)) } span { "agents" } }
            li { b { (number(destinations)) } span { "destinations" } }
            li { b.allow { (number(total.allowed)) } span { "connections let out" } }
            li { b.deny { (number(total.refused)) } span { "refused" } }
            li { b.sent { (bytes(total.sent_bytes)) } span { "sent" } }
            @if report.complete.has_before(report.since) {
                li { b.fresh { (number(report.new.len() as u64)) } span { "new destinations" } }
            }
        }
    }
}

/// A text that a confined program may have chosen: what acts instead of showing is spelled out,
/// what is very long is cut, and it never runs into its surroundings.
pub(super) fn shown(text: &str) -> Markup {
    html! { bdi { (plain(text)) } }
}

/// The same without the mark-up around it.
pub(super) fn plain(text: &str) -> String {
    let text = printable(text);
    let length = text.chars().count();
    if length <= LONGEST {
        return text.into_owned();
    }
    let start: String = text.chars().take(LONGEST * 2 / 3).collect();
    let end: String = text.chars().skip(length - LONGEST / 6).collect();
    format!("{start} … {end} ({length} characters)")
}

/// `1,234`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + 6);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 agent`, `2 agents`.
pub(super) fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{} {what}s", number(n)),
    }
}

/// `Wed 4 Mar 2026, 12:00`.
pub(super) fn moment(time: Timestamp, zone: &TimeZone) -> String {
    let time = time.to_zoned(zone.clone());
    time.strftime("%a %-d %b %Y, %H:%M").to_string()
}

/// For machines, and for the eye with the seconds.
pub(super) fn stamp(time: Timestamp, zone: &TimeZone) -> Markup {
    let text = time.to_zoned(zone.clone());
    html! {
        time.when datetime=(time.strftime("%FT%TZ").to_string()) {
            (text.strftime("%-d %b %H:%M:%S").to_string())
        }
    }
}

fn zone_name(at: Timestamp, zone: &TimeZone) -> String {
    let offset = at.to_zoned(zone.clone()).strftime("UTC%:z").to_string();
    match zone.iana_name() {
        Some(name) => format!("{name} ({offset})"),
        None => offset,
    }
}

fn length(time: SignedDuration) -> String {
    let hours = time.as_hours();
    match hours {
        ..1 => count(u64::try_from(time.as_mins()).unwrap_or(0), "minute"),
        1..=72 => count(u64::try_from(hours).unwrap_or(0), "hour"),
        _ => count(u64::try_from(hours / 24).unwrap_or(0), "day"),
    }
}
