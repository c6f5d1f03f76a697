//! D-Bus for an agent: what its policy names can be called, and nothing else.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A dbus-daemon in a folder of the test, as a user of the system that has no session: the
/// bus serves only users that it finds in the user database. Each test has another.
struct Bus {
    dir: TempDir,
    uid: u32,
    daemon: Child,
}

impl Bus {
    fn new(uid: u32) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let services = dir.path().join("services");
        fs::create_dir(&services).expect("folder");
        // Each leaves a trace when it is started.
        for name in [
            "org.example.Started",
            "org.example.Other",
            "org.freedesktop.systemd1",
        ] {
            let trace = dir.path().join("traces").join(name);
            let service = format!(
                "[D-BUS Service]\nName={name}\nExec=/usr/bin/touch {}\n",
                trace.display()
            );
            fs::write(services.join(format!("{name}.service")), service).expect("service");
        }
        for folder in [dir.path().join("traces"), run_folder(uid)] {
            fs::create_dir_all(&folder).expect("folder");
            chown(&folder, Some(uid), Some(uid)).expect("chown");
        }
        fs::set_permissions(run_folder(uid), fs::Permissions::from_mode(0o700)).expect("mode");
        let socket = dir.path().join("traces/bus");
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <servicedir>{}</servicedir><policy context=\"default\">\
             <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
             <allow own=\"*\"/></policy></busconfig>",
            socket.display(),
            services.display()
        );
        fs::write(&config, text).expect("configuration");
        let mut command = Command::new("dbus-daemon");
        command
            .arg("--nofork")
            .arg(format!("--config-file={}", config.display()))
            .uid(uid)
            .gid(uid);
        let daemon = command
            .spawn()
            .expect("dbus-daemon: install the package dbus");
        let bus = Self { dir, uid, daemon };
        wait::until("the bus listens", Duration::from_secs(10), || {
            socket.exists().then_some(())
        })
        .expect("in time");
        bus
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("traces/bus").display())
    }

    /// A service on the bus that has a name and answers Peer.Ping.
    fn service(&self, name: &str) -> Service {
        let code = "\
import os, socket, struct, sys
path, name = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.connect(path)
s.sendall(b'\\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\\r\\n')
assert s.recv(4096).startswith(b'OK')
s.sendall(b'BEGIN\\r\\n')
serial = 0
def pad(b, n): return b + b'\\0' * (-len(b) % n)
def text(t): t = t.encode(); return struct.pack('<I', len(t)) + t + b'\\0'
def send(kind, fields, body=b''):
    global serial
    serial += 1
    head = b''
    for code, sig, value in fields:
        head = pad(head, 8) + bytes([code, len(sig)]) + sig.encode() + b'\\0'
        head = pad(head, 4) + value if sig != 'g' else head + value
    s.sendall(pad(b'l' + bytes([kind, 0, 1]) + struct.pack('<III', len(body), serial, len(head)) + head, 8) + body)
D = 'org.freedesktop.DBus'
def call(member, body=b'', sig=None):
    f = [(1, 'o', text('/org/freedesktop/DBus')), (2, 's', text(D)), (3, 's', text(member)), (6, 's', text(D))]
    if sig: f.append((8, 'g', bytes([len(sig)]) + sig.encode() + b'\\0'))
    send(1, f, body)
call('Hello')
call('RequestName', pad(text(name), 4) + struct.pack('<I', 0), 'su')
data, replies = b'', 0
while True:
    more = s.recv(65536)
    if not more: break
    data += more
    while len(data) >= 16:
        size, number, fields = struct.unpack('<III', data[4:16])
        whole = 16 + (fields + 7) // 8 * 8 + size
        if len(data) < whole: break
        message, data = data[:whole], data[whole:]
        if message[1] == 2:
            replies += 1
            if replies == 2: print('ready', flush=True)
        if message[1] == 1:
            at = message.index(b'\\x07\\x01s\\0') + 4
            length = struct.unpack('<I', message[at:at+4])[0]
            sender = message[at+4:at+4+length].decode()
            send(2, [(5, 'u', struct.pack('<I', number)), (6, 's', text(sender))])
";
        let mut command = Command::new("python3");
        command
            .args(["-c", code])
            .arg(self.dir.path().join("traces/bus"))
            .arg(name)
            .stdout(Stdio::piped())
            .uid(self.uid)
            .gid(self.uid);
        let mut child = command.spawn().expect("python3");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("output"));
        out.read_line(&mut line).expect("line");
        assert_eq!(line, "ready\n");
        Service(child)
    }

    fn broker(&self, words: &[&str]) -> Broker {
        let mut child = self.start(words);
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("output"));
        out.read_line(&mut line).expect("line");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        Broker { child, told }
    }

    fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
        command
            .args(words)
            .env("DBUS_SESSION_BUS_ADDRESS", self.address())
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.address())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .uid(self.uid)
            .gid(self.uid);
        command.spawn().expect("start")
    }

    /// Calls a method at a bus.
    fn call(&self, socket: &str, name: &str, path: &str, method: &str, words: &[&str]) -> Output {
        let mut command = Command::new("dbus-send");
        command
            .arg(format!("--bus=unix:path={socket}"))
            .args(["--print-reply", "--reply-timeout=5000"])
            .arg(format!("--dest={name}"))
            .args([path, method])
            .args(words)
            .uid(self.uid)
            .gid(self.uid);
        command
            .output()
            .expect("dbus-send: install the package dbus")
    }

    fn ping(&self, socket: &str, name: &str) -> Output {
        self.call(socket, name, "/", "org.freedesktop.DBus.Peer.Ping", &[])
    }

    fn was_started(&self, name: &str) -> bool {
        self.dir.path().join("traces").join(name).exists()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = fs::remove_dir_all(run_folder(self.uid));
    }
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Broker {
    child: Child,
    told: Value,
}

