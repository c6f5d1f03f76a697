//! Where the kernel has the walls: each from inside and from outside.

use crate::scene::{Scene, USERS, policy, state};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::cgroup::{self, CgroupGuard};
use exeat_tests::stage::{AGENT, POLICY};
use exeat_tests::{unique, wait};
use libc::EPERM;

#[test]
fn unix_sockets_of_others_are_refused_unless_they_are_named() {
    let open = "    services: [/run/exeat-open]\n";
    let Some(scene) = Scene::new(&policy(open)) else {
        return;
    };
    let mut outsider = scene.outsider(0);
    // In the laptop's mount namespace, where the daemon looks too.
    outsider
        .ask("os.makedirs('/run/exeat-open', exist_ok=True)")
        .expect("folder");
    let name = unique::name("walls");
    let at = |folder: &str| format!("{folder}/{name}");
    let (closed, named) = (at("/tmp"), at("/run/exeat-open"));
    for (path, kind) in [
        (&closed, "SOCK_STREAM"),
        (&named, "SOCK_STREAM"),
        (&at("/tmp/dgram-").replace("-/", "-"), "SOCK_DGRAM"),
        (&format!("\\0{name}"), "SOCK_STREAM"),
    ] {
        outsider
            .ask(&format!(
                "kept_{} = serve('{path}', {kind})",
                kind.len() + path.len()
            ))
            .expect("serve");
    }
    outsider
        .ask(&format!(
            "os.symlink('{closed}', '/run/exeat-open/link-{name}')"
        ))
        .expect("link");
    let dgram = at("/tmp/dgram-").replace("-/", "-");
    let mut other = scene.outsider(PLAIN_USER);
    for uid in USERS {
        let mut agent = scene.agent(uid);
        for (path, kind) in [
            (closed.as_str(), "SOCK_STREAM"),
            (&dgram, "SOCK_DGRAM"),
            (&format!("\\0{name}"), "SOCK_STREAM"),
            (
                &format!("/proc/{}/root{closed}", outsider.pid()),
                "SOCK_STREAM",
            ),
            (&format!("/run/exeat-open/link-{name}"), "SOCK_STREAM"),
        ] {
            let connect = format!("unix('{path}', {kind}).close()");
            if !path.starts_with("/proc") {
                assert_eq!(
                    other.errno(&connect).expect(path),
                    0,
                    "{path} for an outsider"
                );
            }
            let errno = agent.errno(&connect).expect(path);
            // By /proc another wall, or the kernel, is first.
            let refused = errno == EPERM || (path.starts_with("/proc") && errno == libc::EACCES);
            assert!(refused, "{uid} {path}: {errno}");
        }
        // The daemon looks once a second what is there.
        wait::until("the named socket", wait::patience(), || {
            (agent
                .errno(&format!("unix('{named}').close()"))
                .expect("ask")
                == 0)
                .then_some(())
        })
        .expect("a socket that the policy names");
        // Its own.
        let own = at("/tmp/own").replace("own/", &format!("own{uid}-"));
        agent.ask(&format!("own = serve('{own}')")).expect("serve");
        assert_eq!(
            agent.errno(&format!("unix('{own}').close()")).expect("own"),
            0
        );
        assert_eq!(
            agent
                .errno("a, b = socketpair(AF_UNIX, SOCK_DGRAM); a.send(b'x')")
                .expect("pair"),
            0
        );
        // And anybody may come to it.
        assert_eq!(
            other.errno(&format!("unix('{own}').close()")).expect("own"),
            0
        );
    }
    scene.told("unix_socket", "unix_connect");
    scene.told("unix_socket", "unix_send");
}

