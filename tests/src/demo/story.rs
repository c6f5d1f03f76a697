//! The steps, in order.

use super::attempts::{self, Allowed, Forbidden};
use super::follow::Follow;
use super::kernel::{Object, pinned};
use super::ledger::Ledger;
use super::scene::{self, Reached, Scene};
use super::shell::{Outcome, Shell};
use super::show::{From, Show, Tone};
use super::signals;
use super::traces::Traces;
use crate::attack::PLAIN_USER;
use crate::daemon::Daemon;
use crate::wait;
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The stock policy.
const POLICY: &str = include_str!("../../../policies/demo.yaml");

/// Its agent.
const AGENT: &str = "demo";

/// What the steps share. Fields are dropped in this order: the agent, who looks on, the
/// daemon, and then its network.
struct Story<'a> {
    agent: Option<Shell>,
    follow: Option<Follow>,
    daemon: Daemon,
    scene: Scene,
    /// Flows so far that the kernel's hooks let out and refused: the least that the metrics
    /// page must count.
    let_out: u32,
    refused: u32,
    show: &'a Arc<Show>,
    ledger: &'a mut Ledger,
}

/// Tells it from the beginning to the end; what it made is gone when this returns.
pub(super) fn tell(
    show: &Arc<Show>,
    ledger: &mut Ledger,
    traces: &mut Traces,
) -> anyhow::Result<()> {
    show.step("A small internet");
    let mut scene = Scene::new().context("build the network")?;
    traces.world(&scene.world)?;
    introduce(show);

    signals::check()?;
    show.step("Without Exeat: everything gets out");
    show.text("  The commands of step 5, by the same user, not yet under a policy:");
    without(&mut scene, show, ledger)?;

    signals::check()?;
    show.step("Start the daemon, then a shell as the agent `demo`");
    show.text("  The policy (policies/demo.yaml); what it does not allow is refused:");
    for line in policy_lines() {
        show.text(&format!("      {line}"));
    }
    show.text("  Each `exeat` below also has a `--config FILE`, left out here.");
    show.line(From::Root, Tone::Plain, "exeat daemon &");
    let daemon = Daemon::start(&scene.world, POLICY)?;
    traces.daemon(&daemon)?;
    let mut story = Story {
        agent: None,
        follow: None,
        daemon,
        scene,
        let_out: 0,
        refused: 0,
        show,
        ledger,
    };
    story.look_on()?;
    story.start_agent()?;

    show.step("What the policy allows");
    for flow in attempts::allowed() {
        story.allowed(&flow)?;
    }
    show.step("What it does not allow");
    for flow in attempts::forbidden() {
        story.forbidden(&flow, "")?;
    }
    signals::check()?;
    show.step("Kill the daemon with -9: the kernel goes on refusing");
    let links = story.links()?;
    story.kill()?;
    show.text("  The commands of step 5 again, in the agent's shell, which is still there:");
    for flow in attempts::forbidden() {
        story.forbidden_in_short(&flow)?;
    }
    show.text("\n  What the policy allows goes on too; the name cannot be asked for now, so we give its address:");
    story.allowed(&attempts::leased())?;
    show.step("Start the daemon again: it takes over what is pinned");
    story.take_over(&links)?;
    traces.daemon(&story.daemon)?;
    show.step("The metrics page");
    story.metrics()?;
    let lost = story.scene.lost()?;
    story.ledger.note(
        "the sniffer's own losses",
        "0 packets missed",
        format!("{lost} packets missed"),
        lost == 0,
    );
    Ok(())
}

fn introduce(show: &Show) {
    use scene::{API, API_V4, FOREIGN, OTHER, OTHER_V4, OTHER_V6, PLAIN, PLAIN_V4};
    show.text(
        "  Two network namespaces joined by a wire: a laptop, and an internet of stub hosts.",
    );
    for (name, address, what) in [
        (API, API_V4, "https: the policy will allow it"),
        (PLAIN, PLAIN_V4, "http: the policy will allow it"),
        (OTHER, OTHER_V4, "http, https and udp"),
        ("", OTHER_V6, "the same host"),
        ("a foreign name server", FOREIGN, "dns"),
    ] {
        show.text(&format!("      {name:22} {address:14} {what}"));
    }
    show.text("  A sniffer at the far end of the wire counts every packet that gets through.");
}