impl Broker {
    fn socket(&self, number: usize) -> &str {
        self.told["sockets"][number][0].as_str().expect("socket")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_folder(uid: u32) -> PathBuf {
    format!("/run/user/{uid}").into()
}

#[test]
fn what_is_named_can_be_called_and_nothing_else() {
    let bus = Bus::new(1);
    let _named = bus.service("org.example.Named");
    let _other = bus.service("org.example.Hidden");
    let direct = bus.dir.path().join("traces/bus");
    let direct = direct.to_str().expect("path");
    for name in ["org.example.Named", "org.example.Hidden"] {
        let output = bus.ping(direct, name);
        assert!(output.status.success(), "without a filter: {output:?}");
    }
    let broker = bus.broker(&[
        "org.example.Named",
        "org.example.Started",
        "--",
        "org.example.Named",
    ]);
    let inside = format!("unix:path=/run/user/{}/bus", bus.uid);
    let system = "unix:path=/run/dbus/system_bus_socket";
    assert_eq!(
        broker.told["variables"],
        serde_json::json!([
            ["DBUS_SESSION_BUS_ADDRESS", inside],
            ["DBUS_SYSTEM_BUS_ADDRESS", system]
        ])
    );
    for socket in [broker.socket(0), broker.socket(1)] {
        let folder = fs::metadata(PathBuf::from(socket).parent().expect("folder")).expect("folder");
        assert_eq!((folder.mode() & 0o777, folder.uid()), (0o700, bus.uid));
        let output = bus.ping(socket, "org.example.Named");
        assert!(output.status.success(), "{output:?}");
        for name in [
            "org.example.Hidden",
            "org.example.Other",
            "org.freedesktop.systemd1",
        ] {
            let output = bus.ping(socket, name);
            assert!(!output.status.success(), "{name}: {output:?}");
            let start = ["string:".to_owned() + name, "uint32:0".to_owned()];
            let start: Vec<&str> = start.iter().map(String::as_str).collect();
            let output = bus.call(
                socket,
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus.StartServiceByName",
                &start,
            );
            assert!(!output.status.success(), "{name}: {output:?}");
            assert!(!bus.was_started(name), "{name}");
        }
        // Nor is it seen that they are there.
        let output = bus.call(
            socket,
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.ListNames",
            &[],
        );
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(names.contains("org.example.Named"), "{names}");
        assert!(!names.contains("org.example.Hidden"), "{names}");
    }
    // What is named may be started; it ends at once here, which is no answer.
    bus.ping(broker.socket(0), "org.example.Started");
    assert!(bus.was_started("org.example.Started"));
    // The same without the filter, so that the above could have failed.
    bus.ping(direct, "org.example.Other");
    assert!(bus.was_started("org.example.Other"));
}

#[test]
fn it_ends_with_the_process_that_asked() {
    let bus = Bus::new(2);
    let mut broker = bus.broker(&["org.example.Named"]);
    let socket = PathBuf::from(broker.socket(0));
    assert!(socket.exists());
    // Killed: nothing of it could say goodbye.
    broker.child.kill().expect("kill");
    broker.child.wait().expect("wait");
    let folder = socket.parent().expect("folder").to_owned();
    wait::until("the sockets are gone", Duration::from_secs(10), || {
        (!folder.exists()).then_some(())
    })
    .expect("in time");
    wait::until("the proxy is gone", Duration::from_secs(10), || {
        (processes_of(bus.uid, "xdg-dbus-proxy") == 0).then_some(())
    })
    .expect("in time");
}

#[test]
fn who_needs_no_bus_leaves_no_process_behind() {
    let bus = Bus::new(3);
    let mut child = bus.start(&[]);
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("output"));
    out.read_line(&mut line).expect("line");
    assert_eq!(line, "none\n");
    wait::until("the helper is gone", Duration::from_secs(10), || {
        (processes_of(bus.uid, "broker") == 1).then_some(())
    })
    .expect("in time");
    drop(child.stdin.take());
    child.wait().expect("wait");
}

#[test]
fn without_the_proxy_it_is_a_refusal_that_says_what_to_install() {
    let bus = Bus::new(4);
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    let output = command
        .arg("org.example.Named")
        .env("PATH", "/nonexistent")
        .stdin(Stdio::null())
        .uid(bus.uid)
        .gid(bus.uid)
        .output()
        .expect("start");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{output:?}");
    assert!(
        said.contains("install the package xdg-dbus-proxy"),
        "{said}"
    );
    let left = fs::read_dir(run_folder(bus.uid)).expect("folder").count();
    assert_eq!(left, 0);
}

#[test]
fn an_agent_calls_what_its_policy_names() {
    let bus = Bus::new(PLAIN_USER);
    let _named = bus.service("org.example.Named");
    let _other = bus.service("org.example.Hidden");
    let policy = format!("{POLICY}    sandbox: {{dbus: {{session: [org.example.Named]}}}}\n");
    let stage = Stage::new(&policy, "sandbox: true\n").expect("stage");
    let command = |script: &str| {
        let words = ["sh", "-c", script].map(str::to_owned);
        let mut command = stage.daemon.run_command(AGENT, bus.uid, &words);
        command
            .env("DBUS_SESSION_BUS_ADDRESS", bus.address())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let run = |script: &str| command(script).output().expect("run");
    let ping = |bus: &str, name: &str| {
        run(&format!(
            "dbus-send --{bus} --print-reply --dest={name} / org.freedesktop.DBus.Peer.Ping"
        ))
    };
    let output = ping("session", "org.example.Named");
    assert!(output.status.success(), "{output:?}");
    for (at, name) in [
        ("session", "org.example.Hidden"),
        ("session", "org.example.Other"),
        ("session", "org.freedesktop.systemd1"),
        ("system", "org.example.Named"),
    ] {
        let output = ping(at, name);
        assert!(!output.status.success(), "{at}: {output:?}");
        assert!(!bus.was_started(name), "{name}");
    }
    // The bus itself is not in sight.
    let direct = bus.dir.path().join("traces/bus");
    let output = run(&format!("test ! -e {}", direct.display()));
    assert!(output.status.success(), "{output:?}");
    // The proxy is of the caller's cgroup and not of the agent's.
    let mut child = command("echo started; cat").spawn().expect("run");
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("output"));
    out.read_line(&mut line).expect("line");
    let cgroup = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    let proxies = of(bus.uid, "xdg-dbus-proxy");
    assert_eq!(proxies.len(), 1);
    assert_eq!(cgroup(&proxies[0].to_string()), cgroup("self"));
    let agents = of(bus.uid, "sh");
    assert_ne!(cgroup(&agents[0].to_string()), cgroup("self"));
    drop(child.stdin.take());
    assert!(child.wait().expect("wait").success());
    wait::until("the proxy is gone", Duration::from_secs(10), || {
        let left = fs::read_dir(run_folder(bus.uid)).expect("folder").count();
        (processes_of(bus.uid, "xdg-dbus-proxy") + left == 0).then_some(())
    })
    .expect("in time");
}

/// Process ids of a user's processes of this name.
fn of(uid: u32, name: &str) -> Vec<i32> {
    procfs::process::all_processes()
        .expect("processes")
        .filter_map(Result::ok)
        .filter(|process| process.uid().is_ok_and(|owner| owner == uid))
        .filter(|process| {
            process
                .stat()
                .is_ok_and(|stat| stat.comm == name && stat.state != 'Z')
        })
        .map(|process| process.pid)
        .collect()
}

/// How many processes of a user have this name.
fn processes_of(uid: u32, name: &str) -> usize {
    of(uid, name).len()
}
