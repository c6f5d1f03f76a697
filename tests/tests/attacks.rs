//! Every technique of the hostile program against a policy that allows nothing, and
//! against one that allows a single host. `control.rs` shows that the same techniques get
//! out where nothing enforces. In the sandbox, as an ordinary user and as root, every one is run,
//! and those besides that only a sandbox stops.

use exeat_tests::attack::{
    Attack, DECOY, DECOY6, Effect, Free, Launch, PORT, Report, allowed_by_decoy_policy,
};
use exeat_tests::daemon::{AsAgent, Daemon};
use exeat_tests::dns::DnsHost;
use exeat_tests::record;
use exeat_tests::sniff::{Packet, Sniffer};
use exeat_tests::stage::is_forbidden;
use exeat_tests::technique::{Technique, confined, list, program};
use exeat_tests::world::World;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// Techniques that no hook sees and only the sandbox stops: each with the wall. They are run in
/// it, as every other; what they do without is known, and the README says so.
const SANDBOX: &[(&str, &str)] = &[
    ("packet-raw", "seccomp families, capabilities"),
    ("packet-raw-qdisc-bypass", "seccomp families, capabilities"),
    ("packet-dgram", "seccomp families, capabilities"),
    (
        "packet-in-user-namespace",
        "seccomp families; the namespace leads nowhere",
    ),
    ("af-xdp", "seccomp families, capabilities"),
    ("tun-forward", "capabilities"),
    ("netns-own", "seccomp; the namespace leads nowhere"),
    ("netns-of-other", "capabilities"),
    ("cgroup-move-root", "Landlock or a mount namespace"),
    ("cgroup-clone-into", "seccomp (clone3)"),
    ("kill-daemon-root", "a pid namespace"),
    ("ptrace-daemon-root", "seccomp, capabilities"),
    ("pidfd-getfd-daemon-root", "seccomp, capabilities"),
    ("proc-mem-daemon-root", "Landlock, capabilities"),
    ("bpf-map-create", "seccomp"),
    ("bpf-prog-load", "seccomp"),
    ("bpf-links", "seccomp"),
    ("vsock", "seccomp families"),
    ("alg", "seccomp families"),
    ("netlink-netfilter", "seccomp families"),
    ("netlink-xfrm", "seccomp families"),
    ("bluetooth", "seccomp families"),
    ("smc", "seccomp families"),
    ("tipc", "seccomp families"),
    ("rds", "seccomp families"),
    ("can", "seccomp families"),
    ("kcm", "seccomp families"),
    ("qipcrtr", "seccomp families"),
    ("x25", "seccomp families"),
    ("nfc", "seccomp families"),
    ("pppox", "seccomp families"),
];

/// Techniques whose only effect is local: a bind to a port that the kernel chooses may be
/// refused or not. What matters is that nothing is answered from there, and the `accept-*`
/// and `udp-reply-*` techniques show that.
const EITHER: &[&str] = &["bind-tcp", "bind-udp"];

/// Techniques that must fail by EPERM at the call, not by silence: the fast refusal. A
/// kernel that has no such thing says so also to a program that nothing confines.
const AT_ONCE: &[&str] = &[
    "tcp4",
    "tcp6",
    "tcp-mapped",
    "tcp4-nonblocking",
    "tcp6-nonblocking",
    "tcp-unspec-reconnect",
    "mptcp4",
    "mptcp6",
    "udp4-connect-send",
    "udp6-connect-send",
    "udp-mapped-connect-send",
    "udp4-sendto",
    "udp6-sendto",
    "udp-mapped-sendto",
    "udp4-sendmsg",
    "udp6-sendmsg",
    "udp4-sendmmsg",
    "udp-decoy-then-sendto",
    "uring-tcp4",
    "uring-tcp6",
    "uring-udp-send",
    "uring-udp-sendmsg",
    "udplite4-sendto",
    "ping4",
    "ping6",
    "raw-icmp4",
    "raw-hdrincl",
    "segment-routing",
    "ip-add-membership",
    "ipv6-join-group",
    "prejoin-tcp4",
    "prejoin-tcp6",
    "prejoin-udp4-sendto",
    "prejoin-udp6-sendto",
    "scm-rights-connect",
    "fork",
    "double-fork-setsid",
];

