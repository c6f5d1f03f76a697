//! Names: one question's time beside plain forwarders, questions a second on one core, and
//! the write to the kernel that an answer waits for.

mod authority;
mod client;
mod peer;

pub(crate) use client::main as ask;

use crate::Settings;
use crate::report::{Section, Target, number, ratio};
use crate::stats::Series;
use anyhow::{Context, ensure};
use client::{Client, Names, Order};
use exeat_tests::daemon::Daemon;
use exeat_tests::world::{NAME_SERVER, World};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use peer::{Kind, Peer};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

const AGENTS: usize = 100;
/// Names that every policy lists.
const HOT: u32 = 16;
/// Questions that are always under way in a flood, over all clients.
const WINDOW: usize = 100;
/// Where servers run while they are flooded, and where clients.
const CPUS: [usize; 2] = [0, 1];
/// The bound for the write to the kernel.
const WRITE_MICROS: f64 = 20.0;

/// Everything that answers, dropped in this order.
struct Scene {
    peers: Vec<Peer>,
    daemon: Daemon,
    _authority: exeat_tests::service::Service,
    world: World,
}

/// Who is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The name server, directly.
    Floor,
    /// The gate of an agent.
    Exeat,
    /// A forwarder, by its place among them.
    Peer(usize),
}

impl Scene {
    fn new() -> anyhow::Result<(Self, String)> {
        let world = World::new()?;
        let server = SocketAddr::new(NAME_SERVER.parse()?, 53);
        let authority = authority::start(&world.internet, server)?;
        let daemon = Daemon::start(&world, &policy())?;
        let (mut peers, mut absent) = (Vec::new(), String::new());
        for kind in Kind::ALL {
            match Peer::start(kind, &world) {
                Ok(peer) => peers.push(peer),
                Err(why) => {
                    let _ = write!(absent, " {} is absent: {why:#}.", kind.as_str());
                }
            }
        }
        let scene = Self {
            peers,
            daemon,
            _authority: authority,
            world,
        };
        Ok((scene, absent))
    }

    fn all(&self) -> Vec<Who> {
        let peers = (0..self.peers.len()).map(Who::Peer);
        [Who::Floor, Who::Exeat].into_iter().chain(peers).collect()
    }

    fn name(&self, who: Who) -> String {
        match who {
            Who::Floor => "the server itself".to_owned(),
            Who::Exeat => "exeat".to_owned(),
            Who::Peer(at) => self.peers[at].version.clone(),
        }
    }

    /// The forwarder that others are compared with.
    fn first(&self) -> String {
        match self.peers.first() {
            Some(peer) => peer.version.clone(),
            None => "a forwarder".to_owned(),
        }
    }

    fn pid(&self, who: Who) -> Option<u32> {
        match who {
            Who::Floor => None,
            Who::Exeat => self.daemon.pid(),
            Who::Peer(at) => Some(self.peers[at].pid()),
        }
    }

    /// A client of it; of the gate as one agent or another.
    fn client(&self, who: Who, agent: usize) -> anyhow::Result<Client> {
        let server = match who {
            // The same words: where the agent's question goes is not for it to say.
            Who::Floor | Who::Exeat => format!("{NAME_SERVER}:53"),
            Who::Peer(at) => self.peers[at].address().to_string(),
        };
        let program = std::env::current_exe()?.display().to_string();
        let words = ["ask".to_owned(), server];
        let command: Command = match who {
            Who::Exeat => {
                let argv: Vec<String> = [program].into_iter().chain(words).collect();
                self.daemon.run_command(&format!("a{agent}"), 0, &argv)
            }
            Who::Floor | Who::Peer(_) => {
                let mut command = self.world.laptop.command(program);
                command.args(words);
                command
            }
        };
        Client::start(command)
    }
}