#[test]
fn sockets_are_passed_neither_in_nor_out() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let mut outsider = scene.outsider(PLAIN_USER);
    let mut friend = scene.outsider(PLAIN_USER);
    for uid in USERS {
        let mut agent = scene.agent(uid);
        let path = format!("/tmp/{}", unique::name("pass"));
        agent.ask(&format!("l = serve('{path}')")).expect("serve");
        outsider
            .ask(&format!("s = unix('{path}')"))
            .expect("connect");
        agent
            .ask("c = l.accept()[0]; c.settimeout(PATIENCE)")
            .expect("accept");
        // A file may pass both ways, and a socket of the same family both ways between others.
        outsider
            .ask("give(s, os.open('/', os.O_RDONLY))")
            .expect("give");
        assert_eq!(agent.value("get(c)").expect("get"), 1, "{uid}: a file in");
        agent
            .ask("give(c, os.open('/', os.O_RDONLY))")
            .expect("give");
        assert_eq!(
            outsider.value("get(s)").expect("get"),
            1,
            "{uid}: a file out"
        );
        for make in [
            "socket(AF_INET, SOCK_STREAM)",
            "socket(AF_UNIX, SOCK_STREAM)",
        ] {
            outsider
                .ask(&format!("x = {make}; give(s, x.fileno())"))
                .expect("give");
            assert_eq!(agent.value("get(c)").expect("get"), 0, "{uid}: {make} in");
        }
        agent
            .ask("x = socket(AF_INET, SOCK_DGRAM); give(c, x.fileno())")
            .expect("give");
        assert_eq!(
            outsider.value("get(s)").expect("get"),
            0,
            "{uid}: a socket out"
        );
        // Within the agent.
        agent
            .ask("a, b = socketpair(); x = socket(AF_INET, SOCK_DGRAM); give(a, x.fileno())")
            .expect("give");
        assert_eq!(
            agent.value("get(b)").expect("get"),
            1,
            "{uid}: a socket within"
        );
    }
    let path = format!("/tmp/{}", unique::name("pass"));
    outsider
        .ask(&format!("l = serve('{path}')"))
        .expect("serve");
    friend.ask(&format!("s = unix('{path}')")).expect("connect");
    outsider
        .ask("c = l.accept()[0]; x = socket(AF_INET, SOCK_DGRAM); give(c, x.fileno())")
        .expect("give");
    assert_eq!(friend.value("get(s)").expect("get"), 1, "between others");
    let event = scene.told("passed_socket", "file_receive");
    assert_eq!(event["detail"][0], libc::AF_INET, "{event}");
    scene
        .stage
        .daemon
        .event(|event| {
            event["reason"] == "passed_socket" && event["detail"][1] == 2 && event["agent"] == AGENT
        })
        .expect("what goes out is the agent's");
}

#[test]
fn nobody_leaves_the_cgroup() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let root = exeat_tests::cgroup::root().expect("cgroup2");
    let procs = root.join("cgroup.procs");
    let open = format!("os.close(os.open('{}', os.O_WRONLY))", procs.display());
    let read = format!("os.close(os.open('{}', os.O_RDONLY))", procs.display());
    // clone3(2) into the root: flags, cgroup and the other nine words of clone_args.
    let clone = format!(
        "fd = os.open('{}', os.O_RDONLY | os.O_DIRECTORY)\n\
         args = (ctypes.c_uint64 * 11)(0x200000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, fd)\n\
         child = call(SYS_clone3, ctypes.byref(args), 88)\n\
         if child == 0: os._exit(0)\n\
         os.waitpid(child, 0)",
        root.display()
    );
    let mut outsider = scene.outsider(0);
    assert_eq!(outsider.errno(&open).expect("open"), 0);
    assert_eq!(outsider.errno(&clone).expect("clone"), 0);
    let mut agent = scene.agent(0);
    assert_eq!(agent.errno(&read).expect("read"), 0);
    assert_eq!(agent.errno(&open).expect("open"), EPERM);
    assert_eq!(agent.errno(&clone).expect("clone"), EPERM);
    assert_eq!(
        agent
            .errno("os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)")
            .expect("fork"),
        0
    );
    scene.told("cgroup", "file_open");
    scene.told("cgroup", "clone");
}

