//! The resolvers that programs have, each as an agent: what is allowed is found, what is not
//! is refused at once, what is large comes by TCP, and nothing of it needs a word of set-up.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients::{self, Said};
use exeat_tests::stage::{AGENT, ALLOWED, ALLOWED_V4, OTHER, Stage};
use exeat_tests::wait;
use exeat_tests::world::NAME_SERVER;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: allowed.example, ports: [80] }
      - { host: large.example, ports: [8080], types: [TXT] }
";

/// An answer with all of them is larger than any client takes by UDP.
const LARGE: &str = "large.example";
const LARGE_COUNT: usize = 90;

/// No server is there, nor anything else.
const NO_SERVER: &str = "198.51.100.99";

/// What clients are told to wait for an answer, where they can be told.
const WAIT: u64 = 5;

struct Scene {
    stage: Stage,
    large: BTreeSet<IpAddr>,
}

impl Scene {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: &str) -> Self {
        let stage = Stage::new(policy, "").expect("stage");
        let large: Vec<String> = (1..=LARGE_COUNT).map(|n| format!("192.0.2.{n}")).collect();
        let addresses: Vec<&str> = large.iter().map(String::as_str).collect();
        stage.dns.set(LARGE, &addresses, 60);
        let large = large.iter().map(|a| a.parse().expect("address")).collect();
        Self { stage, large }
    }

    /// Runs a client as the agent. glibc's resolver is told to wait so long that a question
    /// which nobody answers cannot pass for one that is refused.
    fn run<S: AsRef<str>>(&self, program: &Path, words: &[S]) -> Output {
        let program = program.to_str().expect("a path").to_owned();
        let words = words.iter().map(|word| word.as_ref().to_owned());
        let argv: Vec<String> = std::iter::once(program).chain(words).collect();
        let options = format!("timeout:{} attempts:1", wait::seconds(WAIT));
        self.stage
            .daemon
            .run_command(AGENT, PLAIN_USER, &argv)
            .env("RES_OPTIONS", options)
            .stdin(Stdio::null())
            .output()
            .expect("run")
    }

    /// A client that prints what [`Said::read`] reads.
    fn ask<S: AsRef<str>>(&self, program: &Path, words: &[S]) -> Said {
        let output = self.run(program, words);
        Said::read(&output).unwrap_or_else(|e| panic!("{}: {e:#}", program.display()))
    }

    /// What every client must be able to do.
    fn all_of_it(&self, kind: Kind, ask: impl Fn(&str) -> Said) {
        for name in [ALLOWED, "aLLoWeD.ExAmPLe"] {
            let said = ask(name);
            assert_eq!(said.addresses, only(ALLOWED_V4), "{name}: {said:?}");
        }
        let said = ask(OTHER);
        assert!(said.addresses.is_empty(), "{said:?}");
        assert!(said.error.is_some(), "{said:?}");
        // Less than it waits for an answer that does not come.
        assert!(said.took < wait::scaled(kind.limit), "{said:?}");
        let event = self.dns_event("the refusal", |e| e["dns"]["name"] == OTHER);
        assert_eq!(event["reason"], "name", "{event}");
        assert_eq!(self.stage.dns.asked(OTHER), 0, "it went upstream");
        let said = ask(LARGE);
        assert_eq!(said.addresses.len(), kind.most, "{said:?}");
        assert!(said.addresses.is_subset(&self.large), "{said:?}");
        let event = self.dns_event("the large answer", |e| {
            e["dns"]["name"] == LARGE && e["dns"]["qtype"] == "A" && e["protocol"] == "tcp"
        });
        assert_eq!(event["verdict"], "allow", "{event}");
    }

    fn dns_event(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let event = self.stage.daemon.event(|e| e["hook"] == "dns" && wanted(e));
        event.unwrap_or_else(|e| panic!("{what}: {e:#}"))
    }
}

/// How a client is judged.
struct Kind {
    /// Addresses of one name that it takes.
    most: usize,
    /// What counts as at once.
    limit: Duration,
}

