//! The verdict in the kernel is the verdict on the host: random policies and leases are
//! compiled once, put into the maps and judged on both sides, flow by flow.

use agent_common::layout::Bank;
use agent_common::verdict::{Query, Verdict, judge};
use agent_common::{Addr, Protocol};
use exeat::kernel::Kernel;
use exeat::kernel::cgroup::{RunCgroup, Slice};
use exeat::kernel::object::Throttle;
use exeat::kernel::pins::Pins;
use exeat::kernel::tables::Image;
use exeat::kernel::tables::Leased;
use exeat::policy::{self, Compiled, HostName};
use exeat_tests::cgroup;
use exeat_tests::disk::{BPFFS, mount_bpffs};
use exeat_tests::ns::Ns;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::{count, unique};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

mod random;

use random::{ADDRESSES, HOSTS, PORTS, Random, random_policy};

/// The agent's index in the tables.
const AGENT: u32 = 3;

/// A loaded kernel with one agent in it; everything is gone when it is dropped.
struct Scene {
    kernel: Kernel,
    pins: Pins,
    slice: Slice,
    run: RunCgroup,
    agent: Puppet,
    generation: u32,
}

impl Scene {
    fn new() -> Self {
        mount_bpffs().expect("bpffs");
        let name = unique::name("exeat-verdict");
        let slice = Slice::new(cgroup::root().expect("cgroup2"), &name);
        let pins = Pins::new(Path::new(BPFFS).join(&name));
        // What does not fall under the policy would flood the ring that nobody reads.
        let throttle = Throttle {
            per_second: 1,
            burst: 1,
        };
        let kernel = Kernel::load(slice.clone(), pins.clone(), throttle).expect("load");
        let run = slice.create_run("agent").expect("cgroup");
        let ns = Ns::new().expect("namespace");
        // Every address of both families is this host: nothing leaves, nothing waits.
        for line in [
            "link set lo up",
            "route add local 0.0.0.0/0 dev lo",
            "-6 route add local ::/0 dev lo",
        ] {
            ns.ip(line).expect("ip");
        }
        let argv = puppet::arguments();
        let mut command = ns.command(&argv[0]);
        command.args(&argv[1..]);
        let agent = Puppet::start(command).expect("puppet");
        let mut scene = Self {
            kernel,
            pins,
            slice,
            run,
            agent,
            generation: 0,
        };
        scene
            .kernel
            .admit(scene.run.agent_id, AGENT)
            .expect("admit");
        scene.agent.value(FLOWS).expect("define");
        scene
    }

    /// Puts tables in force, with room for this many more addresses.
    fn install(&mut self, compiled: &Compiled, spare: u32) {
        self.generation += 1;
        let bank = Bank {
            generation: self.generation,
            ..Bank::default()
        };
        let image = Image::new(compiled, bank, spare);
        let prepared = self.kernel.prepare(AGENT, &image).expect("prepare");
        self.kernel.flip(prepared).expect("flip");
    }

    fn enforce(&mut self) {
        self.kernel.enforce().expect("enforce");
        cgroup::add(&self.run.path, self.agent.pid()).expect("join");
    }

    /// Every refusal that the kernel has counted for the agent.
    fn blocked(&self) -> u64 {
        let stats = self.kernel.stats(AGENT).expect("stats");
        stats.blocked.iter().flatten().sum()
    }

    fn errnos(&mut self, code: &str) -> Vec<i64> {
        let value = self.agent.value(code).expect("flows");
        let list = value.as_array().expect("a list");
        list.iter().map(|v| v.as_i64().expect("errno")).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        cgroup::remove_tree(self.slice.path());
        if let Err(error) = self.pins.remove() {
            eprintln!("pins stay behind: {error}");
        }
    }
}

/// Opens each flow on a socket of its own and gives the errno of each.
const FLOWS: &str = "
KINDS = {
    'tcp4': (AF_INET, SOCK_STREAM, 0), 'tcp6': (AF_INET6, SOCK_STREAM, 0),
    'udp4': (AF_INET, SOCK_DGRAM, 0), 'udp6': (AF_INET6, SOCK_DGRAM, 0),
    'send4': (AF_INET, SOCK_DGRAM, 1), 'send6': (AF_INET6, SOCK_DGRAM, 1),
}
def attempt(kind, host, port):
    family, type, send = KINDS[kind]
    s = socket(family, type | SOCK_NONBLOCK)
    try:
        if send: s.sendto(b'x', (host, port))
        else: s.connect((host, port))
    except OSError as e:
        return e.errno
    finally:
        s.close()
    return 0
def flows(list): return [attempt(*f) for f in list]
KEPT = []
def keep(list):
    for host, port in list:
        s = socket(AF_INET6 if ':' in host else AF_INET, SOCK_DGRAM | SOCK_NONBLOCK)
        s.connect((host, port))
        KEPT.append(s)
