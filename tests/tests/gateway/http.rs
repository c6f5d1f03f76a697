//! Plain HTTP: each request is judged by its host.

use super::{MAPPED, SHARED, SHARED_V6, Scene};

const RULE: &str = "host: good.example, ports: [80]";

#[test]
fn a_request_for_another_host_is_refused_in_words() {
    let mut scene = Scene::new(&[RULE]);
    for address in [SHARED, SHARED_V6, MAPPED] {
        assert_eq!(scene.http(address, "good.example"), "reached", "{address}");
        let refused = scene.http(address, "evil.example");
        assert!(
            refused.contains("Exeat") && refused.contains("does not allow evil.example"),
            "{address}: {refused}"
        );
    }
    assert_eq!(scene.served(), ["good.example"; 3]);
    let event = scene.event(|e| e["reason"] == "http_host");
    assert_eq!(event["names"][0], "evil.example");
}

#[test]
fn a_later_request_on_the_same_connection_counts_as_much() {
    let mut scene = Scene::new(&[RULE]);
    let code = format!(
        "s = tcp({SHARED:?}, 80)\ns.settimeout(20)\nf = s.makefile('rb')\ns.sendall(request('good.example'))\nfirst = one_answer(f)\ns.sendall(request('evil.example'))\n[first, one_answer(f)]"
    );
    let said = scene.agent.value(&code).expect("two answers");
    assert_eq!(said[0][0], "200", "{said}");
    assert_eq!(said[1][0], "403", "{said}");
    assert_eq!(scene.served(), ["good.example"]);
}

#[test]
fn two_requests_in_one_piece_are_two() {
    let mut scene = Scene::new(&[RULE]);
    let code = format!(
        "s = tcp({SHARED:?}, 80)\ns.settimeout(20)\ns.sendall(request('good.example') + request('evil.example'))\ntext_of(s)"
    );
    let said = scene.asked(&code);
    assert!(said.contains("200 OK") && said.contains("403"), "{said}");
    assert_eq!(scene.served(), ["good.example"]);
}

#[test]
fn where_the_rule_says_so_the_address_is_enough() {
    let mut scene = Scene::new(&["host: good.example, ports: [80], http: none"]);
    assert_eq!(scene.http(SHARED, "evil.example"), "reached");
    assert_eq!(scene.served(), ["evil.example"]);
}

#[test]
fn on_other_ports_where_the_rule_asks_for_it() {
    let mut scene = Scene::new(&["host: good.example, ports: [8080], http: host"]);
    let host = scene.stage.world.http("203.0.113.30:8080").expect("host");
    let at =
        |scene: &mut Scene, name: &str| scene.asked(&format!("http({SHARED:?}, {name:?}, 8080)"));
    // The port is part of the header there.
    assert_eq!(at(&mut scene, "good.example:8080"), "reached");
    let refused = at(&mut scene, "evil.example:8080");
    assert!(refused.contains("does not allow evil.example"), "{refused}");
    assert_eq!(host.requests().len(), 1);
}
