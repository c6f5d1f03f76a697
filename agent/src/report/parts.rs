//! The parts of the page, each a section with its heading, its tables and its plots.

use jiff::tz::TimeZone;
use maud::{Markup, PreEscaped, html};

use super::html::{count, moment, number, plain, shown, stamp};
use super::model::{AgentPart, Amounts, Destination, Report};
use super::plot::{Bars, Series};
use super::words;
use crate::asking::{Grant, GrantSubject, Lasts, Ruling};
use crate::cli::output::bytes;
use crate::control::status::WallState;
use crate::incident::Incident;
use crate::markup::heads;

fn section(id: &str, title: &str, body: Markup) -> Markup {
    let label = format!("{id}-title");
    html! {
        section id=(id) aria-labelledby=(label) {
            h2 id=(label) { (title) }
            (body)
        }
    }
}

fn nothing(text: &str) -> Markup {
    html! { p.none { (text) } }
}

pub(super) fn when(report: &Report, bars: &Bars, zone: &TimeZone) -> Markup {
    let plots = [
        (Series::Allowed, "Connections let out"),
        (Series::Refused, "Connections and requests refused"),
        (Series::Sent, "Bytes sent"),
    ];
    let plots = plots.map(|(series, name)| (series, name, bars.svg(series)));
    let body = html! {
        @if plots.iter().all(|(.., svg)| svg.is_none()) {
            (nothing("Nothing was recorded in this period."))
        } @else {
            @for (series, name, svg) in &plots {
                @if let (Some(svg), Some((most, begin))) = (svg, bars.peak(*series)) {
                    @let most = match series {
                        Series::Sent => bytes(most),
                        _ => number(most),
                    };
                    @let alt = format!(
                        "{name}, a bar for each {}. The highest is {most}, from {}. The table below \
                         has every number.",
                        bars.unit(),
                        moment(begin, zone)
                    );
                    figure {
                        figcaption { (name) " by " (bars.unit()) }
                        div role="img" aria-label=(alt) { (PreEscaped(svg)) }
                    }
                }
            }
            details {
                summary { "The numbers, hour by hour" }
                table {
                    caption { "Hours in which nothing happened are left out." }
                    (heads(&["Hour"], &["Let out", "Refused", "Sent", "Received"]))
                    tbody {
                        @for hour in &report.hours {
                            tr {
                                th scope="row" { (moment(hour.begin, zone)) }
                                (amounts(&hour.amounts))
                            }
                        }
                    }
                }
            }
        }
    };
    section("when", "When", body)
}

fn amounts(amounts: &Amounts) -> Markup {
    html! {
        td.num { (number(amounts.allowed)) }
        td.num.deny[amounts.refused > 0] { (number(amounts.refused)) }
        td.num { (bytes(amounts.sent_bytes)) }
        td.num { (bytes(amounts.received_bytes)) }
    }
}

pub(super) fn talked(report: &Report, zone: &TimeZone) -> Markup {
    let most = report.agents.iter().flat_map(|a| &a.destinations);
    let most = most.map(|d| d.amounts.bytes()).max().unwrap_or(0);
    let body = html! {
        p { "Each agent with the destinations that it reached or tried to reach, the largest first. \
             Bytes are whole packets, as the kernel counted them; the bar shows what was sent "
            span.sent { "(violet)" } " and received " span.allow { "(blue)" } "." }
        @if report.agents.is_empty() { (nothing("No agent is known.")) }
        @for agent in &report.agents { (one_agent(agent, most, zone)) }
    };
    section("talked", "Who talked to what", body)
}

fn one_agent(agent: &AgentPart, most: u64, zone: &TimeZone) -> Markup {
    html! {
        h3 {
            (shown(&agent.agent))
            @match agent.mode.as_deref() {
                Some("enforce") => {}
                Some("monitor") => span.tag.warn { "only watched, not stopped" },
                Some(mode) => span.tag.warn { (plain(mode)) },
                None => span.tag { "no longer in the policy" },
            }
        }
        @if agent.destinations.is_empty() {
            (nothing("Nothing was recorded of it in this period."))
        } @else {
            table {
                caption {
                    (number(agent.total.allowed)) " let out, " (number(agent.total.refused)) " refused, "
                    (bytes(agent.total.sent_bytes)) " sent, " (bytes(agent.total.received_bytes)) " received"
                }
                thead { tr {
                    th scope="col" { "Destination" }
                    th.num scope="col" { "Let out" }
                    th.num scope="col" { "Refused" }
                    th.num scope="col" { "Sent" }
                    th.num scope="col" { "Received" }
                    th.bars scope="col" aria-label="Share of bytes, as a bar" {}
                    th.opt scope="col" { "Last" }
                } }
                tbody {
                    @for destination in &agent.destinations {
                        tr {
                            th scope="row" {
                                (shown(&destination.destination))
                                @if destination.new { span.tag.fresh { "new" } }
                            }
                            (amounts(&destination.amounts))
                            td.bars { (bar(destination, most)) }
                            td.opt { (stamp(destination.last, zone)) }
                        }
                    }
                }
            }
            @if agent.more > 0 { p.soft { "And " (count(agent.more, "smaller destination")) "." } }
        }
    }
}

