//! Plain forwarders to compare with: unbound and dnsmasq, of this machine or unpacked from
//! their packages.

use super::client;
use anyhow::{Context, bail};
use exeat_tests::ns::Ns;
use exeat_tests::wait;
use exeat_tests::world::{NAME_SERVER, World};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Which one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Unbound,
    Dnsmasq,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Unbound, Self::Dnsmasq];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Unbound => 5301,
            Self::Dnsmasq => 5302,
        }
    }
}

/// Set by `cargo xtask bench`: a folder with unpacked packages.
const FOLDER: &str = "EXEAT_PEERS";

/// A forwarder that runs; it is killed when dropped.
pub(super) struct Peer {
    pub(super) kind: Kind,
    /// Its program's version.
    pub(super) version: String,
    child: Child,
}

impl Peer {
    /// Starts one in the laptop: one thread, a cache, no logs, everything to the name server.
    ///
    /// # Errors
    /// Where there is no such program, or it does not answer.
    pub(super) fn start(kind: Kind, world: &World) -> anyhow::Result<Self> {
        let laptop = &world.laptop;
        let program = find(kind.as_str())?;
        let folder = world.folder().join(kind.as_str());
        std::fs::create_dir(&folder)?;
        let mut command = program.command(laptop);
        let file = folder.join("conf");
        match kind {
            Kind::Unbound => {
                std::fs::write(&file, unbound(&folder, kind.port()))?;
                command.arg("-d").arg("-c").arg(&file);
            }
            Kind::Dnsmasq => {
                std::fs::write(&file, dnsmasq(kind.port()))?;
                command.arg("--keep-in-foreground");
                command.arg(format!("--conf-file={}", file.display()));
            }
        }
        let log = std::fs::File::create(folder.join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", kind.as_str()))?;
        let mut peer = Self {
            kind,
            version: program.version(laptop, kind),
            child,
        };
        peer.wait(laptop).with_context(|| {
            let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("{} does not answer:\n{said}", kind.as_str())
        })?;
        Ok(peer)
    }

    /// Where it answers.
    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.kind.port()).into()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self, laptop: &Ns) -> anyhow::Result<()> {
        let socket = laptop.run(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let query = client::query(1, "ready.bench.example");
        let address = self.address();
        let mut ended = None;
        wait::until("an answer", wait::patience(), || {
            ended = self.child.try_wait().ok().flatten();
            let mut buffer = [0; 512];
            let _ = socket.send_to(&query, address);
            let answered = socket.recv(&mut buffer).is_ok_and(|n| n > 3) && buffer[3] & 15 == 0;
            (answered || ended.is_some()).then_some(())
        })?;
        match ended {
            Some(status) => bail!("it has ended: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unbound(folder: &Path, port: u16) -> String {
    format!(
        "server:\n  interface: 127.0.0.1\n  port: {port}\n  do-ip6: no\n  num-threads: 1\n  \
         username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  use-syslog: no\n  \
         module-config: \"iterator\"\n  msg-cache-size: 16m\n  rrset-cache-size: 32m\n\
         remote-control:\n  control-enable: no\n\
         forward-zone:\n  name: \".\"\n  forward-addr: {NAME_SERVER}\n",
        folder.display()
    )
}

fn dnsmasq(port: u16) -> String {
    format!(
        "port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\n\
         server={NAME_SERVER}\ncache-size=10000\ndns-forward-max=1000\nuser=root\npid-file=\n\
         log-facility=-\n"
    )
}

/// Where a program is.
enum Program {
    Own(PathBuf),
    /// In a folder of unpacked packages, which has its libraries too.
    Unpacked(PathBuf, PathBuf),
}

impl Program {
    fn command(&self, ns: &Ns) -> Command {
        match self {
            Self::Own(program) => ns.command(program),
            Self::Unpacked(program, root) => {
                let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
                let libraries = ["usr/lib", "lib"].map(|lib| root.join(lib).join(&machine));
                let mut command = ns.command(program);
                command.env(
                    "LD_LIBRARY_PATH",
                    libraries.map(|path| path.display().to_string()).join(":"),
                );
                command
            }
        }
    }

    /// What it says of itself, the first words.
    fn version(&self, ns: &Ns, kind: Kind) -> String {
        let flag = match kind {
            Kind::Unbound => "-V",
            Kind::Dnsmasq => "--version",
        };
        let output = self.command(ns).arg(flag).output();
        let said = output.map(|output| output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let words = said.split_whitespace();
        let number = words
            .skip_while(|word| !word.eq_ignore_ascii_case("version"))
            .nth(1);
        format!("{} {}", kind.as_str(), number.unwrap_or("?"))
    }
}

fn find(name: &str) -> anyhow::Result<Program> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&path).map(|folder| folder.join(name));
    if let Some(own) = own.into_iter().find(|path| path.is_file()) {
        return Ok(Program::Own(own));
    }
    if let Some(root) = std::env::var_os(FOLDER).map(PathBuf::from) {
        let program = root.join("usr/sbin").join(name);
        if program.is_file() {
            return Ok(Program::Unpacked(program, root));
        }
    }
    bail!(
        "{name} is neither on PATH nor in {FOLDER}; `cargo xtask bench dns` unpacks its package where it can"
    )
}
