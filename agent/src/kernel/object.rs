//! The loaded object: maps, tables by agent, counters.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agent_common::{
    layout::{Bank, ISOLATED, MAX_AGENTS, SocketKey, Stats},
    verdict::Entry,
};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, ArrayOfMaps, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf},
    programs::loaded_programs,
};
use tracing::{debug, info};

use super::{
    KernelError,
    cgroup::Slice,
    fields::Fields,
    helpers::Helpers,
    links::{self, ATTACHMENTS, LinkState, Put},
    pins::Pins,
    steered::{self, Steered},
    sys,
    tables::{
        self, Entries, Exact, Image, Leased, Names, Prefix, Tables, absent_is_fine, is_full,
        write_entries,
    },
    walls::{self, LsmWall, Standing, Walls},
};
use crate::policy::Change;

/// The BPF object, built by `cargo xtask build` and part of this binary.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EXEAT_BPF_OBJECT"));

/// Maps that are pinned: all of them.
const MAPS: &[&str] = &[
    "SLICE",
    "AGENTS",
    "RUNS",
    "ADOPTED",
    "LEVELS",
    "FLIP",
    "BANKS",
    "EXACT",
    "PREFIX",
    "NAMES",
    "ENTRIES",
    "FLOWS",
    "ORIGINS",
    "STEERED",
    "HANDSHAKES",
    "HELD",
    "HOLDS",
    "EVENTS",
    "STATS",
    "BUCKETS",
    "SEQUENCE",
    "GATES6",
    "STARTING",
    "SOCKETS",
];

/// How the events are throttled: by agent, reason and CPU. 0 a second turns it off.
pub use crate::throttle::Throttle;

/// The programs and maps of one instance.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    helpers: Helpers,
    slice: Slice,
    pub(super) pins: Pins,
    slice_id: Array<MapData, u64>,
    agents: HashMap<MapData, u64, u32>,
    runs: HashMap<MapData, u64, u32>,
    pub(super) adopted: HashMap<MapData, u64, u32>,
    pub(super) levels: Array<MapData, u64>,
    flip: Array<MapData, u32>,
    banks: Array<MapData, Bank>,
    exact: ArrayOfMaps<MapData, Exact>,
    prefix: ArrayOfMaps<MapData, Prefix>,
    names: ArrayOfMaps<MapData, Names>,
    entries: ArrayOfMaps<MapData, Entries>,
    gates6: HashMap<MapData, u16, u32>,
    starting: HashMap<MapData, u64, u32>,
    sockets: HashMap<MapData, SocketKey, u32>,
    walls: Walls,
    steered: ArrayOfMaps<MapData, steered::Table>,
    stats: PerCpuArray<MapData, Stats>,
    ring: Option<RingBuf<MapData>>,
    /// Tables in force, by index of the agent.
    live: BTreeMap<u32, Live>,
    /// Agents that are cut off.
    isolated: BTreeSet<u32>,
}

/// The tables in force for an agent.
struct Live {
    bank: u32,
    tables: Tables,
}

/// Tables that are filled but not in force.
pub struct Prepared {
    agent: u32,
    live: Live,
}

/// Room in an agent's table of exact addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Addresses held.
    pub used: u32,
    /// Addresses that there is room for.
    pub room: u32,
}

