//! TLS connections: what the name check in the kernel and the gateway cost beside nothing,
//! beside an address rule, and beside a proxy that does the same by being asked.

mod client;
mod counted;
mod reader;
mod server;
mod squid;
mod tables;

pub(crate) use client::main as shake;

use crate::Settings;
use crate::bpf::Empty;
use crate::report::Section;
use crate::stats::Series;
use anyhow::Context;
use client::{Client, Order, Way};
use counted::Counted;
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::daemon::Daemon;
use exeat_tests::dns::DnsHost;
use exeat_tests::http::Authority;
use exeat_tests::world::World;
use server::Server;
use squid::Squid;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOST: &str = "tls.bench.example";
const ADDRESS: &str = "203.0.113.70";
const PORT: u16 = 443;
/// Connections that are always under way in a flood.
const UNDER_WAY: usize = 8;
/// Every connection makes an event, as every one makes a line in a proxy's log.
const LOUD: &str = "events: { rate: 1000000, burst: 1000000 }\n";
/// Next to none does.
const QUIET: &str = "events: { rate: 1, burst: 1 }\n";
/// Connections before what is measured: names are looked up, caches filled.
const WARM_UP: u32 = 20;

/// How a connection gets to the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Via {
    /// Nothing is attached anywhere.
    Direct,
    /// By a proxy that is asked with CONNECT; nothing is attached.
    Squid,
    /// An agent whose rule says `tls: none`.
    Unchecked,
    /// An agent whose rule says `tls: sni`.
    Checked,
    /// An agent whose rule says `via: gateway`.
    Gateway,
}

impl Via {
    const OUTSIDE: [Self; 2] = [Self::Direct, Self::Squid];
    const EXEAT: [Self; 3] = [Self::Unchecked, Self::Checked, Self::Gateway];

    /// The agent, and what its rule says.
    const fn agent(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Direct | Self::Squid => None,
            Self::Unchecked => Some(("unchecked", "tls: none")),
            Self::Checked => Some(("checked", "tls: sni")),
            Self::Gateway => Some(("steered", "via: gateway")),
        }
    }
}

/// What programs stand around a connection whose nanoseconds are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Around {
    /// Empty ones.
    Empty,
    /// Exeat's, without a look at the name.
    Unchecked,
    /// Exeat's, with it; what it finds is kept back by the throttle.
    Checked,
    /// The same, and a [long](client::LONG) hello.
    CheckedLong,
    /// Exeat's, with it, and an event for each connection.
    Told,
}

/// What a program feels, a value a round.
#[derive(Default)]
struct Seen {
    /// Microseconds of a connection.
    connect: Series,
    /// Connections a second.
    rate: Series,
    /// Microseconds of a piece there and back.
    echo: Series,
    /// MiB a second.
    upload: Series,
}

/// What the kernel counts, a value a round.
#[derive(Default)]
struct Kernel {
    /// Nanoseconds of all programs, a connection.
    connection: Series,
    /// Of them, those of the one for packets that leave.
    egress: Series,
    /// Their runs, a connection.
    runs: Series,
    /// Nanoseconds of a packet that leaves on a connection whose handshake is over.
    out: Series,
    /// The same of one that comes in.
    back: Series,
}

/// All that was measured.
struct Measured {
    seen: BTreeMap<Via, Seen>,
    kernel: BTreeMap<Around, Kernel>,
    /// Name and version of the proxy, or why there is none.
    squid: Result<String, String>,
}

/// Runs it.
pub(crate) fn run(settings: &Settings, object: &Path) -> anyhow::Result<Vec<Section>> {
    let place = Place::new()?;
    let mut empty = Around::empty(&place, object)?;
    let mut outside = Vec::new();
    for via in Via::OUTSIDE {
        if let Some(client) = place.outside(via)? {
            outside.push((via, client));
        }
    }
    let mut measured = Measured::new(place.squid_name());
    let mut exeat: Option<Exeat> = None;
    for round in 0..settings.pick(2, 12) {
        // Exeat comes in one round and goes in the next, so that each half is as often the
        // first.
        let halves = [round % 2 == 1, round % 2 == 0];
        for governed in halves {
            if !governed {
                drop(exeat.take());
                in_turns(&mut outside, round, |via, client| {
                    measured.feel(via, client, settings)
                })?;
                empty.count(measured.kernel(Around::Empty), settings)?;
                continue;
            }
            let exeat = match &mut exeat {
                Some(exeat) => exeat,
                none => none.insert(Exeat::start(&place, &Via::EXEAT, LOUD)?),
            };
            let programs = exeat.programs();
            let counted = || Counted::pinned(&programs);
            in_turns(&mut exeat.clients, round, |via, client| {
                measured.feel(via, client, settings)?;
                let around = match via {
                    Via::Unchecked => Around::Unchecked,
                    Via::Checked => Around::Told,
                    _ => return Ok(()),
                };
                let kernel = measured.kernel(around);
                kernel.connect(client, settings, false, counted)?;
                kernel.packets(client, settings, counted)
            })?;
            measured.quietly(&place, settings)?;
        }
    }
    let mut sections = measured.sections();
    sections.push(reader::run(settings, object)?);
    Ok(sections)
}

