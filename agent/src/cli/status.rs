//! `exeat status`.

use std::fmt::Write as _;
use std::path::Path;

use super::exit::{Exit, Failure};
use clap::Args;

use super::output::{Columns, Format, OutputArgs, Style, Tone, bytes, duration, print, print_json};
use super::term::printable;
use crate::control::status::{AgentStatus, HealthState, NameState, Status, Wall, WallState};
use crate::control::{Client, ClientError, Request, Response};

/// Of what.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Show one agent, with every wall: those that hold it, and those that do not and why
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks, shows, and says by the exit code how it stands: 0 healthy and enforcing,
/// 3 degraded, 4 not running.
pub fn run(socket: &Path, args: &StatusArgs) -> Result<Exit, Failure> {
    let answer = Client::connect(socket)?.ask(&Request::Status {})?;
    let Response::Status(status) = answer else {
        return Err(ClientError::Protocol("it is no status".into()).into());
    };
    let format = args.output.output;
    match (&args.agent, format) {
        (None, Format::Json) => print_json(&status)?,
        (None, Format::Text) => print(&render(&status, Style::stdout()))?,
        (Some(name), _) => {
            let Some(agent) = with_all_walls(&status, name) else {
                let known: Vec<&str> = status.agents.iter().map(|a| a.name.as_str()).collect();
                let message = format!(
                    "there is no policy for an agent `{}`\n  agents with a policy: {}",
                    printable(name),
                    printable(&known.join(", ")),
                );
                return Err(Failure::new(Exit::Failed, message));
            };
            match format {
                Format::Json => print_json(&agent)?,
                Format::Text => print(&of_agent(&agent, Style::stdout()))?,
            }
        }
    }
    Ok(match status.is_healthy() {
        true => Exit::Ok,
        false => Exit::Degraded,
    })
}

/// An agent with the walls of all before its own, as it has them.
fn with_all_walls(status: &Status, name: &str) -> Option<AgentStatus> {
    let mut agent = status
        .agents
        .iter()
        .find(|agent| agent.name == name)?
        .clone();
    let own = std::mem::take(&mut agent.walls);
    let has = |wall: &&Wall| own.iter().all(|one| one.name != wall.name);
    agent.walls = status
        .enforcement
        .walls
        .iter()
        .filter(has)
        .cloned()
        .collect();
    agent.walls.extend(own);
    Some(agent)
}

/// One agent for people.
fn of_agent(a: &AgentStatus, style: Style) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{}: {}, generation {}, {} rules, {} runs, cgroup {}\n",
        printable(&a.name),
        printable(&a.mode),
        a.generation,
        a.rules,
        a.runs.len(),
        printable(&a.cgroup.to_string_lossy()),
    );
    let mut columns = Columns::new(style, &["WALL", "STATE", "WHERE", "DETAIL"]);
    for wall in &a.walls {
        let tone = match wall.state {
            WallState::Up => Tone::Good,
            WallState::Missing => Tone::Warn,
            WallState::Failed => Tone::Bad,
        };
        let without = wall
            .leaves_out
            .iter()
            .map(|what| format!("this kernel does not tell it {what}"));
        let told = [wall.detail.clone()]
            .into_iter()
            .filter(|detail| !detail.is_empty());
        let detail: Vec<String> = told.chain(without).collect();
        columns.row(&[
            (&wall.name, Tone::Plain),
            (wall.state.as_str(), tone),
            (&wall.hook, Tone::Plain),
            (&detail.join("; "), Tone::Plain),
        ]);
    }
    out.push_str(&columns.text());
    out
}

/// The status for people.
pub fn render(s: &Status, style: Style) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "exeat {} ({}), pid {}, up {}, slice {}",
        printable(&s.daemon.version),
        printable(&s.daemon.revision),
        s.daemon.pid,
        duration(s.daemon.uptime_seconds),
        printable(&s.daemon.slice),
    );
    health(&mut out, s, style);
    agents(&mut out, s, style);
    names(&mut out, s, style);
    rest(&mut out, s, style);
    out
}