impl Kernel {
    /// Loads the object: opens the pinned maps or makes and pins new ones, and has every
    /// program checked. Nothing is attached yet.
    pub fn load(slice: Slice, pins: Pins, throttle: Throttle) -> Result<Self, KernelError> {
        pins.create()?;
        let folder = pins.maps();
        sys::lift_memory_limit();
        tables::pin_banks(&folder)?;
        let helpers = Helpers::probe()?;
        debug!(?helpers, "helpers");
        let fields = Fields::look_up()?;
        let constants = Constants::new(throttle, helpers, &fields);
        let mut loader = constants.loader(VerifierLogLevel::STATS);
        for map in MAPS {
            loader.map_pin_path(map, folder.join(map));
        }
        loader.map_pin_path("HANDSHAKES", pins.handshakes());
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|e| KernelError::Object(Box::new(e)))?;
        for attachment in ATTACHMENTS {
            links::load(&mut ebpf, attachment)?;
            debug!(program = attachment.program, "loaded");
        }
        let walls = Walls::load(&mut ebpf, &fields);
        let mut kernel = Self {
            slice_id: take(&mut ebpf, "SLICE")?,
            agents: take(&mut ebpf, "AGENTS")?,
            runs: take(&mut ebpf, "RUNS")?,
            adopted: take(&mut ebpf, "ADOPTED")?,
            levels: take(&mut ebpf, "LEVELS")?,
            flip: take(&mut ebpf, "FLIP")?,
            banks: take(&mut ebpf, "BANKS")?,
            exact: take(&mut ebpf, "EXACT")?,
            prefix: take(&mut ebpf, "PREFIX")?,
            names: take(&mut ebpf, "NAMES")?,
            entries: take(&mut ebpf, "ENTRIES")?,
            gates6: take(&mut ebpf, "GATES6")?,
            starting: take(&mut ebpf, "STARTING")?,
            sockets: take(&mut ebpf, "SOCKETS")?,
            walls,
            steered: take(&mut ebpf, "STEERED")?,
            stats: take(&mut ebpf, "STATS")?,
            ring: Some(take(&mut ebpf, "EVENTS")?),
            live: BTreeMap::new(),
            isolated: BTreeSet::new(),
            ebpf,
            helpers,
            slice,
            pins,
        };
        kernel.claim_slice()?;
        for agent in 0..MAX_AGENTS {
            if kernel.flip_word(agent)? & ISOLATED != 0 {
                kernel.isolated.insert(agent);
            }
        }
        drop(loader);
        sys::give_back_memory();
        Ok(kernel)
    }

    /// The slice that is governed.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// Makes the slice if it is not there, and tells the programs which it is.
    fn claim_slice(&mut self) -> Result<(), KernelError> {
        let id = self.slice.create()?;
        self.slice_id
            .set(0, id, 0)
            .map_err(KernelError::map("write to", "SLICE"))
    }

    /// Puts every program in its place: new links are attached, pinned ones are updated in
    /// place. Call it after the tables are filled.
    pub fn enforce(&mut self) -> Result<(), KernelError> {
        self.claim_slice()?;
        for attachment in ATTACHMENTS {
            match links::put(&mut self.ebpf, attachment, &self.slice, &self.pins)? {
                Put::Attached => info!(hook = attachment.hook, "attached"),
                Put::Updated => info!(hook = attachment.hook, "updated in place"),
            }
        }
        self.walls.put(&self.ebpf, &self.pins);
        self.update_adopted()?;
        let links: Vec<&str> = ATTACHMENTS.iter().map(|one| one.program).collect();
        self.pins.remove_strangers(&links, &walls::programs())?;
        // No program uses maps of another layout any more.
        self.pins.remove_other_layouts()
    }

    /// Whether what is attached judges by these maps: whether a daemon of this layout was the
    /// last one to attach. Where it was not, they hold nothing but what this daemon puts there.
    pub fn continues(&self) -> bool {
        let Ok(banks) = MapInfo::from_pin(self.pins.maps().join("BANKS")) else {
            return false;
        };
        // The authority, which is the first to be swapped.
        let Some(LinkState::Up { program, .. }) =
            ATTACHMENTS.first().map(|one| links::state(&self.pins, one))
        else {
            return false;
        };
        loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.id() == program)
            .and_then(|info| info.map_ids().ok().flatten())
            .is_some_and(|maps| maps.contains(&banks.id()))
    }

    /// What the kernel says of every hook now.
    pub fn hooks(&self) -> Vec<(&'static str, LinkState)> {
        ATTACHMENTS
            .iter()
            .map(|attachment| (attachment.hook, links::state(&self.pins, attachment)))
            .collect()
    }

    /// How every wall of BPF LSM stands now.
    pub fn walls(&self) -> Vec<(&'static LsmWall, Standing)> {
        self.walls.standing(&self.pins)
    }

    /// Whether this kernel has walls of BPF LSM at all.
    pub fn has_walls(&self) -> bool {
        self.walls.absent().is_none()
    }

    /// A run is about to be set up in this cgroup: the walls do not hold for it until its first
    /// program is executed.
    pub fn begin_run(&mut self, cgroup: u64) -> Result<(), KernelError> {
        match self.starting.insert(cgroup, 1, 0) {
            // The walls, where there are any, hold for the launcher too, and it says so.
            Err(e) if is_full(&e) => Ok(()),
            other => other.map_err(KernelError::map("write to", "STARTING")),
        }
    }

    /// From now on these sockets outside of it, and what is in these folders, are open to an
    /// agent: device and inode of each, zeroes for all.
    pub fn set_sockets(
        &mut self,
        agent: u32,
        open: &BTreeSet<(u32, u64)>,
    ) -> Result<(), KernelError> {
        let map = "SOCKETS";
        for (device, inode) in open {
            let key = SocketKey {
                agent,
                device: *device,
                inode: *inode,
            };
            match self.sockets.insert(key, 1, 0) {
                // What there is no room for stays refused.
                Err(e) if is_full(&e) => break,
                other => other.map_err(KernelError::map("write to", map))?,
            }
        }
        let gone: Vec<SocketKey> = self
            .sockets
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.agent == agent && !open.contains(&(key.device, key.inode)))
            .collect();
        for key in gone {
            absent_is_fine(self.sockets.remove(&key)).map_err(KernelError::map("write to", map))?;
        }
        Ok(())
    }

    /// What a hook's program does not learn on this kernel.
    pub fn leaves_out(&self, hook: &str) -> Vec<&'static str> {
        self.helpers.leaves_out(hook)
    }

    /// The event ring; only the first caller gets it.
    pub fn take_ring(&mut self) -> Option<RingBuf<MapData>> {
        self.ring.take()
    }

    /// Agents that the maps know: cgroup id and index. Read after a restart, so that
    /// running agents keep their index and with it their counters.
    pub fn known_agents(&self) -> Vec<(u64, u32)> {
        self.agents.iter().filter_map(Result::ok).collect()
    }

    /// The newest generation of the tables that the maps hold; 0 if they hold none. Sockets
    /// carry verdicts of it, so no later policy may have a number that is not above it.
    pub fn newest_generation(&self) -> u32 {
        self.banks
            .iter()
            .filter_map(Result::ok)
            .map(|bank| bank.generation)
            .max()
            .unwrap_or(0)
    }

    /// From now on tasks in this cgroup are this agent.
    pub fn admit(&mut self, cgroup: u64, agent: u32) -> Result<(), KernelError> {
        self.agents
            .insert(cgroup, agent, 0)
            .map_err(KernelError::map("write to", "AGENTS"))
    }

    /// The cgroup is gone.
    pub fn forget(&mut self, cgroup: u64) -> Result<(), KernelError> {
        absent_is_fine(self.agents.remove(&cgroup)).map_err(KernelError::map("write to", "AGENTS"))
    }

    /// From now on tasks in this run's cgroup are this agent, for hooks that can ask for
    /// nothing else. A run that there is no room for is refused there.
    pub fn admit_run(&mut self, cgroup: u64, agent: u32) -> Result<(), KernelError> {
        match self.runs.insert(cgroup, agent, 0) {
            Err(e) if is_full(&e) => Ok(()),
            other => other.map_err(KernelError::map("write to", "RUNS")),
        }
    }

    /// Forgets every run whose cgroup is not among those that live.
    pub fn keep_runs(&mut self, live: &HashSet<u64>) -> Result<(), KernelError> {
        let gone: Vec<u64> = self
            .runs
            .keys()
            .filter_map(Result::ok)
            .filter(|id| !live.contains(id))
            .collect();
        for id in gone {
            absent_is_fine(self.runs.remove(&id)).map_err(KernelError::map("write to", "RUNS"))?;
            // One in which nothing was ever executed.
            absent_is_fine(self.starting.remove(&id))
                .map_err(KernelError::map("write to", "STARTING"))?;
        }
        Ok(())
    }

    /// Fills the agent's other bank. Nothing changes for the agent until [`Kernel::flip`],
    /// so a policy of many agents can be prepared whole, or given up whole.
    pub fn prepare(&mut self, agent: u32, image: &Image) -> Result<Prepared, KernelError> {
        if agent >= MAX_AGENTS {
            return Err(KernelError::TooManyAgents { max: MAX_AGENTS });
        }
        let tables = Tables::filled(image)?;
        let in_force = self.flip_word(agent)? & !ISOLATED;
        // A new agent's element is 0, which is agent 0's bank: any bank that is not the
        // agent's own counts as none in force.
        let bank = if in_force == agent * 2 {
            agent * 2 + 1
        } else {
            agent * 2
        };
        // A program that read the old word before the last flip may still be running in the
        // bank that is about to be rewritten.
        self.wait_for_programs(in_force)?;
        self.set_bank(bank, Bank::default())?;
        self.entries
            .set(bank, &tables.entries, 0)
            .map_err(KernelError::map("write to", "ENTRIES"))?;
        self.prefix
            .set(bank, &tables.prefix, 0)
            .map_err(KernelError::map("write to", "PREFIX"))?;
        self.names
            .set(bank, &tables.names, 0)
            .map_err(KernelError::map("write to", "NAMES"))?;
        self.exact
            .set(bank, &tables.exact, 0)
            .map_err(KernelError::map("write to", "EXACT"))?;
        self.set_bank(bank, image.bank)?;
        Ok(Prepared {
            agent,
            live: Live { bank, tables },
        })
    }

    /// Puts prepared tables in force by one word: a packet meets the old policy or the new
    /// one.
    pub fn flip(&mut self, prepared: Prepared) -> Result<(), KernelError> {
        let Prepared { agent, live } = prepared;
        self.set_flip(agent, live.bank)?;
        self.live.insert(agent, live);
        Ok(())
    }

    fn flip_word(&self, agent: u32) -> Result<u32, KernelError> {
        self.flip
            .get(&agent, 0)
            .map_err(KernelError::map("read", "FLIP"))
    }

    fn set_flip(&mut self, agent: u32, bank: u32) -> Result<(), KernelError> {
        let isolated = match self.isolated.contains(&agent) {
            true => ISOLATED,
            false => 0,
        };
        self.flip
            .set(agent, bank | isolated, 0)
            .map_err(KernelError::map("write to", "FLIP"))
    }

    /// Waits until no program runs that read a word before this. An update of a map of maps
    /// returns after an RCU grace period (`maybe_wait_bpf_programs`), so putting the map that is
    /// in force where it already is waits such programs out.
    fn wait_for_programs(&mut self, in_force: u32) -> Result<(), KernelError> {
        if let Ok(current) = self.entries.get(&in_force, 0) {
            self.entries
                .set(in_force, &current, 0)
                .map_err(KernelError::map("write to", "ENTRIES"))?;
        }
        Ok(())
    }

    /// Cuts an agent off: once this has returned, every flow of it is refused, also of sockets
    /// that were let out before. Or no longer. It holds until it is undone, whatever becomes of
    /// the daemon and the policy.
    pub fn isolate(&mut self, agent: u32, on: bool) -> Result<(), KernelError> {
        match on {
            true => self.isolated.insert(agent),
            false => self.isolated.remove(&agent),
        };
        let bank = self.flip_word(agent)? & !ISOLATED;
        self.set_flip(agent, bank)?;
        self.wait_for_programs(bank)
    }

    /// The agents that are cut off.
    pub fn isolated(&self) -> BTreeSet<u32> {
        self.isolated.clone()
    }

    /// Whether an agent is cut off.
    pub fn is_isolated(&self, agent: u32) -> bool {
        self.isolated.contains(&agent)
    }

    fn set_bank(&mut self, bank: u32, value: Bank) -> Result<(), KernelError> {
        self.banks
            .set(bank, value, 0)
            .map_err(KernelError::map("write to", "BANKS"))
    }

    /// Takes an agent's policy away: whatever runs in its cgroup is refused from now on.
    pub fn uninstall(&mut self, agent: u32) -> Result<(), KernelError> {
        for bank in [agent * 2, agent * 2 + 1] {
            self.set_bank(bank, Bank::default())?;
        }
        self.live.remove(&agent);
        Ok(())
    }

    /// Changes one address of the bank in force: one system call for a new address, and one
    /// for each new entry and name. An address is never there without what it leads to.
    pub fn lease(
        &mut self,
        agent: u32,
        change: &Change,
        entries: &[Entry],
    ) -> Result<Leased, KernelError> {
        let Some(live) = self.live.get_mut(&agent) else {
            return Ok(Leased::Held);
        };
        let tables = &mut live.tables;
        let appended = &change.appended;
        if let Some(new) = entries.get(usize::from(appended.start)..usize::from(appended.end)) {
            write_entries(&mut tables.entries, appended.start, new)?;
        }
        let Some(set) = change.set else {
            tables.remove_addr(&change.addr)?;
            tables.write_names(change)?;
            return Ok(Leased::Held);
        };
        if tables.write_names(change)? == Leased::Full {
            return Ok(Leased::Full);
        }
        let leased = tables.put_addr(change.addr, set)?;
        if leased == Leased::Full {
            tables.remove_names(change)?;
        }
        Ok(leased)
    }

    /// The steered connections of an agent: those that the maps hold, those that an earlier
    /// daemon did not get to among them. The kernel steers none before this was called once.
    pub fn steered(&mut self, agent: u32) -> Result<Steered, KernelError> {
        if let Ok(held) = self.steered.get(&agent, 0) {
            return Ok(Steered(held));
        }
        let fresh = Steered::create()?;
        self.steered
            .set(agent, &fresh.0, 0)
            .map_err(KernelError::map("write to", "STEERED"))?;
        Ok(fresh)
    }

    /// Makes known whose gate or gateway each port at `::1` is.
    pub fn set_gates6(&mut self, ports: &BTreeMap<u16, u32>) -> Result<(), KernelError> {
        let map = "GATES6";
        let old: Vec<u16> = self.gates6.keys().filter_map(Result::ok).collect();
        for (port, agent) in ports {
            self.gates6
                .insert(port, agent, 0)
                .map_err(KernelError::map("write to", map))?;
        }
        for port in old.iter().filter(|port| !ports.contains_key(port)) {
            absent_is_fine(self.gates6.remove(port)).map_err(KernelError::map("write to", map))?;
        }
        Ok(())
    }

    /// An agent's counters, summed over the CPUs.
    pub fn stats(&self, agent: u32) -> Result<Stats, KernelError> {
        let cpus = self
            .stats
            .get(&agent, 0)
            .map_err(KernelError::map("read", "STATS"))?;
        let mut sum = Stats::default();
        for cpu in cpus.iter() {
            for (to, from) in sum
                .blocked
                .iter_mut()
                .flatten()
                .zip(cpu.blocked.iter().flatten())
            {
                *to += from;
            }
            for (to, from) in sum.allowed.iter_mut().zip(&cpu.allowed) {
                *to += from;
            }
            sum.sent_bytes += cpu.sent_bytes;
            sum.events_lost += cpu.events_lost;
            sum.events_throttled += cpu.events_throttled;
        }
        Ok(sum)
    }

    /// Sets an agent's counters to zero: its index has been given to another agent.
    pub fn clear_stats(&mut self, agent: u32) -> Result<(), KernelError> {
        let cpus = aya::util::nr_cpus().unwrap_or(1);
        let zero =
            aya::maps::PerCpuValues::try_from(vec![Stats::default(); cpus]).map_err(|e| {
                KernelError::Map {
                    action: "clear",
                    map: "STATS",
                    source: e.into(),
                }
            })?;
        self.stats
            .set(agent, zero, 0)
            .map_err(KernelError::map("write to", "STATS"))
    }

    /// Room in the agent's table of exact addresses.
    pub fn fill(&self, agent: u32) -> Option<Fill> {
        self.live.get(&agent).map(|live| Fill {
            used: live.tables.used,
            room: live.tables.room,
        })
    }

    /// Number of agents that the kernel knows, and how many there is room for.
    pub fn agents_fill(&self) -> Fill {
        Fill {
            used: self.agents.keys().count() as u32,
            room: MAX_AGENTS,
        }
    }

    /// The program of a hook, for those who measure.
    pub fn program(&self, name: &str) -> Option<&aya::programs::Program> {
        self.ebpf.program(name)
    }
}

