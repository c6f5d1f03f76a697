//! Cgroups that are governed where they are.

use super::{
    TO_ALLOWED, TO_OTHER, adopted, assert_free, assert_governed, free, inside, policy,
    policy_without, until_adopted,
};
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::stage::Stage;
use std::path::{Path, PathBuf};

fn make(path: &Path) -> PathBuf {
    std::fs::create_dir_all(path).expect("cgroup");
    path.to_owned()
}

fn name(guard: &CgroupGuard) -> String {
    let name = guard.path().file_name().expect("a name");
    name.to_string_lossy().into_owned()
}

#[test]
fn a_foreign_cgroup_is_governed_in_place_with_its_children() {
    let guard = CgroupGuard::new("exeat-adopt").expect("cgroup");
    let one = make(&guard.path().join("agents/one"));
    let other = make(&guard.path().join("other"));
    let text = policy(&[format!("cgroup: \"{}/agents/*\"", name(&guard))]);
    let mut stage = Stage::new(&text, "").expect("stage");
    let links = stage.daemon.links().expect("links");

    let mut first = inside(&stage, &one);
    assert_governed(&mut first, "there before the daemon");
    // Nothing was moved.
    let text = std::fs::read_to_string(one.join("cgroup.procs")).expect("processes");
    assert!(text.lines().any(|pid| pid == first.pid().to_string()));
    let mut second = inside(&stage, &make(&one.join("below/deeper")));
    assert_governed(&mut second, "a child");
    let mut outside = inside(&stage, &other);
    assert_free(&mut outside, "another cgroup");
    let mut nobody = free(&stage);
    assert_free(&mut nobody, "nobody's");

    let two = make(&guard.path().join("agents/two"));
    let shown = until_adopted(&stage, &two);
    assert_eq!(shown["by"], format!("cgroup: {}/agents/*", name(&guard)));
    let mut third = inside(&stage, &two);
    assert_governed(&mut third, "made while the daemon runs");
    // A name inside does not make it another's, and UDP and sockets of other kinds are the
    // agent's too.
    assert_eq!(
        first
            .errno("udp('203.0.113.20', 4433).send(b'x')")
            .expect("answer"),
        libc::EPERM
    );
    assert_eq!(
        first
            .errno("socket(AF_INET, SOCK_STREAM, 262)")
            .expect("answer"),
        libc::EPERM
    );

    // Nor does the daemon speak to it: it would start it anew under another's policy.
    let status = format!(
        "import subprocess; subprocess.run(['{}', '--config', '{}', 'status'], stdout=-3, stderr=-3).returncode",
        exeat_tests::daemon::program().display(),
        stage.daemon.config().display()
    );
    assert_eq!(nobody.value(&status).expect("ran"), 0);
    for puppet in [&mut first, &mut second] {
        let code = puppet.value(&status).expect("ran");
        assert!(code != 0 && code != 3, "{code}");
    }

    stage.daemon.kill9().expect("kill");
    for puppet in [&mut first, &mut second, &mut third] {
        assert_governed(puppet, "without a daemon");
    }
    assert_free(&mut nobody, "without a daemon");
    stage.daemon.restart().expect("restart");
    for puppet in [&mut first, &mut second, &mut third] {
        assert_governed(puppet, "after a restart");
    }
    assert_free(&mut outside, "after a restart");
    assert_eq!(adopted(&stage).len(), 2);
    let mut fourth = inside(&stage, &{
        let three = make(&guard.path().join("agents/three"));
        until_adopted(&stage, &three);
        three
    });
    assert_governed(&mut fourth, "made after the restart");

    // The selector goes: what was adopted stays, nothing new is.
    stage.daemon.enforce(&policy_without()).expect("reload");
    assert_governed(&mut first, "after its selector went");
    let four = make(&guard.path().join("agents/four"));
    let mut fifth = inside(&stage, &four);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_free(&mut fifth, "nothing matches it any more");

    // The agent goes: what was adopted is refused everything, also over a restart.
    let gone = policy_without().replace("worker", "somebody");
    stage.daemon.enforce(&gone).expect("reload");
    for _ in 0..2 {
        for puppet in [&mut first, &mut third] {
            assert_eq!(puppet.errno(TO_OTHER).expect("answer"), libc::EPERM);
            assert_eq!(puppet.errno(TO_ALLOWED).expect("answer"), libc::EPERM);
        }
        stage.daemon.restart().expect("restart");
    }
    assert_eq!(stage.daemon.links().expect("links"), links);

    // A cgroup that is gone is forgotten, and its links with it.
    let pins = stage.daemon.bpffs().join("adopted");
    let count = || std::fs::read_dir(&pins).expect("pins").count();
    assert_eq!(count(), 3);
    drop(third);
    exeat_tests::wait::until("its links to go", exeat_tests::wait::patience(), || {
        let _ = std::fs::remove_dir(&two);
        (count() == 2).then_some(())
    })
    .expect("gone");

    // Nobody is let go by accident, and a teardown leaves nothing.
    stage.daemon.stop().expect("stop");
    let error = stage.daemon.teardown().expect_err("processes still run");
    assert!(error.to_string().contains("still running"), "{error}");
    drop((first, second, fourth));
    exeat_tests::wait::until("the teardown", exeat_tests::wait::patience(), || {
        stage.daemon.teardown().ok()
    })
    .expect("teardown");
    assert!(!stage.daemon.bpffs().exists());
}