/// The policy without its comments.
fn policy_lines() -> impl Iterator<Item = &'static str> {
    POLICY.lines().filter(|line| !line.starts_with('#'))
}

/// The control run: what is refused later works now, so the refusals are Exeat's.
fn without(scene: &mut Scene, show: &Show, ledger: &mut Ledger) -> anyhow::Result<()> {
    let mut command = scene.world.laptop.command_as(PLAIN_USER, "sh");
    command.env_clear().envs(scene.environment());
    let mut shell = Shell::start(command)?;
    let all = attempts::forbidden();
    let mut out = 0;
    for flow in &all {
        let before = scene.reached()?;
        shell.run(&flow.command)?;
        // A host has its own thread: the packet can be seen before the host has taken it.
        let taken = || scene.reached().is_ok_and(|now| now.since(before).hosts > 0);
        let _ = wait::until("a host", wait::patience(), || taken().then_some(()));
        let reached = scene.reached()?.since(before);
        let told = match reached.hosts {
            0 => "did not get out",
            _ => "got out",
        };
        out += usize::from(reached.hosts > 0);
        let line = format!("{:26}  {}, {told}", flow.what, packets(reached.packets));
        show.line(From::Wire, Tone::Plain, &line);
    }
    ledger.note(
        "without Exeat: the same",
        "all get out",
        format!("{out} of {} got out", all.len()),
        out == all.len(),
    );
    drop(shell);
    scene.forget()
}

