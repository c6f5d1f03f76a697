//! A laptop with an agent in the sandbox, its project, and a host that it may reach.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::Daemon;
use exeat_tests::dns::DnsHost;
use exeat_tests::http::{Authority, HttpHost};
use exeat_tests::sniff::Sniffer;
use exeat_tests::stage::is_forbidden;
use exeat_tests::world::{World, open_to_all};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What the agent may reach.
pub(crate) const HOST: &str = "registry.example";
/// Its address.
pub(crate) const HOST_V4: &str = "203.0.113.30";
/// The agent.
const AGENT: &str = "worker";

/// Fields are dropped in this order: the daemon must go before its network does.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) dns: DnsHost,
    pub(crate) hosts: Vec<HttpHost>,
    pub(crate) authority: Authority,
    /// The folder that the hosts serve.
    pub(crate) served: PathBuf,
    /// The folder that the agent works in; its certificate authority is in `ca.pem`.
    pub(crate) project: PathBuf,
    home: PathBuf,
    /// Whom the agent runs as.
    user: u32,
    sniffer: Sniffer,
    pub(crate) world: World,
}

impl Scene {
    /// `more` are lines of the agent's policy besides its one rule.
    pub(crate) fn new(more: &str) -> Self {
        Self::of(PLAIN_USER, more)
    }

    /// The same for another user.
    pub(crate) fn of(user: u32, more: &str) -> Self {
        let world = World::new().expect("world");
        let sniffer = world.sniffer().expect("sniffer");
        let dns = world.dns().expect("name server");
        dns.set(HOST, &[HOST_V4], 600);
        dns.set("other.example", &["203.0.113.20"], 600);
        let authority = Authority::new().expect("authority");
        let served = world.folder().join("served");
        std::fs::create_dir(&served).expect("mkdir");
        let address = |port: u16| format!("{HOST_V4}:{port}").parse().expect("address");
        let tls = authority.server(&[HOST]).expect("certificate");
        let host = |port, tls| HttpHost::files(&world.internet, address(port), tls, &served);
        let hosts = vec![
            host(443, Some(tls)).expect("https"),
            host(80, None).expect("http"),
        ];
        let policy = format!(
            "version: 1\nagents:\n  {AGENT}:\n    allow:\n      - {{ host: {HOST}, ports: [443, 80, 22] }}\n{more}"
        );
        let daemon = Daemon::start_with(&world, &policy, "sandbox: true\n").expect("daemon");
        let [project, home] = ["project", "home"].map(|name| {
            let folder = world.folder().join(name);
            std::fs::create_dir(&folder).expect("mkdir");
            give(&folder, user);
            folder
        });
        let scene = Self {
            daemon,
            dns,
            hosts,
            authority,
            served,
            project,
            home,
            user,
            sniffer,
            world,
        };
        scene.put("ca.pem", scene.authority.pem());
        scene
    }

    /// A file of the project.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.project.join(name);
        let folder = path.parent().expect("a folder");
        std::fs::create_dir_all(folder).expect("mkdir");
        give(folder, self.user);
        std::fs::write(&path, text).expect("write");
        give(&path, self.user);
    }

    /// What a file of the project holds.
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.project.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A file that the hosts serve.
    pub(crate) fn serve(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.served.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        std::fs::write(path, bytes).expect("write");
    }

    /// A command of the agent's, in its project.
    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let run = self.daemon.run_command(AGENT, self.user, &argv);
        // Entering the laptop's mount namespace leads to its root.
        let mut command = self.world.laptop.command_as(self.user, "/bin/sh");
        command
            .args(["-c", "cd \"$0\" && exec \"$@\""])
            .arg(&self.project)
            .arg(run.get_program())
            .args(run.get_args())
            .envs(
                run.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("HOME", &self.home);
        // Whoever runs the tests may have told programs things of their own.
        for (name, _) in std::env::vars() {
            let told = ["CARGO", "RUST", "PYENV", "npm_", "NPM_", "GIT_", "PIP_"];
            if told.iter().any(|start| name.starts_with(start)) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a shell's words as the agent, which must succeed; gives what was said.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let said = said(&output);
        assert!(
            output.status.success(),
            "{script}: {}\n{said}",
            output.status
        );
        said
    }

    /// Runs a shell's words as the agent.
    pub(crate) fn try_sh(&self, script: &str) -> Output {
        let mut command = self.command(&["/bin/sh", "-ec", script]);
        command.stdin(Stdio::null()).output().expect("exeat run")
    }

    /// Nothing left the laptop for anybody but the host.
    pub(crate) fn nothing_else_was_reached(&self) {
        self.nothing_was_reached_but(&[HOST_V4.parse().expect("address")]);
    }

    /// Nothing left the laptop for anybody but these.
    pub(crate) fn nothing_was_reached_but(&self, hosts: &[IpAddr]) {
        self.world.settle(&self.sniffer).expect("settle");
        let leaks = self.sniffer.packets(|packet| {
            is_forbidden(packet) && !packet.ends.is_some_and(|(_, to)| hosts.contains(&to))
        });
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

/// What a program said, both ways.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    format!("{out}{err}")
}

/// Makes a file or folder a user's.
pub(crate) fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("chown");
}

/// Lets everybody read a folder with all that is in it.
pub(crate) fn open_tree(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("list") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => open_tree(&path),
            false => {
                let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
                let mode = std::fs::Permissions::from_mode(mode | 0o444);
                std::fs::set_permissions(&path, mode).expect("chmod");
            }
        }
    }
    open_to_all(folder).expect("chmod");
}

/// Runs a helper of the test's outside of the sandbox.
pub(crate) fn outside(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("start");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}
