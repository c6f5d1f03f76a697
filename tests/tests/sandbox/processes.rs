//! Other processes, and those that make the sandbox.

use super::{BOTH, Scene};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::puppet::{self, Puppet};
use exeat_tests::services::{RESOLVERS, Services};
use exeat_tests::wait;
use std::process::Stdio;

fn puppet(scene: &Scene) -> Puppet {
    let arguments = puppet::arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut puppet = Puppet::start(scene.command(&words)).expect("puppet");
    puppet
        .ask("import ctypes, signal\nlibc = ctypes.CDLL(None, use_errno=True)")
        .expect("import");
    puppet
}

#[test]
fn processes_outside_are_not_there() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        let mut agent = puppet(&scene);
        let listed = agent
            .value("sorted(int(name) for name in os.listdir('/proc') if name.isdigit())")
            .expect("list");
        assert_eq!(listed, serde_json::json!([1, 2]), "{user}");
        assert_eq!(
            agent.value("[os.getpid(), os.getppid()]").expect("pid"),
            serde_json::json!([2, 1])
        );
        let outside = std::process::id();
        assert_eq!(
            agent
                .errno(&format!("os.kill({outside}, 0)"))
                .expect("kill"),
            libc::ESRCH
        );
        for attempt in ["root", "cwd", "environ", "mem", "fd", "ns/mnt"] {
            for pid in [outside, agent.pid()] {
                let errno = agent
                    .errno(&format!("os.stat('/proc/{pid}/{attempt}')"))
                    .expect("stat");
                assert_eq!(errno, libc::ENOENT, "{user} /proc/{pid}/{attempt}");
            }
        }
    }
}

#[test]
fn the_first_process_is_closed_and_cannot_be_killed() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        let mut agent = puppet(&scene);
        for attempt in [
            "os.listdir('/proc/1/root')",
            "os.listdir('/proc/1/fd')",
            "open('/proc/1/mem')",
            "open('/proc/1/environ').read()",
            "os.open('/proc/1/ns/mnt', os.O_RDONLY)",
        ] {
            let errno = agent.errno(attempt).expect(attempt);
            assert!(
                [libc::EACCES, libc::EPERM].contains(&errno),
                "{user} {attempt}: {errno}"
            );
        }
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP] {
            let _ = agent.ask(&format!("os.kill(1, {signal})"));
        }
        let _ = agent.ask("os.kill(0, 0)");
        assert_eq!(agent.value("1 + 1").expect("alive"), 2, "{user}");
    }
}

#[test]
fn no_signal_to_its_group_reaches_what_runs_beside_it() {
    let scene = Scene::new(PLAIN_USER, "");
    // Whoever starts it is in the same group as a program beside it.
    let argv = ["sh", "-c", "kill -KILL 0"];
    let mut command = scene.command(&argv);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let status = command.status().expect("run");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(libc::SIGKILL)
    );
    let mut group = std::process::Command::new("sh");
    group.args([
        "-c",
        "sleep 1000 & beside=$!; \"$@\"; kill -0 $beside && echo beside lives; kill $beside",
        "sh",
    ]);
    let run = scene.command(&argv);
    // The rest is that of the command itself, which enters the laptop.
    let mut outer = scene.stage.world.laptop.command_as(PLAIN_USER, "sh");
    outer
        .args(group.get_args())
        .arg(run.get_program())
        .args(run.get_args());
    scene.prepare(&mut outer, &scene.project);
    std::os::unix::process::CommandExt::process_group(&mut outer, 0);
    let output = outer.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("beside lives"), "{output:?}");
}

#[test]
fn the_death_of_the_caller_ends_it_all() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        let script = "setsid sh -c 'trap \"\" HUP TERM; sleep 1000' & trap '' HUP TERM; echo ready; sleep 1000";
        let mut child = scene
            .command(&["sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("line");
        let cgroup =
            std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("cgroup");
        let cgroup = cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .expect("v2");
        let procs = exeat_tests::cgroup::root()
            .expect("root")
            .join(cgroup)
            .join("cgroup.procs");
        let inside = || std::fs::read_to_string(&procs).map_or(0, |text| text.lines().count());
        assert!(inside() >= 4, "{user}: {}", inside());
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait::until("everything inside to end", wait::patience(), || {
            (inside() == 0).then_some(())
        })
        .expect("ended");
    }
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let scene = Scene::new(PLAIN_USER, "");
    let started = std::time::Instant::now();
    // It holds standard output too: the reader would wait for it.
    let said = scene.said("setsid sleep 1000 & echo done");
    assert_eq!(said, "done");
    assert!(started.elapsed() < wait::patience());
}

#[test]
fn the_rules_of_services_hold_in_it() {
    let paths = ["/run/cups/cups.sock", RESOLVERS[1], RESOLVERS[0]];
    for user in BOTH {
        for (more, seen) in [
            ("", 0),
            ("    services: /run/cups/cups.sock\n", 1),
            ("    services: all\n", 3),
        ] {
            let scene = Scene::new(user, more);
            let services = Services::start(&scene.stage.world.laptop, &paths).expect("services");
            let mut agent = puppet(&scene);
            for path in paths {
                let way = format!("s = socket(AF_UNIX, SOCK_STREAM); s.connect({path:?})");
                let _ = agent.ask(&way).expect(path);
            }
            assert_eq!(services.visitors().len(), seen, "{user} {more}");
        }
    }
}