fn bar(destination: &Destination, most: u64) -> Markup {
    let share = |n: u64| n as f64 * 100.0 / most.max(1) as f64;
    let sent = share(destination.amounts.sent_bytes);
    let received = share(destination.amounts.received_bytes);
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.s width=(format!("{sent:.2}")) height="8" {}
            rect.r x=(format!("{sent:.2}")) width=(format!("{received:.2}")) height="8" {}
        }
    }
}

pub(super) fn refused(report: &Report, zone: &TimeZone) -> Markup {
    let body = html! {
        @if report.refused.is_empty() {
            (nothing("Nothing was refused in this period, as far as it is recorded."))
        } @else {
            p { "A refusal means that the protection worked: what is listed here did not leave, except \
                 where a line says that it was let through." }
        }
        @for part in &report.refused {
            @let words = words::of_reason(&part.reason);
            div.reason {
                h3 { span { (plain(&words.title)) } span.deny { (count(part.flows, "time")) } }
                p {
                    (plain(&words.sentence)) " "
                    @if part.let_through > 0 {
                        b.warn { (number(part.let_through)) " of them went out all the same, because the agent is only watched." } " "
                    }
                    span.soft { "In events: " (shown(&part.reason)) "." }
                }
                @if !part.examples.is_empty() {
                    table {
                        thead { tr {
                            th scope="col" { "Agent" }
                            th scope="col" { "What it wanted" }
                            th.opt scope="col" { "Program" }
                            th.num scope="col" { "Times" }
                            th scope="col" { "Last" }
                        } }
                        tbody {
                            @for one in &part.examples {
                                tr {
                                    td { (shown(&one.agent)) }
                                    td {
                                        (shown(&one.what))
                                        @if one.let_through { span.tag.warn { "let through: only watched" } }
                                    }
                                    td.opt { @if let Some(program) = &one.program { (shown(program)) } }
                                    td.num { (number(one.flows)) }
                                    td { (stamp(one.last, zone)) }
                                }
                            }
                        }
                    }
                }
                @if part.more > 0 { p.soft { "And " (count(part.more, "more kind")) " of it." } }
            }
        }
    };
    section("refused", "What was refused, and why", body)
}

pub(super) fn new(report: &Report, zone: &TimeZone) -> Markup {
    let body = html! {
        p { "Destinations that the history before this period does not have for the agent." }
        @if !report.complete.has_before(report.since) {
            (nothing("Nothing can be said: the history does not reach back before this period."))
        } @else if report.new.is_empty() {
            (nothing("None."))
        } @else {
            table {
                (heads(&["First seen", "Agent", "Destination"], &["Let out", "Refused", "Sent", "Received"]))
                tbody {
                    @for one in &report.new {
                        tr {
                            td { (stamp(one.first, zone)) }
                            td { (shown(&one.agent)) }
                            td { (shown(&one.destination)) }
                            (amounts(&one.amounts))
                        }
                    }
                }
            }
        }
    };
    section("new", "What is new", body)
}

pub(super) fn questions(report: &Report, zone: &TimeZone) -> Markup {
    let body = html! {
        p { "Where a policy says so, a person is asked about what no rule decides. What nobody answers in \
             time is refused." }
        @if report.questions.is_empty() { (nothing("Nobody was asked anything in this period.")) }
        @else { (told(&report.questions, zone)) }
        h3 { "Answers that hold now" }
        @if report.grants.is_empty() { (nothing("None.")) }
        @else {
            table {
                (heads(&["Agent", "Answer", "Destination", "Until", "By", "Why"], &[]))
                tbody { @for grant in &report.grants { (granted(grant, zone)) } }
            }
        }
    };
    section("questions", "Questions and answers", body)
}