def send_each():
    result = []
    for s in KEPT:
        # A port that nobody listens at is told to the next call, which is not to be this one's.
        s.getsockopt(SOL_SOCKET, SO_ERROR)
        try: result.append(0 * s.send(b'x'))
        except OSError as e: result.append(e.errno)
    return result
";

/// A flow: how, to where.
struct Flow {
    kind: &'static str,
    host: String,
    query: Query,
}

fn random_flow(random: &mut Random) -> Flow {
    let address: IpAddr = match random.below(12) {
        0 => "0.0.0.0".parse().expect("address"),
        1 => "::".parse().expect("address"),
        2 => format!("10.{}.0.{}", random.below(3), random.below(255))
            .parse()
            .expect("address"),
        _ => random.pick(ADDRESSES).parse().expect("address"),
    };
    let port = *random.pick(PORTS);
    let mapped = address.is_ipv4() && random.chance(30);
    let six = address.is_ipv6() || mapped;
    let (four_kinds, six_kinds) = (["tcp4", "udp4", "send4"], ["tcp6", "udp6", "send6"]);
    let kind = *random.pick(if six { &six_kinds } else { &four_kinds });
    Flow {
        kind,
        host: if mapped {
            format!("::ffff:{address}")
        } else {
            address.to_string()
        },
        query: Query {
            addr: Addr::from(address).or_loopback(),
            port,
            protocol: if kind.starts_with("tcp") {
                Protocol::TCP
            } else {
                Protocol::UDP
            },
        },
    }
}

/// What a flow may meet that is not a refusal.
const NO_REFUSAL: [i64; 3] = [0, libc::EINPROGRESS as i64, libc::ECONNREFUSED as i64];

/// Whether the host lets it out. No gateway is open here, so what would be steered to one is
/// refused.
fn leaves(compiled: &Compiled, flow: &Flow) -> bool {
    let verdict = judge(compiled, &flow.query);
    matches!(verdict, Verdict::Allow { check, .. } if !check.is_steered())
}

fn compare(scene: &mut Scene, compiled: &Compiled, flows: &[Flow], text: &str) -> [usize; 2] {
    let list: Vec<Value> = flows
        .iter()
        .map(|flow| json!([flow.kind, flow.host, flow.query.port]))
        .collect();
    let before = scene.blocked();
    let errnos = scene.errnos(&format!("flows({})", Value::from(list)));
    assert_eq!(errnos.len(), flows.len());
    let mut outcomes = [0, 0];
    for (flow, errno) in flows.iter().zip(errnos) {
        let allowed = leaves(compiled, flow);
        let got = match errno {
            errno if errno == i64::from(libc::EPERM) => false,
            errno if NO_REFUSAL.contains(&errno) => true,
            errno => panic!("{} to {}: errno {errno}", flow.kind, flow.host),
        };
        assert_eq!(
            got, allowed,
            "{} to {} port {}: the kernel says {got}, the host {allowed}, under\n{text}",
            flow.kind, flow.host, flow.query.port
        );
        outcomes[usize::from(allowed)] += 1;
    }
    // Each refusal was counted once: no packet of an allowed flow met a wall further down.
    let refused = scene.blocked() - before;
    assert_eq!(
        refused, outcomes[0] as u64,
        "refusals counted under\n{text}"
    );
    outcomes
}

fn leases(random: &mut Random) -> BTreeMap<Addr, BTreeSet<HostName>> {
    let mut leases: BTreeMap<Addr, BTreeSet<HostName>> = BTreeMap::new();
    for host in HOSTS {
        for _ in 0..random.below(4) {
            let address: IpAddr = random.pick(ADDRESSES).parse().expect("address");
            leases
                .entry(Addr::from(address))
                .or_default()
                .insert(host.parse().expect("host"));
        }
    }
    leases
}