fn health(out: &mut String, s: &Status, style: Style) {
    let word = match s.health.state {
        HealthState::Ok => style.paint(Tone::Good, "ok"),
        HealthState::Degraded => style.paint(Tone::Bad, "DEGRADED"),
    };
    let _ = writeln!(out, "health     {word}");
    for reason in &s.health.reasons {
        // A policy error has lines of its own.
        for (n, line) in reason.lines().enumerate() {
            let dash = if n == 0 { "- " } else { "  " };
            let _ = writeln!(out, "           {dash}{}", printable(line));
        }
    }
    let enforcing = match s.enforcement.active {
        true => style.paint(Tone::Good, "yes"),
        false => style.paint(Tone::Bad, "NO"),
    };
    let count = |state| {
        s.enforcement
            .walls
            .iter()
            .filter(|w| w.state == state)
            .count()
    };
    let _ = writeln!(
        out,
        "enforcing  {enforcing}; walls: {} up, {} missing, {} failed",
        count(WallState::Up),
        count(WallState::Missing),
        count(WallState::Failed),
    );
    for wall in &s.enforcement.walls {
        for what in &wall.leaves_out {
            let name = printable(&wall.name);
            let _ = writeln!(
                out,
                "           {name}: this kernel does not tell it {}",
                printable(what)
            );
        }
        if wall.state == WallState::Failed {
            let _ = writeln!(
                out,
                "           {} {} ({}): {}",
                style.paint(Tone::Bad, wall.state.as_str()),
                printable(&wall.name),
                printable(&wall.hook),
                reason(&wall.detail),
            );
        }
    }
    // Many walls are missing for one reason.
    let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
    for wall in &s.enforcement.walls {
        if wall.state != WallState::Missing {
            continue;
        }
        match missing.iter_mut().find(|(why, _)| *why == wall.detail) {
            Some((_, names)) => names.push(&wall.name),
            None => missing.push((&wall.detail, vec![&wall.name])),
        }
    }
    for (why, names) in missing {
        let _ = writeln!(
            out,
            "           {} {}: {}",
            style.paint(Tone::Warn, WallState::Missing.as_str()),
            printable(&names.join(", ")),
            reason(why),
        );
    }
}

fn reason(detail: &str) -> std::borrow::Cow<'_, str> {
    match detail {
        "" => "no reason given".into(),
        detail => printable(detail),
    }
}

fn agents(out: &mut String, s: &Status, style: Style) {
    if s.agents.is_empty() {
        out.push_str("\nno agents: the policy names none\n");
        return;
    }
    let heads = [
        "AGENT",
        "MODE",
        "GEN",
        "RULES",
        "RUNS",
        "PROCS",
        "LEASES",
        "ALLOWED",
        "BLOCKED",
        "SENT",
        "FULLEST MAP",
    ];
    let mut columns = Columns::new(style, &heads);
    for a in &s.agents {
        let processes: u64 = a.runs.iter().map(|r| u64::from(r.processes)).sum();
        let fullest = a
            .maps
            .iter()
            .filter(|(_, f)| f.max > 0)
            .map(|(name, f)| (f.used.saturating_mul(100) / f.max, name))
            .max();
        let fullest = fullest.map_or("-".to_owned(), |(part, name)| format!("{name} {part}%"));
        let blocked = a.blocked_total();
        let cells = [
            (a.name.clone(), Tone::Plain),
            (
                a.mode.clone(),
                if a.mode == "enforce" {
                    Tone::Plain
                } else {
                    Tone::Warn
                },
            ),
            (a.generation.to_string(), Tone::Plain),
            (a.rules.to_string(), Tone::Plain),
            (a.runs.len().to_string(), Tone::Plain),
            (processes.to_string(), Tone::Plain),
            (a.leases.to_string(), Tone::Plain),
            (a.allowed_total().to_string(), Tone::Plain),
            (
                blocked.to_string(),
                if blocked > 0 { Tone::Warn } else { Tone::Plain },
            ),
            (bytes(a.sent_bytes), Tone::Plain),
            (fullest, Tone::Plain),
        ];
        let cells: Vec<_> = cells
            .iter()
            .map(|(text, tone)| (text.as_str(), *tone))
            .collect();
        columns.row(&cells);
    }
    let _ = write!(out, "\n{}", columns.text());
    for a in &s.agents {
        let name = printable(&a.name);
        if let Some(since) = a.frozen {
            let frozen = style.paint(Tone::Warn, "frozen");
            let _ = writeln!(
                out,
                "{name} is {frozen} since {since}: cut off from the network and stopped; `sudo exeat thaw --agent {name}` lets it go on"
            );
        } else if a.isolated {
            let cut = style.paint(Tone::Warn, "cut off from the network");
            let _ = writeln!(
                out,
                "{name} is {cut}, and runs: `sudo exeat isolate --agent {name} --off` connects it again"
            );
        }
        if a.questions > 0 || a.grants > 0 {
            let waiting = format!("{} waiting for an answer", a.questions);
            let waiting = match a.questions {
                0 => waiting,
                _ => style.paint(Tone::Warn, &waiting),
            };
            let _ = writeln!(
                out,
                "questions of {name}: {waiting} (`exeat ask`), {} granted or denied (`exeat grants`)",
                a.grants
            );
        }
        for limit in &a.limits {
            let word = match limit.holds {
                true => String::new(),
                false => format!("{}: ", style.paint(Tone::Bad, "does not hold")),
            };
            let between = if limit.detail.is_empty() { "" } else { ", " };
            let _ = writeln!(
                out,
                "limit of {name}: {} {}{between}{word}{}",
                printable(&limit.limit),
                printable(&limit.value),
                printable(&limit.detail)
            );
        }
        for adopted in &a.adopted {
            let what = adopted.what.display().to_string();
            let run = adopted.run.as_ref().map(|run| format!(" in {run}"));
            let _ = writeln!(
                out,
                "adopted by {}: {}{}, {} processes ({})",
                printable(&a.name),
                printable(&what),
                printable(&run.unwrap_or_default()),
                adopted.processes,
                printable(adopted.by.as_deref().unwrap_or("by an earlier daemon")),
            );
        }
    }
    for a in &s.agents {
        let parts: Vec<String> = a
            .blocked
            .iter()
            .flat_map(|(reason, by)| by.iter().map(move |(p, n)| format!("{reason} {p} {n}")))
            .collect();
        if !parts.is_empty() {
            let parts = parts.join(", ");
            let _ = writeln!(
                out,
                "blocked of {}: {}",
                printable(&a.name),
                printable(&parts)
            );
        }
    }
}