/// `column` is where `record` enters what came of each.
fn attack_under(column: &str, policy: &str, allowed: &(dyn Fn(&Packet) -> bool + Sync)) {
    let world = World::new().expect("world");
    let sniffer = world.sniffer().expect("sniffer");
    let dns = world.dns().expect("dns");
    let daemon = Daemon::start(&world, policy).expect("daemon");
    let socket = daemon.control_socket().expect("control socket");
    let attack = Attack {
        victim: daemon.pid().expect("pid"),
        socket: &socket,
        folder: daemon.bpffs(),
        ..Attack::typical(&world, &sniffer, allowed)
    };
    let sinks = attack.sinks().expect("sinks");
    let _holder = daemon.hold("worker").expect("a process of the agent");
    let links = daemon.links().expect("links");

    let all = list().expect("list");
    for name in SANDBOX
        .iter()
        .map(|(name, _)| name)
        .chain(EITHER)
        .chain(AT_ONCE)
    {
        assert!(
            all.iter().any(|t| t.name == *name),
            "{name} is in a table, but no such technique"
        );
    }
    let wall = |t: &Technique| SANDBOX.iter().find(|(of, _)| *of == t.name);
    record::later(all.iter().filter_map(|t| Some((t, wall(t)?.1)))).expect("record");
    let now: Vec<Technique> = all.into_iter().filter(|t| wall(t).is_none()).collect();
    // The harness itself connects to the target for these, before the agent starts, so
    // only their payload tells.
    let (handed_in, own): (Vec<_>, Vec<_>) = now
        .iter()
        .cloned()
        .partition(|t| ["fd3", "stdin"].contains(&t.needs.as_str()));

    let launcher = daemon.launcher("worker");
    let mut reports = attack.run_all(&own, &launcher).expect("run the attacks");
    world.settle(&sniffer).expect("settle");
    let left = packets(&sniffer, allowed);
    reports.extend(
        attack
            .run_all(&handed_in, &launcher)
            .expect("run the attacks"),
    );
    record::effects(column, &now, &reports).expect("record");

    // Last, because where the kernel does have the thing, this gets out.
    let unsupported: Vec<Technique> = now
        .into_iter()
        .filter(|t| AT_ONCE.contains(&t.name.as_str()))
        .filter(|t| matches!(reports[&t.name].effect, Effect::Unsupported(_)))
        .collect();
    let free = attack
        .run_all(&unsupported, &Free(&world))
        .expect("run without enforcement");
    let lacks = |name: &str| {
        free.get(name)
            .is_some_and(|free| free.effect == reports[name].effect)
    };
    let mut surprises = surprises(&reports, lacks);
    surprises.extend(left);

    conclude(surprises, &dns, &daemon, &links, &sniffer);
    drop(sinks);
}

/// No question of an attack reached the name server, the guard stands as it did, the sniffer saw
/// everything, and nothing else was a surprise.
fn conclude(
    mut surprises: Vec<String>,
    dns: &DnsHost,
    daemon: &Daemon,
    links: &BTreeMap<PathBuf, u64>,
    sniffer: &Sniffer,
) {
    if !dns.names().iter().all(|name| !name.contains("exfil")) {
        surprises.push(format!("questions left the laptop: {:?}", dns.names()));
    }
    assert_eq!(
        daemon.links().expect("links"),
        *links,
        "the guard was disarmed"
    );
    assert_eq!(sniffer.lost().expect("counters"), 0);
    assert!(
        surprises.is_empty(),
        "{}:\n{}",
        surprises.len(),
        surprises.join("\n")
    );
}

/// `lacks` tells of a technique that this kernel does not know.
fn surprises(reports: &BTreeMap<String, Report>, lacks: impl Fn(&str) -> bool) -> Vec<String> {
    let mut surprises = Vec::new();
    for (name, report) in reports {
        let at_once = AT_ONCE.contains(&name.as_str());
        let fine = match report.effect {
            Effect::Out => EITHER.contains(&name.as_str()),
            Effect::Refused(errno) => !at_once || errno == libc::EPERM,
            Effect::Dropped => !at_once,
            Effect::Unsupported(_) => !at_once || lacks(name),
            // A connection as standard input is refused before the program starts.
            Effect::NotStarted => name == "stdin-write",
        };
        if !fine {
            surprises.push(format!("{name}: {:?}: {}", report.effect, report.said));
        }
    }
    surprises
}

/// Packets that should not have left, one line for each kind.
fn packets(sniffer: &Sniffer, allowed: &(dyn Fn(&Packet) -> bool + Sync)) -> Vec<String> {
    let forbidden = sniffer.packets(|p| {
        // A visitor who comes late finds the port closed.
        is_forbidden(p) && !allowed(p) && !p.is_closed_port()
    });
    let mut lines: Vec<String> = forbidden
        .iter()
        .map(|p| {
            format!(
                "a packet left: protocol {}, {:?}, ports {:?}",
                p.protocol, p.ends, p.ports
            )
        })
        .collect();
    lines.dedup();
    lines
}

#[test]
fn under_a_policy_that_allows_nothing() {
    attack_under("nothing", "version: 1\nagents:\n  worker: {}\n", &|_| false);
}

#[test]
fn under_a_policy_that_allows_one_host() {
    let policy = format!(
        "version: 1\nagents:\n  worker:\n    allow:\n\
         \x20     - {{ cidr: {DECOY}/32, ports: [{PORT}] }}\n\
         \x20     - {{ cidr: {DECOY}/32, protocol: udp, ports: [{PORT}] }}\n\
         \x20     - {{ cidr: \"{DECOY6}/128\", ports: [{PORT}] }}\n\
         \x20     - {{ cidr: \"{DECOY6}/128\", protocol: udp, ports: [{PORT}] }}\n"
    );
    attack_under("one_host", &policy, &allowed_by_decoy_policy);
}

