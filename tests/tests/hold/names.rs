//! Names that no rule decides: asked about at the gate.

use super::*;
use exeat_tests::stage::{ALLOWED, OTHER};
use serde_json::json;

const NAMES: &str = "
def resolved(name):
    return sorted({r[4][0] for r in getaddrinfo(name, 80, AF_INET, SOCK_STREAM)})

def code(name, kind=1):
    s = udp('203.0.113.53', 53)
    s.send(question(name, kind))
    return s.recv(512)[3] & 15
";

fn puppet(stage: &Stage) -> Puppet {
    let mut puppet = super::puppet(stage);
    puppet.ask(NAMES).expect("functions");
    puppet
}

#[test]
fn a_name_is_held_and_resolved_once_it_is_allowed() {
    let stage = stage();
    let mut agent = puppet(&stage);
    agent
        .ask(&format!("begin(lambda: resolved({OTHER:?}))"))
        .expect("begin");
    let asked = question(&stage, OTHER);
    assert_eq!(asked.port, None);
    assert_eq!(asked.domain.as_deref(), Some(OTHER));
    assert_eq!(asked.uid, Some(PLAIN_USER));
    assert!(matches!(asked.subject, Subject::Name { .. }));
    still_waits(&mut agent, -1);
    assert_eq!(stage.dns.asked(OTHER), 0, "nobody outside hears of it");
    let answered = answer(&stage, &asked, Ruling::Allow);
    let said = ended(&mut agent, -1);
    assert_eq!(said["value"], json!([OTHER_V4]), "{said}");
    let took = said["at"].as_f64().expect("a time") - answered;
    eprintln!("the answer came {:.0} ms after the person's", took * 1e3);
    // The address is leased: nothing more is asked.
    assert_eq!(
        agent
            .errno(&format!("tcp({OTHER_V4:?}, 80).close()"))
            .expect("ask"),
        0
    );
    assert!(questions(&stage).is_empty());
}

#[test]
fn a_denied_name_is_refused_as_the_policy_says() {
    for (refuse, code) in [("refused", 5), ("nxdomain", 3)] {
        let policy = format!("{}    dns: {{refuse: {refuse}}}\n", policy("user"));
        let stage = Stage::new(&policy, "").expect("stage");
        let mut agent = puppet(&stage);
        agent
            .ask(&format!("begin(lambda: code({OTHER:?}))"))
            .expect("begin");
        let asked = question(&stage, OTHER);
        let answered = answer(&stage, &asked, Ruling::Deny);
        let said = ended(&mut agent, -1);
        assert_eq!(said["value"], code, "{said}");
        assert!(said["at"].as_f64().expect("a time") - answered < 1.0);
        // And so it stays.
        assert_eq!(agent.value(&format!("code({OTHER:?})")).expect("ask"), code);
        let event = stage
            .daemon
            .event(|e| e["reason"] == "denied_by_person")
            .expect("event");
        assert_eq!(event["dns"]["outcome"], "denied", "{event}");
        assert_eq!(stage.dns.asked(OTHER), 0);
    }
}

#[test]
fn a_query_is_held_no_longer_than_its_client_waits() {
    let stage = stage();
    let mut agent = puppet(&stage);
    // A resolver of its own, which waits as most do, and asks again.
    agent
        .ask(&format!("PATIENCE = 5; begin(lambda: code({OTHER:?}))"))
        .expect("begin");
    let asked = question(&stage, OTHER);
    let said = ended(&mut agent, -1);
    assert_eq!(
        said["timeout"], true,
        "no answer is better than a refusal: {said}"
    );
    let event = stage
        .daemon
        .event(|e| e["dns"]["outcome"] == "asked")
        .expect("event");
    let took = event["dns"]["took_us"].as_u64().expect("a time");
    assert!((3_500_000..4_900_000).contains(&took), "{took}");
    // The question is still there, and the next try joins it.
    agent
        .ask(&format!("begin(lambda: code({OTHER:?}))"))
        .expect("begin");
    let joined = wait::until("the next try", wait::patience(), || {
        questions(&stage)
            .into_iter()
            .find(|q| q.waiting > asked.waiting)
    })
    .expect("joined");
    assert_eq!(joined.id, asked.id);
    answer(&stage, &joined, Ruling::Allow);
    assert_eq!(ended(&mut agent, -1)["value"], 0);
}

#[test]
fn fifty_flows_of_one_name_are_one_question() {
    let stage = stage();
    let mut agent = puppet(&stage);
    let flow = format!("lambda: blocking(resolved({OTHER:?})[0], 80)");
    agent
        .ask(&format!("for _ in range(50): begin({flow})"))
        .expect("begin");
    let asked = question(&stage, OTHER);
    assert_eq!(questions(&stage).len(), 1);
    answer(&stage, &asked, Ruling::Allow);
    let ends: Vec<Value> = (0..50).map(|n| ended(&mut agent, n)).collect();
    let went = ends.iter().filter(|said| said["value"] == "HTTP").count();
    assert_eq!(went, 50, "{ends:?}");
    assert!(questions(&stage).is_empty());
}

#[test]
fn what_a_search_list_makes_of_a_name_floods_nobody() {
    let stage = stage();
    let mut agent = puppet(&stage);
    agent
        .ask(&format!("begin(lambda: code({OTHER:?}))"))
        .expect("begin");
    question(&stage, OTHER);
    for name in [
        format!("{OTHER}.company.example"),
        format!("{OTHER}.lan"),
        format!("{ALLOWED}.company.example"),
    ] {
        assert_eq!(
            agent.value(&format!("code({name:?})")).expect("ask"),
            5,
            "{name}"
        );
    }
    assert_eq!(questions(&stage).len(), 1);
}

#[test]
fn a_flood_of_names_is_throttled_and_then_refused() {
    let stage = stage();
    let mut agent = puppet(&stage);
    let flood = "
S = [udp('203.0.113.53', 53) for _ in range(200)]
for i, s in enumerate(S):
    s.setblocking(False)
    s.send(question('n%d.flood%d.example' % (i, i)))
";
    agent.ask(flood).expect("flood");
    let refused = "
for s in list(S):
    try:
        s.recv(512)
        S.remove(s)
    except BlockingIOError:
        pass
";
    wait::until("what is not asked to be refused", wait::patience(), || {
        agent.ask(refused).expect("look");
        (agent.value("len(S)").expect("count").as_u64()? <= 8).then_some(())
    })
    .expect("refused");
    let standing = questions(&stage).len();
    assert!((1..=8).contains(&standing), "{standing}");
    assert!(!stage.dns.names().iter().any(|name| name.contains("flood")));
}
