//! `exeat run` is as good as no `exeat run` for the program that it starts, and leads into
//! the policy without a gap.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::pty::Pty;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::{programs, wait};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn stage() -> Stage {
    Stage::new(POLICY, "").expect("stage")
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

fn command(stage: &Stage, argv: &[&str]) -> Command {
    let mut command = stage.daemon.run_command(AGENT, PLAIN_USER, &words(argv));
    // A folder of the PATH that the user may not read would be EACCES, and thus 126.
    command.stdin(Stdio::null()).env("PATH", "/usr/bin:/bin");
    command
}

fn run(stage: &Stage, argv: &[&str]) -> Output {
    command(stage, argv).output().expect("run")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_shell_at_a_terminal_has_its_job_control() {
    let stage = stage();
    let mut shell = stage.daemon.run_command(
        AGENT,
        PLAIN_USER,
        &words(&["/bin/bash", "--norc", "--noprofile", "-i"]),
    );
    shell.env("PS1", "ready> ").env("TERM", "dumb");
    let mut pty = Pty::start(shell).expect("terminal");
    pty.until("ready> ").expect("prompt");
    // What is typed is echoed, so what is waited for must not stand in what is typed.
    pty.keys("tty; echo pid=$$ user=$(id -u)\n").expect("type");
    pty.until("/dev/pts/").expect("the terminal's name");
    pty.until(&format!("pid={} user={PLAIN_USER}", pty.pid()))
        .expect("the process that was started is the shell");
    pty.until("ready> ").expect("prompt");

    pty.keys("sleep 1000\n").expect("type");
    // Not the shell's child before it executes: that one still has the shell's handlers.
    let sleeps = |pty: &Pty| {
        let leader = pty.foreground().unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{leader}/comm")).is_ok_and(|c| c == "sleep\n")
    };
    wait::until("the program in the foreground", wait::patience(), || {
        sleeps(&pty).then_some(())
    })
    .expect("foreground");
    pty.keys("\x03").expect("Ctrl-C");
    pty.until("ready> ").expect("prompt");
    pty.keys("echo code=$?\n").expect("type");
    pty.until("code=130").expect("killed by Ctrl-C");

    pty.keys("sleep 1000\n").expect("type");
    wait::until("the program in the foreground", wait::patience(), || {
        sleeps(&pty).then_some(())
    })
    .expect("foreground");
    pty.keys("\x1a").expect("Ctrl-Z");
    pty.until("Stopped").expect("stopped");
    pty.until("ready> ").expect("prompt");
    pty.keys("fg\n").expect("type");
    pty.until("sleep 1000").expect("continued");
    wait::until("the program in the foreground", wait::patience(), || {
        sleeps(&pty).then_some(())
    })
    .expect("foreground");
    pty.keys("\x03").expect("Ctrl-C");
    pty.until("ready> ").expect("prompt");
    pty.keys("exit 42\n").expect("type");
    assert_eq!(pty.end().expect("end").code(), Some(42));
}

#[test]
fn signals_of_the_terminal_reach_a_program_that_is_not_a_shell() {
    let stage = stage();
    let cat = stage
        .daemon
        .run_command(AGENT, PLAIN_USER, &words(&["cat"]));
    let mut pty = Pty::start(cat).expect("terminal");
    pty.keys("echoed\n").expect("type");
    // Once by the terminal, once by the program.
    pty.until("echoed").expect("typed");
    pty.until("echoed").expect("echoed");
    pty.keys("\x03").expect("Ctrl-C");
    assert_eq!(pty.end().expect("end").signal(), Some(libc::SIGINT));
}

#[test]
fn the_outcome_is_that_of_the_program() {
    let stage = stage();
    for code in [0, 1, 42, 255] {
        let output = run(&stage, &["sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stderr.is_empty(), "{}", stderr(&output));
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGINT, libc::SIGPIPE] {
        let output = run(&stage, &["sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status.signal(), Some(signal));
    }
    // SIGPIPE kills, as it does a program that no Rust program has started.
    let output = run(&stage, &["bash", "-c", "set -o pipefail; yes | head -1"]);
    assert_eq!(output.status.code(), Some(128 + libc::SIGPIPE));
    let output = run(&stage, &["no-such-program-anywhere"]);
    assert_eq!(output.status.code(), Some(127), "{}", stderr(&output));
    assert!(stderr(&output).contains("no-such-program-anywhere"));
    for path in ["/etc/passwd", "/"] {
        let output = run(&stage, &[path]);
        assert_eq!(output.status.code(), Some(126), "{}", stderr(&output));
        assert!(stderr(&output).contains(path));
    }
}

#[test]
fn what_a_program_inherits_is_kept() {
    let stage = stage();
    let script = "pwd; id -u; id -g; id -G; umask; printenv MARK; cat; echo $0 \"$@\"; ulimit -n; ps -o ni= -p $$ || true";
    let mut command = stage.daemon.run_command(
        AGENT,
        PLAIN_USER,
        &words(&["sh", "-c", script, "name", "two words", "", "-x", "--"]),
    );
    command
        .env("MARK", "kept as it is")
        .stdin(std::fs::File::open("/etc/hostname").expect("file"))
        .stdout(Stdio::piped());
    let folder = stage.world.folder().to_owned();
    let limit = move || -> std::io::Result<()> {
        // Here and not by `current_dir`, because entering the laptop's mounts resets it.
        nix::unistd::chdir(folder.as_path())?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 333, 333)?;
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(limit) };
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let host = std::fs::read_to_string("/etc/hostname").expect("hostname");
    let user = PLAIN_USER.to_string();
    let folder = stage.world.folder().display().to_string();
    assert_eq!(
        &lines[..9],
        [
            folder.as_str(),
            &user,
            &user,
            &user,
            "0027",
            "kept as it is",
            host.trim_end(),
            "name two words  -x --",
            "333",
        ],
        "{said}"
    );
}

#[test]
fn descriptors_beyond_the_standard_ones_are_closed() {
    let stage = stage();
    let file = std::fs::File::open("/etc/hostname").expect("file");
    let socket = stage
        .world
        .laptop
        .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?))
        .expect("socket");
    let ring = io_uring::IoUring::new(4).expect("io_uring");
    let fds = [file.as_raw_fd(), socket.as_raw_fd(), ring.as_raw_fd()];
    let mut command = command(&stage, &["ls", "/proc/self/fd"]);
    let leave_open = move || -> std::io::Result<()> {
        for (fd, number) in fds.into_iter().zip([200, 201, 202]) {
            // SAFETY: plain system call; the copy is not closed by exec.
            if unsafe { libc::dup2(fd, number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(leave_open) };
    let output = command.output().expect("run");
    // 3 is the folder that ls reads.
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0\n1\n2\n3\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_socket_of_the_network_as_a_standard_stream_is_refused() {
    let stage = stage();
    let sink = stage.world.tcp_sink("203.0.113.66:80").expect("sink");
    for stream in 0..3 {
        let open = stage
            .world
            .laptop
            .run(|| Ok(std::net::TcpStream::connect("203.0.113.66:80")?))
            .expect("connect");
        let fd = OwnedFd::from(open);
        let mut command = command(&stage, &["echo", "ran"]);
        match stream {
            0 => command.stdin(Stdio::from(fd)),
            1 => command.stdout(Stdio::from(fd)),
            _ => command.stderr(Stdio::from(fd)),
        };
        if stream > 0 {
            command.stdin(Stdio::null());
        }
        let output = command.output().expect("run");
        assert_eq!(output.status.code(), Some(125), "descriptor {stream}");
        assert!(output.stdout.is_empty(), "descriptor {stream}: it ran");
        if stream < 2 {
            let said = stderr(&output);
            assert!(said.contains("network socket"), "{said}");
            assert!(said.contains(&format!("descriptor {stream}")), "{said}");
        }
    }
    // A socket between two programs of this machine is no way out.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    let mut command = command(&stage, &["cat"]);
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    std::io::Write::write_all(&mut &ours, b"through").expect("write");
    drop(ours);
    assert_eq!(command.output().expect("run").stdout, b"through");
    assert!(!sink.holds("ran"));
}

#[test]
fn a_set_user_id_program_gains_nothing() {
    let stage = stage();
    let copy = stage.world.folder().join("id");
    programs::copy(Path::new("/usr/bin/id"), &copy, 0o4755).expect("copy");
    let path = copy.to_str().expect("path");
    let free = stage
        .world
        .laptop
        .command_as(PLAIN_USER, path)
        .arg("-u")
        .output()
        .expect("run");
    assert_eq!(free.stdout, b"0\n", "the bit works without Exeat");
    let confined = run(&stage, &[path, "-u"]);
    assert_eq!(confined.stdout, format!("{PLAIN_USER}\n").as_bytes());
}

#[test]
fn two_runs_of_an_agent_are_apart_and_the_cgroup_goes_with_the_last() {
    let stage = stage();
    let folder = stage.daemon.slice().expect("slice").join(AGENT);
    let mut first = stage.daemon.puppet(AGENT).expect("puppet");
    let mut second = stage.daemon.puppet(AGENT).expect("puppet");
    let runs = || {
        let status = stage.daemon.status().expect("status");
        status["agents"][0]["runs"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(runs(), 2);
    let cgroup = "open('/proc/self/cgroup').read()";
    assert_ne!(
        first.value(cgroup).expect("cgroup"),
        second.value(cgroup).expect("cgroup")
    );
    // A child that outlives the run's first process is still the agent's.
    first
        .value("child = os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '1000')")
        .expect("child");
    let child = first.value("child").expect("child").as_u64().expect("pid");
    drop(first);
    drop(second);
    wait::until("one run", wait::patience(), || (runs() == 1).then_some(())).expect("runs");
    assert!(folder.exists());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("kill the child");
    wait::until("the cgroup to go", wait::patience(), || {
        (!folder.exists()).then_some(())
    })
    .expect("collected");
    assert_eq!(
        run(&stage, &["true"]).status.code(),
        Some(0),
        "and it comes back"
    );
}

#[test]
fn what_cannot_be_enforced_does_not_run() {
    let mut stage = stage();
    let output = stage
        .daemon
        .run_as("somebody", PLAIN_USER, &["echo", "ran"])
        .expect("run");
    assert_eq!(output.status.code(), Some(125));
    let said = stderr(&output);
    assert!(said.contains("somebody") && said.contains(AGENT), "{said}");
    assert!(output.stdout.is_empty());

    stage.daemon.stop().expect("stop");
    let output = run(&stage, &["echo", "ran"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    let said = stderr(&output);
    assert!(said.contains("the daemon is not running"), "{said}");
    assert!(said.contains("--policy"), "{said}");
}

#[test]
fn without_a_wall_nothing_starts_and_the_daemon_puts_it_back() {
    let stage = stage();
    let links = stage.daemon.bpffs().join("links");
    let pin = std::fs::read_dir(&links)
        .expect("links")
        .next()
        .expect("a link")
        .expect("entry")
        .path();
    let before = stage.daemon.links().expect("links")[&pin];
    std::fs::remove_file(&pin).expect("remove");
    // Either the run is refused, or the wall was back before it was asked for.
    let output = run(&stage, &["echo", "ran"]);
    if output.status.code() == Some(0) {
        assert_ne!(stage.daemon.links().expect("links")[&pin], before);
    } else {
        assert_eq!(output.status.code(), Some(125));
        assert!(
            stderr(&output).contains("is not attached"),
            "{}",
            stderr(&output)
        );
    }
    wait::until("the wall to be back", wait::patience(), || {
        let status = stage.daemon.status().ok()?;
        (status["enforcement"]["active"] == true).then_some(())
    })
    .expect("mended");
    assert_ne!(stage.daemon.links().expect("links")[&pin], before);
    assert_eq!(run(&stage, &["true"]).status.code(), Some(0));
}

#[test]
fn standard_input_ends_when_the_writer_does() {
    let stage = stage();
    let (read, mut write) = std::io::pipe().expect("pipe");
    let mut command = command(&stage, &["wc", "-c"]);
    let child = command
        .stdin(Stdio::from(read))
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    drop(command);
    std::io::Write::write_all(&mut write, &[b'x'; 100_000]).expect("write");
    drop(write);
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.stdout, b"100000\n");
}

#[test]
fn eighty_runs_side_by_side_are_all_confined() {
    let stage = stage();
    let script = "exec 3<>/dev/tcp/203.0.113.20/80";
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let output = run(&stage, &["bash", "-c", script]);
                    let said = stderr(&output);
                    assert_eq!(output.status.code(), Some(1), "{said}");
                    assert!(said.contains("Operation not permitted"), "{said}");
                }
            });
        }
    });
    assert!(stage.forbidden(|_| false).expect("settle").is_empty());
    let blocked = stage.daemon.metric(
        "exeat_flows_blocked_total",
        &["agent=\"worker\"", "reason=\"no_rule\"", "protocol=\"tcp\""],
    );
    assert_eq!(blocked.expect("metrics"), 80.0);
    let launches = stage
        .daemon
        .metric("exeat_sandbox_launches_total", &["outcome=\"ok\""]);
    assert_eq!(launches.expect("metrics"), 80.0);
    let folder = stage.daemon.slice().expect("slice").join(AGENT);
    wait::until("every cgroup to go", wait::patience(), || {
        (!folder.exists()).then_some(())
    })
    .expect("collected");
}

#[test]
fn an_event_names_the_program_and_who_started_it() {
    let stage = stage();
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    assert_eq!(
        agent.errno("tcp('203.0.113.20', 80)").expect("ask"),
        libc::EPERM
    );
    let event = stage
        .daemon
        .event(|e| e["dest"]["ip"] == "203.0.113.20")
        .expect("event");
    let process = &event["process"];
    let path = |path: std::path::PathBuf| path.display().to_string();
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python");
    let this = std::env::current_exe().expect("this test");
    assert_eq!(process["pid"], agent.pid(), "{event}");
    assert_eq!(process["exe"], path(python), "{event}");
    assert_eq!(process["ppid"], std::process::id(), "{event}");
    assert_eq!(process["parent_exe"], path(this), "{event}");
    let cgroup = std::fs::metadata(
        stage
            .daemon
            .slice()
            .expect("slice")
            .join(AGENT)
            .join("run-0"),
    );
    let id = std::os::unix::fs::MetadataExt::ino(&cgroup.expect("cgroup"));
    assert_eq!(event["cgroup"], id, "{event}");
}