/// A client that says how long its look-up took. It waits a second, as the laptop's
/// resolv.conf says.
const TELLS: Kind = Kind {
    most: LARGE_COUNT,
    limit: Duration::from_millis(900),
};

/// A client of glibc's resolver, which is told to wait [`WAIT`]; its own start counts.
const WHOLE: Kind = Kind {
    most: LARGE_COUNT,
    limit: Duration::from_millis(WAIT * 900),
};

fn only(address: &str) -> BTreeSet<IpAddr> {
    [address.parse().expect("an address")].into()
}

fn python() -> PathBuf {
    "/usr/bin/python3".into()
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    format!("{out}{err}")
}

/// `dig` with more words; how long is what dig itself says.
fn dig(scene: &Scene, program: &Path, server: &str, name: &str, more: &[&str]) -> (Said, String) {
    let server = format!("@{server}");
    let timeout = format!("+timeout={}", wait::seconds(WAIT));
    let usual = [&server, "-q", name, "-t", "A", &timeout, "+tries=1"];
    let words: Vec<&str> = usual.iter().chain(more).copied().collect();
    let output = scene.run(program, &words);
    let text = text(&output);
    let lines = |start: &str| -> Vec<&str> {
        let found = text.lines().filter_map(|line| line.split_once(start));
        found.map(|(_, rest)| rest).collect()
    };
    let status = lines("status: ").first().map_or("none", |rest| {
        let end = rest.find(',').unwrap_or(rest.len());
        &rest[..end]
    });
    let took = lines(";; Query time: ").first().map_or(0, |rest| {
        let number = rest.split(' ').next().expect("a number");
        number.parse().expect("milliseconds")
    });
    let address = |line: &str| line.split_once("\tIN\tA\t")?.1.parse().ok();
    let said = Said {
        addresses: text.lines().filter_map(address).collect(),
        error: (status != "NOERROR").then(|| status.to_owned()),
        // dig takes an answer only from where it asked.
        from: lines(";; SERVER: ")
            .into_iter()
            .map(str::to_owned)
            .collect(),
        took: Duration::from_millis(took),
    };
    (said, text)
}

#[test]
fn dig_by_udp_and_tcp_with_edns_and_without() {
    let Some(program) = clients::find("dig") else {
        return;
    };
    let scene = Scene::new();
    for server in [NAME_SERVER, NO_SERVER, "2001:db8::53"] {
        for more in [
            ["+noedns", "+notcp"],
            ["+edns=0", "+notcp"],
            ["+edns=0", "+tcp"],
            ["+dnssec", "+cookie"],
        ] {
            let ask = |name: &str| dig(&scene, &program, server, name, &more);
            let (said, text) = ask("aLLoWeD.ExAmPLe");
            assert_eq!(said.addresses, only(ALLOWED_V4), "{text}");
            assert!(said.from[0].starts_with(&format!("{server}#53")), "{text}");
            assert!(text.contains("aLLoWeD.ExAmPLe.\t"), "its own case: {text}");
            let (said, text) = ask(OTHER);
            assert_eq!(said.error.as_deref(), Some("REFUSED"), "{text}");
            assert!(said.took < wait::scaled(TELLS.limit), "{text}");
            let (said, text) = ask(LARGE);
            assert_eq!(said.addresses, scene.large, "{text}");
            assert!(said.from[0].contains("(TCP)"), "{text}");
        }
    }
    // What does not fit is cut, and says so.
    let (said, text) = dig(&scene, &program, NAME_SERVER, LARGE, &["+ignore"]);
    assert!(text.contains("flags: qr tc rd ra"), "{text}");
    assert!(said.addresses.is_empty(), "{text}");
    scene.all_of_it(TELLS, |name| {
        dig(&scene, &program, NAME_SERVER, name, &[]).0
    });
}

