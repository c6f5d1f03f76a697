//! Filling, swapping and changing the tables.

use crate::Settings;
use crate::field::Field;
use crate::lists::{addr, image};
use crate::report::{Section, Target, number};
use crate::stats::Series;
use agent_common::verdict::SetRef;
use anyhow::Context;
use exeat::policy::{Change, Compiled};
use std::net::Ipv4Addr;
use std::time::Instant;

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Runs it.
pub(crate) fn run(field: &mut Field, settings: &Settings) -> anyhow::Result<Vec<Section>> {
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for index in 0..field.len() {
        let agent = index as u32;
        let (name, size) = {
            let list = &field.agents[index].list;
            (list.name(), list.size)
        };
        let policy = field.agents[index].list.policy("bench")?;
        let rounds = settings.pick(2, if size >= 1_000_000 { 3 } else { 9 });
        let (mut compile, mut fill, mut flip) =
            (Series::default(), Series::default(), Series::default());
        for generation in 0..rounds {
            let start = Instant::now();
            let compiled = Compiled::new(&policy)?;
            compile.push(ms(start));
            let image = image(&compiled, generation + 2);
            let start = Instant::now();
            let prepared = field.kernel.prepare(agent, &image)?;
            fill.push(ms(start));
            let start = Instant::now();
            field.kernel.flip(prepared)?;
            flip.push(ms(start));
        }
        let compiled = Compiled::new(&policy)?;
        let set: SetRef = compiled
            .exact()
            .next()
            .map(|(_, set)| set)
            .context("a list without an exact address")?;
        let mut lease = Series::default();
        for last in 1..=100 {
            // TEST-NET-1 is in no list's networks often enough to matter: the table of exact
            // addresses is written either way.
            let to = addr(Ipv4Addr::new(192, 0, 2, last));
            for set in [Some(set), None] {
                let change = Change {
                    addr: to,
                    set,
                    names: Vec::new(),
                    appended: 0..0,
                };
                let start = Instant::now();
                field.kernel.lease(agent, &change, compiled.entries())?;
                lease.push(ms(start) * 1e3);
            }
        }
        rows.push(vec![
            name.clone(),
            number(compile.median()),
            number(fill.median()),
            number(flip.median() * 1e3),
            number(lease.median()),
        ]);
        if size >= 1_000_000 {
            targets.push(Target::at_most(
                format!("{name} entries into the kernel"),
                1.0,
                fill.median() / 1e3,
                "s",
            ));
        }
        targets.push(Target::at_most(
            format!("one address changed among {name}"),
            1.0,
            lease.median() / 1e3,
            "ms",
        ));
    }
    Ok(vec![Section {
        name: "tables",
        title: "Filling and changing the tables",
        note: "Compile: from validated rules to tables in memory. Fill: making and filling the \
               maps of the bank that is not in force, grace periods of the kernel included. \
               Flip: putting it in force. Change: one address added to or taken from the bank \
               in force, as a lease does. Medians."
            .to_owned(),
        columns: [
            "entries",
            "compile, ms",
            "fill, ms",
            "flip, µs",
            "change, µs",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows,
        targets,
    }])
}
