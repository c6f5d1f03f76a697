//! What a new policy does to connections whose name was judged under the old one.

use super::{SHARED, Tls};

const OPEN: &str = "203.0.113.31";

fn policy(rules: &[&str]) -> String {
    let mut text = "version: 1\nagents:\n  worker:\n    allow:\n".to_owned();
    for rule in rules {
        text += &format!("      - {{ {rule} }}\n");
    }
    text
}

const GOOD: &str = "host: good.example, ports: [443]";
const ALSO: &str = "host: also.example, ports: [443]";

/// A hello, what settles it, and the number of bytes.
fn settled(tls: &mut Tls, name: &str) -> (super::Said, usize) {
    let parts = format!("[hello({name:?}), CHANGE + data('finished')]");
    let said = tls.say(&format!("say({parts})"));
    let length = tls.length(&format!("b''.join({parts})"));
    tls.arrives(&said, length);
    (said, length)
}

#[test]
fn a_connection_whose_name_left_the_policy_sends_no_more() {
    let mut tls = Tls::shared(&policy(&[GOOD, ALSO]));
    let (good, length) = settled(&mut tls, "good.example");
    let (also, same) = settled(&mut tls, "also.example");
    // Its name may still change, and was good so far.
    let open = tls.say("say([hello('good.example')])");
    let hello = tls.length("hello('good.example')");
    tls.arrives(&open, hello);
    // Neither has said anything yet.
    let late = tls.say("say([])");
    let half = tls.say("say([hello('good.example')[:100]])");
    tls.arrives(&half, 100);

    tls.stage.daemon.enforce(&policy(&[ALSO])).expect("enforce");
    tls.push(&also, "[data('goes on')]");
    tls.arrives(&also, same + 12);
    tls.push(&good, "[data('no more')]");
    tls.refused("settled", &good, "tls_name", length);
    tls.push(&open, "[CHANGE + data('no more')]");
    tls.refused("open", &open, "tls_name", hello);
    tls.push(&late, "[hello('good.example')]");
    tls.refused("late", &late, "tls_name", 0);
    tls.push(&half, "[hello('good.example')[100:]]");
    tls.refused("half", &half, "tls_name", 100);
}

