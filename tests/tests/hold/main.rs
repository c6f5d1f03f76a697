//! Destinations that no rule decides, of an agent that asks: held while the question stands,
//! then let out or ended, and never a packet before.

mod names;
mod never;
mod programs;

use std::time::{Duration, Instant};

use exeat::asking::{Breadth, Choice, Lasts, Question, Ruling, Subject};
use exeat::control::client::Client;
use exeat::control::protocol::{Request, Response};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::Puppet;
use exeat_tests::stage::{AGENT, OTHER_V4, OTHER_V6, Stage};
use exeat_tests::wait;
use serde_json::Value;

/// One name is allowed, one denied, a person is asked about the rest.
fn policy(ask: &str) -> String {
    format!(
        "version: 1\nagents:\n  worker:\n    ask: {ask}\n    allow:\n\
         \x20     - {{ host: allowed.example, ports: [443, 80] }}\n\
         \x20   deny:\n\
         \x20     - {{ host: forbidden.example }}\n\
         \x20     - {{ cidr: 203.0.113.99/32 }}\n"
    )
}

fn stage() -> Stage {
    Stage::new(&policy("{who: user, timeout: 60s}"), "").expect("stage")
}

/// Steps in the background: a thread each, whose outcome and end are remembered.
const BACKGROUND: &str = "
BEGUN = []
def begin(f):
    said = {}
    def run():
        try:
            said['value'] = f()
        except timeout:
            said['timeout'] = True
        except gaierror as e:
            said['gai'] = e.errno
        except OSError as e:
            said['errno'] = e.errno
        said['at'] = time.monotonic()
    said['from'] = time.monotonic()
    t = threading.Thread(target=run, daemon=True)
    BEGUN.append((t, said))
    t.start()

def ended(n=-1):
    t, said = BEGUN[n]
    t.join(0.01)
    return None if t.is_alive() else said

def blocking(host, port):
    s = socket(AF_INET6 if ':' in host else AF_INET, SOCK_STREAM)
    s.connect((host, port))
    s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
    return s.recv(4).decode()
";

fn puppet(stage: &Stage) -> Puppet {
    let mut puppet = stage.daemon.puppet(AGENT).expect("puppet");
    puppet.ask(BACKGROUND).expect("functions");
    puppet
}

/// Seconds of `CLOCK_MONOTONIC`, as the puppet's `time.monotonic`.
fn monotonic() -> f64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("clock");
    Duration::from(now).as_secs_f64()
}

/// What became of the last step that was begun, or of the n-th.
fn ended(puppet: &mut Puppet, n: i32) -> Value {
    wait::until("the step to end", wait::patience(), || {
        let said = puppet.value(&format!("ended({n})")).expect("ask");
        (!said.is_null()).then_some(said)
    })
    .expect("an end")
}

fn still_waits(puppet: &mut Puppet, n: i32) {
    let said = puppet.value(&format!("ended({n})")).expect("ask");
    assert!(said.is_null(), "it waits: {said}");
}

fn client(stage: &Stage) -> Client {
    Client::connect(&stage.daemon.control_socket().expect("socket")).expect("connect")
}