/// Lines of `getent ahosts`, whose first word is an address.
fn getent(scene: &Scene, name: &str) -> Said {
    let start = Instant::now();
    let output = scene.run(Path::new("/usr/bin/getent"), &["ahosts", name]);
    let took = start.elapsed();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let address = |line: &str| line.split(' ').next()?.parse().ok();
    Said {
        addresses: lines.lines().filter_map(address).collect(),
        error: (!output.status.success()).then(|| output.status.to_string()),
        took,
        ..Said::default()
    }
}

#[test]
fn glibc() {
    let scene = Scene::new();
    scene.all_of_it(WHOLE, |name| getent(&scene, name));
}

#[test]
fn musl() {
    let Some(program) = clients::find("ask-musl") else {
        return;
    };
    // musl takes no notice of REFUSED and waits for a server that knows better.
    let policy = POLICY.replace("    allow:", "    dns: { refuse: nxdomain }\n    allow:");
    let scene = Scene::with(&policy);
    let kind = Kind {
        // musl's own bound.
        most: 48,
        ..TELLS
    };
    scene.all_of_it(kind, |name| scene.ask(&program, &[name]));
}

#[test]
fn musl_waits_for_its_own_timeout_where_a_name_is_refused() {
    let Some(program) = clients::find("ask-musl") else {
        return;
    };
    let scene = Scene::new();
    let said = scene.ask(&program, &[OTHER]);
    assert!(
        said.error.is_some() && said.addresses.is_empty(),
        "{said:?}"
    );
    let timeout: u64 = wait::seconds(1).parse().expect("seconds");
    assert!(said.took >= Duration::from_secs(timeout), "{said:?}");
    assert_eq!(scene.stage.dns.asked(OTHER), 0);
}

#[test]
fn python_of_its_own() {
    let scene = Scene::new();
    let script = "
import socket, sys, time
start = time.monotonic()
try:
    for found in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM):
        print('address', found[4][0])
except socket.gaierror as error:
    print('error', error)
print('ms', int((time.monotonic() - start) * 1000))
";
    scene.all_of_it(TELLS, |name| {
        scene.ask(&python(), &["-I", "-c", script, name])
    });
}

/// What Node's scripts share: `look` gives a promise of a list of addresses.
const NODE: &str = "
const dns = require('dns').promises;
const [way, name, server] = process.argv.slice(1);
const own = new dns.Resolver({ timeout: 5000, tries: 1 });
if (server) own.setServers([server]);
const ways = {
  lookup: async () => (await dns.lookup(name, { all: true })).map(one => one.address),
  resolve4: () => own.resolve4(name),
  resolveAny: async () => (await own.resolveAny(name)).map(one => one.address),
};
const start = process.hrtime.bigint();
const end = () => console.log('ms', String((process.hrtime.bigint() - start) / 1000000n));
ways[way]().then(
  found => { found.forEach(one => console.log('address', one)); end(); },
  error => { console.log('error', error.code); end(); });
";

fn node(scene: &Scene, program: &Path, words: &[&str]) -> Said {
    let words: Vec<&str> = ["-e", NODE].iter().chain(words).copied().collect();
    scene.ask(program, &words)
}

#[test]
fn node_by_libuv() {
    let Some(program) = clients::find("node") else {
        return;
    };
    let scene = Scene::new();
    scene.all_of_it(TELLS, |name| node(&scene, &program, &["lookup", name]));
}

#[test]
fn node_by_c_ares() {
    let Some(program) = clients::find("node") else {
        return;
    };
    let scene = Scene::new();
    scene.all_of_it(TELLS, |name| node(&scene, &program, &["resolve4", name]));
    let said = node(&scene, &program, &["resolve4", ALLOWED, NO_SERVER]);
    assert_eq!(said.addresses, only(ALLOWED_V4), "{said:?}");
    // Everything at once is nothing that a policy can name.
    let said = node(&scene, &program, &["resolveAny", ALLOWED]);
    assert_eq!(said.error.as_deref(), Some("EREFUSED"), "{said:?}");
    assert!(said.took < wait::scaled(TELLS.limit), "{said:?}");
}