fn compiled(text: &str) -> Compiled {
    let set = policy::parse("random.yaml", text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let policy = set.agents.values().next().expect("an agent");
    Compiled::new(policy).expect("compile")
}

const ALL: &str = "\
version: 1
agents:
  a:
    allow:
      - { cidr: 0.0.0.0/0, ports: all }
      - { cidr: 0.0.0.0/0, protocol: udp, ports: all }
      - { cidr: '::/0', ports: all }
      - { cidr: '::/0', protocol: udp, ports: all }
";

/// Policies and flows of one seed.
fn agree(seed: u64, policies: usize, flows_each: usize) {
    let mut random = Random(seed);
    let mut scene = Scene::new();
    scene.install(&compiled(ALL), 0);
    scene.enforce();

    // Connected under a policy that allows everything: from then on only the packets
    // themselves are judged, against the policy in force at the time.
    let kept: Vec<Flow> = std::iter::repeat_with(|| random_flow(&mut random))
        .filter(|flow| !flow.kind.starts_with("tcp"))
        .take(60)
        .collect();
    let list: Vec<Value> = kept
        .iter()
        .map(|flow| json!([flow.host, flow.query.port]))
        .collect();
    scene
        .agent
        .value(&format!("keep({})", Value::from(list)))
        .expect("keep");
    assert!(scene.errnos("send_each()").iter().all(|errno| *errno == 0));

    let mut outcomes = [0, 0];
    for _ in 0..policies {
        let text = random_policy(&mut random);
        let mut tables = compiled(&text);
        for (addr, names) in leases(&mut random) {
            tables.lease(addr, &names).expect("lease");
        }
        scene.install(&tables, 64);
        let flows: Vec<Flow> = (0..flows_each).map(|_| random_flow(&mut random)).collect();
        let (early, late) = flows.split_at(flows.len() / 2);
        let some = compare(&mut scene, &tables, early, &text);
        let errnos = scene.errnos("send_each()");
        for (flow, errno) in kept.iter().zip(errnos) {
            let expected = match leaves(&tables, flow) {
                true => 0,
                false => i64::from(libc::EPERM),
            };
            assert_eq!(
                errno, expected,
                "a packet to {} port {} under\n{text}",
                flow.host, flow.query.port
            );
        }
        // Leases that come and go change the table in force.
        for (addr, names) in leases(&mut random) {
            let names = if random.chance(40) {
                BTreeSet::new()
            } else {
                names
            };
            let change = tables.lease(addr, &names).expect("lease");
            let leased = scene
                .kernel
                .lease(AGENT, &change, tables.entries())
                .expect("lease");
            assert_eq!(leased, Leased::Held);
        }
        let more = compare(&mut scene, &tables, late, &text);
        for (sum, (a, b)) in outcomes.iter_mut().zip(some.into_iter().zip(more)) {
            *sum += a + b;
        }
    }
    let [refused, allowed] = outcomes;
    assert_eq!(refused + allowed, policies * flows_each);
    // A comparison of which one side hardly ever occurs would prove little.
    assert!(
        refused.min(allowed) * 8 > policies * flows_each,
        "{outcomes:?}"
    );
}

/// Policies of each half: 100, or `EXEAT_POLICIES`.
fn policies() -> usize {
    count("EXEAT_POLICIES", 100)
}

#[test]
fn kernel_and_host_agree_on_random_policies_first_half() {
    agree(1, policies(), 120);
}

#[test]
fn kernel_and_host_agree_on_random_policies_second_half() {
    agree(2, policies(), 120);
}

#[test]
fn a_table_that_is_full_refuses_and_takes_again_once_there_is_room() {
    let mut scene = Scene::new();
    let text =
        "version: 1\nagents:\n  a:\n    allow:\n      - { host: a.example, ports: [8080] }\n";
    let mut tables = compiled(text);
    scene.install(&tables, 4);
    scene.enforce();
    let host = BTreeSet::from(["a.example".parse::<HostName>().expect("host")]);
    let addresses: Vec<String> = (1..=6).map(|n| format!("203.0.113.{n}")).collect();
    let mut put = |scene: &mut Scene, address: &str, names: &BTreeSet<HostName>| {
        let addr = Addr::from(address.parse::<IpAddr>().expect("address"));
        let change = tables.lease(addr, names).expect("lease");
        scene
            .kernel
            .lease(AGENT, &change, tables.entries())
            .expect("lease")
    };
    let outcomes: Vec<Leased> = addresses
        .iter()
        .map(|address| put(&mut scene, address, &host))
        .collect();
    let expected = [[Leased::Held; 4].as_slice(), &[Leased::Full; 2]].concat();
    assert_eq!(outcomes, expected);
    let fill = scene.kernel.fill(AGENT).expect("fill");
    assert_eq!((fill.used, fill.room), (4, 4));
    let errnos = |scene: &mut Scene| {
        let flows: Vec<Value> = addresses
            .iter()
            .map(|address| json!(["tcp4", address, 8080]))
            .collect();
        let errnos = scene.errnos(&format!("flows({})", Value::from(flows)));
        errnos
            .iter()
            .map(|errno| *errno != i64::from(libc::EPERM))
            .collect::<Vec<bool>>()
    };
    assert_eq!(
        errnos(&mut scene),
        [true, true, true, true, false, false],
        "what has no room stays refused"
    );
    // An address that is already held needs no room.
    assert_eq!(put(&mut scene, &addresses[0], &host), Leased::Held);
    assert_eq!(
        put(&mut scene, &addresses[1], &BTreeSet::new()),
        Leased::Held
    );
    assert_eq!(put(&mut scene, &addresses[5], &host), Leased::Held);
    assert_eq!(errnos(&mut scene), [true, false, true, true, false, true]);
}