/// Each once, and in every round another one first.
fn in_turns(
    clients: &mut [(Via, Client)],
    round: usize,
    mut measure: impl FnMut(Via, &mut Client) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for turn in 0..clients.len() {
        let at = (turn + round) % clients.len();
        let (via, client) = &mut clients[at];
        measure(*via, client).with_context(|| format!("{via:?}"))?;
    }
    Ok(())
}

impl Kernel {
    /// Adds what connections take.
    fn connect(
        &mut self,
        client: &mut Client,
        settings: &Settings,
        long: bool,
        counted: impl Fn() -> anyhow::Result<Counted>,
    ) -> anyhow::Result<()> {
        let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
        let count = settings.pick(50, 200);
        let before = counted()?;
        client.each(&Order::Connect { count, long })?;
        let since = counted()?.since(&before);
        let (all, count) = (since.all(), f64::from(count));
        self.connection.push(all.nanoseconds / count);
        self.runs.push(all.runs / count);
        self.egress.push(since.of("egress").nanoseconds / count);
        Ok(())
    }

    /// Adds what packets of one connection take.
    fn packets(
        &mut self,
        client: &mut Client,
        settings: &Settings,
        counted: impl Fn() -> anyhow::Result<Counted>,
    ) -> anyhow::Result<()> {
        client.tell(&Order::Open)?;
        let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
        let before = counted()?;
        client.each(&Order::Echo {
            count: settings.pick(500, 2000),
        })?;
        let since = counted()?.since(&before);
        self.out.push(since.of("egress").each());
        self.back.push(since.of("ingress").each());
        client.tell(&Order::Close)
    }
}

impl Measured {
    fn new(squid: Result<String, String>) -> Self {
        Self {
            seen: BTreeMap::new(),
            kernel: BTreeMap::new(),
            squid,
        }
    }

    fn feel(&mut self, via: Via, client: &mut Client, settings: &Settings) -> anyhow::Result<()> {
        let seen = self.seen.entry(via).or_default();
        let median = |each: Vec<f64>| each.into_iter().collect::<Series>().median();
        let connects = Order::Connect {
            count: settings.pick(40, 150),
            long: false,
        };
        seen.connect.push(median(client.each(&connects)?));
        let milliseconds = settings.pick(200, 400);
        seen.rate.push(client.flood(UNDER_WAY, milliseconds)?);
        client.tell(&Order::Open)?;
        let echoes = Order::Echo {
            count: settings.pick(500, 2000),
        };
        seen.echo.push(median(client.each(&echoes)?));
        client.tell(&Order::Close)?;
        let mib = settings.pick(16, 128);
        let upload = Order::Upload { bytes: mib << 20 };
        let micros = median(client.each(&upload)?);
        seen.upload.push(mib as f64 * 1e6 / micros);
        Ok(())
    }

    /// The same check by another daemon, which only lives for this.
    fn quietly(&mut self, place: &Place, settings: &Settings) -> anyhow::Result<()> {
        let mut exeat = Exeat::start(place, &[Via::Checked], QUIET)?;
        let programs = exeat.programs();
        let counted = || Counted::pinned(&programs);
        for (_, client) in &mut exeat.clients {
            let kernel = self.kernel(Around::Checked);
            kernel.connect(client, settings, false, counted)?;
            kernel.packets(client, settings, counted)?;
            let kernel = self.kernel(Around::CheckedLong);
            kernel.connect(client, settings, true, counted)?;
        }
        Ok(())
    }

    fn kernel(&mut self, around: Around) -> &mut Kernel {
        self.kernel.entry(around).or_default()
    }
}

