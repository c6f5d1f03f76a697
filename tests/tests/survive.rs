//! Enforcement outlives the daemon.

use agent_common::layout::LAYOUT_VERSION;
use aya::maps::{HashMap, Map, MapData};
use exeat_tests::attack::{Attack, DECOY, Effect, PLAIN_USER, PORT, TARGET};
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::technique::list;
use exeat_tests::traffic::{Traffic, traffic_arguments};
use exeat_tests::{count, unique, wait};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const TRAFFIC_POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [4433] }
";

#[test]
fn killed_again_and_again_under_traffic_nothing_leaks_and_nothing_breaks() {
    let mut stage = Stage::new(TRAFFIC_POLICY, "").expect("stage");
    let decoy = stage.world.http(&format!("{DECOY}:{PORT}")).expect("decoy");
    let tcp = stage
        .world
        .tcp_sink(&format!("{TARGET}:{PORT}"))
        .expect("sink");
    let udp = stage
        .world
        .udp_sink(&format!("{TARGET}:{PORT}"))
        .expect("sink");
    let argv = traffic_arguments(TARGET, DECOY, PORT, &unique::token());
    let traffic =
        Traffic::start(stage.daemon.run_command(AGENT, PLAIN_USER, &argv)).expect("traffic");

    stage.daemon.kill9().expect("kill");
    // 50, or `EXEAT_KILLS`.
    for turn in 0..count("EXEAT_KILLS", 50) as u64 {
        if turn % 2 == 0 {
            // Somewhere in its start: 0 to 97 ms, a different moment each turn.
            let delay = Duration::from_millis(turn * 37 % 98);
            stage.daemon.start_and_kill9(delay).expect("start and kill");
        } else {
            stage.daemon.restart().expect("restart");
            stage.daemon.kill9().expect("kill");
        }
    }
    stage.daemon.restart().expect("restart");
    let counts = traffic.finish().expect("counts");

    assert_eq!(counts["leaked"], 0, "{counts}");
    assert_eq!(counts["failed"], 0, "{counts}");
    assert!(
        counts["allowed"].as_u64().is_some_and(|n| n > 0),
        "{counts}"
    );
    assert!(!decoy.requests().is_empty());
    assert!(tcp.arrivals().is_empty() && udp.arrivals().is_empty());
    let to_target = stage
        .forbidden(|p| !p.is_to(TARGET.into()))
        .expect("settle");
    assert!(
        to_target.is_empty(),
        "{} packets, first {:?}",
        to_target.len(),
        to_target.first()
    );
    assert_eq!(stage.sniffer.lost().expect("counters"), 0);
}

/// Over UDP and over TCP: asked, and what the answer's code is once it comes.
const ASK_PATIENTLY: &str = "
def code_udp(name):
    s = udp('203.0.113.53', 53)
    s.settimeout(PATIENCE * 6)
    s.send(question(name))
    return s.recv(4096)[3] & 15

def code_tcp(name):
    s = tcp('203.0.113.53', 53)
    s.settimeout(PATIENCE * 6)
    q = question(name)
    s.sendall(struct.pack('>H', len(q)) + q)
    (length,) = struct.unpack('>H', take(s, 2))
    return take(s, length)[3] & 15
";

#[test]
fn what_is_asked_while_no_daemon_runs_is_answered_by_the_next() {
    let mut stage = Stage::new(TRAFFIC_POLICY, "").expect("stage");
    stage.daemon.with_fd_store().expect("restart");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    agent.ask(ASK_PATIENTLY).expect("functions");
    for (kind, ask) in [("udp4", "code_udp"), ("tcp4", "code_tcp")] {
        for (name, code) in [("allowed.example", 0), ("other.example", 5)] {
            stage.daemon.kill9().expect("kill");
            let kept = stage.daemon.fd_store().expect("store").names();
            let gate = kept
                .iter()
                .find(|name| name.starts_with(&format!("gate-{kind}-")) && name.ends_with(AGENT))
                .unwrap_or_else(|| panic!("no {kind} gate of {AGENT} in {kept:?}"))
                .clone();
            let asked = std::thread::scope(|scope| {
                let asked = scope.spawn(|| agent.value(&format!("{ask}({name:?})")));
                let store = stage.daemon.fd_store().expect("store");
                wait::until("the question to wait", wait::patience(), || {
                    store.waits(&gate).then_some(())
                })
                .expect("waits");
                stage.daemon.restart().expect("restart");
                asked.join().expect("no panic")
            });
            assert_eq!(asked.expect("an answer"), code, "{kind} {name}");
        }
    }
}

