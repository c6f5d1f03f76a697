//! What does not leave.

use super::Tls;

const POLICY: &str = "\
version: 1
agents:
  worker:
    allow:
      - { host: good.example, ports: [443] }
      - { host: also.example, ports: [443] }
";

/// What is said, why it is refused, and how many of the parts leave before.
const REFUSED: &[(&str, &str, usize)] = &[
    ("[hello('evil.example')]", "tls_name", 0),
    ("[hello('good.example.evil.example')]", "tls_name", 0),
    ("[hello('ood.example')]", "tls_name", 0),
    ("[hello(None)]", "tls_no_name", 0),
    ("[named(names(b'203.0.113.30'))]", "tls_address", 0),
    ("[named(names(b'2001:db8::30'))]", "tls_address", 0),
    (
        "[b'GET / HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\n']",
        "not_tls",
        0,
    ),
    ("[b'G']", "not_tls", 0),
    ("[CHANGE]", "not_tls", 0),
    ("[data('x')]", "not_tls", 0),
    (
        "[named(names(b'good.example\\0.evil.example'))]",
        "tls_bad_name",
        0,
    ),
    ("[named(names(b'good.example.'))]", "tls_bad_name", 0),
    (
        "[named(names(b'b\\xc3\\xbccher.example'))]",
        "tls_bad_name",
        0,
    ),
    ("[named(names(b'a' * 254))]", "tls_bad_name", 0),
    ("[named(names(b''))]", "tls_bad_name", 0),
    (
        "[named(names(b'good.example', b'evil.example'))]",
        "tls_names",
        0,
    ),
    (
        "[named(names(b'good.example'), names(b'evil.example'))]",
        "tls_names",
        0,
    ),
    (
        "[named((0, b'\\0\\x0f\\1\\0\\x0cgood.example'))]",
        "tls_names",
        0,
    ),
    ("[named((0, b''))]", "tls_malformed", 0),
    (
        "[named((0, b'\\0\\x10\\0\\0\\x0cgood.example'))]",
        "tls_malformed",
        0,
    ),
    (
        "[named(names(b'good.example'), (10, b''), (10, b''))]",
        "tls_malformed",
        0,
    ),
    ("[in_records(hello('good.example'), 40)]", "tls_split", 0),
    ("[in_records(hello('evil.example'), 1)]", "tls_split", 0),
    (
        "[hello('good.example') + hello('evil.example')]",
        "tls_trailing",
        0,
    ),
    (
        "[hello('good.example') + hello('good.example')]",
        "tls_trailing",
        0,
    ),
    ("[encrypted('good.example')]", "tls_encrypted", 0),
    ("[encrypted('evil.example')]", "tls_name", 0),
    // After a HelloRetryRequest, which nothing here looks at.
    (
        "[hello('good.example'), hello('evil.example')]",
        "tls_name",
        1,
    ),
    (
        "[hello('good.example'), CHANGE + hello('evil.example')]",
        "tls_name",
        1,
    ),
    (
        "[hello('good.example'), CHANGE + hello(None)]",
        "tls_no_name",
        1,
    ),
    (
        "[hello('good.example'), encrypted('good.example')]",
        "tls_encrypted",
        1,
    ),
    (
        "[hello('good.example'), CHANGE, in_records(hello('evil.example'), 9)]",
        "tls_split",
        2,
    ),
    (
        "[hello('good.example'), hello('evil.example')[:3], hello('evil.example')[3:]]",
        "tls_split",
        2,
    ),
    (
        "[hello('good.example'), b'GET / HTTP/1.1\\r\\n']",
        "not_tls",
        1,
    ),
    (
        "[hello('good.example'), record(23, b'') + data('x')]",
        "tls_malformed",
        1,
    ),
    // The name is judged when the hello is whole.
    (
        "[hello('evil.example')[:150], hello('evil.example')[150:]]",
        "tls_name",
        1,
    ),
];

#[test]
fn what_says_no_allowed_name_does_not_leave() {
    let mut tls = Tls::shared(POLICY);
    let said: Vec<_> = REFUSED
        .iter()
        .map(|(parts, _, _)| tls.say(&format!("say({parts})")))
        .collect();
    for ((parts, reason, leave), said) in REFUSED.iter().zip(&said) {
        let length = tls.length(&format!("b''.join({parts}[:{leave}])"));
        tls.refused(parts, said, reason, length);
    }
}

