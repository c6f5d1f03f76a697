//! One host of files, one agent that may ask it, and the folders that the agent works in.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::Daemon;
use exeat_tests::dns::DnsHost;
use exeat_tests::files::FileHost;
use exeat_tests::http::Authority;
use exeat_tests::world::{World, open_to_all};
use nix::unistd::{Gid, Uid, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The host that the agent may ask.
pub(crate) const HOST: &str = "index.example";
/// Its address.
pub(crate) const ADDRESS: &str = "203.0.113.70";
/// Another that exists, and that it may not.
pub(crate) const OTHER: &str = "elsewhere.example";
const OTHER_ADDRESS: &str = "203.0.113.71";

const AGENT: &str = "worker";

/// Fields are dropped in this order: the daemon must go before its network does.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) files: FileHost,
    /// Nobody may ask this one.
    pub(crate) other: FileHost,
    _dns: DnsHost,
    /// The certificate of the host's authority.
    pub(crate) authority: PathBuf,
    /// The folder of the work, which the agent may change.
    pub(crate) project: PathBuf,
    /// What is the person's, and nobody named to the agent.
    pub(crate) secret: PathBuf,
    home: PathBuf,
    uid: u32,
    pub(crate) world: World,
}

impl Scene {
    /// As an ordinary user.
    pub(crate) fn new() -> Self {
        Self::of(PLAIN_USER, "")
    }

    /// As a user, with more lines of `sandbox:`.
    pub(crate) fn of(uid: u32, more: &str) -> Self {
        let world = World::new().expect("world");
        let dns = world.dns().expect("dns");
        dns.set(HOST, &[ADDRESS], 600);
        dns.set(OTHER, &[OTHER_ADDRESS], 600);
        let authority = Authority::new().expect("authority");
        let host = |address: &str, name: &str| {
            let address = format!("{address}:443").parse().expect("address");
            FileHost::start(&world.internet, address, &authority, name).expect("host")
        };
        let (files, other) = (host(ADDRESS, HOST), host(OTHER_ADDRESS, OTHER));
        other.put("/", "reached\n");
        let folder = |name: &str| {
            let path = world.folder().join(name);
            std::fs::create_dir(&path).expect("folder");
            open_to_all(&path).expect("chmod");
            chown(&path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).expect("chown");
            path
        };
        let (project, home) = (folder("project"), folder("home"));
        let secret = home.join("secret");
        std::fs::write(&secret, "a secret\n").expect("secret");
        open_to_all(&secret).expect("chmod");
        let authority = authority.write(world.folder()).expect("authority");
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
        let clients = clients.canonicalize().unwrap_or_default();
        let read = [authority.as_path(), &clients].map(|path| format!("{path:?}"));
        let read: Vec<String> = read.into_iter().filter(|path| path != "\"\"").collect();
        // What browsers put into every hello.
        let ech = match more.contains("user_namespaces") {
            true => ", ech: keep",
            false => "",
        };
        let policy = format!(
            "version: 1\nagents:\n  {AGENT}:\n    allow:\n\
             \x20     - {{ host: {HOST}, ports: [22, 443]{ech} }}\n\
             \x20   sandbox:\n      read: [{}]\n{more}",
            read.join(", ")
        );
        let daemon = Daemon::start_with(&world, &policy, "sandbox: true\n").expect("daemon");
        Self {
            daemon,
            files,
            other,
            _dns: dns,
            authority,
            project,
            secret,
            home,
            uid,
            world,
        }
    }

    /// A folder outside of the agent's, where a test makes what the host serves.
    pub(crate) fn workshop(&self) -> PathBuf {
        let path = self.world.folder().join("workshop");
        std::fs::create_dir_all(&path).expect("folder");
        path
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.project.join(name);
        let folder = path.parent().expect("folder");
        std::fs::create_dir_all(folder).expect("folder");
        std::fs::write(&path, text).expect("write");
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        for path in [folder, &path] {
            chown(path, Some(user), Some(group)).expect("chown");
        }
    }

    /// Reads one.
    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.project.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// A program in the sandbox, in the folder of the work.
    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let run = self.daemon.run_command(AGENT, self.uid, &argv);
        // Entering the laptop's mount namespace leads to its root.
        let mut command = self.world.laptop.command_as(self.uid, "/bin/sh");
        command
            .args(["-c", "cd \"$0\" && exec \"$@\""])
            .arg(&self.project)
            .arg(run.get_program())
            .args(run.get_args())
            .stdin(Stdio::null())
            .env("SSL_CERT_FILE", &self.authority)
            .env("GIT_SSL_CAINFO", &self.authority)
            .env("NODE_EXTRA_CA_CERTS", &self.authority)
            .env("CARGO_HTTP_CAINFO", &self.authority)
            .env("PIP_CERT", &self.authority)
            .env("REQUESTS_CA_BUNDLE", &self.authority)
            .env("CURL_CA_BUNDLE", &self.authority)
            .env("GITHUB_TOKEN", "a secret of the environment")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        if self.uid != 0 {
            command.env("HOME", &self.home);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().expect("start exeat run")
    }

    /// What it prints; it must succeed.
    pub(crate) fn says(&self, argv: &[&str]) -> String {
        said(&self.run(argv), argv)
    }
}

/// What a command printed; it must have succeeded.
pub(crate) fn said(output: &Output, what: &[&str]) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{what:?}: {}: {text}{errors}",
        output.status
    );
    text
}

/// Runs a program outside, to make what a host serves.
pub(crate) fn outside(folder: &Path, argv: &[&str]) -> String {
    let output = Command::new(argv[0])
        .args(&argv[1..])
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect(argv[0]);
    said(&output, argv)
}
