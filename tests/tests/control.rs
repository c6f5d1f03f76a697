//! The control run: without any enforcement every technique gets its byte out. A
//! technique that cannot get out here proves nothing when it does not get out under a
//! policy, so each exception stands in a table with its reason.

use exeat_tests::hostile::{Attack, Effect, Launch, PLAIN_USER, Technique, list};
use exeat_tests::world::World;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Techniques that do not get out even here, on the kernels that this suite runs on.
const EXCEPTIONS: &[(&str, Effect, &str)] = &[];

struct Free<'a>(&'a World);

impl Launch for Free<'_> {
    fn command(&self, root: bool, argv: &[String]) -> Command {
        let mut command = self
            .0
            .laptop
            .command_as(if root { 0 } else { PLAIN_USER }, &argv[0]);
        command.args(&argv[1..]);
        command
    }

    fn before(&self, root: bool, argv: &[String]) -> Command {
        self.command(root, argv)
    }

    fn join(&self, _: u32) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Answers whoever asks, as the control socket of a careless daemon would.
fn careless_socket(world: &World) -> std::path::PathBuf {
    let path = world.folder().join("careless.sock");
    let listener = UnixListener::bind(&path).expect("bind the careless socket");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("chmod");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"{}\n");
        }
    });
    path
}

#[test]
fn without_enforcement_every_technique_gets_out() {
    let world = World::new().expect("world");
    let sniffer = world.sniffer().expect("sniffer");
    let _dns = world.dns().expect("dns");
    let port = 4433;
    let mut sinks = Vec::new();
    for host in [
        "203.0.113.66",
        "203.0.113.10",
        "[2001:db8::66]",
        "[2001:db8::10]",
    ] {
        for port in [port, 53] {
            let address = format!("{host}:{port}");
            sinks.push((
                world.tcp_sink(&address).expect("tcp sink"),
                world.udp_sink(&address).expect("udp sink"),
            ));
        }
    }
    let mut victim = Command::new("/usr/bin/sleep")
        .arg("1000")
        .spawn()
        .expect("victim");
    let (socket, folder) = (
        careless_socket(&world),
        tempfile::tempdir().expect("folder"),
    );
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let attack = Attack {
        world: &world,
        sniffer: &sniffer,
        target: "203.0.113.66".parse().expect("address"),
        target6: "2001:db8::66".parse().expect("address"),
        decoy: "203.0.113.10".parse().expect("address"),
        decoy6: "2001:db8::10".parse().expect("address"),
        port,
        victim: victim.id(),
        socket: &socket,
        folder: folder.path(),
    };
    let techniques = list().expect("list");
    let effects = all_effects(&attack, &techniques, &Free(&world));
    victim.kill().expect("kill the victim");
    victim.wait().expect("wait for the victim");

    let exceptions: BTreeMap<&str, Effect> = EXCEPTIONS
        .iter()
        .map(|(name, effect, _)| (*name, *effect))
        .collect();
    let mut surprises = Vec::new();
    for (name, (effect, said)) in &effects {
        let expected = exceptions
            .get(name.as_str())
            .copied()
            .unwrap_or(Effect::Out);
        if *effect != expected {
            surprises.push(format!(
                "{name}: expected {expected:?}, got {effect:?}: {said}"
            ));
        }
    }
    for name in exceptions.keys() {
        if !effects.contains_key(*name) {
            surprises.push(format!(
                "{name}: in the table of exceptions, but no such technique"
            ));
        }
    }
    assert!(
        surprises.is_empty(),
        "{} of {}:\n{}",
        surprises.len(),
        effects.len(),
        surprises.join("\n")
    );
    assert_eq!(sniffer.lost().expect("counters"), 0);
    assert!(
        sinks.iter().any(|(tcp, _)| tcp.accepted() > 0),
        "no TCP connection reached a sink"
    );
}

/// Runs all, four at a time; they do not meet, for each has its own payload and groups.
fn all_effects(
    attack: &Attack<'_>,
    techniques: &[Technique],
    launch: &(dyn Launch + Sync),
) -> BTreeMap<String, (Effect, String)> {
    let (next, effects) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(technique) = techniques.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = attack.run(technique, launch).expect("run a technique");
                    effects
                        .lock()
                        .expect("lock")
                        .insert(technique.name.clone(), (report.effect, report.said));
                }
            });
        }
    });
    effects.into_inner().expect("lock")
}