fn questions(stage: &Stage) -> Vec<Question> {
    let mut client = client(stage);
    let ask = Request::Questions {
        follow: false,
        agent: None,
    };
    client.send(&ask).expect("send");
    let mut all = Vec::new();
    while let Some(response) = client.next().expect("answer") {
        match response {
            Response::Question(question) => all.push(*question),
            Response::End { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    all
}

/// The question about this destination, once it stands.
fn question(stage: &Stage, about: &str) -> Question {
    wait::until(
        &format!("a question about {about}"),
        wait::patience(),
        || {
            questions(stage)
                .into_iter()
                .find(|question| question.subject.to_string() == about)
        },
    )
    .expect("a question")
}

fn answer_with(stage: &Stage, question: &Question, ruling: Ruling, breadth: Breadth) -> f64 {
    let answer = Request::Answer {
        question: question.id.clone(),
        choice: Choice {
            ruling,
            lasts: Lasts::For { seconds: 300 },
            breadth,
        },
        via: "cli".to_owned(),
        why: None,
    };
    let before = monotonic();
    match client(stage).ask(&answer).expect("answer") {
        Response::Granted(grant) => assert_eq!(grant.ruling, ruling),
        other => panic!("{other:?}"),
    }
    before
}

fn answer(stage: &Stage, question: &Question, ruling: Ruling) -> f64 {
    answer_with(stage, question, ruling, Breadth::This)
}

/// Packets to hosts of the internet, whatever they are.
fn left(stage: &Stage) -> Vec<String> {
    let packets = stage.forbidden(|_| false).expect("packets");
    packets
        .iter()
        .map(|p| format!("{:?} {:?}", p.ends, p.ports))
        .collect()
}

#[test]
fn a_blocking_connect_goes_on_after_the_answer() {
    for host in [OTHER_V4, OTHER_V6] {
        let stage = stage();
        let mut agent = puppet(&stage);
        let begun = format!("begin(lambda: blocking({host:?}, 80))");
        agent.ask(&begun).expect("begin");
        let asked = question(&stage, host);
        assert_eq!(asked.agent, AGENT);
        assert_eq!(asked.port, Some(80));
        assert_eq!(asked.uid, Some(PLAIN_USER), "{asked:?}");
        let process = asked.process.as_ref().expect("the process");
        assert!(process.comm.contains("python"), "{process:?}");
        assert!(matches!(asked.subject, Subject::Address { .. }));
        let event = stage
            .daemon
            .event(|e| e["reason"] == "asked")
            .expect("event");
        assert_eq!(event["verdict"], "deny", "{event}");
        still_waits(&mut agent, -1);
        assert_eq!(left(&stage), [""; 0], "before the answer");
        let answered = answer(&stage, &asked, Ruling::Allow);
        let said = ended(&mut agent, -1);
        assert_eq!(said["value"], "HTTP", "{said}");
        let took = said["at"].as_f64().expect("a time") - answered;
        eprintln!("{host}: it was done {:.0} ms after the answer", took * 1e3);
        assert!(took < 2.5, "{took}");
        // What is decided is no question any more.
        agent.ask(&begun).expect("begin");
        assert_eq!(ended(&mut agent, -1)["value"], "HTTP");
        assert!(questions(&stage).is_empty());
    }
}

#[test]
fn a_denial_ends_it_at_once_and_so_does_the_time_out() {
    let stage = Stage::new(&policy("{who: user, timeout: 5s}"), "").expect("stage");
    let mut agent = puppet(&stage);
    agent
        .ask(&format!("begin(lambda: blocking({OTHER_V4:?}, 80))"))
        .expect("begin");
    let asked = question(&stage, OTHER_V4);
    let answered = answer(&stage, &asked, Ruling::Deny);
    let said = ended(&mut agent, -1);
    let took = said["at"].as_f64().expect("a time") - answered;
    eprintln!("it ended {:.0} ms after the denial: {said}", took * 1e3);
    assert!(took < 1.0, "{took}");
    assert_eq!(said["errno"], libc::ECONNABORTED, "{said}");
    let denied = stage
        .daemon
        .event(|e| e["reason"] == "denied_by_person")
        .expect("event");
    assert_eq!(denied["dest"]["ip"], OTHER_V4, "{denied}");
    // The answer holds: a rule decides now.
    assert_eq!(
        agent
            .errno(&format!("blocking({OTHER_V4:?}, 80)"))
            .expect("ask"),
        libc::EPERM
    );

    agent
        .ask(&format!("begin(lambda: blocking({OTHER_V6:?}, 80))"))
        .expect("begin");
    question(&stage, OTHER_V6);
    let said = ended(&mut agent, -1);
    let took = said["at"].as_f64().expect("a time") - said["from"].as_f64().expect("a time");
    assert_eq!(said["errno"], libc::ECONNABORTED, "{said}");
    assert!((4.0..9.0).contains(&took), "{took}");
    assert_eq!(left(&stage), [""; 0]);
}

#[test]
fn what_gives_up_earlier_works_at_its_next_try() {
    let stage = stage();
    let sink = stage.world.udp_sink("203.0.113.71:9999").expect("sink");
    let mut agent = puppet(&stage);
    // A time-out of its own, shorter than any person.
    let brief = format!("PATIENCE = 0.3; tcp({OTHER_V4:?}, 80)");
    assert_eq!(agent.errno(&brief).expect("ask"), libc::ETIMEDOUT);
    let asked = question(&stage, OTHER_V4);
    answer(&stage, &asked, Ruling::Allow);
    assert_eq!(agent.errno("PATIENCE = USUAL").expect("ask"), 0);
    assert_eq!(
        agent
            .errno(&format!("tcp({OTHER_V4:?}, 80).close()"))
            .expect("ask"),
        0
    );

    for step in [
        "udp().sendto(b'unconnected', ('203.0.113.71', 9999))",
        "udp('203.0.113.71', 9999).send(b'connected')",
    ] {
        // Nothing of UDP can be held: it says so at once, and the question stands.
        let first = agent.errno(step).expect("ask");
        let asked = questions(&stage);
        if first == 0 {
            assert!(asked.is_empty(), "granted already: {asked:?}");
            continue;
        }
        assert_eq!(first, libc::EPERM);
        let asked = question(&stage, "203.0.113.71");
        assert_eq!(asked.port, Some(9999));
        assert_eq!(sink.arrivals().len(), 0);
        answer(&stage, &asked, Ruling::Allow);
        assert_eq!(agent.errno(step).expect("ask"), 0, "{step}");
    }
    wait::until("both datagrams", wait::patience(), || {
        (sink.arrivals().len() >= 2).then_some(())
    })
    .expect("they arrive");
}

#[test]
fn fifty_connects_are_one_question_and_one_answer() {
    let stage = stage();
    let mut agent = puppet(&stage);
    agent
        .ask(&format!(
            "for _ in range(50): begin(lambda: blocking({OTHER_V4:?}, 80))"
        ))
        .expect("begin");
    let asked = wait::until("all of them to wait", wait::patience(), || {
        let all = questions(&stage);
        assert!(all.len() <= 1, "{all:?}");
        all.into_iter().find(|question| question.waiting == 50)
    })
    .expect("a question");
    assert_eq!(left(&stage), [""; 0]);
    answer(&stage, &asked, Ruling::Allow);
    for n in 0..50 {
        assert_eq!(ended(&mut agent, n)["value"], "HTTP");
    }
}

#[test]
fn a_flood_is_throttled_and_bounded() {
    let stage = stage();
    let mut agent = puppet(&stage);
    // Distinct destinations, and far more of them than may be held.
    let flood = "
S, N = [], {}
for i in range(600):
    s = socket(AF_INET, SOCK_STREAM)
    s.setblocking(False)
    e = s.connect_ex(('198.51.%d.%d' % (100 + i // 250, 1 + i % 250), 443))
    N[e] = N.get(e, 0) + 1
    S.append(s)
";
    agent.ask(flood).expect("flood");
    let counts = agent
        .value("{str(k): v for k, v in N.items()}")
        .expect("counts");
    let count = |errno: i32| counts[errno.to_string()].as_u64().unwrap_or(0);
    eprintln!("{counts}");
    assert_eq!(
        count(libc::EINPROGRESS) + count(libc::EPERM),
        600,
        "{counts}"
    );
    assert!(count(libc::EINPROGRESS) <= 2 * 256, "{counts}");
    assert!(count(libc::EPERM) >= 88, "{counts}");
    // Few are put to the person, and what is not ends.
    let standing = questions(&stage);
    assert!((1..=8).contains(&standing.len()), "{}", standing.len());
    let ended = "[s.getsockopt(SOL_SOCKET, SO_ERROR) for s in S].count(103)";
    wait::until("what was throttled to end", wait::patience(), || {
        agent.ask("GONE = globals().get('GONE', 0)").ok()?;
        let more = agent.value(ended).ok()?.as_u64()?;
        agent.ask(&format!("GONE += {more}")).ok()?;
        let gone = agent.value("GONE").ok()?.as_u64()?;
        (gone + 8 >= count(libc::EINPROGRESS)).then_some(())
    })
    .expect("ended");
    assert_eq!(left(&stage), [""; 0]);
}

#[test]
fn a_daemon_that_was_killed_lets_nothing_out_and_asks_again() {
    let mut stage = stage();
    let mut agent = puppet(&stage);
    agent
        .ask(&format!("begin(lambda: blocking({OTHER_V4:?}, 80))"))
        .expect("begin");
    let before = question(&stage, OTHER_V4);
    stage.daemon.kill9().expect("kill");
    // As long as it takes for some more SYNs, and begun while nobody is there to ask.
    agent
        .ask(&format!("begin(lambda: blocking({OTHER_V6:?}, 80))"))
        .expect("begin");
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        still_waits(&mut agent, 0);
        std::thread::sleep(Duration::from_millis(100));
    }
    still_waits(&mut agent, 1);
    assert_eq!(left(&stage), [""; 0], "nobody answered");
    stage.daemon.restart().expect("restart");
    let after = question(&stage, OTHER_V4);
    assert_ne!(before.id, after.id);
    assert_eq!(after.port, Some(80));
    answer(&stage, &after, Ruling::Allow);
    assert_eq!(ended(&mut agent, 0)["value"], "HTTP");
    let second = question(&stage, OTHER_V6);
    answer(&stage, &second, Ruling::Deny);
    assert_eq!(ended(&mut agent, 1)["errno"], libc::ECONNABORTED);
    let to = |ip: &str| {
        let ip = ip.parse().expect("an address");
        move |p: &exeat_tests::sniff::Packet| p.is_to(ip)
    };
    stage.world.settle(&stage.sniffer).expect("settle");
    assert_eq!(stage.sniffer.count(to(OTHER_V6)), 0);
    assert!(stage.sniffer.count(to(OTHER_V4)) > 0);
}

#[test]
fn a_policy_that_comes_to_allow_or_to_deny_it_settles_it() {
    let stage = stage();
    let mut agent = puppet(&stage);
    for host in [OTHER_V4, "203.0.113.72"] {
        agent
            .ask(&format!("begin(lambda: blocking({host:?}, 80))"))
            .expect("begin");
        question(&stage, host);
    }
    let more = format!(
        "{}      - {{ cidr: 203.0.113.72/32 }}\n",
        policy("user").replace(
            "    deny:",
            &format!("      - {{ cidr: {OTHER_V4}/32, ports: [80] }}\n    deny:")
        )
    );
    stage.daemon.enforce(&more).expect("enforce");
    assert_eq!(ended(&mut agent, 0)["value"], "HTTP");
    assert_eq!(ended(&mut agent, 1)["errno"], libc::ECONNABORTED);
}
