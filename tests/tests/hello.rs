//! The reader of ClientHellos in the kernel is the reader on the host, and neither reads a
//! name that rustls reads differently: ten thousand mutants of real hellos, cut at random.

use agent_common::Hello;
use agent_common::hello::{Fault, MAX_EXTENSIONS};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::CgroupSkb;
use aya::{TestRun as _, TestRunOptions};
use std::io::Write as _;

#[path = "../../agent-common/tests/hello/mutants.rs"]
mod mutants;
#[path = "../../agent-common/tests/hello/parts.rs"]
mod parts;
#[path = "../../agent-common/tests/hello/reference.rs"]
mod reference;

use mutants::{Random, corpus, mutant};
use parts::{Parts, host};
use reference::{Outcome, Tally, agree, hex, read};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../target/bpf/hello");

/// What a guard against growth allows; kernels before 5.16 do not tell.
const VERIFIED: u32 = 150_000;

/// `BPF_PROG_TEST_RUN` takes what fits a page beside the kernel's own.
const MOST: usize = 3_000;

/// An Ethernet header, which the kernel takes off again, an IPv4 and a TCP header.
const HEADERS: usize = 14 + 40;

struct Kernel {
    ebpf: Ebpf,
    state: Array<MapData, Hello>,
    packet: Vec<u8>,
}

impl Kernel {
    fn new() -> Self {
        let mut ebpf = Ebpf::load(OBJECT).expect("load the object");
        for (_, program) in ebpf.programs_mut() {
            let program: &mut CgroupSkb = program.try_into().expect("a packet program");
            program.load().expect("load a program");
        }
        let map = ebpf.take_map("HELLO").expect("the map");
        let mut packet = vec![0; HEADERS];
        packet[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        Self {
            ebpf,
            state: Array::try_from(map).expect("an array"),
            packet,
        }
    }

    fn program(&self, name: &str) -> &CgroupSkb {
        let program = self.ebpf.program(name).expect("the program");
        program.try_into().expect("a packet program")
    }

    fn run(&mut self, program: &str, piece: &[u8]) {
        self.packet.truncate(HEADERS);
        self.packet.extend_from_slice(piece);
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.packet);
        let result = self.program(program).test_run(options).expect("test run");
        assert_eq!(result.return_value, 1);
    }

    fn state(&self) -> Hello {
        self.state.get(&0, 0).expect("read the state")
    }

    /// Reads a stream in pieces that end at these places, in the kernel and on the host,
    /// whose states must be the same to the byte.
    fn read(&mut self, bytes: &[u8], ends: &[usize]) -> Outcome {
        self.state.set(0, Hello::new(), 0).expect("begin anew");
        let mut here = Hello::new();
        let mut begin = 0;
        for &end in ends {
            for piece in bytes[begin..end].chunks(MOST) {
                self.run("hello_read", piece);
                here.read(piece, 0, piece.len() as u32);
            }
            begin = end;
        }
        let there = self.state();
        assert_eq!(there, here, "cut at {ends:?}: {}", hex(bytes));
        Outcome::of(&there)
    }
}

#[test]
fn ten_thousand_mutants_in_the_kernel_on_the_host_and_at_rustls() {
    let mut kernel = Kernel::new();
    let parts: Vec<Parts> = corpus().iter().map(|(_, hello)| Parts::of(hello)).collect();
    let (mut random, mut tally) = (Random(5), Tally::default());
    for _ in 0..12_000 {
        let bytes = mutant(&mut random, &parts);
        let ours = read(&bytes);
        assert_eq!(kernel.read(&bytes, &[bytes.len()]), ours, "{}", hex(&bytes));
        let cuts = random.cuts(bytes.len());
        assert_eq!(
            kernel.read(&bytes, &cuts),
            ours,
            "cut at {cuts:?}: {}",
            hex(&bytes)
        );
        if let Err(what) = agree(&bytes, &ours, &mut tally) {
            panic!("{what}\n{}", hex(&bytes));
        }
    }
    assert_eq!(tally.all(), 12_000);
    assert!(tally.both > 2_000, "{tally:#?}");
}

#[test]
fn real_hellos_are_read_wherever_they_are_cut() {
    let mut kernel = Kernel::new();
    for (client, hello) in corpus() {
        for at in 0..=hello.len() {
            let outcome = kernel.read(&hello, &[at, hello.len()]);
            assert_eq!(
                outcome.done(),
                Some("api.example.com"),
                "{client} cut at {at}"
            );
        }
        let single: Vec<usize> = (1..=hello.len()).collect();
        let outcome = kernel.read(&hello, &single);
        assert_eq!(
            outcome.done(),
            Some("api.example.com"),
            "{client} byte by byte"
        );
    }
}

#[test]
fn a_fresh_hello_of_rustls_is_read() {
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    let mut kernel = Kernel::new();
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let config = std::sync::Arc::new(config);
    for _ in 0..100 {
        let name = "Some.Name.Example".try_into().expect("a name");
        let mut client = ClientConnection::new(config.clone(), name).expect("a client");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        let outcome = kernel.read(&hello, &[7, hello.len()]);
        assert_eq!(outcome.done(), Some("some.name.example"));
    }
}

#[test]
fn as_many_extensions_and_as_long_a_name_as_may_be() {
    let mut kernel = Kernel::new();
    let label = "a".repeat(62);
    for count in [MAX_EXTENSIONS, MAX_EXTENSIONS + 1] {
        let mut all: Vec<_> = (1..u16::from(count))
            .map(|kind| (0x6000 + kind, vec![]))
            .collect();
        all.push(host([label.as_str(); 4].join(".")));
        let hello = Parts::new(all).bytes();
        let outcome = kernel.read(&hello, &[hello.len()]);
        let too_many = (count > MAX_EXTENSIONS).then_some(Fault::Extensions);
        assert_eq!(outcome.fault(), too_many, "{outcome:?}");
        assert_eq!(outcome.done().is_some(), too_many.is_none(), "{outcome:?}");
    }
}

#[test]
fn a_second_hello_after_a_reset() {
    let mut kernel = Kernel::new();
    let long = Parts::named("a.very.long.name.that.leaves.traces.example").bytes();
    let short = Parts::named("b.example").bytes();
    for hello in [&long, &short] {
        kernel.run("hello_anew", hello);
        let mut here = Hello::new();
        here.read(hello.as_slice(), 0, hello.len() as u32);
        assert_eq!(kernel.state(), here);
    }
}

#[test]
fn the_verifier_has_few_ways_to_follow() {
    let kernel = Kernel::new();
    for name in ["hello_read", "hello_anew"] {
        let info = kernel.program(name).info().expect("info");
        if let Some(count) = info.verified_instruction_count() {
            // Past the capture of test output: to be read in the guests' logs.
            let _ = writeln!(std::io::stderr(), "{name}: {count} instructions verified");
            assert!(count <= VERIFIED, "{name}: {count}");
        }
    }
}