/// Everything as one user, whatever it needs.
struct As<'a> {
    root: bool,
    launcher: AsAgent<'a>,
}

impl Launch for As<'_> {
    fn command(&self, _: bool, argv: &[String]) -> Command {
        self.launcher.command(self.root, argv)
    }

    fn before(&self, _: bool, argv: &[String]) -> Command {
        self.launcher.before(self.root, argv)
    }

    fn join(&self, pid: u32) -> anyhow::Result<()> {
        self.launcher.join(pid)
    }
}

/// Every technique in the sandbox of an agent that may connect nowhere.
fn in_the_sandbox(root: bool) {
    let world = World::new().expect("world");
    let sniffer = world.sniffer().expect("sniffer");
    let dns = world.dns().expect("dns");
    let program = program();
    let tools = program.parent().expect("folder").display();
    let policy =
        format!("version: 1\nagents:\n  worker:\n    sandbox: {{ read: [\"{tools}\"] }}\n");
    let daemon = Daemon::start_with(&world, &policy, "sandbox: true\n").expect("daemon");
    let socket = daemon.control_socket().expect("control socket");
    let attack = Attack {
        victim: daemon.pid().expect("pid"),
        socket: &socket,
        folder: daemon.bpffs(),
        ..Attack::typical(&world, &sniffer, &|_| false)
    };
    let sinks = attack.sinks().expect("sinks");
    let _holder = daemon.hold("worker").expect("a process of the agent");
    let links = daemon.links().expect("links");
    let (handed_in, mut own): (Vec<_>, Vec<_>) = list()
        .expect("list")
        .into_iter()
        .partition(|t| ["fd3", "stdin"].contains(&t.needs.as_str()));
    own.extend(confined().expect("list"));
    let launcher = As {
        root,
        launcher: daemon.launcher("worker"),
    };
    let mut reports = attack.run_all(&own, &launcher).expect("run the attacks");
    world.settle(&sniffer).expect("settle");
    let mut surprises = packets(&sniffer, &|_| false);
    reports.extend(
        attack
            .run_all(&handed_in, &launcher)
            .expect("run the attacks"),
    );
    assert!(reports.len() > 200, "{} techniques", reports.len());
    for (name, report) in &reports {
        let fine = match report.effect {
            // That the set-user-ID copy runs as root says nothing where everything does.
            Effect::Out => {
                EITHER.contains(&name.as_str()) || root && name.as_str() == "setuid-exec"
            }
            // A connection as standard input is refused before the program starts.
            Effect::NotStarted => name == "stdin-write",
            Effect::Refused(_) | Effect::Dropped | Effect::Unsupported(_) => true,
        };
        if !fine {
            surprises.push(format!("{name}: {:?}: {}", report.effect, report.said));
        }
    }
    conclude(surprises, &dns, &daemon, &links, &sniffer);
    drop(sinks);
}

#[test]
fn in_the_sandbox_of_an_ordinary_user() {
    in_the_sandbox(false);
}

#[test]
fn in_the_sandbox_of_root() {
    in_the_sandbox(true);
}

/// What a sandbox closes is open to root without one, but for what this kernel does not have:
/// a technique that never works would prove nothing.
#[test]
fn without_a_sandbox_root_does_all_of_it() {
    /// Each with what decides whether it works.
    const BY_KERNEL: &[(&str, &str)] = &[
        ("compare-processes", "CONFIG_KCMP"),
        ("disk", "whether there is one"),
        ("watch-mount", "CONFIG_FANOTIFY"),
        ("session-keys", "CONFIG_KEYS"),
        ("new-key", "CONFIG_KEYS"),
        ("page-faults", "CONFIG_USERFAULTFD"),
        ("measure", "CONFIG_PERF_EVENTS"),
        ("module-path", "CONFIG_MODULES"),
        ("sysrq", "CONFIG_MAGIC_SYSRQ"),
        ("old-architecture", "CONFIG_IA32_EMULATION"),
        ("core-pattern", "CONFIG_COREDUMP"),
    ];
    let world = World::new().expect("world");
    let sniffer = world.sniffer().expect("sniffer");
    let victim = Command::new("/usr/bin/sleep").arg("600").spawn();
    let mut victim = victim.expect("victim");
    let attack = Attack {
        victim: victim.id(),
        ..Attack::typical(&world, &sniffer, &|_| false)
    };
    let all = confined().expect("list");
    let reports = attack.run_all(&all, &Free(&world));
    victim.kill().expect("kill the victim");
    victim.wait().expect("wait for the victim");
    let surprises: Vec<String> = reports
        .expect("run every technique")
        .iter()
        .filter(|(name, report)| {
            report.effect != Effect::Out && !BY_KERNEL.iter().any(|(of, _)| of == name)
        })
        .map(|(name, report)| format!("{name}: {:?}: {}", report.effect, report.said))
        .collect();
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}
