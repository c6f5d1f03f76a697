//! Rules whose way out is the gateway: the kernel steers there whatever the program knows of
//! proxies, the gateway judges by the name that is shown, and connects itself.

mod around;
mod doors;
mod http;
mod inspect;
mod proxy;
mod survives;
mod tls;

use exeat_tests::http::{Authority, HttpHost};
use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, Stage};
use serde_json::Value;
use std::path::PathBuf;

/// The address that several tenants share.
const SHARED: &str = "203.0.113.30";
const SHARED_V6: &str = "2001:db8::30";
/// As an IPv6 socket says it.
const MAPPED: &str = "::ffff:203.0.113.30";

/// Every refusal and every connection makes an event of its own.
const ALL_EVENTS: &str = "events: { rate: 1000000, burst: 1000000 }\n";

/// Functions that the agent is told.
const ASK: &str = include_str!("ask.py");

/// An agent, and hosts that two tenants share.
struct Scene {
    agent: Puppet,
    hosts: Vec<HttpHost>,
    authority: PathBuf,
    stage: Stage,
}

impl Scene {
    /// `rules` are the agent's allow rules, a line each; both tenants are resolved.
    fn new(rules: &[&str]) -> Self {
        Self::with(&policy(rules))
    }

    fn with(policy: &str) -> Self {
        let stage = Stage::new(policy, ALL_EVENTS).expect("stage");
        for name in ["good.example", "evil.example"] {
            stage.dns.set(name, &[SHARED, SHARED_V6], 60);
        }
        let authority = Authority::new().expect("authority");
        let names = ["good.example", "evil.example"];
        let secure = |address: &str| {
            let host = stage.world.https(address, &authority, &names);
            host.expect("host")
        };
        let plain = |address: &str| stage.world.http(address).expect("host");
        let hosts = vec![
            secure("203.0.113.30:443"),
            secure("[2001:db8::30]:443"),
            plain("203.0.113.30:80"),
            plain("[2001:db8::30]:80"),
        ];
        let authority = authority.write(stage.world.folder()).expect("authority");
        let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
        agent.value(ASK).expect("functions");
        let mut scene = Self {
            agent,
            hosts,
            authority,
            stage,
        };
        scene.resolve("good.example");
        scene
    }

    /// Asks for a name, so that its addresses are leased if the policy allows it.
    fn resolve(&mut self, name: &str) {
        let asked = format!(
            "try:\n    getaddrinfo({name:?}, 443, type=SOCK_STREAM)\nexcept gaierror:\n    pass"
        );
        self.agent.value(&asked).expect(name);
    }

    /// What the agent gets of an HTTPS host: the body, or what went wrong.
    fn https(&mut self, address: &str, name: &str) -> String {
        let authority = self.authority.display().to_string();
        self.asked(&format!("https({address:?}, {name:?}, {authority:?})"))
    }

    /// The same without TLS; `host` is the header.
    fn http(&mut self, address: &str, host: &str) -> String {
        self.asked(&format!("http({address:?}, {host:?})"))
    }

    fn asked(&mut self, code: &str) -> String {
        let said = self.agent.value(code).expect(code);
        said.as_str().expect("text").to_owned()
    }

    /// The names, or for plain HTTP the hosts, that were served.
    fn served(&self) -> Vec<String> {
        let requests = self.hosts.iter().flat_map(HttpHost::requests);
        let mut all: Vec<_> = requests.map(|r| (r.at, r.server_name, r.head)).collect();
        all.sort();
        let host = |head: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let host = lines.find(|(key, _)| key.eq_ignore_ascii_case("host"));
            host.map_or_else(String::new, |(_, value)| value.to_owned())
        };
        all.into_iter()
            .map(|(_, name, head)| name.unwrap_or_else(|| host(&head)))
            .collect()
    }

    /// The event of a connection at the gateway.
    fn event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let at_gateway = |e: &Value| e["hook"] == "gateway" && wanted(e);
        let event = self.stage.daemon.event(at_gateway);
        event.unwrap_or_else(|e| panic!("{e:#}: {:?}", self.stage.daemon.events()))
    }
}

fn policy(rules: &[&str]) -> String {
    let mut text = "version: 1\nagents:\n  worker:\n    allow:\n".to_owned();
    for rule in rules {
        text += &format!("      - {{ {rule} }}\n");
    }
    text
}