impl Story<'_> {
    fn look_on(&mut self) -> anyhow::Result<()> {
        let command = self.daemon.cli(&["events", "--follow"]);
        let line = "exeat events --follow &      (its lines are marked `events`)";
        self.show.line(From::Root, Tone::Plain, line);
        self.follow = Some(Follow::start(command, self.show.clone())?);
        Ok(())
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let argv = ["sh".to_owned()];
        let mut command = self.daemon.run_command(AGENT, PLAIN_USER, &argv);
        command.env_clear().envs(self.scene.environment());
        let line = format!("exeat run --agent {AGENT} -- sh      (as user {PLAIN_USER})");
        self.show.line(From::Root, Tone::Plain, &line);
        let agent = Shell::start(command)?;
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", agent.pid()))?;
        let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
        let cgroup = cgroup.unwrap_or("?").to_owned();
        self.show
            .line(From::Said, Tone::Plain, &format!("in the cgroup {cgroup}"));
        self.agent = Some(agent);
        Ok(())
    }

    /// Types a command into the agent's shell, and shows it with what it printed.
    fn agent(&mut self, command: &str) -> anyhow::Result<Outcome> {
        self.show.line(From::Typed, Tone::Bold, command);
        let agent = self.agent.as_mut().context("no agent runs")?;
        let outcome = agent.run(command)?;
        for line in &outcome.lines {
            self.show.line(From::Agent, Tone::Plain, &readable(line));
        }
        Ok(outcome)
    }

    fn allowed(&mut self, flow: &Allowed) -> anyhow::Result<()> {
        signals::check()?;
        self.show.text("");
        let mark = self.scene.requests().len();
        let before = self.scene.reached()?;
        let outcome = self.agent(&flow.command)?;
        let all = self.scene.requests();
        // By host, so the new ones need not be the last: those with the wanted line are.
        let new = all.len() - mark;
        let got = all.iter().find(|(_, request)| {
            request.head.lines().next() == Some(flow.request)
                && request.server_name.as_deref() == flow.server_name
        });
        let seen = match got {
            Some((address, request)) => {
                let tls = match &request.server_name {
                    Some(name) => format!(", by TLS for {name}"),
                    None => String::new(),
                };
                let line = format!("{address} received `{}`{tls}", flow.request);
                self.show.line(From::Host, Tone::Good, &line);
                format!("{new} request received")
            }
            None => {
                let line = "nothing of the kind arrived";
                self.show.line(From::Host, Tone::Bad, line);
                "no request received".to_owned()
            }
        };
        let stray = self.scene.reached()?.since(before);
        self.let_out += 1;
        let ok = got.is_some() && new == 1 && outcome.code == 0 && stray.nothing();
        self.ledger.note(flow.what, "1 request received", seen, ok);
        Ok(())
    }

    fn forbidden(&mut self, flow: &Forbidden, when: &str) -> anyhow::Result<()> {
        signals::check()?;
        self.show.text(&format!("\n  {}: {}", flow.what, flow.why));
        let before = self.scene.reached()?;
        let follow = self.follow.as_ref().context("nobody looks on")?;
        let mark = follow.mark();
        self.agent(&flow.command)?;
        let follow = self.follow.as_ref().context("nobody looks on")?;
        let shown = follow.denied(mark, &flow.event)?;
        let reached = self.scene.reached()?.since(before);
        self.show.line(From::Wire, tone(reached), &arrived(reached));
        self.refused += u32::from(flow.by_hook);
        self.ledger.note(
            &format!("{}{when}", flow.what),
            "0 packets, event shown",
            format!(
                "{}, {}",
                packets(reached.packets),
                if shown { "event shown" } else { "NO event" }
            ),
            reached.nothing() && shown,
        );
        Ok(())
    }

    /// Without a daemon nobody can show the event now; the ring keeps it.
    fn forbidden_in_short(&mut self, flow: &Forbidden) -> anyhow::Result<()> {
        let before = self.scene.reached()?;
        let agent = self.agent.as_mut().context("no agent runs")?;
        let outcome = agent.run(&flow.command)?;
        let reached = self.scene.reached()?.since(before);
        let said = outcome.lines.last().map(|line| readable(line));
        let line = format!(
            "{:26}  {}, {}",
            flow.what,
            packets(reached.packets),
            said.unwrap_or_default()
        );
        self.show.line(From::Wire, tone(reached), &line);
        self.refused += u32::from(flow.by_hook);
        self.ledger.note(
            &format!("{}, no daemon", flow.what),
            "0 packets",
            packets(reached.packets),
            reached.nothing(),
        );
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let pid = self.daemon.pid().context("the daemon does not run")?;
        let line = format!("kill -9 {pid}      (the daemon)");
        self.show.line(From::Root, Tone::Bold, &line);
        self.daemon.kill9()?;
        if let Some(follow) = self.follow.take() {
            follow.finish()?;
        }
        Ok(())
    }

    /// Ids of the pinned links, by the path of the pin.
    fn links(&self) -> anyhow::Result<BTreeMap<PathBuf, Object>> {
        let mut links = BTreeMap::new();
        for entry in std::fs::read_dir(self.daemon.bpffs().join("links"))? {
            let path = entry?.path();
            let objects = pinned(&path)?;
            let link = objects.into_iter().find(|o| matches!(o, Object::Link(_)));
            let link = link.with_context(|| format!("{} is no link", path.display()))?;
            links.insert(path, link);
        }
        Ok(links)
    }

    fn take_over(&mut self, before: &BTreeMap<PathBuf, Object>) -> anyhow::Result<()> {
        self.show.line(From::Root, Tone::Plain, "exeat daemon &");
        self.daemon.restart()?;
        let after = self.links()?;
        let same = before
            .iter()
            .filter(|(path, link)| after.get(*path) == Some(link))
            .count();
        let line = format!(
            "{same} of {} links into the kernel are the very same: nothing was detached meanwhile",
            before.len()
        );
        self.show.line(From::Said, Tone::Plain, &line);
        self.ledger.note(
            "the daemon's take-over",
            "every link unchanged",
            format!("{same} of {} unchanged", before.len()),
            same == before.len() && after.len() == before.len() && same > 0,
        );
        self.look_on()?;
        self.kept_events()?;
        let flow = attempts::allowed().swap_remove(0);
        self.allowed(&Allowed {
            what: "the allowed name, after it",
            ..flow
        })?;
        let flow = attempts::forbidden().swap_remove(0);
        self.forbidden(&flow, ", after it")
    }

    /// What the hooks refused while no daemon ran is told by the next one.
    fn kept_events(&mut self) -> anyhow::Result<()> {
        let all = attempts::forbidden();
        let wanted = all.iter().filter(|flow| flow.by_hook).count();
        let follow = self.follow.as_ref().context("nobody looks on")?;
        let told = follow.denials(wanted)?;
        self.ledger.note(
            "refusals without a daemon",
            "events kept in the kernel",
            format!("{told} of {wanted} told afterwards"),
            told >= wanted,
        );
        Ok(())
    }

    fn metrics(&mut self) -> anyhow::Result<()> {
        const SHOWN: [&str; 4] = [
            "exeat_enforcement_active",
            "exeat_flows_allowed_total",
            "exeat_flows_blocked_total",
            "exeat_dns_queries_total",
        ];
        let page = self.daemon.metrics()?;
        let port = self.daemon.metrics_port();
        let line = format!("curl http://127.0.0.1:{port}/metrics");
        self.show.line(From::Root, Tone::Plain, &line);
        for line in page.lines() {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            if SHOWN.contains(&name) && !line.ends_with(" 0") {
                self.show.line(From::Said, Tone::Plain, line);
            }
        }
        let agent = format!("agent=\"{AGENT}\"");
        let sum = |name| self.daemon.metric(name, &[&agent]);
        let allowed = sum("exeat_flows_allowed_total")?;
        let blocked = sum("exeat_flows_blocked_total")?;
        // Questions to the gate are flows too, so there may be more.
        let enough = allowed >= f64::from(self.let_out) && blocked >= f64::from(self.refused);
        let active = self.daemon.metric("exeat_enforcement_active", &[])?;
        self.ledger.note(
            "the metrics page",
            "all flows counted, enforcing",
            format!("{allowed} allowed, {blocked} blocked"),
            enough && active == 1.0,
        );
        Ok(())
    }
}