#[test]
fn processes_of_others_are_out_of_reach() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let attach = |pid: &str| {
        format!(
            "checked(libc.ptrace(16, {pid}, 0, 0)); os.waitpid({pid}, 0x40000000); checked(libc.ptrace(17, {pid}, 0, 0))"
        )
    };
    for uid in USERS {
        let mut victim = scene.outsider(uid);
        victim
            .ask("libc.prctl(0x59616d61, -1, 0, 0, 0)")
            .expect("prctl");
        let pid = victim.pid().to_string();
        // Of root with CAP_PERFMON newer kernels (seen in 7.3) ask no security module before
        // they show environ; memory itself they do.
        let mut ways = vec![
            ("attach", attach(&pid)),
            ("mem", format!("open('/proc/{pid}/mem', 'rb').close()")),
            ("descriptors", format!("os.readlink('/proc/{pid}/fd/0')")),
        ];
        if uid != 0 {
            ways.push(("environ", format!("open('/proc/{pid}/environ').read()")));
        }
        let mut outsider = scene.outsider(uid);
        let mut agent = scene.agent(uid);
        for (way, code) in ways {
            assert_eq!(
                outsider.errno(&code).expect(way),
                0,
                "{uid}: {way} from outside"
            );
            let errno = agent.errno(&code).expect(way);
            assert!(
                [EPERM, libc::EACCES].contains(&errno),
                "{uid}: {way}: {errno}"
            );
        }
        let own = "child = os.posix_spawn('/bin/sleep', ['sleep', '60'], {})";
        agent.ask(own).expect("a child");
        assert_eq!(
            agent.errno(&attach("child")).expect("attach"),
            0,
            "{uid}: its own"
        );
        agent
            .ask("os.kill(child, 9); os.waitpid(child, 0)")
            .expect("kill");
    }
    let event = scene.told("ptrace", "ptrace_access");
    assert!(event["detail"][0].as_u64() > Some(1), "{event}");
}

#[test]
fn other_families_of_sockets_are_refused() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let mut outsider = scene.outsider(0);
    let mut agent = scene.agent(0);
    // vsock, alg, packet, netlink of netfilter and of audit, raw IPv4.
    for socket in [
        "(40, 1, 0)",
        "(38, 5, 0)",
        "(17, 3, 0)",
        "(16, 3, 12)",
        "(16, 3, 9)",
        "(2, 3, 255)",
    ] {
        let make = format!("call(SYS_socket, *{socket})");
        let outside = outsider.errno(&make).expect(socket);
        assert_ne!(outside, EPERM, "{socket} from outside");
        assert_eq!(agent.errno(&make).expect(socket), EPERM, "{socket}");
    }
    for socket in ["(1, 1, 0)", "(2, 1, 0)", "(10, 2, 0)", "(16, 3, 0)"] {
        let make = format!("os.close(call(SYS_socket, *{socket}))");
        assert_eq!(agent.errno(&make).expect(socket), 0, "{socket}");
    }
    let event = scene.told("socket_family", "socket_create");
    assert!(event["detail"][0].as_u64() > Some(1), "{event}");
}

#[test]
fn root_gets_no_bpf_and_no_mounts() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let mut outsider = scene.outsider(0);
    let mut agent = scene.agent(0);
    // BPF_PROG_GET_NEXT_ID after the last.
    let bpf =
        "attr = (ctypes.c_uint32 * 32)(0x7ffffffe); call(SYS_bpf, 11, ctypes.byref(attr), 128)";
    assert_eq!(outsider.errno(bpf).expect("bpf"), libc::ENOENT);
    assert_eq!(agent.errno(bpf).expect("bpf"), EPERM);
    let at = format!("/tmp/{}", unique::name("mounts"));
    outsider.ask(&format!("os.mkdir('{at}')")).expect("folder");
    let mount = format!("checked(libc.mount(b'none', b'{at}', b'tmpfs', 0, None))");
    let umount = format!("checked(libc.umount2(b'{at}', 2))");
    assert_eq!(agent.errno(&mount).expect("mount"), EPERM);
    assert_eq!(outsider.errno(&mount).expect("mount"), 0);
    assert_eq!(agent.errno(&umount).expect("umount"), EPERM);
    assert_eq!(
        agent
            .errno("call(SYS_pivot_root, b'/tmp', b'/tmp')")
            .expect("pivot"),
        EPERM
    );
    // A mount that is in no tree yet.
    let move_mount = format!(
        "fs = call(SYS_fsopen, b'tmpfs', 0); call(SYS_fsconfig, fs, 6, 0, 0, 0); m = call(SYS_fsmount, fs, 0, 0); call(SYS_move_mount, m, b'', -100, b'{at}', 4)"
    );
    assert_eq!(agent.errno(&move_mount).expect("move"), EPERM);
    assert_eq!(outsider.errno(&umount).expect("umount"), 0);
    scene.told("bpf", "bpf");
    for hook in ["mount", "umount", "pivot_root", "move_mount"] {
        scene.told("mount", hook);
    }
}

