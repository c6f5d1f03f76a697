//! Nanoseconds a verdict, by the kernel's own count of each program's time.

use crate::Settings;
use crate::bpf::Runs;
use crate::field::{Agent, Column, Field};
use crate::lists::Ask;
use crate::report::{Section, Target, number};
use crate::sock::{Socket, time};
use crate::stats::Series;
use anyhow::Context;
use std::collections::BTreeMap;

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Probe {
    /// connect4: a UDP connect, which sends nothing.
    Connect,
    /// sendmsg4: a send on an unconnected socket.
    Send,
    /// egress: a packet to another destination than the socket's last.
    First,
    /// egress: the first packet of a socket, which gets its state then.
    New,
    /// egress: a packet to the same destination.
    Cached,
}

impl Probe {
    const ALL: [Self; 5] = [
        Self::Connect,
        Self::Send,
        Self::First,
        Self::New,
        Self::Cached,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect4",
            Self::Send => "sendmsg4",
            Self::First => "egress, other destination",
            Self::New => "egress, new socket",
            Self::Cached => "egress, cached",
        }
    }

    const fn hook(self) -> &'static str {
        match self {
            Self::Connect => "connect4",
            Self::Send => "sendmsg4",
            Self::First | Self::New | Self::Cached => "egress",
        }
    }
}

type Key = (Probe, usize, Ask);

/// Runs it.
pub(crate) fn run(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("ask the kernel to count the programs' time")?;
    let calls = settings.pick(1_000, 4_000);
    let mut exeat: BTreeMap<Key, Series> = BTreeMap::new();
    let mut empty: BTreeMap<Key, Series> = BTreeMap::new();
    for round in 0..settings.pick(5, 11) {
        for index in 0..field.len() {
            let mut turns = [(Column::Empty, &mut empty), (Column::Exeat, &mut exeat)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (column, seen) in turns {
                let values = field.within(column, index, |field, agent, _| {
                    one_turn(field, agent, column, calls, round as u64)
                })?;
                for ((probe, ask), value) in values {
                    seen.entry((probe, index, ask)).or_default().push(value);
                }
            }
        }
    }
    Ok(vec![section(field, &exeat, &empty)])
}

fn one_turn(
    field: &Field,
    agent: &Agent,
    column: Column,
    calls: usize,
    round: u64,
) -> anyhow::Result<Vec<((Probe, Ask), f64)>> {
    let mut values = Vec::new();
    let connecting = Socket::udp()?;
    let sending = Socket::udp()?;
    for ask in Ask::ALL {
        let refused = ask == Ask::Miss && column == Column::Exeat;
        let expected = if refused { libc::EPERM } else { 0 };
        for (probe, sequence) in Probe::ALL.into_iter().zip(0..) {
            // Addresses of its own, or the one before would warm what is to be cold.
            let seed = round * Probe::ALL.len() as u64 + sequence;
            let to = agent.list.addresses(ask, seed, calls);
            // Refused sends make no packets, and what is refused keeps no state.
            if ask == Ask::Miss && probe != Probe::Connect && probe != Probe::Send {
                continue;
            }
            let program = field.program(column, probe.hook())?;
            let before = Runs::of(program)?;
            match probe {
                Probe::Connect => time(calls, expected, |at| connecting.connect(to[at]))?,
                Probe::Send | Probe::First => time(calls, expected, |at| sending.send_to(to[at]))?,
                Probe::New => time(calls / 4, 0, |at| match Socket::udp() {
                    Ok(socket) => socket.connect(to[at]) | socket.send(),
                    Err(_) => libc::EMFILE,
                })?,
                Probe::Cached => {
                    connecting.connect(to[0]);
                    time(calls, 0, |_| connecting.send())?
                }
            };
            values.push(((probe, ask), Runs::of(program)?.since(before)?));
        }
    }
    Ok(values)
}

fn section(field: &Field, exeat: &BTreeMap<Key, Series>, empty: &BTreeMap<Key, Series>) -> Section {
    let nothing = Series::default();
    let net = |key: &Key| {
        let base = empty.get(key).unwrap_or(&nothing);
        exeat.get(key).unwrap_or(&nothing).less(base)
    };
    let mut columns = vec!["hook".to_owned(), "asked".to_owned()];
    for agent in &field.agents {
        columns.push(format!("{} net", agent.list.name()));
        columns.push("min".to_owned());
    }
    columns.push("an empty program reads".to_owned());
    let mut rows = Vec::new();
    for probe in Probe::ALL {
        for ask in Ask::ALL {
            let key = |index| (probe, index, ask);
            if !exeat.contains_key(&key(0)) {
                continue;
            }
            // A cached packet looks nothing up.
            if probe == Probe::Cached && ask != Ask::ExactHot {
                continue;
            }
            let mut row = vec![probe.as_str().to_owned(), ask.as_str().to_owned()];
            for index in 0..field.len() {
                row.push(number(net(&key(index)).median()));
                let (with, without) = (&exeat[&key(index)], &empty[&key(index)]);
                row.push(number(with.min() - without.min()));
            }
            row.push(number(empty[&key(0)].median()));
            rows.push(row);
        }
    }
    let last = field.len() - 1;
    let worst = |asks: &[Ask], indices: &[usize]| {
        let all = asks.iter().flat_map(|ask| {
            indices
                .iter()
                .map(move |index| (Probe::Connect, *index, *ask))
        });
        all.map(|key| net(&key).median()).fold(f64::MIN, f64::max)
    };
    let every: Vec<usize> = (0..=last).collect();
    // It looks nothing up, so the lists are three measurements of the same.
    let cached: Series = every
        .iter()
        .map(|index| net(&(Probe::Cached, *index, Ask::ExactHot)).median())
        .collect();
    Section {
        name: "verdict",
        title: "Nanoseconds a verdict",
        note: "The kernel's own count (`BPF_ENABLE_STATS`), less that of an empty program at the \
               same hook in the same round: median over the rounds, and the difference of the \
               minima. Nine tenths of a list are exact addresses, one tenth networks of /16 to \
               /28. Hot: sixteen addresses in turn; cold: any of the list. A miss is refused and \
               counted; its event is kept back by the throttle."
            .to_owned(),
        columns,
        rows,
        targets: vec![
            Target::at_most(
                "verdict at connect, exact and CIDR, hot, every size",
                120.0,
                worst(&[Ask::ExactHot, Ask::NetHot], &every),
                "ns",
            ),
            Target::at_most(
                format!(
                    "verdict at connect, exact, cold, {}",
                    field.agents[last].list.name()
                ),
                700.0,
                worst(&[Ask::ExactCold], &[last]),
                "ns",
            ),
            Target::at_most(
                format!(
                    "verdict at connect, CIDR, cold, {}",
                    field.agents[last].list.name()
                ),
                700.0,
                worst(&[Ask::NetCold], &[last]),
                "ns",
            ),
            Target::at_most(
                "cached packet over an empty program",
                30.0,
                cached.median(),
                "ns",
            ),
        ],
    }
}
