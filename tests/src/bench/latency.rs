//! What a program feels: connect, send and throughput beside nothing, empty programs and
//! nftables.

use crate::Settings;
use crate::bpf::Runs;
use crate::field::{Agent, Column, Field, Net};
use crate::lists::Ask;
use crate::report::{Section, Target, number, ratio};
use crate::sock::{Socket, time};
use crate::stats::Series;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Instant;

const COLUMNS: [Column; 4] = [
    Column::Nothing,
    Column::Empty,
    Column::Exeat,
    Column::Nftables,
];

/// Columns whose processes are not governed.
const ASIDE: [Column; 2] = [Column::Nothing, Column::Outside];

/// Seen, by row and column.
type Seen = BTreeMap<(usize, Column), Series>;

/// Every column once a round, each list with addresses of its own; the order turns, so
/// that no column is always the first.
fn in_turns(
    field: &mut Field,
    columns: &[Column],
    indices: std::ops::Range<usize>,
    rounds: usize,
    measure: impl Fn(&Agent, &Net, &[Ipv4Addr]) -> anyhow::Result<f64> + Sync,
    addresses: usize,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::new();
    for round in 0..rounds {
        for index in indices.clone() {
            let to = field.agents[index]
                .list
                .addresses(Ask::ExactCold, round as u64, addresses);
            for turn in 0..columns.len() {
                let column = columns[(turn + round) % columns.len()];
                if !field.has(column, index) {
                    continue;
                }
                let value = field
                    .within(column, index, |_, agent, net| measure(agent, net, &to))
                    .with_context(|| format!("column {}", column.as_str()))?;
                seen.entry((index, column)).or_default().push(value);
            }
        }
    }
    Ok(seen)
}

/// Connects and closes; nanoseconds of the median of one. Making the socket and taking
/// the connection are outside the clock.
fn connect_close(_: &Agent, net: &Net, to: &[Ipv4Addr]) -> anyhow::Result<f64> {
    let mut each = Series::default();
    for addr in to {
        let socket = Socket::tcp()?;
        let start = Instant::now();
        let said = socket.connect(*addr);
        drop(socket);
        let took = start.elapsed();
        ensure!(
            said == 0,
            "connect to {addr}: {}",
            std::io::Error::from_raw_os_error(said)
        );
        drop(net.listener.accept()?);
        each.push(took.as_nanos() as f64);
    }
    Ok(each.median())
}

fn udp_connect(_: &Agent, _: &Net, to: &[Ipv4Addr]) -> anyhow::Result<f64> {
    let socket = Socket::udp()?;
    time(to.len(), 0, |at| socket.connect(to[at]))
}

fn send_to(_: &Agent, _: &Net, to: &[Ipv4Addr]) -> anyhow::Result<f64> {
    let socket = Socket::udp()?;
    time(to.len(), 0, |at| socket.send_to(to[at]))
}

fn send(_: &Agent, _: &Net, to: &[Ipv4Addr]) -> anyhow::Result<f64> {
    let socket = Socket::udp()?;
    let said = socket.connect(to[0]);
    ensure!(said == 0, "{}", std::io::Error::from_raw_os_error(said));
    time(to.len(), 0, |_| socket.send())
}

/// Nanoseconds a KiB of one TCP stream; the receiver is a thread on any processor.
fn stream(bytes: usize, net: &Net, to: Ipv4Addr) -> anyhow::Result<f64> {
    let socket = Socket::tcp()?;
    let said = socket.connect(to);
    ensure!(said == 0, "{}", std::io::Error::from_raw_os_error(said));
    let mut far = net.listener.accept()?.into_stream();
    let mut near = socket.into_stream();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> std::io::Result<()> {
            let mut buffer = vec![0_u8; 256 * 1024];
            let mut left = bytes;
            while left > 0 {
                let room = buffer.len().min(left);
                match far.read(&mut buffer[..room])? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    n => left -= n,
                }
            }
            Ok(())
        });
        let block = vec![0_u8; 128 * 1024];
        for _ in 0..bytes / block.len() {
            near.write_all(&block)?;
        }
        receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        anyhow::Ok(())
    })?;
    Ok(start.elapsed().as_nanos() as f64 / (bytes / 1024) as f64)
}

/// Connect and close.
pub(crate) fn connect(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let seen = in_turns(
        field,
        &COLUMNS,
        0..field.len(),
        settings.pick(9, 61),
        connect_close,
        250,
    )?;
    let mut section = table(
        field,
        &seen,
        "µs",
        1e-3,
        "connect",
        "TCP connect and close",
        "Loopback, to random addresses of the list; the same ones in every column. Time in \
         µs (median), and how many times `nothing` of the same round it is.",
    );
    for (index, agent) in field.agents.iter().enumerate() {
        let over = times(&seen, index, Column::Exeat);
        section.targets.push(Target::at_most(
            format!("connect and close over nothing, {}", agent.list.name()),
            1.05,
            over.median(),
            "×",
        ));
    }
    Ok(vec![section])
}

