//! The reader of hellos alone, on hellos of real clients: the kernel runs it as often as it is
//! told to (`BPF_PROG_TEST_RUN`) and says what one run took.

use super::tables::CONNECTION;
use crate::Settings;
use crate::report::{Section, Target, number};
use crate::stats::Series;
use anyhow::{Context, ensure};
use aya::programs::{CgroupSkb, Program};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use std::path::Path;

/// What the readers' tests read too: titles behind `# `, and lines of hexadecimal digits.
const CORPUS: &str = include_str!("../../../../agent-common/tests/hello/corpus.txt");

/// An Ethernet header, which the kernel takes off again, an IPv4 and a TCP header.
const HEADERS: usize = 14 + 40;

/// Hellos and who sent them.
fn corpus() -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
    for line in CORPUS.lines() {
        match (line.strip_prefix("# "), all.last_mut()) {
            (Some(title), _) => all.push((title, Vec::new())),
            (None, Some((_, hello))) => {
                for digits in line.as_bytes().chunks(2) {
                    hello.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
                }
            }
            (None, None) => {}
        }
    }
    all.retain(|(_, hello)| !hello.is_empty());
    Ok(all)
}

fn load(object: &Path) -> anyhow::Result<Ebpf> {
    let bytes = std::fs::read(object)
        .with_context(|| format!("read {}; `cargo xtask bench` builds it", object.display()))?;
    let mut ebpf = EbpfLoader::new().load(&bytes)?;
    for (_, program) in ebpf.programs_mut() {
        if let Program::CgroupSkb(program) = program {
            program.load()?;
        }
    }
    Ok(ebpf)
}

/// Nanoseconds of one run on a packet.
fn once(ebpf: &Ebpf, name: &str, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
    let program = ebpf.program(name).with_context(|| format!("no {name}"))?;
    let program: &CgroupSkb = program.try_into()?;
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = repeat;
    let result = program.test_run(options)?;
    ensure!(
        result.return_value == 1,
        "{name} gave {}",
        result.return_value
    );
    // The kernel gives the mean.
    Ok(result.duration.as_nanos() as f64)
}

/// Measures it, beside the empty program of `object`; the reader is the object beside it.
pub(super) fn run(settings: &Settings, object: &Path) -> anyhow::Result<Section> {
    let (empty, reader) = (load(object)?, load(&object.with_file_name("hello"))?);
    let corpus = corpus()?;
    let mut took = vec![[Series::default(), Series::default()]; corpus.len()];
    let repeat = settings.pick(1_000, 10_000);
    for _ in 0..settings.pick(5, 21) {
        for ((_, hello), [whole, net]) in corpus.iter().zip(&mut took) {
            let mut packet = vec![0; HEADERS];
            packet[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
            packet.extend_from_slice(hello);
            let nothing = once(&empty, "empty_egress", &packet, repeat)?;
            let one = once(&reader, "hello_anew", &packet, repeat)?;
            whole.push(one);
            net.push(one - nothing);
        }
    }
    let rows = corpus
        .iter()
        .zip(&took)
        .map(|((title, hello), [whole, net])| {
            vec![
                (*title).to_owned(),
                hello.len().to_string(),
                number(whole.median()),
                number(net.median()),
                number(net.min()),
            ]
        });
    let dearest = took.iter().map(|[_, net]| net.median());
    let dearest = dearest.fold(f64::NAN, f64::max);
    Ok(Section {
        name: "tls",
        title: "TLS: the reader of hellos alone",
        note: format!(
            "Whole hellos of other people's clients, {repeat} runs of the reader on each one in \
             a row (`BPF_PROG_TEST_RUN`), so everything is in the processor's caches; ns, the \
             median over the rounds, less that of an empty program, and the least of these. No \
             socket, no name looked up, no event: what a connection has of the name check in all is \
             in the table of the kernel's count."
        ),
        columns: ["hello", "bytes", "ns", "over empty", "min"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
        targets: vec![Target::at_most(
            "the reader of hellos alone, hot, on the one that takes longest",
            CONNECTION,
            dearest,
            "ns",
        )],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_of_hellos() {
        let corpus = corpus().expect("a corpus");
        assert!(corpus.len() > 3, "{}", corpus.len());
        for (title, hello) in corpus {
            // A handshake record, and in it a ClientHello.
            assert_eq!((hello[0], hello[5]), (22, 1), "{title}");
        }
    }
}
