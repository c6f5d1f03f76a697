//! A hello in whatever pieces the kernel makes of it.

use super::Tls;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: good.example, ports: [443] }
";

#[test]
fn in_writes_of_any_size() {
    let mut tls = Tls::shared(POLICY);
    for host in [super::SHARED, super::SHARED_V6] {
        for size in [1, 2, 7, 100, 516] {
            let of = |name: &str| {
                format!(
                    "say(pieces(hello({name:?}), {size}) + [CHANGE + data('x')], host={host:?})"
                )
            };
            let good = tls.say(&of("good.example"));
            let hello = tls.length("hello('good.example')");
            tls.arrives(&good, hello + 12);
            // It leaves up to the packet with its last byte; writes may share packets.
            let evil = tls.say(&of("evil.example"));
            let hello = tls.length("hello('evil.example')");
            let most = (hello - 1) / size * size;
            tls.refused_within(&format!("{size} bytes"), &evil, "tls_name", most);
        }
    }
}

#[test]
fn a_hello_larger_than_a_packet() {
    let mut tls = Tls::shared(POLICY);
    let large = |name: &str| format!("with_more({name:?}, (0x7e7e, b'k' * 9000))");
    for host in [super::SHARED, super::SHARED_V6] {
        let good = large("good.example");
        let said = tls.say(&format!("say([{good} + CHANGE, data('x')], host={host:?})"));
        let length = tls.length(&good);
        tls.arrives(&said, length + 12);
        let evil = large("evil.example");
        let said = tls.say(&format!("say([{evil} + CHANGE, data('x')], host={host:?})"));
        let length = tls.length(&evil);
        tls.refused_within(host, &said, "tls_name", length - 1);
    }
}

/// Small segments: the pieces are the kernel's.
#[test]
fn a_hello_over_many_segments() {
    let mut tls = Tls::shared(POLICY);
    let code = "\
def small(h, host=HOST):
    s = socket(AF_INET, SOCK_STREAM)
    s.settimeout(PATIENCE)
    s.setsockopt(IPPROTO_TCP, TCP_MAXSEG, 100)
    s.connect((host, 443))
    s.sendall(h)
    return s
";
    tls.agent.value(code).expect("function");
    let good = tls.say("small(hello('good.example') + data('x'))");
    let length = tls.length("hello('good.example')");
    tls.arrives(&good, length + 6);
    let evil = tls.say("small(hello('evil.example') + data('x'))");
    tls.refused_within("small segments", &evil, "tls_name", length - 1);
}

/// Whatever system call the bytes come from.
#[test]
fn by_any_system_call() {
    let mut tls = Tls::shared(POLICY);
    let code = "\
def plain():
    return say([])

def by_sendfile(h):
    s, (r, f) = plain(), (None, os.memfd_create('h'))
    os.write(f, h)
    os.sendfile(s.fileno(), f, 0, len(h))
    return s

def by_splice(h):
    s, (r, w) = plain(), os.pipe()
    os.write(w, h)
    os.splice(r, s.fileno(), len(h))
    return s

def by_writev(h):
    s = plain()
    os.writev(s.fileno(), pieces(h, 3))
    return s

def by_sendmsg(h):
    s = plain()
    s.sendmsg(pieces(h, 1))
    return s

def by_write(h):
    s = plain()
    os.write(s.fileno(), h)
    return s

def with_more_to_come(h):
    s = plain()
    for p in pieces(h, 50):
        s.send(p, MSG_MORE)
    s.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    return s

def corked(h):
    s = plain()
    s.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
    for p in pieces(h, 50):
        s.send(p)
    s.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
    return s
";
    tls.agent.value(code).expect("functions");
    for (way, copies) in [
        ("by_write", true),
        ("by_writev", true),
        ("by_sendmsg", true),
        ("with_more_to_come", true),
        ("corked", true),
        // The program keeps the pages, and may be refused for it.
        ("by_sendfile", false),
        ("by_splice", false),
    ] {
        let length = tls.length("hello('good.example')");
        if copies {
            let good = tls.say(&format!("{way}(hello('good.example'))"));
            tls.arrives(&good, length);
        }
        let evil = tls.say(&format!(
            "{way}(hello('evil.example') + CHANGE + data('x'))"
        ));
        let wanted = |e: &serde_json::Value| e["source"]["port"] == evil.port;
        let event = tls.stage.daemon.event(wanted).expect(way);
        let reason = event["reason"].as_str().expect("a reason");
        let expected = if copies {
            &["tls_name"][..]
        } else {
            &["tls_name", "tls_shared"]
        };
        assert!(expected.contains(&reason), "{way}: {event}");
        tls.refused(way, &evil, reason, 0);
    }
}

/// The first packet is lost on the wire and sent again.
#[test]
fn what_was_lost_is_sent_again() {
    let mut tls = Tls::shared(POLICY);
    let internet = tls.stage.world.internet.clone();
    let nft = |words: &[&str]| {
        let status = internet.command("nft").args(words).status().expect("nft");
        assert!(status.success(), "{words:?}");
    };
    nft(&["add table inet lossy"]);
    nft(&["add chain inet lossy in { type filter hook prerouting priority 0; }"]);
    nft(&["add counter inet lossy dropped"]);
    // Data of the agent's to port 443.
    nft(&["add rule inet lossy in tcp dport 443 tcp flags & psh == psh counter name dropped drop"]);
    let good = tls.say("say([hello('good.example')])");
    let pieces = tls.say("say(pieces(hello('good.example'), 150))");
    let dropped = || {
        let mut list = internet.command("nft");
        let output = list.args(["list counter inet lossy dropped"]).output();
        let text = String::from_utf8(output.expect("nft").stdout).expect("text");
        let mut words = text.split_whitespace().skip_while(|w| *w != "packets");
        words.nth(1).and_then(|n| n.parse::<u32>().ok())
    };
    exeat_tests::wait::until("packets to be lost", exeat_tests::wait::patience(), || {
        (dropped()? >= 4).then_some(())
    })
    .expect("lost");
    nft(&["delete table inet lossy"]);
    let length = tls.length("hello('good.example')");
    tls.arrives(&good, length);
    tls.arrives(&pieces, length);
    for said in [&good, &pieces] {
        tls.push(said, "[CHANGE + data('x')]");
        tls.arrives(said, length + 12);
    }
}
