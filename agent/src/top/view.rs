//! Draws an [`App`].

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::answer::{self, Proposal};
use super::brief::clock;
use super::state::{App, Link, Pane};
use super::{help, panes};
use crate::cli::output::{Tone, duration};
use crate::control::status::{HealthState, WallState};
use crate::flow::printable;

/// The least that everything can be read on.
const LEAST: (u16, u16) = (60, 14);
/// From this width on names stand beside the news.
const WIDE: u16 = 110;

/// The moment of a picture, and how it is shown.
#[derive(Debug, Clone)]
pub struct Now {
    /// The time.
    pub time: Timestamp,
    /// Times of day are of this zone.
    pub zone: TimeZone,
    /// Whether there are colours.
    pub colour: bool,
}

impl Now {
    /// How a tone looks. Without colours what is wrong is bold.
    pub(super) fn style(&self, tone: Tone) -> Style {
        match (tone, self.colour) {
            (Tone::Plain, _) => Style::new(),
            (Tone::Good, true) => Style::new().fg(Color::Green),
            (Tone::Warn, true) => Style::new().fg(Color::Yellow),
            (Tone::Bad, true) => Style::new().fg(Color::Red),
            (Tone::Good, false) => Style::new(),
            (Tone::Warn | Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
        }
    }

    pub(super) const fn dim() -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) const fn reversed() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &App, now: &Now) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "{}x{} is too small: {}x{} at least (q leaves)",
            area.width, area.height, LEAST.0, LEAST.1
        );
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let questions = app.shown_questions().count() as u16;
    let agents = app.agents().count() as u16;
    let [head, top, middle, bottom, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length((agents + 3).clamp(4, (area.height / 3).max(5))),
        Constraint::Length(match questions {
            0 => 0,
            count => (count + 3).min((area.height / 3).max(5)),
        }),
        Constraint::Min(4),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(frame, head, app, now);
    panes::agents(frame, top, app, now);
    if questions > 0 {
        panes::questions(frame, middle, app, now);
    }
    if area.width >= WIDE {
        let split = [Constraint::Percentage(62), Constraint::Percentage(38)];
        let [left, right] = Layout::horizontal(split).areas(bottom);
        panes::news(frame, left, app, now);
        panes::names(frame, right, app, now);
    } else if app.focus == Pane::Names {
        panes::names(frame, bottom, app, now);
    } else {
        panes::news(frame, bottom, app, now);
    }
    draw_foot(frame, foot, app, now);
    if let Some(proposal) = &app.proposal {
        draw_proposal(frame, area, proposal, now);
    }
    if app.help {
        draw_help(frame, area);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    let mut first = vec![Span::styled(
        " exeat",
        Style::new().add_modifier(Modifier::BOLD),
    )];
    let mut say = |text: String, tone| {
        first.push(Span::raw("  "));
        first.push(Span::styled(text, now.style(tone)));
    };
    match (&app.link, &app.status) {
        (Link::Waiting, _) => say("asking the daemon".into(), Tone::Plain),
        (Link::Gone { .. }, _) => say("the daemon does not answer".into(), Tone::Bad),
        (Link::Up, Some(status)) if !status.enforcement.active => {
            say("NOT ENFORCING".into(), Tone::Bad);
        }
        (Link::Up, _) => say("enforcing".into(), Tone::Good),
    }
    if let Some(status) = &app.status {
        if app.link == Link::Up {
            match status.health.state {
                HealthState::Ok => say("ok".into(), Tone::Good),
                HealthState::Degraded => say("degraded".into(), Tone::Warn),
            }
            say(
                format!("up {}", duration(status.daemon.uptime_seconds)),
                Tone::Plain,
            );
        }
        let digest: String = printable(&status.policy.digest).chars().take(8).collect();
        say(
            format!("policy {digest} gen {}", status.policy.generation),
            Tone::Plain,
        );
        let lost = status.events;
        let lost = lost.lost_kernel + lost.lost_ring + lost.lost_queue + app.lost;
        if lost > 0 {
            say(format!("{lost} events lost"), Tone::Warn);
        }
    }
    if let Some(only) = &app.only {
        say(format!("only {}", printable(only)), Tone::Warn);
    }
    let time = clock(now.time, &now.zone);
    let [left, right] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(10)]).areas(area);
    let second = second_line(app, now);
    frame.render_widget(Paragraph::new(vec![Line::from(first)]), left);
    frame.render_widget(Paragraph::new(format!(" {time} ")), right);
    let below = Rect {
        y: area.y + 1,
        height: 1,
        ..area
    };
    frame.render_widget(Paragraph::new(second), below);
}