#[test]
fn a_gate_is_not_kept_for_an_agent_that_is_gone() {
    let mut stage = Stage::new(TRAFFIC_POLICY, "").expect("stage");
    stage.daemon.with_fd_store().expect("restart");
    // What programs wait at is nobody's in particular.
    let store = |stage: &Stage| {
        let mut names = stage.daemon.fd_store().expect("store").names();
        names.retain(|name| !name.starts_with("programs-"));
        names
    };
    assert!(!store(&stage).is_empty());
    let other = TRAFFIC_POLICY.replace(AGENT, "somebody");
    stage.daemon.enforce(&other).expect("reload");
    wait::until("the other agent's gate alone", wait::patience(), || {
        let names = store(&stage);
        (!names.is_empty() && names.iter().all(|name| name.ends_with("-somebody"))).then_some(())
    })
    .expect("only that");
    // So too when it left while no daemon ran.
    stage.daemon.kill9().expect("kill");
    stage.daemon.write_policy(TRAFFIC_POLICY).expect("policy");
    stage.daemon.restart().expect("restart");
    wait::until("the first agent's gate alone", wait::patience(), || {
        let names = store(&stage);
        (!names.is_empty() && names.iter().all(|name| name.ends_with(AGENT))).then_some(())
    })
    .expect("only that");
}

#[test]
fn without_the_daemon_refusals_go_on() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _holder = stage.daemon.hold(AGENT).expect("a process of the agent");
    stage.daemon.kill9().expect("kill");
    let attack = Attack::typical(&stage.world, &stage.sniffer, &|_| false);
    let all = list().expect("list");
    for name in [
        "prejoin-tcp4",
        "prejoin-tcp6",
        "prejoin-tcp-mapped",
        "prejoin-udp4-sendto",
        "prejoin-udp6-sendto",
    ] {
        let technique = all
            .iter()
            .find(|t| t.name == name)
            .expect("a technique of this name");
        let report = attack
            .run(technique, &stage.daemon.launcher(AGENT))
            .expect("run");
        assert_eq!(
            report.effect,
            Effect::Refused(libc::EPERM),
            "{name}: {}",
            report.said
        );
    }
}

#[test]
fn a_restart_takes_over_without_detaching() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let before = stage.daemon.links().expect("links");
    assert!(
        before.len() >= 10,
        "too few links to be every hook: {before:?}"
    );
    stage.daemon.restart().expect("stop and start");
    assert_eq!(stage.daemon.links().expect("links"), before);
    stage.daemon.kill9().expect("kill");
    stage.daemon.restart().expect("start");
    assert_eq!(stage.daemon.links().expect("links"), before);
    assert_eq!(
        stage
            .curl_as(AGENT, "https://allowed.example/")
            .expect("run"),
        Some(0)
    );
    assert_eq!(
        stage.curl_as(AGENT, "https://203.0.113.20/").expect("run"),
        Some(7)
    );
}

