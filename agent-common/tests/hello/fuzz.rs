//! Mutants, whole and in pieces, held against rustls.

use std::time::{Duration, Instant};

use agent_common::hello::Fault;
use proptest::prelude::*;

use super::mutants::{Random, corpus, mutant};
use super::parts::Parts;
use super::reference::{Tally, agree, hex, read, read_cut};

fn parts() -> Vec<Parts> {
    corpus().iter().map(|(_, hello)| Parts::of(hello)).collect()
}

/// One mutant, in one piece, in several, and at rustls.
fn step(random: &mut Random, parts: &[Parts], tally: &mut Tally) {
    let bytes = mutant(random, parts);
    let ours = read(&bytes);
    let cuts = random.cuts(bytes.len());
    assert_eq!(
        read_cut(&bytes, &cuts),
        ours,
        "cut at {cuts:?}: {}",
        hex(&bytes)
    );
    if let Err(what) = agree(&bytes, &ours, tally) {
        panic!("{what}\n{}", hex(&bytes));
    }
}

#[test]
fn a_hundred_thousand_mutants_are_read_as_rustls_reads_them() {
    let (mut random, parts, mut tally) = (Random(1), parts(), Tally::default());
    for _ in 0..100_000 {
        step(&mut random, &parts, &mut tally);
    }
    println!("{tally:#?}");
    // Every way to be refused but the one that memory would have to fail for was taken, and
    // enough was passed to have proved something.
    assert!(tally.both > 20_000, "{tally:#?}");
    for fault in Fault::ALL {
        let met = tally.refused.contains_key(fault) || tally.stricter.contains_key(fault);
        assert_eq!(met, *fault != Fault::Unreadable, "{fault:?}: {tally:#?}");
    }
}

proptest! {
    #[test]
    fn any_cut_of_a_mutant_gives_what_one_piece_gives(
        seed: u64,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let bytes = mutant(&mut Random(seed), &parts());
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        prop_assert_eq!(read_cut(&bytes, &ends), read(&bytes));
    }

    #[test]
    fn any_bytes_are_read_without_a_fault(bytes: Vec<u8>, tls: bool) {
        let mut bytes = bytes;
        if tls && bytes.len() > 6 {
            bytes[..3].copy_from_slice(&[22, 3, 1]);
            bytes[3] = 0;
            bytes[5] = 1;
        }
        let single: Vec<usize> = (1..=bytes.len()).collect();
        prop_assert_eq!(read_cut(&bytes, &single), read(&bytes));
    }
}

#[test]
#[ignore = "runs for as long as it is told: `cargo xtask fuzz hello --seconds N`"]
fn for_a_time() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(number("EXEAT_FUZZ_SECONDS").unwrap_or(10));
    let seed = number("EXEAT_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock");
        now.as_nanos() as u64
    });
    println!("seed {seed}, {} s", time.as_secs());
    let (mut random, parts, mut tally) = (Random(seed), parts(), Tally::default());
    let begun = Instant::now();
    while begun.elapsed() < time {
        for _ in 0..1_000 {
            step(&mut random, &parts, &mut tally);
        }
    }
    println!("{} hellos, no fault\n{tally:#?}", tally.all());
}
