//! What a refusal costs: the program that is refused, and the kernel.

use crate::Settings;
use crate::bpf::Runs;
use crate::field::{Column, Field};
use crate::lists::Ask;
use crate::report::{Section, Target, number};
use crate::sock::{Socket, time};
use crate::stats::Series;
use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use exeat::kernel::object::Throttle;
use std::path::Path;
use std::sync::Mutex;

/// Fewer than the ring has room for, so that none is lost between two emptyings.
const CALLS: usize = 4_000;

struct Seen {
    udp: Series,
    tcp: Series,
    kernel: Series,
}

/// Runs it. It makes fields of its own, because the throttle is a constant of the loaded
/// programs.
pub(crate) fn run(settings: &Settings, object: &Path) -> anyhow::Result<Vec<Section>> {
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for (what, throttle) in [
        (
            "with an event each",
            Throttle {
                per_second: 0,
                burst: 1,
            },
        ),
        (
            "event kept back by the throttle",
            Throttle {
                per_second: 1,
                burst: 1,
            },
        ),
    ] {
        let seen = measure(settings, throttle, object)?;
        rows.push(vec![
            what.to_owned(),
            number(seen.udp.median() / 1e3),
            number(seen.tcp.median() / 1e3),
            number(seen.kernel.median()),
            number(seen.kernel.min()),
        ]);
        targets.push(Target::at_most(
            format!("refused connect, {what}"),
            3.0,
            (seen.tcp.median() / 1e3).max(seen.udp.median() / 1e3),
            "µs",
        ));
    }
    Ok(vec![Section {
        name: "refusal",
        title: "A refused connect",
        note: "µs until the program has its EPERM, on a UDP and on a TCP socket; and the \
               kernel's count of connect4 less an empty program's, in ns."
            .to_owned(),
        columns: [
            "refusal",
            "UDP, µs",
            "TCP, µs",
            "in the kernel, net ns",
            "min",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets,
    }])
}

fn measure(settings: &Settings, throttle: Throttle, object: &Path) -> anyhow::Result<Seen> {
    let mut field = Field::new(&[10_000], throttle, object, |_| false)?;
    let ring = Mutex::new(field.kernel.take_ring().context("the ring is taken")?);
    let mut seen = Seen {
        udp: Series::default(),
        tcp: Series::default(),
        kernel: Series::default(),
    };
    for round in 0..settings.pick(5, 15) {
        let to = field.agents[0].list.addresses(Ask::Miss, round, CALLS);
        let [udp, tcp] = field.within(Column::Exeat, 0, |_, _, _| {
            [Socket::udp()?, Socket::tcp()?]
                .map(|socket| {
                    empty(&ring)?;
                    time(CALLS, libc::EPERM, |at| socket.connect(to[at]))
                })
                .into_iter()
                .collect::<anyhow::Result<Vec<f64>>>()?
                .try_into()
                .map_err(|_| anyhow::anyhow!("two sockets give two values"))
        })?;
        seen.udp.push(udp);
        seen.tcp.push(tcp);
        let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
        let mut counted = [0.0; 2];
        for (column, value) in [Column::Empty, Column::Exeat].into_iter().zip(&mut counted) {
            *value = field.within(column, 0, |field, _, _| {
                empty(&ring)?;
                let program = field.program(column, "connect4")?;
                let expected = match column {
                    Column::Empty => 0,
                    _ => libc::EPERM,
                };
                let before = Runs::of(program)?;
                let socket = Socket::udp()?;
                time(CALLS, expected, |at| socket.connect(to[at]))?;
                Runs::of(program)?.since(before)
            })?;
        }
        let [without, with] = counted;
        seen.kernel.push(with - without);
    }
    Ok(seen)
}

fn empty(ring: &Mutex<RingBuf<MapData>>) -> anyhow::Result<()> {
    let mut ring = ring
        .lock()
        .map_err(|_| anyhow::anyhow!("a measuring thread panicked"))?;
    while ring.next().is_some() {}
    Ok(())
}