#[test]
fn go_of_its_own() {
    let Some(program) = clients::find("ask-go") else {
        return;
    };
    let scene = Scene::new();
    scene.all_of_it(TELLS, |name| {
        let said = scene.ask(&program, &[name]);
        let server = format!("{NAME_SERVER}:53");
        assert!(said.from.iter().all(|from| *from == server), "{said:?}");
        said
    });
    let said = scene.ask(&program, &[ALLOWED, NO_SERVER]);
    assert_eq!(said.addresses, only(ALLOWED_V4), "{said:?}");
    assert_eq!(said.from[0], format!("{NO_SERVER}:53"), "{said:?}");
}

#[test]
fn hickory() {
    let scene = Scene::new();
    scene.all_of_it(TELLS, |name| scene.ask(&clients::own("hickory"), &[name]));
}

#[test]
fn curl() {
    let scene = Scene::new();
    let _hosts = scene.stage.world.http("0.0.0.0:8080").expect("hosts");
    let kind = Kind { most: 1, ..WHOLE };
    scene.all_of_it(kind, |name| {
        let port = if name == LARGE { 8080 } else { 80 };
        let mut argv = scene.stage.curl(&format!("http://{name}:{port}/"));
        let more = ["-o", "/dev/null", "-w", "%{remote_ip}"];
        argv.extend(more.map(str::to_owned));
        let start = Instant::now();
        let output = scene.run(Path::new(&argv[0]), &argv[1..]);
        let took = start.elapsed();
        let address = String::from_utf8_lossy(&output.stdout).parse();
        Said {
            addresses: address.into_iter().collect(),
            error: (!output.status.success()).then(|| text(&output)),
            took,
            ..Said::default()
        }
    });
}

/// glibc with a list of search domains.
fn search(scene: &Scene, name: &str) -> Output {
    let argv = ["/usr/bin/getent", "ahosts", name].map(str::to_owned);
    let options = format!("ndots:5 timeout:{} attempts:1", wait::seconds(WAIT));
    let start = Instant::now();
    let output = scene
        .stage
        .daemon
        .run_command(AGENT, PLAIN_USER, &argv)
        .env("LOCALDOMAIN", "corp.example lan.example")
        .env("RES_OPTIONS", options)
        .stdin(Stdio::null())
        .output()
        .expect("run");
    assert!(start.elapsed() < wait::scaled(WHOLE.limit));
    output
}

/// Search domains make names that the policy does not have: what is refused is refused at
/// once, and the name as it was written is found.
#[test]
fn search_domains_are_tried_and_refused() {
    let scene = Scene::new();
    let output = search(&scene, ALLOWED);
    assert!(text(&output).starts_with(ALLOWED_V4), "{}", text(&output));
    scene.dns_event("the search", |e| {
        e["dns"]["name"] == "allowed.example.corp.example" && e["reason"] == "name"
    });
    let asked: BTreeSet<String> = scene.stage.dns.names().into_iter().collect();
    assert_eq!(asked, [ALLOWED, LARGE].map(str::to_owned).into());
}

/// glibc ends its search at REFUSED, and goes on where a name does not exist.
#[test]
fn a_name_of_a_later_search_domain_is_found_where_others_do_not_exist() {
    let policy = |dns: &str| {
        format!(
            "version: 1\nagents:\n  worker:\n    dns: {{ {dns} }}\n    allow:\n      \
             - {{ host: db.lan.example, ports: [80] }}\n"
        )
    };
    for (dns, found) in [("refuse: nxdomain", true), ("refuse: refused", false)] {
        let scene = Scene::with(&policy(dns));
        scene.stage.dns.set("db.lan.example", &[ALLOWED_V4], 60);
        // It was looked up before it had an address.
        scene.stage.daemon.enforce(&policy(dns)).expect("reload");
        let output = search(&scene, "db");
        assert_eq!(output.status.success(), found, "{dns}: {}", text(&output));
    }
}