/// The programs' constants, by the names in `agent-ebpf`.
pub(super) struct Constants(Vec<(&'static str, u64)>);

impl Constants {
    pub(super) fn new(throttle: Throttle, helpers: Helpers, fields: &Fields) -> Self {
        let cost = match throttle.per_second {
            0 => 0,
            n => 1_000_000_000 / u64::from(n),
        };
        let mut constants = vec![
            ("EVENT_COST_NS", cost),
            ("EVENT_BURST_NS", cost * u64::from(throttle.burst.max(1))),
            ("PACKET_HELPERS", helpers.packet),
            ("SOCKOPT_HELPERS", helpers.sockopt),
            ("SKB_HEAD", fields.skb_head),
            ("SKB_END", fields.skb_end),
            ("PAGE_FLAGS", fields.page_flags),
            ("PAGE_SHARED", fields.shared),
        ];
        if let Ok(walls) = &fields.walls {
            constants.extend(&walls.places);
        }
        Self(constants)
    }

    /// A loader that sets them; `level` is how much the verifier writes about a program that
    /// it refuses.
    pub(super) fn loader(&self, level: VerifierLogLevel) -> EbpfLoader<'_> {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(level);
        for (name, value) in &self.0 {
            loader.override_global(name, value, true);
        }
        loader
    }
}

fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, KernelError>
where
    T: TryFrom<Map, Error = MapError>,
{
    ebpf.take_map(name)
        .ok_or(MapError::KeyNotFound)
        .and_then(T::try_from)
        .map_err(KernelError::map("open", name))
}