fn policy() -> String {
    let mut text = String::from("version: 1\nagents:\n");
    for agent in 0..AGENTS {
        // What is measured is not the budget.
        let _ = write!(
            text,
            "  a{agent}:\n    dns:\n      budget: {{ names: 1000000, bytes: 100000000, \
             entropy_bits: 100000000 }}\n    allow:\n      \
             - {{ host: '*.wild.bench.example', ports: [443] }}\n"
        );
        for hot in 0..HOT {
            let _ = writeln!(
                text,
                "      - {{ host: hot-{hot}.bench.example, ports: [443] }}"
            );
        }
    }
    text
}

fn hot() -> Names {
    Names {
        pattern: "hot-{}.bench.example".to_owned(),
        first: 0,
        count: HOT,
    }
}

/// Names that nobody has asked for.
fn fresh(who: usize, round: usize, count: u32) -> Names {
    Names {
        pattern: format!("n{{}}.s{who}.wild.bench.example"),
        first: round as u32 * count,
        count,
    }
}

/// Runs it.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let (scene, absent) = Scene::new()?;
    let (mut latency, writes) = latency(&scene, settings)?;
    latency.note += &absent;
    Ok(vec![latency, writes, rates(&scene, settings)?])
}

/// One server's times, by round and all together.
#[derive(Default)]
struct Seen {
    median: Series,
    slow: Series,
    all: Series,
}

impl Seen {
    fn add(&mut self, micros: Vec<f64>) {
        let round: Series = micros.iter().copied().collect();
        self.median.push(round.median());
        self.slow.push(round.quantile(0.99));
        for one in micros {
            self.all.push(one);
        }
    }
}

fn latency(scene: &Scene, settings: &Settings) -> anyhow::Result<(Section, Section)> {
    let all = scene.all();
    let mut clients = all
        .iter()
        .map(|who| scene.client(*who, 0))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        client.ask(&hot(), HOT)?;
    }
    let mut seen: [Vec<Seen>; 2] = Default::default();
    for seen in &mut seen {
        seen.resize_with(all.len(), Seen::default);
    }
    let rounds = settings.pick(8, 40);
    let questions = [settings.pick(200, 500), 80];
    let before = Grants::read(&scene.daemon)?;
    for round in 0..rounds {
        for turn in 0..all.len() {
            let at = (turn + round) % all.len();
            let names = [hot(), fresh(at, round, questions[1])];
            for (part, names) in names.into_iter().enumerate() {
                let took = clients[at].ask(&names, questions[part])?;
                seen[part][at].add(took);
            }
        }
    }
    let grants = Grants::read(&scene.daemon)?.since(&before);
    let asked = rounds as f64 * f64::from(questions[1]);
    ensure!(
        grants.count >= asked,
        "{asked} fresh names were asked for and {} were granted",
        grants.count
    );
    let first = scene.first();
    let beside = |seen: &[Seen], at: usize| match seen.get(2) {
        Some(peer) => ratio(&seen[at].median.over(&peer.median)),
        None => "-".to_owned(),
    };
    let mut rows = Vec::new();
    for (part, word) in ["cached", "fresh"].into_iter().enumerate() {
        let seen = &seen[part];
        for (at, who) in all.iter().enumerate() {
            let (one, floor) = (&seen[at], &seen[0]);
            rows.push(vec![
                format!("{word}, {}", scene.name(*who)),
                number(one.all.median()),
                number(one.all.quantile(0.99)),
                number(one.median.less(&floor.median).median()),
                number(one.slow.less(&floor.slow).median()),
                ratio(&one.median.over(&floor.median)),
                beside(seen, at),
            ]);
        }
    }
    let cached = &seen[0];
    let over = cached
        .get(2)
        .map(|peer| cached[1].median.over(&peer.median).median());
    let names = Section {
        name: "dns",
        title: "Names: the time of one question",
        note: format!(
            "UDP, one question at a time, from an agent's process to the gate, and from a \
             process that is not governed to plain forwarders (one thread, caching) and to the \
             server that all of them ask, which is on the other end of a veth pair. Times in µs; \
             what is added is over the server itself in the same round (median over the rounds \
             of both quantiles). Cached: {HOT} names in turn. Fresh: every name for the first \
             time; the gate's answer waits until the kernel holds the address."
        ),
        columns: [
            "asked",
            "p50",
            "p99",
            "added p50",
            "added p99",
            "× the server",
            &format!("× {first}"),
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets: over
            .map(|over| Target::at_most(format!("cached name, p50, over {first}"), 1.0, over, "×"))
            .into_iter()
            .collect(),
    };
    Ok((names, grants.section()))
}