/// The network, with all that is there for the whole run.
struct Place {
    squid: anyhow::Result<Squid>,
    _server: Server,
    _dns: DnsHost,
    authority: Authority,
    world: World,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let world = World::new()?;
        let dns = world.dns()?;
        // Longer than any run.
        dns.set(HOST, &[ADDRESS], 3600);
        let authority = Authority::new()?;
        let address = format!("{ADDRESS}:{PORT}").parse()?;
        let server = Server::start(&world.internet, address, &authority, HOST)?;
        let squid = Squid::start(&world);
        if let Err(why) = &squid {
            eprintln!("without squid: {why:#}");
        }
        Ok(Self {
            squid,
            _server: server,
            _dns: dns,
            authority,
            world,
        })
    }

    fn squid_name(&self) -> Result<String, String> {
        let named = self.squid.as_ref().map(|squid| squid.version.clone());
        // The rest has been printed, and is no text for a table's note.
        let first = |text: String| {
            let line = text.lines().next().unwrap_or_default();
            line.trim_end_matches(':').to_owned()
        };
        named.map_err(|why| first(format!("{why:#}")))
    }

    fn way(&self, via: Via) -> Way {
        let squid = self.squid.as_ref().ok().filter(|_| via == Via::Squid);
        Way {
            host: HOST.to_owned(),
            port: PORT,
            authority: self.authority.pem().to_owned(),
            proxy: squid.map(Squid::address),
        }
    }

    fn client(&self, command: Command, via: Via) -> anyhow::Result<Client> {
        let mut client = Client::start(command, &self.way(via))?;
        client.each(&Order::Connect {
            count: WARM_UP,
            long: false,
        })?;
        Ok(client)
    }

    /// A client that no agent is; none where its way is not there.
    fn outside(&self, via: Via) -> anyhow::Result<Option<Client>> {
        if via == Via::Squid && self.squid.is_err() {
            return Ok(None);
        }
        let mut command = self.world.laptop.command(std::env::current_exe()?);
        command.arg("shake");
        self.client(command, via)
            .with_context(|| format!("{via:?}"))
            .map(Some)
    }
}

/// A daemon with an agent for each way, and clients in some; gone when dropped.
struct Exeat {
    clients: Vec<(Via, Client)>,
    daemon: Daemon,
}

impl Exeat {
    fn start(place: &Place, ways: &[Via], config: &str) -> anyhow::Result<Self> {
        let daemon = Daemon::start_with(&place.world, &policy(), config)?;
        let program = std::env::current_exe()?.display().to_string();
        let words = [program, "shake".to_owned()];
        let mut clients = Vec::new();
        for &via in ways {
            let (agent, _) = via.agent().context("no agent")?;
            let command = daemon.run_command(agent, 0, &words);
            let client = place.client(command, via);
            clients.push((via, client.with_context(|| format!("agent {agent}"))?));
        }
        Ok(Self { clients, daemon })
    }

    /// Where its programs are pinned.
    fn programs(&self) -> PathBuf {
        self.daemon.bpffs().join("programs")
    }
}

fn policy() -> String {
    let mut text = String::from("version: 1\nagents:\n");
    for (agent, rule) in Via::EXEAT.iter().filter_map(|via| via.agent()) {
        text += &format!(
            "  {agent}:\n    allow:\n      - {{ host: {HOST}, ports: [{PORT}], {rule} }}\n"
        );
    }
    text
}

/// The empty programs, and a client in a cgroup of its own among them.
struct Nothing {
    client: Client,
    empty: Empty,
    cgroup: CgroupGuard,
}

impl Around {
    fn empty(place: &Place, object: &Path) -> anyhow::Result<Nothing> {
        let cgroup = CgroupGuard::new("exeat-bench-tls")?;
        let client = place.outside(Via::Direct)?.context("no client")?;
        cgroup.add(client.pid())?;
        Ok(Nothing {
            client,
            empty: Empty::load(object)?,
            cgroup,
        })
    }
}

impl Nothing {
    /// They are attached for as long as it takes.
    fn count(&mut self, kernel: &mut Kernel, settings: &Settings) -> anyhow::Result<()> {
        const HOOKS: [&str; 5] = ["connect4", "bind4", "sock_create", "setsockopt", "egress"];
        self.empty.attach(&cgroup::root()?, self.cgroup.path())?;
        let empty = &self.empty;
        let counted = || {
            let mut counted = Counted::default();
            for hook in HOOKS {
                counted.add(hook, &empty.program(hook)?.info()?);
            }
            Ok(counted)
        };
        let connected = kernel.connect(&mut self.client, settings, false, counted);
        let done = connected.and_then(|()| kernel.packets(&mut self.client, settings, counted));
        self.empty.detach();
        done
    }
}