fn names(out: &mut String, s: &Status, style: Style) {
    if s.names.is_empty() {
        return;
    }
    let heads = [
        "NAME",
        "STATE",
        "EXPIRES",
        "FAILURES",
        "ADDRESSES",
        "LAST ERROR",
    ];
    let mut columns = Columns::new(style, &heads);
    for n in &s.names {
        let tone = match n.state {
            NameState::Ok => Tone::Good,
            NameState::Pending => Tone::Plain,
            NameState::Stale => Tone::Warn,
            NameState::Failed => Tone::Bad,
        };
        let addresses: Vec<String> = n.addresses.iter().take(3).map(|a| a.to_string()).collect();
        let mut addresses = addresses.join(" ");
        if n.addresses.len() > 3 {
            let _ = write!(addresses, " +{}", n.addresses.len() - 3);
        }
        let expires = n.expires_in_seconds.map_or("-".to_owned(), duration);
        columns.row(&[
            (&n.name, Tone::Plain),
            (n.state.as_str(), tone),
            (&expires, Tone::Plain),
            (&n.failures.to_string(), Tone::Plain),
            (&addresses, Tone::Plain),
            (n.last_error.as_deref().unwrap_or(""), Tone::Warn),
        ]);
    }
    let _ = write!(out, "\n{}", columns.text());
}

fn bundle(out: &mut String, s: &Status, style: Style) {
    let Some(bundle) = &s.bundle else { return };
    let line = match &bundle.current {
        None => "none yet".to_owned(),
        Some(b) => format!(
            "{} version {}, {}, {} {}",
            printable(&b.name),
            b.version,
            printable(&b.stage),
            if b.expired {
                "EXPIRED"
            } else {
                "to be believed until"
            },
            b.expires,
        ),
    };
    let _ = writeln!(out, "bundle     {line}");
    if let Some(version) = bundle.waiting {
        let _ = writeln!(out, "           version {version} waits for its turn");
    }
    if let Some(refused) = &bundle.refused {
        let what = style.paint(Tone::Bad, "refused");
        let (reason, message) = (printable(&refused.reason), printable(&refused.message));
        let _ = writeln!(out, "           {what} ({reason}): {message}");
    }
}