fn granted(grant: &Grant, zone: &TimeZone) -> Markup {
    let subject = match &grant.subject {
        GrantSubject::Name { name } => name.clone(),
        GrantSubject::Domain { domain } => format!("{domain} and everything below"),
        GrantSubject::Address { address } => address.to_string(),
    };
    let by = grant.by.name.clone();
    html! {
        tr {
            td { (shown(&grant.agent)) }
            td { @match grant.ruling {
                Ruling::Allow => span.allow { "allowed" },
                Ruling::Deny => span.deny { "refused" },
            } }
            td { (shown(&subject)) @if let Some(port) = grant.port { ", port " (port) } }
            td { @match (grant.until, grant.lasts) {
                (Some(until), _) => (moment(until, zone)),
                (None, Lasts::Run) => "the end of the run",
                (None, _) => "somebody ends it",
            } }
            td { (shown(&by.unwrap_or_else(|| format!("user {}", grant.by.uid)))) " by " (plain(&grant.by.via)) }
            td { @if let Some(why) = &grant.why { (shown(why)) } }
        }
    }
}

pub(super) fn incidents(report: &Report, zone: &TimeZone) -> Markup {
    let body = match report.incidents.is_empty() {
        true => nothing("None, as far as they are remembered."),
        false => told(&report.incidents, zone),
    };
    section("incidents", "Incidents", body)
}

fn told(incidents: &[Incident], zone: &TimeZone) -> Markup {
    html! {
        table {
            (heads(&["When", "Agent", "What", "In detail"], &[]))
            tbody {
                @for one in incidents {
                    tr {
                        td { (stamp(one.time, zone)) }
                        td { @if one.is_of_agent() { (shown(&one.agent)) } }
                        td.warn[!one.kind.is_routine()] { (plain(&words::of_incident(one.kind.as_str()))) }
                        td { (shown(&one.message)) }
                    }
                }
            }
        }
    }
}

pub(super) fn walls(report: &Report) -> Markup {
    let body = html! {
        @if report.walls.is_empty() {
            p { "Every protection that this version knows stands." }
        } @else {
            p { "Protections that do not stand at the time of this report. A protection that a policy \
                 requires starts nothing while it is missing; the others are a second line." }
            table {
                (heads(&["Protection", "Of", "State", "Why"], &[]))
                tbody {
                    @for missing in &report.walls {
                        tr {
                            th scope="row" {
                                @if let Some(words) = words::of_wall(&missing.wall.name) { (words) " " }
                                span.soft { (shown(&missing.wall.name)) }
                            }
                            td { @match &missing.agent {
                                Some(agent) => (shown(agent)),
                                None => "the machine",
                            } }
                            td.deny[missing.wall.state == WallState::Failed] { (missing.wall.state.as_str()) }
                            td { (shown(&missing.wall.detail)) }
                        }
                    }
                }
            }
        }
    };
    section("walls", "Protections that are missing", body)
}

pub(super) fn complete(report: &Report, zone: &TimeZone) -> Markup {
    let complete = &report.complete;
    let body = html! {
        ul {
            @match complete.history_begins {
                Some(begin) if begin <= report.since => li { "The history reaches back to " (moment(begin, zone)) ", before this period." },
                Some(begin) => li { b.warn { "The history begins " (moment(begin, zone)) } ": nothing is known of the period before that, nor what is new in it." },
                None => li { b.warn { "There is no history" } " of this period." },
            }
            @match complete.incidents_since {
                Some(begin) => li { "Incidents and questions are listed from " (moment(begin, zone)) " on." },
                None => li { "There is no record of incidents and questions; the audit log has them." },
            }
            @if !complete.everybody {
                li { b.warn { "Only flows of the user who made this report" } " are in it: that user does not administer Exeat." }
            }
            @match complete.lost {
                0 => li { "No record was lost since the daemon started." },
                lost => li { b.warn { (count(lost, "record")) " lost" } " since the daemon started; what was refused was refused all the same." },
            }
            @if complete.throttled > 0 {
                li { (count(complete.throttled, "record")) " of floods kept back in this period: they are counted here, and in no other number." }
            }
            @for reason in &complete.health { li { "The daemon says: " (shown(reason)) } }
            @for note in &complete.notes { li.warn { (plain(note)) } }
        }
    };
    section("complete", "How complete this is", body)
}