#[test]
fn what_is_governed_where_it_is_is_set_up_there_and_mounts_no_network() {
    let guard = CgroupGuard::new("exeat-maker").expect("cgroup");
    let name = guard.path().file_name().expect("a name").to_string_lossy();
    let matching = format!("  worker:\n    match: [{{ cgroup: \"{name}\" }}]\n");
    let policy = POLICY.replacen("  worker:\n", &matching, 1);
    assert_ne!(policy, POLICY);
    let Some(scene) = Scene::new(&policy) else {
        return;
    };
    let mut outsider = scene.outsider(0);
    let mut maker = scene.outsider(0);
    cgroup::add(guard.path(), maker.pid()).expect("move");
    wait::until("it to be governed", wait::patience(), || {
        let refused = maker.errno("socket(AF_INET, SOCK_STREAM, 262)").ok()?;
        (refused == EPERM).then_some(())
    })
    .expect("adopted");
    let at = format!("/tmp/{}", unique::name("maker"));
    outsider.ask(&format!("os.mkdir('{at}')")).expect("folder");
    // What systemd and runtimes of containers do, from inside, before their program is there.
    let (bind, private) = (libc::MS_BIND, libc::MS_PRIVATE | libc::MS_REC);
    for does in [
        format!("checked(libc.mount(b'none', b'{at}', b'tmpfs', 0, None))"),
        format!("checked(libc.mount(None, b'{at}', None, {private}, None))"),
        format!("checked(libc.mount(b'/tmp', b'{at}', None, {bind}, None))"),
        format!("checked(libc.umount2(b'{at}', 2))"),
        format!("checked(libc.umount2(b'{at}', 2))"),
        format!(
            "open('{}/cgroup.procs', 'w').write(str(os.getpid()))",
            guard.path().display()
        ),
    ] {
        assert_eq!(maker.errno(&does).expect("made"), 0, "{does}");
    }
    let root = guard.path().parent().expect("the root");
    for refused in [
        format!("checked(libc.mount(b'203.0.113.20:/', b'{at}', b'nfs', 0, None))"),
        format!("checked(libc.mount(b'//203.0.113.20/x', b'{at}', b'cifs', 0, None))"),
        // Longer than what is compared, and begins like one that is let through.
        format!("checked(libc.mount(b'none', b'{at}', b'tmpfs-and-much-more', 0, None))"),
        format!("open('{}/cgroup.procs', 'w')", root.display()),
        format!("open('{}/cgroup.freeze', 'w')", guard.path().display()),
    ] {
        assert_eq!(maker.errno(&refused).expect("asked"), EPERM, "{refused}");
        let free = outsider.errno(&refused).expect("asked");
        assert_ne!(free, EPERM, "{refused}");
    }
    outsider.ask(&format!("os.rmdir('{at}')")).expect("removed");
    // systemd connects what a service says from the service's own cgroup; that one alone is open.
    let journal = "/run/systemd/journal";
    let make = format!("os.makedirs('{journal}', exist_ok=True)");
    outsider.ask(&make).expect("folder");
    for (name, errno) in [("stdout", 0), ("other", EPERM)] {
        let serve = format!("{name} = serve('{journal}/{name}')");
        outsider.ask(&serve).expect("served");
        let connect = format!("unix('{journal}/{name}').close()");
        wait::until(name, wait::patience(), || {
            (maker.errno(&connect).ok()? == errno).then_some(())
        })
        .expect("the journal");
    }
    scene.told("mount", "mount");
    scene.told("cgroup", "file_open");
}

