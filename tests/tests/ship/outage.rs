//! Receivers over HTTP that are down, busy, lose answers, and never answer; and the daemon
//! killed in between.

use super::doubles::{Collector as Otel, Elastic, Splunk, TOKEN};
use super::{AGENT, EVENTS, POLICY, ids, on_disk, refuse, secret, set, sink_until};
use exeat_tests::collector::{Collector, Post};
use exeat_tests::daemon::Daemon;
use exeat_tests::http::Authority;
use exeat_tests::sink::listen;
use exeat_tests::world::World;
use std::sync::Arc;

const RECORDS: usize = 1200;

#[test]
fn receivers_that_are_down_while_the_daemon_is_killed_miss_nothing_and_know_duplicates() {
    let world = World::new().expect("world");
    let authority = Authority::new().expect("authority");
    let ca = authority.write(world.folder()).expect("ca");
    let token = secret(world.folder(), "token", TOKEN);
    let lines = world.folder().join("lines.json");
    let (ca, token, at) = (ca.display(), token.display(), lines.display());
    let config = format!(
        "{EVENTS}ship:
  - {{name: lines, to: 'file:{at}', only: [deny, would_deny, allow, incidents]}}
  - {{name: splunk, to: 'splunk+https://127.0.0.1:8088', ca_file: {ca}, token_file: {token}, ack: true, only: [deny, would_deny, allow, incidents]}}
  - {{name: elastic, to: 'elastic+https://127.0.0.1:9200/exeat', ca_file: {ca}, token_file: {token}, only: [deny, would_deny, allow, incidents]}}
  - {{name: otel, to: 'otlp+http://127.0.0.1:4318', only: [deny, would_deny, allow, incidents]}}
  - {{name: silent, to: 'otlp+http://127.0.0.1:4399'}}
"
    );
    // It accepts (the kernel does) and never says a word.
    let _silent = listen(&world.laptop, ([127, 0, 0, 1], 4399).into()).expect("listen");
    let mut daemon = Daemon::start_with(&world, POLICY, &config).expect("daemon");
    let mut agent = daemon.puppet(AGENT).expect("puppet");
    refuse(&mut agent, RECORDS);
    let receivers = ["splunk", "elastic", "otel"];
    let file = sink_until(&daemon, "lines", |sink| {
        sink["delivered"].as_u64() >= Some(RECORDS as u64) && sink["queued"] == 0
    });
    for name in receivers {
        let down = sink_until(&daemon, name, |sink| sink["queued"] == file["delivered"]);
        assert_eq!(
            (&down["delivered"], &down["dropped"]),
            (&0.into(), &0.into())
        );
        on_disk(&daemon, name, RECORDS as u64);
        let trouble = down["trouble"].as_str().expect("trouble");
        assert!(trouble.contains("cannot connect"), "{trouble}");
    }
    let status = daemon.status().expect("status");
    let reasons = status["health"]["reasons"].to_string();
    assert!(reasons.contains("records do not reach splunk"), "{reasons}");
    daemon.kill9().expect("kill");

    let (splunk, elastic, otel): (Arc<Splunk>, Arc<Elastic>, Arc<Otel>) = Default::default();
    let tls = || Some(authority.server(&["127.0.0.1"]).expect("certificate"));
    let there = [(8088, tls()), (9200, tls()), (4318, None)];
    let hosts: Vec<Collector> = there
        .into_iter()
        .map(|(port, tls)| {
            let (splunk, elastic, otel) = (splunk.clone(), elastic.clone(), otel.clone());
            let address = ([127, 0, 0, 1], port).into();
            Collector::start(
                &world.laptop,
                address,
                tls,
                move |number, post| match port {
                    8088 => splunk.answer(number, post),
                    9200 => elastic.answer(number, post),
                    _ => otel.answer(number, post),
                },
            )
            .expect("host")
        })
        .collect();
    daemon.restart().expect("restart");
    for name in receivers {
        sink_until(&daemon, name, |sink| {
            sink["queued"] == 0 && sink["delivered"].as_u64() >= Some(RECORDS as u64 - 1)
        });
    }

    let all = set(&ids(&lines));
    assert!(all.len() >= RECORDS);
    let arrived = splunk.events.lock().expect("lock").clone();
    assert_eq!(set(&arrived), all);
    assert!(
        arrived.len() > all.len(),
        "an answer was lost, so some came twice"
    );
    assert_eq!(set(&otel.logs.lock().expect("lock")), all);
    let misfit = elastic
        .misfit
        .lock()
        .expect("lock")
        .clone()
        .expect("misfit");
    let mut stored: Vec<String> =
        (elastic.documents.lock().expect("lock").keys().cloned()).collect();
    stored.push(misfit.clone());
    assert_eq!(set(&stored), all);
    assert!(
        *elastic.conflicts.lock().expect("lock") > 0,
        "it was there already"
    );
    let dead = daemon.state_dir().join("ship/elastic/dead.jsonl");
    let dead = std::fs::read_to_string(dead).expect("dead letters");
    assert!(
        dead.contains(&misfit) && dead.contains("failed to parse field"),
        "{dead}"
    );
    assert_eq!(dead.lines().count(), 1);
    assert_eq!(sink_until(&daemon, "elastic", |_| true)["failed"], 1);

    // One connection for many posts, and a pause where the receiver asked for one.
    let posts = hosts[2].posts();
    assert!(posts.iter().all(|post| post.from == posts[0].from));
    assert!((posts[1].at - posts[0].at).as_secs_f64() >= 1.0);
    let page = daemon.metrics().expect("metrics");
    for line in [
        "exeat_sink_queue_length{sink=\"splunk\"} 0",
        "exeat_sink_events_total{outcome=\"failed\",sink=\"elastic\"} 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    // The one that never answers has held up nobody, and what is for it waits.
    let silent = sink_until(&daemon, "silent", |sink| {
        sink["queued"].as_u64() >= Some(RECORDS as u64)
    });
    assert_eq!(silent["delivered"], 0);

    let said = [
        daemon.log(),
        daemon.status().expect("status").to_string(),
        page,
        std::fs::read_to_string(daemon.state_dir().join("ship/splunk/queue.sqlite"))
            .unwrap_or_default(),
    ];
    assert!(
        said.iter().all(|text| !text.contains(TOKEN)),
        "the token is told"
    );
}

#[test]
fn a_test_record_tells_what_came_back_and_no_token() {
    let world = World::new().expect("world");
    let authority = Authority::new().expect("authority");
    let other = Authority::new().expect("authority");
    let ca = authority.write(world.folder()).expect("ca");
    let wrong = other.write(world.folder()).expect("ca");
    let token = secret(world.folder(), "token", "geheim-of-nobody");
    let strange = secret(world.folder(), "strange", "geheim-of-a-stranger");
    let (ca, wrong, token) = (ca.display(), wrong.display(), token.display());
    let strange = strange.display();
    let config = format!(
        "ship:
  - {{name: refused, to: 'splunk+https://127.0.0.1:8088', ca_file: {ca}, token_file: {token}, ack: true}}
  - {{name: stranger, to: 'splunk+https://127.0.0.1:8088', ca_file: {wrong}, token_file: {strange}}}
  - {{name: otel, to: 'otlp+http://127.0.0.1:4318'}}
"
    );
    let daemon = Daemon::start_with(&world, POLICY, &config).expect("daemon");
    let splunk = Splunk::default();
    let tls = authority.server(&["127.0.0.1"]).expect("certificate");
    let host = Collector::start(
        &world.laptop,
        ([127, 0, 0, 1], 8088).into(),
        Some(tls),
        move |number, post| splunk.answer(number, post),
    )
    .expect("host");
    let otel = Otel::default();
    let _collector = Collector::start(
        &world.laptop,
        ([127, 0, 0, 1], 4318).into(),
        None,
        move |number, post| otel.answer(number + 1, post),
    )
    .expect("host");
    let output = daemon.cli(&["ship", "test"]).output().expect("ship test");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name}: {text}"))
            .to_owned()
    };
    let refused = of("refused");
    assert!(
        refused.contains("403") && refused.contains("***"),
        "{refused}"
    );
    assert!(
        of("stranger").contains("invalid peer certificate"),
        "{text}"
    );
    assert!(of("otel").contains("taken"), "{text}");
    assert!(!text.contains("geheim"), "{text}");
    // The stranger was told nothing: TLS ended before a request. The daemon's own records are at
    // the door too.
    let posts = host.posts();
    let strange = |post: &Post| post.headers["authorization"].contains("stranger");
    assert!(!posts.is_empty() && !posts.iter().any(strange));
    let output = daemon
        .cli(&["ship", "test", "otel"])
        .output()
        .expect("ship test");
    assert_eq!(output.status.code(), Some(0));
}