/// The first hello is refused; what follows it must not settle the connection and let it go.
#[test]
fn a_good_hello_behind_a_refused_one_is_of_no_use() {
    let mut tls = Tls::shared(POLICY);
    for first in ["hello('evil.example')", "encrypted('good.example')"] {
        for second in [
            "hello('good.example')",
            "CHANGE + hello('good.example') + data('x')",
        ] {
            let said = tls.say(&format!("say([{first}])"));
            tls.push(&said, &format!("[{second}]"));
            let reason = if first.contains("evil") {
                "tls_name"
            } else {
                "tls_encrypted"
            };
            tls.refused(first, &said, reason, 0);
        }
    }
}

#[test]
fn every_family_of_socket() {
    let mut tls = Tls::shared(POLICY);
    for host in [super::SHARED, super::SHARED_V6, super::MAPPED] {
        let good = tls.say(&format!(
            "say([hello('good.example'), data('x')], host={host:?})"
        ));
        let evil = tls.say(&format!(
            "say([hello('evil.example'), data('x')], host={host:?})"
        ));
        let late = tls.say(&format!(
            "say([hello('good.example'), hello('evil.example')], host={host:?})"
        ));
        let length = tls.length("hello('good.example')");
        tls.arrives(&good, length + 6);
        tls.refused(host, &evil, "tls_name", 0);
        tls.refused(host, &late, "tls_name", length);
    }
}

#[test]
fn urgent_data() {
    let mut tls = Tls::shared(POLICY);
    // A server drops the urgent byte, and so reads another name than the one that passes by.
    let code = "\
def urgent(h, at):
    s = say([h[:at]])
    try:
        s.send(h[at:at + 1], MSG_OOB)
    except OSError:
        return s
    push(s, [h[at + 1:]])
    return s
";
    tls.agent.value(code).expect("function");
    for at in [1, 5, 70, 140] {
        for name in ["good.example", "evil.example"] {
            let said = tls.say(&format!("urgent(hello({name:?}), {at})"));
            tls.refused(name, &said, "tls_order", at);
        }
    }
    // Behind the hello, while a second one may follow.
    let said = tls.say("urgent(hello('good.example') + CHANGE, len(hello('good.example')) + 2)");
    let length = tls.length("hello('good.example')") + 2;
    tls.refused("behind", &said, "tls_order", length);
}

#[test]
fn data_in_the_packet_that_opens() {
    let mut tls = Tls::shared(POLICY);
    // 4: without a cookie of the server's.
    let laptop = &tls.stage.world.laptop;
    laptop.sysctl("ipv4/tcp_fastopen", "7").expect("sysctl");
    let code = "\
def fast(data, host):
    s = socket(AF_INET6 if ':' in host else AF_INET, SOCK_STREAM)
    s.settimeout(PATIENCE)
    s.sendto(data, MSG_FASTOPEN, (host, 443))
    return s
";
    tls.agent.value(code).expect("function");
    for host in [super::SHARED, super::SHARED_V6, super::MAPPED] {
        let evil = tls.say(&format!("fast(hello('evil.example'), {host:?})"));
        tls.event(&evil, "tls_early", "deny");
        tls.refused(host, &evil, "tls_name", 0);
        // The kernel opens the connection without the data, and sends that as usual.
        let good = tls.say(&format!("fast(hello('good.example'), {host:?})"));
        tls.event(&good, "tls_early", "deny");
        let length = tls.length("hello('good.example')");
        tls.arrives(&good, length);
        let text = tls.say(&format!("fast(b'GET / HTTP/1.1\\r\\n\\r\\n', {host:?})"));
        tls.refused(host, &text, "not_tls", 0);
    }
    // None of it was in an opening packet.
    tls.stage.world.settle(&tls.stage.sniffer).expect("settle");
    let early = tls.stage.sniffer.count(|p| p.contains(b"evil.example"));
    assert_eq!(early, 0);
}