#[test]
fn what_is_governed_in_place_is_frozen_thawed_and_killed() {
    let guard = CgroupGuard::new("exeat-adopt").expect("cgroup");
    let one = make(&guard.path().join("agents/one"));
    let text = policy(&[format!("cgroup: \"{}/agents/*\"", name(&guard))]);
    let stage = Stage::new(&text, "").expect("stage");
    let mut first = inside(&stage, &one);
    assert_governed(&mut first, "before");
    let says = |key: &str| {
        let events = std::fs::read_to_string(one.join("cgroup.events")).expect("events");
        let line = events.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim() == "1")
    };
    let exeat = |verb: &str| {
        let mut command = stage.daemon.cli(&[verb, "--agent", "worker"]);
        let output = command.output().expect(verb);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = exeat("freeze");
    assert!(said.contains("1 process stopped"), "{said}");
    assert_eq!(says("frozen"), Some(true));
    exeat("thaw");
    assert_eq!(says("frozen"), Some(false));
    assert_governed(&mut first, "after it was thawed");
    let said = exeat("kill");
    assert!(said.contains("1 process ended"), "{said}");
    assert_eq!(says("populated"), Some(false));
}

#[test]
fn units_flatpaks_snaps_and_containers_are_known_by_their_cgroups() {
    let guard = CgroupGuard::new("exeat-adopt").expect("cgroup");
    let name = name(&guard);
    let id = "e".repeat(52) + &format!("{:012x}", std::process::id());
    let docker = Folder::new(&format!("/var/lib/docker/containers/{id}"));
    let text = format!(r#"{{"Name":"/{name}","Config":{{"Labels":{{"{name}":"x"}}}}}}"#);
    std::fs::write(docker.0.join("config.v2.json"), text).expect("write");
    for (selector, last) in [
        (
            format!("unit: \"{name}@*.service\""),
            format!("{name}@7.service"),
        ),
        (
            "flatpak: com.example.ExeatTest".to_owned(),
            "app-flatpak-com.example.ExeatTest-77.scope".to_owned(),
        ),
        (
            "snap: exeat-test-snap".to_owned(),
            "snap.exeat-test-snap.app-0e.scope".to_owned(),
        ),
        (format!("container: {name}"), format!("docker-{id}.scope")),
        (format!("container: \"{name}=x\""), format!("docker/{id}")),
    ] {
        let stage = Stage::new(&policy(std::slice::from_ref(&selector)), "").expect("stage");
        let path = make(&guard.path().join("a.slice").join(&last));
        until_adopted(&stage, &path);
        let mut puppet = inside(&stage, &path);
        assert_governed(&mut puppet, &selector);
        let near = make(&guard.path().join("a.slice").join(format!("x{last}")));
        let mut outside = inside(&stage, &near);
        assert_free(&mut outside, &selector);
        drop((puppet, outside));
    }
}

/// A folder that is gone afterwards, with those above it that were made for it.
struct Folder(PathBuf, Vec<PathBuf>);

impl Folder {
    fn new(path: &str) -> Self {
        let path = PathBuf::from(path);
        let new = path.ancestors().filter(|path| !path.exists());
        let new: Vec<PathBuf> = new.map(Path::to_owned).collect();
        std::fs::create_dir_all(&path).expect("folders");
        Self(path, new)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for path in &self.1 {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

#[test]
fn sockets_from_before_are_judged() {
    let guard = CgroupGuard::new("exeat-adopt").expect("cgroup");
    let path = make(&guard.path().join("agent"));
    let stage = Stage::new(&policy_without(), "").expect("stage");
    // Made in the cgroup, and made elsewhere and brought along.
    let mut made = inside(&stage, &path);
    let mut brought = free(&stage);
    let open = "bad = tcp('203.0.113.20', 80); good = tcp('203.0.113.10', 80); \
                u = udp('203.0.113.20', 4433); l = listener('0.0.0.0', 0)";
    for puppet in [&mut made, &mut brought] {
        assert_eq!(puppet.errno(open).expect("answer"), 0);
    }
    cgroup::add(&path, brought.pid()).expect("move");
    let text = policy(&[format!("cgroup: {}/agent", name(&guard))]);
    stage.daemon.enforce(&text).expect("reload");
    until_adopted(&stage, &path);
    for (puppet, about) in [(&mut made, "made there"), (&mut brought, "brought along")] {
        exeat_tests::wait::until(
            "the connection to end",
            exeat_tests::wait::patience(),
            || {
                let errno = puppet.errno("bad.send(b'secret')").expect("answer");
                [libc::ECONNABORTED, libc::EPIPE, libc::ECONNRESET]
                    .contains(&errno)
                    .then_some(())
            },
        )
        .unwrap_or_else(|error| panic!("{about}: {error}\n{}", stage.daemon.log()));
        assert_ne!(puppet.errno("u.send(b'x')").expect("answer"), 0, "{about}");
        assert_eq!(
            puppet
                .errno("good.send(b'GET / HTTP/1.0\\r\\n\\r\\n')")
                .expect("answer"),
            0,
            "{about}"
        );
        assert_governed(puppet, about);
    }
    // What listens in the governed cgroup is judged by its packets; what was made elsewhere
    // would be judged by nobody.
    assert_eq!(
        made.value("l.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)")
            .expect("value"),
        1
    );
    assert_eq!(
        brought
            .value("l.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)")
            .expect("value"),
        0
    );
    let leaked = stage.forbidden(|packet| !packet.contains(b"secret"));
    let leaked = leaked.expect("settle");
    assert!(leaked.is_empty(), "{} packets", leaked.len());
}