fn packets(number: usize) -> String {
    match number {
        1 => "1 packet".to_owned(),
        _ => format!("{number} packets"),
    }
}

fn arrived(reached: Reached) -> String {
    match reached.nothing() {
        true => "0 packets: nothing left the laptop".to_owned(),
        false => format!(
            "{}, {} received by hosts",
            packets(reached.packets),
            reached.hosts
        ),
    }
}

fn tone(reached: Reached) -> Tone {
    match reached.nothing() {
        true => Tone::Good,
        false => Tone::Bad,
    }
}

/// The report of `hostile` in words; every other line as it is.
fn readable(line: &str) -> String {
    let Ok(report) = serde_json::from_str::<serde_json::Value>(line) else {
        return line.to_owned();
    };
    let (Some(outcome), Some(detail)) = (report["outcome"].as_str(), report["detail"].as_str())
    else {
        return line.to_owned();
    };
    match report["errno"].as_i64().and_then(|n| i32::try_from(n).ok()) {
        Some(errno) => {
            let error = std::io::Error::from_raw_os_error(errno);
            format!("hostile: {detail}: {error}")
        }
        None => format!("hostile: {outcome}, {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_put_into_words() {
        let refused = r#"{"technique":"x","outcome":"refused","errno":1,"detail":"sendto"}"#;
        assert_eq!(
            readable(refused),
            "hostile: sendto: Operation not permitted (os error 1)"
        );
        let sent = r#"{"technique":"x","outcome":"sent","errno":null,"detail":"answer"}"#;
        assert_eq!(readable(sent), "hostile: sent, answer");
        assert_eq!(readable("curl: (7) no"), "curl: (7) no");
    }
}