fn rest(out: &mut String, s: &Status, style: Style) {
    let p = &s.policy;
    let sources: Vec<_> = p.sources.iter().map(|f| f.display().to_string()).collect();
    let digest: String = p.digest.chars().take(16).collect();
    let _ = writeln!(
        out,
        "\npolicy     generation {}, loaded {}, digest {}, from {}",
        p.generation,
        p.loaded_at,
        printable(&digest),
        match sources.is_empty() {
            true => "no file".into(),
            false => printable(&sources.join(" ")).into_owned(),
        },
    );
    if let Some(error) = &p.last_error {
        let what = style.paint(Tone::Bad, "the last reload changed nothing");
        let _ = writeln!(out, "           {what}:");
        for line in error.lines() {
            let _ = writeln!(out, "           {}", printable(line));
        }
    }
    bundle(out, s, style);
    let r = &s.resolver;
    let upstreams: Vec<_> = r
        .upstreams
        .iter()
        .map(|u| printable(u).into_owned())
        .collect();
    let _ = writeln!(
        out,
        "resolver   {} queries, {} failed, by {}",
        r.queries,
        r.failures,
        match upstreams.is_empty() {
            true => "no upstream".to_owned(),
            false => upstreams.join(" "),
        },
    );
    let e = &s.events;
    let lost = e
        .lost_kernel
        .saturating_add(e.lost_ring)
        .saturating_add(e.lost_queue);
    let tone = if lost > 0 { Tone::Warn } else { Tone::Plain };
    let lost = format!(
        "{lost} lost (kernel {}, ring {}, queue {})",
        e.lost_kernel, e.lost_ring, e.lost_queue
    );
    let _ = writeln!(
        out,
        "events     {} received, {}, {} throttled",
        e.received,
        style.paint(tone, &lost),
        e.throttled,
    );
    sinks(out, s, style);
    if let Some(portal) = &s.portal {
        let whom = portal.agent.as_deref().unwrap_or("the daemon's resolver");
        let open = format!("open for {} until {}", printable(whom), portal.until);
        let _ = writeln!(out, "portal     {}", style.paint(Tone::Warn, &open));
    }
}

