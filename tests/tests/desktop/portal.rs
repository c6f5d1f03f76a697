//! `exeat portal`: who may open one, what it opens, and that it closes whatever happens.

use crate::clocks::Clocks;
use crate::{
    HERE, NOWHERE, POLICY, SHORT, THERE, connect, here_for_seconds, incident, incidents, leases,
    name_server, resolv_conf, until_connect, until_leased,
};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::stage::{AGENT, ALLOWED, Stage};
use exeat_tests::wait;
use exeat_tests::world::{NAME_SERVER, ROUTER_V4};
use serde_json::Value;

fn portal(stage: &Stage, args: &[&str]) -> Value {
    let output = stage
        .daemon
        .cli(&[&["portal", "--output", "json"], args].concat())
        .output()
        .expect("exeat portal");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Port 80 of the network's gateway, where a portal is, and of what is not it.
const PORT: u16 = 80;

#[test]
fn an_agent_reaches_the_gateway_and_the_named_host_until_it_is_closed_by_whatever_closes_it() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    stage.dns.set("login.example", &[THERE], 60);
    let _page = stage.world.http(&format!("{ROUTER_V4}:80")).expect("page");
    let _named = stage.world.http(&format!("{THERE}:80")).expect("page");
    let clocks = Clocks::of(&mut stage);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), libc::EPERM);
    let open = ["--for", "5m", "--agent", AGENT, "--host", "login.example"];

    // By somebody.
    let report = portal(&stage, &open);
    assert_eq!(report["agent"], AGENT, "{report}");
    assert!(report["until"].is_string(), "{report}");
    let opened: Vec<_> = report["opened"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    assert!(opened.contains(&&Value::from("login.example")), "{report}");
    assert!(opened.contains(&&Value::from(ROUTER_V4)), "{report}");
    let told = incident(&stage, "portal_opened", 0);
    assert!(told.to_string().contains("login.example"), "{told}");
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), 0);
    assert_eq!(connect(&mut agent, NOWHERE, PORT), libc::EPERM);
    assert_eq!(connect(&mut agent, ROUTER_V4, 22), libc::EPERM);
    let found = "sorted({r[4][0] for r in getaddrinfo('login.example', 80, type=SOCK_STREAM)})";
    let found = agent.value(found).expect("the named host");
    assert_eq!(found, serde_json::json!([THERE]));
    assert_eq!(connect(&mut agent, THERE, PORT), 0);
    let status = stage.daemon.status().expect("status");
    assert_eq!(status["portal"]["agent"], AGENT, "{status}");
    let closed = portal(&stage, &["--off"]);
    assert_eq!(closed["message"], "the portal is closed");
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), libc::EPERM);
    assert_eq!(connect(&mut agent, THERE, PORT), libc::EPERM);
    incident(&stage, "portal_closed", 0);
    assert_eq!(portal(&stage, &["--off"])["message"], "no portal was open");

    // By time.
    portal(&stage, &["--for", "1s", "--agent", AGENT]);
    until_connect(&mut agent, ROUTER_V4, PORT, libc::EPERM);
    let told = incident(&stage, "portal_closed", 1);
    assert!(told.to_string().contains("its time is over"), "{told}");

    // By time asleep, though the calendar was set back.
    portal(&stage, &open);
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), 0);
    clocks.set(-7200, 600);
    until_connect(&mut agent, ROUTER_V4, PORT, libc::EPERM);
    incident(&stage, "portal_closed", 2);

    // By a daemon that is killed, at its next start.
    portal(&stage, &open);
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), 0);
    stage.daemon.kill9().expect("kill");
    stage.daemon.restart().expect("restart");
    assert_eq!(connect(&mut agent, ROUTER_V4, PORT), libc::EPERM);
    let anew =
        |one: &Value| one["kind"] == "portal_closed" && one.to_string().contains("started anew");
    stage.daemon.event(anew).expect("told of");
    assert!(stage.daemon.status().expect("status")["portal"].is_null());
}