/// A refusal is for good, so a reload must have no moment without the names.
#[test]
fn reloads_refuse_no_name_that_stays() {
    let rules = [
        policy(&[GOOD, ALSO]),
        policy(&[ALSO, GOOD, "host: third.example, ports: [80]"]),
    ];
    let mut tls = Tls::shared(&rules[0]);
    let code = "\
KEPT = []

def go_on(host):
    for name in ('good.example', 'also.example'):
        s = say([hello(name)[:100]], host=host)
        KEPT.append((s, hello(name)[100:] + CHANGE + data('x')))

def finish():
    for s, rest in KEPT:
        s.sendall(rest)
    KEPT.clear()
";
    tls.agent.value(code).expect("functions");
    let length = tls.length("hello('good.example') + CHANGE + data('x')");
    let mut connections = 0;
    for round in 1..=10 {
        for host in [SHARED, super::SHARED_V6] {
            tls.agent
                .value(&format!("go_on({host:?})"))
                .expect("connect");
            connections += 2;
        }
        // The program goes on while the daemon swaps.
        let stage = &tls.stage;
        let agent = &mut tls.agent;
        std::thread::scope(|scope| {
            let swap = scope.spawn(|| stage.daemon.enforce(&rules[round % 2]));
            while !swap.is_finished() {
                agent.value("go_on(HOST)\nfinish()").expect("finish");
                connections += 2;
            }
            swap.join().expect("join").expect("enforce");
        });
        tls.agent.value("finish()").expect("finish");
    }
    let arrived = || -> usize {
        let all = tls
            .sinks
            .iter()
            .flat_map(exeat_tests::sink::TcpSink::arrivals);
        all.map(|arrival| arrival.bytes.len()).sum()
    };
    exeat_tests::wait::until("all of it", exeat_tests::wait::patience(), || {
        (arrived() >= connections * length).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e:#}: {} of {}", arrived(), connections * length));
    let events = tls.stage.daemon.events().expect("events");
    let refused = |e: &&serde_json::Value| e["hook"] == "egress" && e["verdict"] == "deny";
    let refused = events.iter().filter(refused).count();
    assert_eq!(refused, 0, "{events:#?}");
}

#[test]
fn a_daemon_that_comes_back_knows_the_names() {
    let mut tls = Tls::shared(&policy(&[GOOD, ALSO]));
    let (good, length) = settled(&mut tls, "good.example");
    let half = tls.say("say([hello('good.example')[:100]])");
    tls.arrives(&half, 100);
    tls.stage.daemon.kill9().expect("kill");
    // Without it the rules stand.
    let evil = tls.say("say([hello('evil.example')])");
    let (also, same) = settled(&mut tls, "also.example");
    tls.gets_stuck("evil", &evil);
    assert_eq!(tls.arrived(&evil).len(), 0);
    tls.stage.daemon.restart().expect("restart");
    tls.push(&good, "[data('goes on')]");
    tls.arrives(&good, length + 12);
    tls.push(&also, "[data('goes on')]");
    tls.arrives(&also, same + 12);
    tls.push(&half, "[hello('good.example')[100:], CHANGE, data('x')]");
    let hello = tls.length("hello('good.example')");
    tls.arrives(&half, hello + 12);
    settled(&mut tls, "good.example");
    tls.push(&evil, "[hello('good.example')]");
    tls.gets_stuck("evil", &evil);
    assert_eq!(tls.arrived(&evil).len(), 0);
    let evil = tls.say("say([hello('evil.example')])");
    tls.refused("evil", &evil, "tls_name", 0);
}

/// A socket's second connection is none of the first one's affair, though nobody asked for its
/// name when it began.
#[test]
fn an_earlier_connection_of_the_socket_does_not_vouch_for_a_later_one() {
    let both: &[&str] = &[SHARED];
    let mut tls = Tls::new(
        &policy(&[GOOD, "cidr: 203.0.113.31/32, ports: [443]"]),
        &[("good.example", both), ("also.example", &[OPEN])],
        &["203.0.113.30:443", "203.0.113.31:443"],
    );
    let code = format!(
        "\
def again(s):
    disconnect(s)
    s.connect(({OPEN:?}, 443))
    push(s, [hello('evil.example') + CHANGE])
    return s
"
    );
    tls.agent.value(&code).expect("function");
    let (first, _) = settled(&mut tls, "good.example");
    let second = tls.say(&format!("again({})", first.variable));
    let hello = tls.length("hello('evil.example') + CHANGE");
    tls.arrives(&second, hello);
    tls.stage
        .daemon
        .enforce(&policy(&[GOOD, ALSO]))
        .expect("enforce");
    tls.resolve("also.example");
    tls.push(&second, "[data('x')]");
    tls.refused("second", &second, "tls_order", hello);
}

#[test]
fn monitor_mode_tells_once_and_lets_it_go() {
    let monitor = policy(&[GOOD]).replace("    allow:", "    mode: monitor\n    allow:");
    // Where only monitored, the agent asks its own name server, and nothing is leased at once.
    let mut tls = Tls::shared(&policy(&[GOOD]));
    tls.stage.daemon.enforce(&monitor).expect("monitor");
    let said = tls.say("say([hello('evil.example'), CHANGE + data('x'), data('y')])");
    let length = tls.length("hello('evil.example')") + 6 + 6 + 6;
    tls.arrives(&said, length);
    tls.event(&said, "tls_name", "would_deny");
    let text = tls.say("say([b'GET / HTTP/1.1\\r\\n', b'Host: x\\r\\n'])");
    tls.arrives(&text, 16 + 9);
    tls.event(&text, "not_tls", "would_deny");
    let events = tls.stage.daemon.events().expect("events");
    for said in [&said, &text] {
        let of = events
            .iter()
            .filter(|e| e["source"]["port"] == said.port)
            .count();
        assert_eq!(of, 1, "{events:#?}");
    }
    // Enforced, neither goes on.
    tls.stage.daemon.enforce(&policy(&[GOOD])).expect("enforce");
    tls.push(&said, "[data('z')]");
    tls.refused("evil", &said, "tls_name", length);
    tls.push(&text, "[b'more']");
    tls.refused("text", &text, "not_tls", 16 + 9);
}