fn sinks(out: &mut String, s: &Status, style: Style) {
    for sink in &s.sinks {
        let tone = |bad: bool| if bad { Tone::Warn } else { Tone::Plain };
        let _ = writeln!(
            out,
            "records    to {}: {} arrived, {}, {}, {}; last {}",
            printable(&sink.name),
            sink.delivered,
            style.paint(
                tone(sink.trouble.is_some()),
                &format!("{} wait", sink.queued)
            ),
            style.paint(tone(sink.dropped > 0), &format!("{} dropped", sink.dropped)),
            style.paint(tone(sink.failed > 0), &format!("{} refused", sink.failed)),
            sink.last_success
                .map_or_else(|| "never".to_owned(), |at| at.to_string()),
        );
        if let Some(trouble) = &sink.trouble {
            let _ = writeln!(out, "           {}", printable(trouble));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::tests::status;
    use crate::control::status::{Health, Wall};

    #[test]
    fn a_healthy_daemon_fits_a_screen() {
        let expected = "\
exeat 0.1.0 (abc123), pid 42, up 1d 2h, slice exeat.slice
health     ok
enforcing  yes; walls: 1 up, 0 missing, 0 failed

AGENT      MODE     GEN  RULES  RUNS  PROCS  LEASES  ALLOWED  BLOCKED  SENT    FULLEST MAP
build-bot  enforce  2    5      1     2      6       11       7        5.3 MB  exact 0%
blocked of build-bot: no_rule tcp 3, no_rule udp 4

NAME             STATE  EXPIRES  FAILURES  ADDRESSES  LAST ERROR
api.example.com  ok     1m 1s    0         192.0.2.7

policy     generation 2, loaded 2026-03-04T12:00:00Z, digest 0123456789abcdef, from \
/etc/exeat/policy.d/a.yaml
resolver   9 queries, 1 failed, by 192.0.2.53:53
events     7 received, 0 lost (kernel 0, ring 0, queue 0), 0 throttled
";
        assert_eq!(render(&status(), Style::default()), expected);
    }

    #[test]
    fn what_is_wrong_is_said_first_and_with_its_reason() {
        let mut s = status();
        s.enforcement.active = false;
        s.enforcement.walls.push(Wall {
            name: "egress".into(),
            hook: "cgroup_skb/egress".into(),
            state: WallState::Failed,
            detail: "the link is gone".into(),
            leaves_out: Vec::new(),
        });
        s.enforcement.walls[0].leaves_out = vec!["which process it was".into()];
        s.health = Health::from_reasons(vec!["wall egress failed".into(), "a\nb".into()]);
        s.portal = Some(crate::control::PortalStatus {
            agent: Some("browser\x07".into()),
            until: "2026-03-04T12:05:00Z".parse().expect("time"),
        });
        s.policy.last_error = Some("a.yaml:1:2: unknown field\n  | x".into());
        s.events.lost_ring = 4;
        let text = render(&s, Style::default());
        for part in [
            "health     DEGRADED\n           - wall egress failed\n           - a\n             b\n",
            "enforcing  NO; walls: 1 up, 0 missing, 1 failed\n",
            "portal     open for browser\\u{7} until 2026-03-04T12:05:00Z\n",
            "           connect4: this kernel does not tell it which process it was\n",
            "failed egress (cgroup_skb/egress): the link is gone\n",
            "the last reload changed nothing:\n           a.yaml:1:2: unknown field\n",
            "4 lost (kernel 0, ring 4, queue 0)",
        ] {
            assert!(text.contains(part), "{part}\nnot in\n{text}");
        }
        assert!(!text.contains('\x1b'));
        assert!(render(&s, Style { colour: true }).contains("\x1b[31mDEGRADED\x1b[0m"));
    }

    fn wall(name: &str, state: WallState, detail: &str) -> Wall {
        Wall {
            name: name.into(),
            hook: "lsm/x".into(),
            state,
            detail: detail.into(),
            leaves_out: Vec::new(),
        }
    }

    #[test]
    fn walls_that_are_missing_for_one_reason_are_one_line() {
        let mut s = status();
        for (name, why) in [("a", "no LSM"), ("b", "refused"), ("c", "no LSM")] {
            s.enforcement
                .walls
                .push(wall(name, WallState::Missing, why));
        }
        let text = render(&s, Style::default());
        assert!(
            text.contains("walls: 1 up, 3 missing, 0 failed\n"),
            "{text}"
        );
        assert!(text.contains("           missing a, c: no LSM\n"), "{text}");
        assert!(text.contains("           missing b: refused\n"), "{text}");
    }

    #[test]
    fn an_agent_has_the_walls_of_all_and_its_own_instead_of_theirs() {
        let mut s = status();
        s.enforcement.walls.push(wall("lsm_bpf", WallState::Up, ""));
        s.agents[0].walls = vec![
            wall(
                "lsm_bpf",
                WallState::Missing,
                "its policy says `sandbox: none`",
            ),
            wall("seccomp", WallState::Up, "a list"),
        ];
        let agent = with_all_walls(&s, "build-bot").expect("the agent");
        let names: Vec<&str> = agent.walls.iter().map(|wall| wall.name.as_str()).collect();
        assert_eq!(names, ["connect4", "lsm_bpf", "seccomp"]);
        assert_eq!(
            of_agent(&agent, Style::default()),
            "\
build-bot: enforce, generation 2, 5 rules, 1 runs, cgroup /sys/fs/cgroup/exeat.slice/build-bot

WALL      STATE    WHERE                              DETAIL
connect4  up       cgroup/connect4 at /sys/fs/cgroup
lsm_bpf   missing  lsm/x                              its policy says `sandbox: none`
seccomp   up       lsm/x                              a list
"
        );
        assert_eq!(with_all_walls(&s, "nobody"), None);
    }

    #[test]
    fn nothing_from_outside_drives_the_terminal() {
        let mut s = status();
        let bad = "x\x1b]0;t\x07\u{202e}".to_owned();
        s.agents[0].name = bad.clone();
        s.names[0].name = bad.clone();
        s.names[0].last_error = Some(bad.clone());
        s.policy.last_error = Some(bad.clone());
        s.policy.sources = vec![bad.clone().into()];
        s.health = Health::from_reasons(vec![bad]);
        let text = render(&s, Style::default());
        let rude = text
            .chars()
            .find(|c| *c != '\n' && crate::flow::is_unsafe(*c));
        assert_eq!(rude, None, "{text}");
    }

    #[test]
    fn an_empty_policy_is_said() {
        let mut s = status();
        (s.agents, s.names) = (vec![], vec![]);
        assert!(render(&s, Style::default()).contains("no agents: the policy names none"));
    }
}