#[test]
fn only_an_administrator_opens_one_and_no_governed_program_does() {
    let stage = Stage::new(POLICY, "").expect("stage");
    let refused = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        said
    };
    let args = ["portal", "--for", "5m", "--agent", AGENT];
    let said = refused(
        stage
            .daemon
            .cli_as(PLAIN_USER, &args)
            .output()
            .expect("run"),
    );
    assert!(said.contains("portal"), "{said}");
    for uid in [PLAIN_USER, 0] {
        let (exeat, config) = (program(), stage.daemon.config());
        let (exeat, config) = (exeat.display().to_string(), config.display().to_string());
        let argv = [&[exeat.as_str(), "--config", &config], &args[..]].concat();
        refused(stage.daemon.run_as(AGENT, uid, &argv).expect("run"));
    }
    for (wrong, why) in [
        (&["--for", "2h"][..], "60 minutes"),
        (&["--for", "5m", "--agent", "nobody"], "no policy"),
    ] {
        let args = [&["portal"], wrong].concat();
        let said = refused(stage.daemon.cli(&args).output().expect("run"));
        assert!(said.contains(why), "{said}");
    }
    // By another name nobody gets a grant that looks like one of a portal.
    assert!(incidents(&stage, "portal_opened").is_empty());
    assert!(stage.daemon.status().expect("status")["portal"].is_null());
}

#[test]
fn a_hotspot_that_lies_is_asked_only_meanwhile_and_gives_no_private_address() {
    let mut stage = Stage::new(POLICY, SHORT).expect("stage");
    let hotspot = name_server(&stage, "203.0.113.54:53");
    let _sinks = [THERE, HERE].map(|host| {
        let sink = stage.world.tcp_sink(&format!("{host}:7000"));
        sink.expect("sink")
    });
    let _inside = stage
        .world
        .tcp_sink(&format!("{ROUTER_V4}:7000"))
        .expect("sink");
    resolv_conf(&stage, "203.0.113.54");
    here_for_seconds(&stage);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    until_connect(&mut agent, HERE, 7000, 0);
    // It lets no other server through, and says of every name that it is its own page.
    stage.dns.silent(true);
    hotspot.set(ALLOWED, &[ROUTER_V4], 3600);
    assert_eq!(hotspot.asked(ALLOWED), 0);
    let report = portal(&stage, &["--for", "10m"]);
    assert!(
        report["opened"].to_string().contains("203.0.113.54"),
        "{report}"
    );
    wait::until("the hotspot to be asked", wait::patience(), || {
        (hotspot.asked(ALLOWED) > 0).then_some(())
    })
    .expect("asked");
    until_leased(&stage, HERE, false);
    let held = leases(&stage);
    assert!(
        held.iter().all(|one| one["address"] != ROUTER_V4),
        "{held:?}"
    );
    assert_eq!(connect(&mut agent, ROUTER_V4, 7000), libc::EPERM);
    // The page was clicked: what it says now is believed, for a short time.
    hotspot.set(ALLOWED, &[THERE], 3600);
    portal(&stage, &["--for", "10m"]);
    until_connect(&mut agent, THERE, 7000, 0);
    for lease in leases(&stage).iter().filter(|one| one["address"] == THERE) {
        let expires: jiff::Timestamp = lease["expires"]
            .as_str()
            .expect("time")
            .parse()
            .expect("time");
        let left = expires.duration_since(jiff::Timestamp::now());
        assert!(left.as_secs() <= 33, "{lease}");
    }
    // It ends with the daemon, too, and that is told.
    stage.dns.silent(false);
    stage.daemon.kill9().expect("kill");
    stage.daemon.restart().expect("restart");
    let anew =
        |one: &Value| one["kind"] == "portal_closed" && one.to_string().contains("started anew");
    stage.daemon.event(anew).expect("told of");
    until_connect(&mut agent, HERE, 7000, 0);
    // Nobody asks it any more, though names are asked every second.
    let (asked, own) = (hotspot.asked(ALLOWED), stage.dns.asked(ALLOWED));
    wait::until("the name to be asked again", wait::patience(), || {
        (stage.dns.asked(ALLOWED) > own + 2).then_some(())
    })
    .expect("asked");
    assert_eq!(hotspot.asked(ALLOWED), asked);
    let name_server = NAME_SERVER.parse().expect("v4");
    let escaped = stage
        .forbidden(|packet| {
            [HERE, THERE, "203.0.113.54"]
                .iter()
                .any(|one| packet.is_to(one.parse().expect("v4")))
                || packet.is_to(name_server)
        })
        .expect("settle");
    assert!(escaped.is_empty(), "{escaped:?}");
}
