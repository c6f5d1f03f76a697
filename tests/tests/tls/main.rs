//! Behind one address are many hosts: which of them a TLS connection is for is read in the
//! kernel, and nothing but the beginning of a handshake leaves before.

mod pieces;
mod refused;
mod reload;
mod rules;
mod told;

use exeat_tests::puppet::Puppet;
use exeat_tests::sink::TcpSink;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::{unique, wait};
use serde_json::Value;

/// The address that several tenants share.
const SHARED: &str = "203.0.113.30";
const SHARED_V6: &str = "2001:db8::30";
/// As an IPv6 socket says it.
const MAPPED: &str = "::ffff:203.0.113.30";

/// Hellos as OpenSSL makes them and as nobody should, and connections that say them.
const SAY: &str = include_str!("say.py");

/// Every refusal makes an event of its own.
const ALL_EVENTS: &str = "events: { rate: 1000000, burst: 1000000 }\n";

/// What an agent says to hosts that take everything.
struct Tls {
    agent: Puppet,
    sinks: Vec<TcpSink>,
    stage: Stage,
}

/// A connection that the agent made: a variable of the puppet's, and its port.
#[derive(Clone, Debug)]
struct Said {
    variable: String,
    port: u16,
}

impl Tls {
    /// `hosts` are names and their addresses; the agent resolves those that the policy allows.
    fn new(policy: &str, hosts: &[(&str, &[&str])], sinks: &[&str]) -> Self {
        let stage = Stage::new(policy, ALL_EVENTS).expect("stage");
        for (name, addresses) in hosts {
            stage.dns.set(name, addresses, 60);
        }
        let open = |address: &&str| stage.world.tcp_sink(address).expect("sink");
        let sinks = sinks.iter().map(open).collect();
        let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
        agent.value(SAY).expect("functions");
        let mut tls = Self {
            agent,
            sinks,
            stage,
        };
        for (name, _) in hosts {
            tls.resolve(name);
        }
        tls
    }

    /// Good and evil at the shared address, of both families.
    fn shared(policy: &str) -> Self {
        let both: &[&str] = &[SHARED, SHARED_V6];
        Self::new(
            policy,
            &[("good.example", both), ("also.example", both)],
            &["203.0.113.30:443", "[2001:db8::30]:443"],
        )
    }

    /// Asks for a name, so that its addresses are leased if the policy allows it.
    fn resolve(&mut self, name: &str) {
        let asked = format!(
            "try:\n    getaddrinfo({name:?}, 443, type=SOCK_STREAM)\nexcept gaierror:\n    pass"
        );
        self.agent.value(&asked).expect(name);
    }

    /// Runs an expression that gives a connected socket.
    fn say(&mut self, expression: &str) -> Said {
        let variable = unique::name("s").replace('-', "_");
        let code = format!("{variable} = {expression}\nname_of({variable})");
        let port = self.agent.value(&code).expect(expression);
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
        Said {
            variable,
            port: port.expect("a port"),
        }
    }

    /// More parts on a connection, whether it takes them or not.
    fn push(&mut self, said: &Said, parts: &str) {
        let _ = self
            .agent
            .ask(&format!("push({}, {parts})", said.variable))
            .expect(parts);
    }

    /// Everything that arrived of a connection.
    fn arrived(&self, said: &Said) -> Vec<u8> {
        let all = self.sinks.iter().flat_map(TcpSink::arrivals);
        let own = all.filter(|arrival| arrival.from.port() == said.port);
        own.flat_map(|arrival| arrival.bytes).collect()
    }

    /// Waits until all that it said has arrived: `length` bytes.
    fn arrives(&self, said: &Said, length: usize) {
        wait::until("the data", wait::patience(), || {
            (self.arrived(said).len() >= length).then_some(())
        })
        .unwrap_or_else(|e| panic!("{e:#}: {} of {length}", self.arrived(said).len()));
        assert_eq!(self.arrived(said).len(), length);
    }

    /// The length of bytes that the puppet makes.
    fn length(&mut self, expression: &str) -> usize {
        let length = self.agent.value(&format!("len({expression})"));
        let length = length.expect(expression).as_u64().expect("a length");
        usize::try_from(length).expect("a length")
    }

    fn event(&self, said: &Said, reason: &str, verdict: &str) -> Value {
        let wanted = |e: &Value| {
            e["source"]["port"] == said.port && e["reason"] == reason && e["verdict"] == verdict
        };
        let event = self.stage.daemon.event(wanted);
        event.unwrap_or_else(|e| panic!("{reason}: {e:#}"))
    }

    /// It is refused for this reason, however often it is tried, and all that arrive are its
    /// first `length` bytes.
    fn refused(&mut self, what: &str, said: &Said, reason: &str, length: usize) {
        self.arrives(said, length);
        self.refused_within(what, said, reason, length);
        assert_eq!(self.arrived(said).len(), length, "{what}");
    }

    /// The same; no more than `length` bytes arrive.
    fn refused_within(&mut self, what: &str, said: &Said, reason: &str, length: usize) {
        let event = self.event(said, reason, "deny");
        assert_eq!(event["hook"], "egress", "{what}: {event}");
        self.gets_stuck(what, said);
        // Once refused, nothing that follows leaves either.
        self.push(said, "[CHANGE, data('later'), hello('good.example')]");
        self.gets_stuck(what, said);
        let arrived = self.arrived(said).len();
        assert!(arrived <= length, "{what}: {arrived} of {length}");
    }

    fn gets_stuck(&mut self, what: &str, said: &Said) {
        let stuck = format!("is_stuck({})", said.variable);
        wait::until("it to have tried again", wait::patience(), || {
            (self.agent.value(&stuck).expect("ask") == true).then_some(())
        })
        .unwrap_or_else(|e| panic!("{what}: {e:#}; {} arrived", self.arrived(said).len()));
    }
}