/// UDP sends.
pub(crate) fn udp(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let (rounds, calls) = (settings.pick(9, 41), 2_000);
    let mut sections = Vec::new();
    for (measure, name, title) in [
        (
            send_to as fn(&Agent, &Net, &[Ipv4Addr]) -> anyhow::Result<f64>,
            "udp",
            "UDP send, not connected",
        ),
        (send, "udp", "UDP send, connected"),
    ] {
        let seen = in_turns(field, &COLUMNS, 0..field.len(), rounds, measure, calls)?;
        let mut section = table(
            field,
            &seen,
            "ns",
            1.0,
            name,
            title,
            "64 bytes over loopback to a full receiver. Time in ns a send (median), and how \
             many times `nothing` of the same round it is. Not connected: every send goes to \
             another random address of the list.",
        );
        for (index, agent) in field.agents.iter().enumerate() {
            section.targets.push(Target::at_most(
                format!("{title} over nothing, {}", agent.list.name()),
                1.10,
                times(&seen, index, Column::Exeat).median(),
                "×",
            ));
        }
        sections.push(section);
    }
    Ok(sections)
}

/// One TCP stream.
pub(crate) fn throughput(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let bytes = settings.pick(64, 256) << 20;
    // What is looked up at the first packet is not looked up again: one list says it all.
    let last = field.len() - 1;
    let seen = in_turns(
        field,
        &COLUMNS,
        last..field.len(),
        settings.pick(3, 11),
        |_, net, to| stream(bytes, net, to[0]),
        1,
    )?;
    Ok(vec![table(
        field,
        &seen,
        "ns/KiB",
        1.0,
        "throughput",
        "TCP throughput",
        "One stream over loopback. Time in ns a KiB (median), and how many times `nothing` of \
         the same round it is: less is faster.",
    )])
}

/// Processes that no policy governs.
pub(crate) fn outside(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let rounds = settings.pick(9, 61);
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    type Measure = fn(&Agent, &Net, &[Ipv4Addr]) -> anyhow::Result<f64>;
    let measures: [(&str, Measure, usize); 4] = [
        ("UDP connect (the hook and little else)", udp_connect, 4_000),
        ("UDP send, not connected", send_to, 3_000),
        ("UDP send, connected", send, 3_000),
        ("TCP connect and close", connect_close, 250),
    ];
    for (what, measure, calls) in measures {
        let seen = in_turns(field, &ASIDE, 0..1, rounds, measure, calls)?;
        let over = times(&seen, 0, Column::Outside);
        let base = &seen[&(0, Column::Nothing)];
        let with = &seen[&(0, Column::Outside)];
        rows.push(vec![
            what.to_owned(),
            number(base.median()),
            number(with.median()),
            number(with.less(base).median()),
            ratio(&over),
            format!("{:.3}", with.min() / base.min()),
        ]);
        targets.push(Target::at_most(
            format!("ungoverned: {what}, over nothing"),
            1.01,
            over.median(),
            "×",
        ));
    }
    let kernel = outside_kernel(field, settings)?;
    let shown = number(kernel.median());
    Ok(vec![Section {
        name: "outside",
        title: "Processes that Exeat does not govern",
        note: format!(
            "Exeat attached, the process outside its slice, beside nothing attached: ns. The UDP \
             connect sends nothing, so it shows the hook at its largest. By the kernel's count \
             connect4 takes {shown} ns over an empty program to see that a task is not its \
             business."
        ),
        columns: [
            "call",
            "nothing",
            "exeat",
            "more",
            "ratio",
            "ratio of minima",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets,
    }])
}

/// Nanoseconds that connect4 takes over an empty program for a task outside the slice.
fn outside_kernel(field: &mut Field, settings: &Settings) -> anyhow::Result<Series> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let mut net = Series::default();
    for round in 0..settings.pick(9, 31) {
        let to = field.agents[0].list.addresses(Ask::ExactHot, round, 2_000);
        let mut counted = [0.0; 2];
        for (column, value) in [Column::Empty, Column::Outside]
            .into_iter()
            .zip(&mut counted)
        {
            *value = field.within(column, 0, |field, _, _| {
                let program = field.program(column, "connect4")?;
                let socket = Socket::udp()?;
                let before = Runs::of(program)?;
                time(to.len(), 0, |at| socket.connect(to[at]))?;
                Runs::of(program)?.since(before)
            })?;
        }
        let [without, with] = counted;
        net.push(with - without);
    }
    Ok(net)
}

fn times(seen: &Seen, index: usize, column: Column) -> Series {
    let empty = Series::default();
    let base = seen.get(&(index, Column::Nothing)).unwrap_or(&empty);
    seen.get(&(index, column)).unwrap_or(&empty).over(base)
}

fn table(
    field: &Field,
    seen: &Seen,
    unit: &str,
    scale: f64,
    name: &'static str,
    title: &'static str,
    note: &str,
) -> Section {
    let mut note = note.to_owned();
    let mut rows = Vec::new();
    for (index, agent) in field.agents.iter().enumerate() {
        if let Some(why) = &agent.without_nft {
            note += &format!(
                " nftables with {} entries is absent: {why}.",
                agent.list.name()
            );
        }
        let Some(base) = seen.get(&(index, Column::Nothing)) else {
            continue;
        };
        let mut row = vec![agent.list.name(), number(base.median() * scale)];
        for column in &COLUMNS[1..] {
            match seen.get(&(index, *column)) {
                Some(series) => {
                    row.push(number(series.median() * scale));
                    row.push(ratio(&series.over(base)));
                    row.push(format!("{:.3}", series.min() / base.min()));
                }
                None => row.extend(["-", "-", "-"].map(str::to_owned)),
            }
        }
        rows.push(row);
    }
    let mut columns = vec!["entries".to_owned(), format!("nothing, {unit}")];
    for column in &COLUMNS[1..] {
        columns.push(column.as_str().to_owned());
        columns.push("×".to_owned());
        columns.push("× min".to_owned());
    }
    Section {
        name,
        title,
        note,
        columns,
        rows,
        targets: Vec::new(),
    }
}
