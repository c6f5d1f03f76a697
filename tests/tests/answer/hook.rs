//! `asking: hook:`: a program of the administrator's answers.

use super::{Folder, Scene, chmod};
use exeat_tests::asked::{FAR, FAR6};
use exeat_tests::stage::AGENT;
use exeat_tests::{asked, wait};
use serde_json::Value;

/// A user that no agent here runs as.
const HOOK_USER: &str = "daemon";

/// The hook, and lines of configuration that name it. What it does is a script of the shell, in a
/// folder that it may write to.
fn hook(user: &str, script: &str) -> (Folder, String) {
    let folder = Folder::new();
    chmod(folder.0.path(), 0o777);
    let at = folder.0.path().display();
    let text = format!("#!/bin/sh\numask 022\ncd {at} || exit 1\n{script}\n");
    let path = folder.write("hook", &text, 0o755);
    let config = format!(
        "asking:\n  hook:\n    command: [{}]\n    user: {user}\n    timeout_seconds: 300\n",
        path.display()
    );
    (folder, config)
}

fn gone(pid: &str) {
    let stat = format!("/proc/{}/stat", pid.trim());
    wait::until("the hook to end", wait::patience(), || {
        let stat = std::fs::read_to_string(&stat);
        let dead = stat.map_or(true, |text| {
            text.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim().starts_with('Z'))
        });
        dead.then_some(())
    })
    .expect("it is ended");
}

#[test]
fn a_hook_that_allows_lets_the_connection_go_on() {
    let (folder, config) = hook(
        HOOK_USER,
        "cat > question\n\
         { id -u; id -G; grep -E 'NoNewPrivs|CapEff' /proc/self/status; cat /proc/self/cgroup; env; } > self\n\
         printf '{\"answer\":\"allow\",\"lasts\":\"hour\",\"why\":\"change 4711\"}'",
    );
    let mut scene = Scene::new("user", &config);
    scene.begin();
    assert_eq!(scene.ended(), 0);
    let told: Value = serde_json::from_str(&folder.read("question")).expect("JSON");
    let question = &told["question"];
    assert_eq!(told["event"], "asked", "{told}");
    assert_eq!(question["agent"], AGENT);
    assert_eq!(question["subject"]["address"], FAR);
    assert_eq!(question["port"], asked::PORT);
    let grant = scene.grant();
    assert_eq!(grant["by"]["via"], "hook", "{grant}");
    assert_eq!(grant["by"]["name"], HOOK_USER, "{grant}");
    assert_eq!(grant["why"], "change 4711", "{grant}");
    assert_eq!(
        grant["port"],
        asked::PORT,
        "no more than was asked: {grant}"
    );
    assert_eq!(grant["lasts"]["seconds"], 3600, "{grant}");
    scene.answered("allowed", "hook");

    // What it ran as: nobody's groups, no privileges, and nothing of the daemon's environment.
    let own = folder.read("self");
    let mut lines = own.lines();
    assert_eq!(
        (lines.next(), lines.next()),
        (Some("1"), Some("1")),
        "{own}"
    );
    assert!(own.contains("NoNewPrivs:\t1"), "{own}");
    assert!(own.contains("CapEff:\t0000000000000000"), "{own}");
    let slice = scene.stage.daemon.slice().expect("slice");
    let slice = slice.file_name().expect("name").to_string_lossy();
    assert!(!own.contains(&*slice), "{own}");
    let id = question["id"].as_str().expect("an id");
    assert!(own.contains(&format!("EXEAT_QUESTION={id}")), "{own}");
    for name in ["HOME", "EXEAT_BIN", "CARGO", "USER"] {
        assert!(!own.contains(&format!("\n{name}=")), "{own}");
    }
}

#[test]
fn a_hook_denies_and_one_that_thinks_is_ended_when_a_person_was_faster() {
    let (folder, config) = hook(
        HOOK_USER,
        &format!(
            "case \"$(cat)\" in\n\
             *{FAR}*) printf '{{\"answer\":\"deny\"}}';;\n\
             *) sleep 1000 & echo $$ $! > pids; wait; printf '{{\"answer\":\"deny\"}}';;\n\
             esac"
        ),
    );
    let mut scene = Scene::new("user", &config);
    scene.begin();
    assert_ne!(scene.ended(), 0);
    scene.answered("denied", "hook");
    scene.begin_to(FAR6);
    let pids = folder.read("pids");
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["allow", &id]);
    assert_eq!(scene.ended(), 0);
    scene.answered("allowed", "cli");
    for pid in pids.split_whitespace() {
        gone(pid);
    }
}

#[test]
fn failure_and_noise_of_a_hook_answer_nothing() {
    let (_folder, config) = hook(
        HOOK_USER,
        &format!(
            "case \"$(cat)\" in\n\
             *{FAR}*) printf '{{\"answer\":\"allow\"}}'; exit 3;;\n\
             *) printf '{{\"answer\":\"allow\",\"unless\":\"it is night\"}}';;\n\
             esac"
        ),
    );
    let mut scene = Scene::new("user", &config);
    scene.begin();
    scene.daemon_says("it failed (exit status: 3)");
    scene.still_waits();
    let id = asked::question(&scene.stage).expect("a question");
    scene.exeat_ask(&["deny", &id]);
    assert_ne!(scene.ended(), 0);
    let before = asked::grants(&scene.stage).expect("grants").len();
    scene.begin_to(FAR6);
    scene.daemon_says("its answer cannot be read");
    assert!(asked::waits(&mut scene.puppet).expect("puppet"));
    assert_eq!(asked::grants(&scene.stage).expect("grants").len(), before);
}

/// The script's answer goes through a descriptor that its own user can open again below /proc.
const WRITES_INTO_IT: &str = "\
import os, glob
tried = 0
for fd in glob.glob('/proc/%d/fd/1' % PID) + glob.glob('/proc/%d/fd/3' % PID):
    try:
        with open(fd, 'wb', buffering=0) as f:
            f.write(b'{\"answer\":\"allow\",\"lasts\":\"always\"}')
            tried += 1
    except OSError:
        pass
tried";

#[test]
fn a_program_of_the_hooks_own_user_is_not_judged_by_the_hook() {
    // The agent runs as this user too, without a sandbox.
    let (folder, config) = hook("nobody", "echo $$ > pid; cat > question");
    let mut scene = Scene::new("user", &config);
    scene.begin();
    scene.daemon_says("runs as the user of the agent that asks");
    scene.still_waits();
    assert!(!folder.path("pid").exists(), "it was not started");
}

#[test]
fn root_in_an_agent_does_not_get_at_the_hook() {
    let (folder, config) = hook(
        HOOK_USER,
        "echo $$ > pid; while [ ! -e go ]; do sleep 0.05; done",
    );
    let mut scene = Scene::new("user", &config);
    let argv = exeat_tests::puppet::arguments();
    let root = scene.stage.daemon.run_command(AGENT, 0, &argv);
    scene.puppet = exeat_tests::puppet::Puppet::start(root).expect("puppet");
    scene.begin();
    let pid = folder.read("pid");
    let code = format!("PID = {}\n{WRITES_INTO_IT}", pid.trim());
    let wrote = scene.puppet.value(&code).expect("tried");
    println!("wrote {wrote} times");
    folder.write("go", "go", 0o644);
    gone(&pid);
    // Its end was collected, and whatever it seemed to say was read.
    scene.exeat_ask(&["deny", &asked::question(&scene.stage).expect("it stands")]);
    assert_ne!(scene.ended(), 0);
    assert_eq!(wrote, 0);
}