/// The histogram of grants, from the metrics page.
struct Grants {
    /// Microseconds and how many took no longer.
    within: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

impl Grants {
    fn read(daemon: &Daemon) -> anyhow::Result<Self> {
        const NAME: &str = "exeat_dns_grant_duration_seconds";
        let page = daemon.metrics()?;
        let lines = page.lines().filter_map(|line| line.strip_prefix(NAME));
        let mut grants = Self {
            within: Vec::new(),
            sum: 0.0,
            count: 0.0,
        };
        for line in lines {
            let (what, value) = line.rsplit_once(' ').context("a sample")?;
            let value: f64 = value.parse()?;
            match what {
                "_sum" => grants.sum = value * 1e6,
                "_count" => grants.count = value,
                bucket => {
                    let bound = bucket.strip_prefix("_bucket{le=\"").context("a bucket")?;
                    let bound: f64 = bound.trim_end_matches("\"}").parse()?;
                    if bound.is_finite() {
                        grants.within.push((bound * 1e6, value));
                    }
                }
            }
        }
        ensure!(!grants.within.is_empty(), "no histogram of grants");
        Ok(grants)
    }

    fn since(self, before: &Self) -> Self {
        let within = self.within.iter().zip(&before.within);
        Self {
            within: within.map(|(a, b)| (a.0, a.1 - b.1)).collect(),
            sum: self.sum - before.sum,
            count: self.count - before.count,
        }
    }

    /// Between the bounds of its bucket in proportion; infinite beyond the last.
    fn quantile(&self, part: f64) -> f64 {
        let wanted = part * self.count;
        let mut low = (0.0, 0.0);
        for &(bound, count) in &self.within {
            if count >= wanted && count > low.1 {
                return low.0 + (bound - low.0) * (wanted - low.1) / (count - low.1);
            }
            low = (bound, count);
        }
        f64::INFINITY
    }

    fn part_within(&self, micros: f64) -> f64 {
        let found = self.within.iter().find(|(bound, _)| *bound >= micros);
        found.map_or(f64::NAN, |(_, count)| count / self.count)
    }