#[test]
fn teardown_removes_everything() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    assert_eq!(
        stage
            .curl_as(AGENT, "https://allowed.example/")
            .expect("run"),
        Some(0)
    );
    let links = stage.daemon.links().expect("links");
    assert!(!links.is_empty(), "nothing was attached");
    stage.daemon.stop().expect("stop");
    assert_eq!(
        stage.daemon.links().expect("links"),
        links,
        "stopping must not detach"
    );
    stage.daemon.teardown().expect("teardown");
    assert!(!stage.daemon.bpffs().exists(), "pins stay behind");
    assert!(
        !stage.daemon.slice().expect("slice").exists(),
        "the slice stays behind"
    );
    for id in links.values() {
        let output = std::process::Command::new("bpftool")
            .args(["link", "show", "id", &id.to_string()])
            .output()
            .expect("bpftool");
        assert!(!output.status.success(), "link {id} is still attached");
    }
    stage
        .daemon
        .teardown()
        .expect("a second teardown finds nothing to do");
}

#[test]
fn a_wall_that_is_taken_down_from_outside_is_put_back() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let refused = || {
        stage.curl_as(AGENT, "https://203.0.113.20/").expect("run") == Some(7)
            && stage
                .daemon
                .event(|event| event["hook"] == "connect4" && event["reason"] == "no_rule")
                .is_ok()
    };
    assert!(refused());
    // A pin is what holds a link: without it the program is detached.
    let links = stage.daemon.links().expect("links");
    for link in links.keys() {
        std::fs::remove_file(link).expect("unpin");
    }
    exeat_tests::wait::until("every wall", exeat_tests::wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        let up = status["enforcement"]["active"] == true;
        (up && stage.daemon.links().ok()?.len() == links.len()).then_some(())
    })
    .expect("the walls are up again");
    assert!(refused());

    // The slice itself goes as soon as nothing runs in it: another one has another id.
    let slice = stage.daemon.slice().expect("slice");
    exeat_tests::wait::until("an empty slice", exeat_tests::wait::patience(), || {
        std::fs::remove_dir(&slice).ok()
    })
    .expect("the slice is removed");
    exeat_tests::wait::until("every wall", exeat_tests::wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        (status["enforcement"]["active"] == true && slice.is_dir()).then_some(())
    })
    .expect("the slice and the walls are there again");
    assert!(refused());
    assert!(
        stage
            .forbidden(|p| p.is_to(exeat_tests::stage::ALLOWED_V4.parse().expect("address")))
            .expect("settle")
            .is_empty()
    );
}

#[test]
fn a_lost_state_file_gives_no_old_number_to_a_new_policy() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let generation = |stage: &Stage| {
        let status = stage.daemon.status().expect("status");
        status["policy"]["generation"].as_u64().expect("generation")
    };
    for _ in 0..3 {
        assert!(stage.daemon.reload().expect("reload").status.success());
    }
    let before = generation(&stage);
    stage.daemon.kill9().expect("kill");
    std::fs::remove_file(stage.daemon.runtime_dir().join("state.json")).expect("remove");
    stage.daemon.restart().expect("restart");
    // Sockets carry verdicts of the old numbers: the same number would make them valid again.
    assert!(generation(&stage) > before);
}

#[test]
fn maps_of_a_new_layout_know_the_runs_of_the_last_daemon() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _run = stage.daemon.hold(AGENT).expect("a process of the agent");
    let folder = stage
        .daemon
        .slice()
        .expect("slice")
        .join(AGENT)
        .join("run-0");
    let cgroup = std::fs::metadata(folder).expect("the run's cgroup").ino();
    let layout = format!("v{LAYOUT_VERSION}");
    let maps = stage.daemon.bpffs().join(layout);
    stage.daemon.kill9().expect("kill");
    // What an upgrade to another layout finds: programs that run, and none of its own maps.
    std::fs::remove_dir_all(&maps).expect("remove the pins");
    stage.daemon.restart().expect("restart");
    let runs = MapData::from_pin(maps.join("maps/RUNS")).expect("RUNS");
    let runs: HashMap<_, u64, u32> = Map::HashMap(runs).try_into().expect("a hash");
    // Kernels before 6.1 tell the socket-option hook nothing else of whose the task is.
    assert!(runs.get(&cgroup, 0).is_ok(), "{cgroup} is not in RUNS");
}
