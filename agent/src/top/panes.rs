//! The panes.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell, Paragraph, Row, Table, TableState};

use super::answer::wanted_by;
use super::brief::Weight;
use super::rates::per_second;
use super::state::{App, Link, Pane};
use super::view::Now;
use crate::asking::Asks;
use crate::cli::output::{Tone, bytes, duration};
use crate::control::status::{AgentStatus, NameState};
use crate::flow::printable;

fn block(app: &App, pane: Pane, title: String) -> Block<'static> {
    let block = Block::bordered().title(title);
    match app.focus == pane {
        true => block.border_type(BorderType::Thick),
        false => block.border_style(Now::dim()),
    }
}

/// Names of columns; those of numbers, which begin with a space, at the right.
fn head(names: &[&'static str]) -> Row<'static> {
    let cell = |name: &'static str| match name.strip_prefix(' ') {
        Some(name) => right(name.into()),
        None => Cell::from(name),
    };
    Row::new(names.iter().copied().map(cell)).style(Style::new().add_modifier(Modifier::BOLD))
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// Agents, one a row.
pub(super) fn agents(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    let bars = match area.width {
        ..90 => 10,
        90..130 => 24,
        _ => 40,
    };
    let rows = app.agents().map(|agent| {
        let rates = app.rates.get(&agent.name).cloned().unwrap_or_default();
        let refused = agent.blocked_total();
        let tone = match (refused, rates.refused > 0.0) {
            (0, _) => Tone::Plain,
            (_, true) => Tone::Bad,
            (_, false) => Tone::Warn,
        };
        let (state, state_tone) = state(agent);
        let processes = agent.runs.iter().map(|run| run.processes);
        let processes: u32 = processes
            .chain(agent.adopted.iter().map(|a| a.processes))
            .sum();
        let row = Row::new([
            Cell::from(printable(&agent.name).into_owned()),
            Cell::from(Span::styled(state, now.style(state_tone))),
            right(processes.to_string()),
            right(per_second(rates.flows)),
            Cell::from(rates.bars(bars)),
            Cell::from(Line::styled(refused.to_string(), now.style(tone)).right_aligned()),
            right(bytes(agent.sent_bytes)),
            right(format!("{}/s", bytes(rates.sent as u64))),
        ]);
        match app.link {
            Link::Up => row,
            _ => row.style(Now::dim()),
        }
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(5),
        Constraint::Length(7),
        Constraint::Length(bars as u16),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(10),
    ];
    let table = Table::new(rows, widths)
        .header(head(&[
            "AGENT", "STATE", " PROCS", " FLOWS/S", "", " REFUSED", " SENT", " SENDING",
        ]))
        .row_highlight_style(match app.focus {
            Pane::Agents => Now::reversed(),
            _ => Style::new(),
        })
        .block(block(
            app,
            Pane::Agents,
            format!(" Agents ({}) ", app.agents().count()),
        ));
    let mut state = TableState::new().with_selected(app.selected_agent());
    frame.render_stateful_widget(table, area, &mut state);
    if app.agents().next().is_none() {
        let text = match (&app.status, &app.only) {
            (None, _) => String::new(),
            (Some(_), Some(only)) => format!("the policy has no agent {}", printable(only)),
            (Some(_), None) => "the policy has no agents".into(),
        };
        let inner = Rect {
            y: area.y + 2,
            height: 1,
            x: area.x + 2,
            width: area.width - 4,
        };
        frame.render_widget(Paragraph::new(text), inner);
    }
}

fn state(agent: &AgentStatus) -> (String, Tone) {
    match (agent.frozen.is_some(), agent.isolated, agent.mode.as_str()) {
        (true, ..) => ("frozen".into(), Tone::Bad),
        (_, true, _) => ("isolated".into(), Tone::Bad),
        (_, _, "enforce") => ("enforce".into(), Tone::Good),
        (.., mode) => (printable(mode).into_owned(), Tone::Warn),
    }
}

/// Standing questions, one a row.
pub(super) fn questions(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    let rows = app.shown_questions().map(|question| {
        let subject = question.subject.to_string();
        let what = match question.port {
            None => printable(&subject).into_owned(),
            Some(port) => format!("{} port {port}", printable(&subject)),
        };
        let left = question.expires.duration_since(now.time).as_secs();
        let left = u64::try_from(left).unwrap_or(0);
        let tone = if left < 10 { Tone::Bad } else { Tone::Warn };
        Row::new([
            Cell::from(printable(&question.agent).into_owned()),
            Cell::from(what),
            Cell::from(wanted_by(question)),
            Cell::from(match question.asks {
                Asks::Admin => "admin",
                Asks::User => "user",
                Asks::Nobody => "",
            }),
            right(question.waiting.to_string()),
            Cell::from(Line::styled(duration(left), now.style(tone)).right_aligned()),
        ])
    });
    let widths = [
        Constraint::Length(14),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(7),
    ];
    let count = app.shown_questions().count();
    let table = Table::new(rows, widths)
        .header(head(&[
            "AGENT", "WANTS", "PROGRAM", "ASKS", " WAIT", " LEFT",
        ]))
        .row_highlight_style(Now::reversed())
        .block(block(
            app,
            Pane::Questions,
            format!(" Questions ({count}) "),
        ));
    let selected = app.selected().map(|(at, _)| at);
    let mut state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(table, area, &mut state);
}

/// Refusals and incidents, the newest at the bottom.
pub(super) fn news(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    let height = usize::from(area.height.saturating_sub(2));
    let mut lines: Vec<Line<'_>> = app
        .shown_news()
        .rev()
        .skip(app.back)
        .take(height)
        .map(|brief| {
            let tone = match brief.weight {
                Weight::Refused => Tone::Bad,
                Weight::Look => Tone::Warn,
                Weight::Routine => Tone::Good,
            };
            Line::from(vec![
                Span::styled(brief.clock(&now.zone), Now::dim()),
                Span::raw(format!(" {}  ", brief.agent)),
                Span::styled(brief.word, now.style(tone)),
                Span::raw(format!("  {}", brief.text)),
            ])
        })
        .collect();
    lines.reverse();
    let empty = lines.is_empty();
    let title = match app.back {
        0 => " Refusals and incidents ".to_owned(),
        back => format!(" Refusals and incidents ({back} newer below: End) "),
    };
    if empty {
        lines.push(Line::styled("none yet", Now::dim()));
    }
    let block = block(app, Pane::News, title);
    let block = match &app.no_questions {
        // An older daemon, or one whose policy asks nobody.
        Some(why) => block.title_bottom(Line::styled(format!(" no questions: {why} "), Now::dim())),
        None => block,
    };
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Names of the policy, one a row.
pub(super) fn names(frame: &mut Frame<'_>, area: Rect, app: &App, now: &Now) {
    let rows = app.names().iter().map(|name| {
        let tone = match name.state {
            NameState::Ok => Tone::Good,
            NameState::Pending => Tone::Plain,
            NameState::Stale => Tone::Warn,
            NameState::Failed => Tone::Bad,
        };
        let addresses = match name.addresses.as_slice() {
            [] => String::new(),
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first} +{}", rest.len()),
        };
        Row::new([
            Cell::from(printable(&name.name).into_owned()),
            Cell::from(Span::styled(name.state.as_str(), now.style(tone))),
            Cell::from(addresses),
            right(name.expires_in_seconds.map(duration).unwrap_or_default()),
        ])
    });
    let widths = [
        Constraint::Fill(3),
        Constraint::Length(7),
        Constraint::Fill(2),
        Constraint::Length(7),
    ];
    let table = Table::new(rows, widths)
        .row_highlight_style(match app.focus {
            Pane::Names => Now::reversed(),
            _ => Style::new(),
        })
        .block(block(
            app,
            Pane::Names,
            format!(" Names ({}) ", app.names().len()),
        ));
    let mut state = TableState::new().with_selected(app.selected_name());
    frame.render_stateful_widget(table, area, &mut state);
}