    fn section(&self) -> Section {
        Section {
            name: "dns",
            title: "Names: the write to the kernel",
            note: format!(
                "What the answers to fresh names waited for until the kernel held their address, \
                 the wait for the daemon's one writer included: `exeat_dns_grant_duration_seconds` \
                 over the run above, {} grants, quantiles by its buckets. Times in µs.",
                self.count
            ),
            columns: ["grant", "p50", "p90", "p99", "mean", "within 20 µs"]
                .map(str::to_owned)
                .to_vec(),
            rows: vec![vec![
                "one new address".to_owned(),
                number(self.quantile(0.5)),
                number(self.quantile(0.9)),
                number(self.quantile(0.99)),
                number(self.sum / self.count),
                format!("{:.1} %", 100.0 * self.part_within(WRITE_MICROS)),
            ]],
            targets: vec![Target::at_most(
                "an address written before its answer, p50",
                WRITE_MICROS,
                self.quantile(0.5),
                "µs",
            )],
        }
    }
}

fn rates(scene: &Scene, settings: &Settings) -> anyhow::Result<Section> {
    let asked: Vec<Who> = scene
        .all()
        .into_iter()
        .filter(|who| *who != Who::Floor)
        .collect();
    for who in &asked {
        pin(scene.pid(*who).context("a server has ended")?, CPUS[0])?;
    }
    let mut rows = Vec::new();
    for agents in [1, 10, AGENTS] {
        let mut seen: Vec<[Series; 2]> = vec![Default::default(); asked.len()];
        for round in 0..settings.pick(2, 6) {
            for turn in 0..asked.len() {
                let at = (turn + round) % asked.len();
                let (rate, cost) = flood(scene, asked[at], agents, settings)?;
                seen[at][0].push(rate);
                seen[at][1].push(cost);
            }
        }
        for (at, who) in asked.iter().enumerate() {
            let [rate, cost] = &seen[at];
            rows.push(vec![
                format!("{agents}, {}", scene.name(*who)),
                number(rate.median()),
                number(cost.median()),
                number(1e6 / cost.median()),
                seen.get(1)
                    .map_or_else(|| "-".to_owned(), |[_, peer]| ratio(&cost.over(peer))),
            ]);
        }
    }
    let first = scene.first();
    Ok(Section {
        name: "dns",
        title: "Names: questions a second on one core",
        note: format!(
            "{HOT} cached names over UDP, {WINDOW} questions always under way, from one process \
             of each agent (for the forwarders: as many processes). The servers are held on one \
             CPU, the clients on the other, which for many clients is the slower one; so there is \
             also what a question costs the server (its CPU time, with what the kernel does on \
             its behalf) and how many fit into a second of it."
        ),
        columns: [
            "agents, server",
            "answers /s",
            "µs of CPU each",
            "a CPU second has",
            &format!("cost × {first}"),
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets: Vec::new(),
    })
}

/// Answers a second, and the server's microseconds for one.
fn flood(
    scene: &Scene,
    who: Who,
    agents: usize,
    settings: &Settings,
) -> anyhow::Result<(f64, f64)> {
    let pid = scene.pid(who).context("a server has ended")?;
    let mut clients = (0..agents)
        .map(|agent| scene.client(who, agent))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        client.ask(&hot(), HOT)?;
    }
    let order = Order::Flood {
        names: hot(),
        window: u16::try_from(WINDOW / agents)?,
        milliseconds: settings.pick(300, 1000),
        cpu: CPUS[1],
    };
    let before = cpu_micros(pid)?;
    for client in &mut clients {
        client.order(&order)?;
    }
    let (mut rate, mut answers) = (0.0, 0);
    for client in &mut clients {
        let (count, seconds) = client.flooded()?;
        rate += count as f64 / seconds;
        answers += count;
    }
    // Those that were under way at the end are answered too.
    let answered = answers as f64 + WINDOW as f64;
    Ok((rate, (cpu_micros(pid)? - before) / answered))
}

/// Holds every thread of a process on one CPU, and those that they start.
fn pin(pid: u32, cpu: usize) -> anyhow::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = task?.file_name();
        let tid: i32 = name.to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(tid), &cpus)
            .with_context(|| format!("hold thread {tid} on CPU {cpu}"))?;
    }
    Ok(())
}

fn cpu_micros(pid: u32) -> anyhow::Result<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))?;
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_buckets() {
        let grants = Grants {
            within: vec![(10.0, 50.0), (20.0, 90.0), (50.0, 99.0)],
            sum: 1500.0,
            count: 100.0,
        };
        assert_eq!(grants.quantile(0.25), 5.0);
        assert_eq!(grants.quantile(0.5), 10.0);
        assert_eq!(grants.quantile(0.7), 15.0);
        assert_eq!(grants.quantile(0.995), f64::INFINITY);
        assert_eq!(grants.part_within(20.0), 0.9);
        let later = grants.since(&Grants {
            within: vec![(10.0, 50.0), (20.0, 50.0), (50.0, 50.0)],
            sum: 500.0,
            count: 50.0,
        });
        assert_eq!(later.quantile(0.5), 16.25);
    }
}
