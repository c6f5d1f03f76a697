//! The gateway over changes of policy, and over the daemon's end.

use super::{SHARED, Scene, policy};
use exeat_tests::wait;

const RULE: &str = "host: good.example, ports: [443], via: gateway";

/// Opens a TLS connection in the puppet and leaves it open.
fn open(scene: &mut Scene) {
    let authority = scene.authority.display().to_string();
    let code = format!("open_tls = secured(tcp({SHARED:?}, 443), 'good.example', {authority:?})");
    scene.agent.value(&code).expect("connected");
}

/// Whether the open connection has been cut.
fn is_cut(scene: &mut Scene) -> bool {
    let code = "
open_tls.settimeout(0.2)
try:
    cut = open_tls.recv(1) == b''
except TimeoutError:
    cut = False
except OSError:
    cut = True
cut";
    scene.agent.value(code).expect("asked") == true
}

#[test]
fn what_is_open_ends_when_its_name_leaves_the_policy_and_not_before() {
    let mut scene = Scene::new(&[RULE]);
    open(&mut scene);
    let other = "host: also.example, ports: [443], via: gateway";
    scene
        .stage
        .daemon
        .enforce(&policy(&[RULE, other]))
        .expect("reload");
    assert!(!is_cut(&mut scene), "its rule is still there");
    scene
        .stage
        .daemon
        .enforce(&policy(&[other]))
        .expect("reload");
    wait::until("the end of it", wait::patience(), || {
        is_cut(&mut scene).then_some(())
    })
    .expect("cut");
    scene.event(|e| e["connection"]["outcome"] == "policy_changed");
}

#[test]
fn a_restarted_daemon_serves_at_the_same_ports() {
    let mut scene = Scene::new(&[RULE]);
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    scene.stage.daemon.kill9().expect("kill");
    let refused = scene.https(SHARED, "good.example");
    assert!(refused.contains("Error"), "nobody is there: {refused}");
    scene.stage.daemon.restart().expect("restart");
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    let refused = scene.https(SHARED, "evil.example");
    assert!(refused.contains("Error"), "{refused}");
    assert_eq!(scene.served(), ["good.example"; 2]);
}

/// With a service manager that keeps sockets, a connection waits for the next daemon.
#[test]
fn a_connection_that_came_between_two_daemons_is_served() {
    let mut scene = Scene::new(&[RULE]);
    scene.stage.daemon.with_fd_store().expect("store");
    assert_eq!(scene.https(SHARED, "good.example"), "reached");
    scene.stage.daemon.kill9().expect("kill");
    let code = format!("waiting = tcp({SHARED:?}, 443)");
    scene
        .agent
        .value(&code)
        .expect("it is let in by the kernel");
    scene.stage.daemon.restart().expect("restart");
    let authority = scene.authority.display().to_string();
    let code = format!(
        "t = secured(waiting, 'good.example', {authority:?})\nt.sendall(request('good.example'))\nbody_of(text_of(t))"
    );
    assert_eq!(scene.asked(&code), "reached");
}

/// A connection that was steered stays so, whatever the way out is for later ones.
#[test]
fn what_is_open_goes_on_when_its_rule_leaves_directly_from_now_on() {
    let mut scene = Scene::new(&[RULE]);
    open(&mut scene);
    let direct = ["host: good.example, ports: [443]"];
    scene
        .stage
        .daemon
        .enforce(&policy(&direct))
        .expect("reload");
    let code = "open_tls.sendall(request('good.example'))\nbody_of(text_of(open_tls))";
    assert_eq!(scene.asked(code), "reached");
    let tls = scene.https(SHARED, "good.example");
    assert_eq!(tls, "reached");
    let direct = scene
        .stage
        .daemon
        .event(|e| e["hook"] == "egress" && e["verdict"] == "allow");
    assert_eq!(direct.expect("event")["server_name"], "good.example");
}

/// Many connections at once: each is served, and none for the wrong host.
#[test]
fn two_hundred_at_once() {
    let mut scene = Scene::new(&[RULE]);
    let authority = scene.authority.display().to_string();
    let code = format!(
        "from concurrent.futures import ThreadPoolExecutor
jobs = [('good.example' if n % 2 else 'evil.example') for n in range(200)]
with ThreadPoolExecutor(40) as pool:
    got = list(pool.map(lambda name: https({SHARED:?}, name, {authority:?}), jobs))
[sum(g == 'reached' for g, n in zip(got, jobs) if n == 'good.example'), sum(g == 'reached' for g, n in zip(got, jobs) if n == 'evil.example')]"
    );
    let counts = scene.agent.value(&code).expect("counts");
    assert_eq!(counts, serde_json::json!([100, 0]));
    assert!(scene.served().iter().all(|name| name == "good.example"));
}
