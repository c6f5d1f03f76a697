//! TLS through the gateway: by the name in the hello, whatever the address.

use super::{MAPPED, SHARED, SHARED_V6, Scene};

const RULE: &str = "host: good.example, ports: [443], via: gateway";

#[test]
fn an_allowed_name_is_served_and_another_at_the_same_address_is_not() {
    let mut scene = Scene::new(&[RULE]);
    for address in [SHARED, SHARED_V6, MAPPED] {
        assert_eq!(scene.https(address, "good.example"), "reached", "{address}");
        let refused = scene.https(address, "evil.example");
        assert!(refused.contains("Error"), "{address}: {refused}");
    }
    assert_eq!(scene.served(), ["good.example"; 3]);
    let event = scene.event(|e| e["reason"] == "tls_name");
    assert_eq!(event["server_name"], "evil.example");
    assert_eq!(event["verdict"], "deny");
}

#[test]
fn its_record_says_the_name_the_certificate_and_the_bytes() {
    let mut scene = Scene::new(&[RULE]);
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    let event = scene.event(|e| e["verdict"] == "allow");
    assert_eq!(event["names"][0], "good.example");
    assert_eq!(event["server_name"], "good.example");
    assert_eq!(event["dest"]["ip"], SHARED);
    assert_eq!(event["dest"]["port"], 443);
    let rule = event["rule"]["text"].as_str().expect("a rule");
    assert!(rule.contains("good.example"), "{rule}");
    let connection = &event["connection"];
    assert_eq!(connection["door"], "steered");
    assert_eq!(connection["kind"], "tls");
    assert_eq!(connection["outcome"], "closed");
    let bytes = |key: &str| connection[key].as_u64().expect("bytes");
    assert!(bytes("sent_bytes") > 200 && bytes("received_bytes") > 500);
    let certificate = &connection["certificate"];
    assert_eq!(certificate["sha256"].as_str().expect("hash").len(), 64);
    let issuer = certificate["issuer"].as_str().expect("issuer");
    assert!(issuer.contains("the test's authority"), "{issuer}");
    let ended = ["agent=\"worker\"", "outcome=\"closed\""];
    let ended = scene
        .stage
        .daemon
        .metric("exeat_gateway_connections_total", &ended);
    assert!(ended.expect("metric") >= 1.0);
}

/// The program sees the server that it asked for.
#[test]
fn the_peer_is_who_was_asked() {
    let mut scene = Scene::new(&[RULE]);
    for address in [SHARED, SHARED_V6, MAPPED] {
        let peer = format!("s = tcp({address:?}, 443)\ns.getpeername()[:2]");
        let peer = scene.agent.value(&peer).expect("peer");
        assert_eq!(peer[0], address);
        assert_eq!(peer[1], 443);
    }
}

#[test]
fn what_is_no_tls_or_has_no_name_ends_there() {
    let mut scene = Scene::new(&[RULE]);
    let ways = [
        ("b'\\x00nothing that anybody knows'", "not_tls"),
        ("b'SSH-2.0-x\\r\\n'", "http_malformed"),
    ];
    for (bytes, reason) in ways {
        let code = format!(
            "s = tcp({SHARED:?}, 443)\ns.settimeout(20)\ns.sendall({bytes})\ntry:\n    r = len(s.recv(1000))\nexcept OSError:\n    r = -1\nr"
        );
        scene.agent.value(&code).expect("ended");
        scene.event(|e| e["reason"] == reason);
    }
    let no_name = format!("https({SHARED:?}, None, {:?})", scene.authority.display());
    // OpenSSL asks for a name to check, so it is told not to.
    let code = no_name.replace("https(", "nameless(");
    let nameless = "
def nameless(address, _name, _authority):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    s = tcp(address, 443)
    s.settimeout(20)
    try:
        context.wrap_socket(s)
        return 'through'
    except OSError:
        return 'refused'
";
    scene.agent.value(nameless).expect("function");
    assert_eq!(scene.asked(&code), "refused");
    scene.event(|e| e["reason"] == "tls_no_name");
    assert!(scene.served().is_empty());
}

/// Where a rule wants no name, the gateway passes bytes on, and counts them.
#[test]
fn a_network_through_the_gateway_is_not_read() {
    let mut scene = Scene::new(&["cidr: 203.0.113.30, ports: [80, 443], via: gateway"]);
    assert_eq!(scene.https(SHARED, "evil.example"), "reached");
    assert_eq!(scene.http(SHARED, "any.example"), "reached");
    let event = scene.event(|e| e["connection"]["kind"] == "tunnel");
    assert_eq!(event["dest"]["ip"], SHARED);
    assert_eq!(event["connection"]["connected"]["ip"], SHARED);
}

/// Two tenants of one address, one through the gateway: both work, by their names.
#[test]
fn a_tenant_beside_it_is_judged_there_too() {
    let mut scene = Scene::new(&[RULE, "host: evil.example, ports: [443]"]);
    scene.resolve("evil.example");
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    assert_eq!(scene.https(SHARED, "evil.example"), "reached");
    let refused = scene.https(SHARED, "other.example");
    assert!(refused.contains("Error"), "{refused}");
    assert_eq!(scene.served(), ["good.example", "evil.example"]);
}

#[test]
fn a_deny_rule_is_above_it() {
    let rules = super::policy(&["host: '*.example', ports: [443], via: gateway"]);
    let mut scene = Scene::with(&format!("{rules}    deny:\n      - host: evil.example\n"));
    let refused = scene.https(SHARED, "evil.example");
    assert!(refused.contains("Error"), "{refused}");
    assert!(scene.served().is_empty());
}
