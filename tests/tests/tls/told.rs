//! What the program and the record are told, and pages that change after they were read.

use super::Tls;
use exeat_tests::unique;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: good.example, ports: [443] }
";

/// The program reads it at once, and not at the end of its patience.
const ECONNABORTED: i32 = 103;

#[test]
fn a_refused_handshake_ends_at_once_and_its_event_says_the_name() {
    let mut tls = Tls::shared(POLICY);
    for host in ["203.0.113.30", "2001:db8::30", "::ffff:203.0.113.30"] {
        let said = tls.say(&format!("say([hello('evil.example')], host={host:?})"));
        let event = tls.event(&said, "tls_name", "deny");
        assert_eq!(event["server_name"], "evil.example", "{host}");
        let ended = tls.agent.errno(&format!("{}.recv(1)", said.variable));
        assert_eq!(ended.expect("an error"), ECONNABORTED, "{host}");
        assert!(tls.arrived(&said).is_empty(), "{host}");
    }
    let said = tls.say("say([hello(None)])");
    let event = tls.event(&said, "tls_no_name", "deny");
    assert!(event["server_name"].is_null(), "{event}");
}

#[test]
fn a_name_that_is_let_out_is_told_once() {
    let mut tls = Tls::shared(POLICY);
    for host in ["203.0.113.30", "2001:db8::30", "::ffff:203.0.113.30"] {
        let parts = "[hello('good.example'), CHANGE + data('x')]";
        let said = tls.say(&format!("say({parts}, host={host:?})"));
        let event = tls
            .stage
            .daemon
            .event(|e| e["source"]["port"] == said.port && e["verdict"] == "allow");
        let event = event.unwrap_or_else(|e| panic!("{host}: {e:#}"));
        assert_eq!(event["server_name"], "good.example", "{host}");
        assert_eq!(event["names"][0], "good.example", "{host}");
        assert_eq!(event["hook"], "egress");
        assert!(event["reason"].is_null(), "{event}");
        let rule = event["rule"]["text"].as_str().expect("a rule");
        assert!(rule.contains("good.example"), "{rule}");
        // More data, and another policy that allows it too: no news.
        tls.stage
            .daemon
            .enforce(&format!("# again\n{POLICY}"))
            .expect("reload");
        let length = tls.length(&format!("b''.join({parts}) + data('y')"));
        tls.push(&said, "[data('y')]");
        tls.arrives(&said, length);
        let events = tls.stage.daemon.events().expect("events");
        let own = events.iter().filter(|e| e["source"]["port"] == said.port);
        assert_eq!(own.count(), 1, "{events:?}");
    }
    let blocked = tls.stage.daemon.metric(
        "exeat_flows_blocked_total",
        &["agent=\"worker\"", "reason=\"no_rule\"", "protocol=\"tcp\""],
    );
    assert_eq!(blocked.expect("metric"), 0.0);
}

/// A page of a file can be written to after the kernel has read the name in it.
#[test]
fn data_that_the_program_can_still_change_does_not_leave() {
    let mut tls = Tls::shared(POLICY);
    let ways = "
import tempfile

def file_of(data):
    f = tempfile.TemporaryFile()
    f.write(data)
    f.flush()
    return f

def by_sendfile(data):
    f, s = file_of(data), tcp(HOST, 443)
    os.sendfile(s.fileno(), f.fileno(), 0, len(data))
    return s

def by_splice(data):
    f, s = file_of(data), tcp(HOST, 443)
    r, w = os.pipe()
    os.splice(f.fileno(), w, len(data), offset_src=0)
    os.splice(r, s.fileno(), len(data))
    return s

def by_zerocopy(data):
    s = tcp(HOST, 443)
    s.setsockopt(SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
    s.send(data, 0x4000000)  # MSG_ZEROCOPY
    return s
";
    tls.agent.value(ways).expect("functions");
    for way in ["by_sendfile", "by_splice", "by_zerocopy"] {
        let said = tls.say(&format!("{way}(hello('good.example'))"));
        tls.event(&said, "tls_shared", "deny");
        let ended = tls.agent.errno(&format!("{}.recv(1)", said.variable));
        assert_eq!(ended.expect(way), ECONNABORTED, "{way}");
        assert!(tls.arrived(&said).is_empty(), "{way}");
    }
    // Once the name is certain the program may send in any way that it likes.
    let said = tls.say("say([hello('good.example'), CHANGE + data('x')])");
    let token = unique::token();
    let send = format!(
        "f = file_of({token:?}.encode())\nos.sendfile({}.fileno(), f.fileno(), 0, 100)",
        said.variable
    );
    tls.agent.ask(&send).expect("sent");
    let length = tls.length("hello('good.example') + CHANGE + data('x')");
    tls.arrives(&said, length + token.len());
}