/// What is wrong, the worst of it: the daemon is away, why it is degraded, the walls that miss.
fn second_line(app: &App, now: &Now) -> Line<'static> {
    if let Link::Gone { since, why } = &app.link {
        let seconds = now.time.duration_since(*since).as_secs();
        let text = format!(
            " gone for {}; what was enforced stays enforced; trying again. {why}",
            duration(seconds.unsigned_abs())
        );
        return Line::styled(text, now.style(Tone::Bad));
    }
    let Some(status) = &app.status else {
        return Line::default();
    };
    let missing = app.walls_missing();
    let up = status.enforcement.walls.iter();
    let up = up.filter(|wall| wall.state == WallState::Up).count();
    let mut parts = vec![Span::raw(format!(" {up} walls up"))];
    if !missing.is_empty() {
        let failed = missing.iter().any(|wall| wall.state == WallState::Failed);
        let names: Vec<_> = missing.iter().map(|wall| printable(&wall.name)).collect();
        let text = format!(", not up: {}", names.join(", "));
        let tone = if failed { Tone::Bad } else { Tone::Warn };
        parts.push(Span::styled(text, now.style(tone)));
    }
    if let Some(reason) = status.health.reasons.first() {
        let more = match status.health.reasons.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more: exeat status)"),
        };
        let text = format!("  {}{more}", printable(reason));
        parts.insert(0, Span::styled(text, now.style(Tone::Bad)));
        parts.insert(1, Span::raw(" "));
    }
    Line::from(parts)
}

fn draw_foot(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    if let Some(notice) = &app.notice {
        let tone = if notice.bad { Tone::Bad } else { Tone::Good };
        let line = Line::styled(format!(" {}", notice.text), now.style(tone));
        frame.render_widget(Paragraph::new(line), area);
        return;
    }
    let mut keys = vec![("q", "leave"), ("?", "help")];
    let answers: Vec<(String, &str)> = answer::KEYS
        .iter()
        .map(|(key, .., says)| (key.to_string(), *says))
        .collect();
    if app.selected().is_some() {
        keys.extend(answers.iter().map(|(key, says)| (key.as_str(), *says)));
    } else {
        keys.push(("Tab", "pane"));
        if app.focus == Pane::Agents {
            keys.push(("Enter", if app.only.is_some() { "all" } else { "only it" }));
        }
    }
    let mut spans = Vec::new();
    for (key, says) in keys {
        spans.push(Span::styled(format!(" {key}"), Now::reversed()));
        spans.push(Span::raw(format!(" {says} ")));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// A box in the middle, over what is there.
fn boxed(frame: &mut Frame<'_>, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let width = width.max(title.len() as u16 + 4).min(area.width);
    let height = (lines.len() as u16 + 2).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(title.to_owned())
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

fn draw_proposal(frame: &mut Frame<'_>, area: Rect, proposal: &Proposal, now: &Now) {
    let mut lines: Vec<Line<'_>> = proposal.lines().into_iter().map(Line::from).collect();
    lines[1].style = Style::new().add_modifier(Modifier::BOLD);
    let left = proposal.question.expires.duration_since(now.time).as_secs();
    lines.push(Line::from(format!(
        "Denied by itself in {}",
        duration(u64::try_from(left).unwrap_or(0))
    )));
    lines.push(Line::default());
    let mut keys = vec![("y", "yes"), ("n", "no")];
    if proposal.can_turn() {
        keys.push(("b", "about something else of it"));
    }
    let keys = keys.into_iter().flat_map(|(key, says)| {
        [
            Span::styled(format!(" {key} "), Now::reversed()),
            Span::raw(format!(" {says}  ")),
        ]
    });
    lines.push(Line::from(keys.collect::<Vec<_>>()));
    boxed(frame, area, " Answer ", lines);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = help::KEYS
        .iter()
        .map(|(key, does)| Line::from(format!("{key:<18}{does}")))
        .collect();
    boxed(frame, area, " Keys ", lines);
}