#[test]
fn the_launcher_mounts_and_what_it_starts_does_not() {
    let Some(scene) = Scene::new(POLICY) else {
        return;
    };
    let daemon = &scene.stage.daemon;
    // Services of the machine are hidden by mounts; so a command that starts proves them.
    for uid in USERS {
        let output = daemon.run_as(AGENT, uid, &["/bin/true"]).expect("run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{uid}: {said}");
    }
    let output = daemon
        .run_as(AGENT, 0, &["/bin/mount", "-t", "tmpfs", "none", "/tmp"])
        .expect("run");
    assert_ne!(output.status.code(), Some(0), "root mounts");
}

#[test]
fn monitor_mode_only_reports() {
    let Some(scene) = Scene::new(&POLICY.replace("mode: enforce", "mode: monitor")) else {
        return;
    };
    let mut outsider = scene.outsider(0);
    let path = format!("/tmp/{}", unique::name("monitored"));
    outsider
        .ask(&format!("l = serve('{path}')"))
        .expect("serve");
    let mut agent = scene.agent(0);
    assert_eq!(
        agent
            .errno(&format!("unix('{path}').close()"))
            .expect("connect"),
        0
    );
    let event = scene
        .stage
        .daemon
        .event(|e| e["reason"] == "unix_socket")
        .expect("event");
    assert_eq!(
        (&event["verdict"], &event["agent"]),
        (&"would_deny".into(), &AGENT.into()),
        "{event}"
    );
}

#[test]
fn a_sandbox_of_none_has_no_walls() {
    let Some(scene) = Scene::new(&policy("    sandbox: none\n")) else {
        return;
    };
    let mut agent = scene.agent(0);
    assert_eq!(
        agent
            .errno("os.close(call(SYS_socket, 16, 3, 12))")
            .expect("netfilter"),
        0
    );
    let output = scene
        .stage
        .daemon
        .cli(&["status", "--agent", AGENT])
        .output()
        .expect("status");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("its policy says `sandbox: none`"), "{text}");
}

#[test]
fn the_walls_stand_without_the_daemon_and_over_a_restart() {
    let Some(mut scene) = Scene::new(POLICY) else {
        return;
    };
    let mut agent = scene.agent(0);
    let socket = "call(SYS_socket, 16, 3, 12)";
    assert_eq!(agent.errno(socket).expect("socket"), EPERM);
    scene.stage.daemon.kill9().expect("kill");
    assert_eq!(
        agent.errno(socket).expect("socket"),
        EPERM,
        "without the daemon"
    );
    // The puppet asks all the while that the new daemon puts up its walls in place of the old.
    agent
        .ask(
            "count = 0\n\
             def again():\n\
             \x20   global count\n\
             \x20   while running:\n\
             \x20       try: os.close(call(SYS_socket, 16, 3, 12)); count += 1\n\
             \x20       except OSError: time.sleep(0.001)\n\
             running = True\n\
             thread = threading.Thread(target=again); thread.start()",
        )
        .expect("a thread");
    scene.stage.daemon.restart().expect("restart");
    let made = agent.value("running = False; thread.join(); count");
    let made = made.or_else(|_| agent.value("count")).expect("count");
    assert_eq!(made, 0, "sockets that were made meanwhile");
    assert_eq!(
        agent.errno(socket).expect("socket"),
        EPERM,
        "after the restart"
    );
    let status = scene.stage.daemon.status().expect("status");
    assert_eq!(state(&status, "lsm_families").0, "up");
    drop(scene.holder);
}
