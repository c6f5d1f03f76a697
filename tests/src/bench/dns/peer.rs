//! Plain forwarders to compare with: unbound and dnsmasq, of this machine or unpacked from
//! their packages.

use super::client;
use crate::peer::{Program, Served};
use anyhow::Context;
use exeat_tests::world::{NAME_SERVER, World};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
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

/// A forwarder that runs; it is killed when dropped.
pub(super) struct Peer {
    pub(super) kind: Kind,
    /// Its program's version.
    pub(super) version: String,
    served: Served,
}

impl Peer {
    /// Starts one in the laptop: one thread, a cache, no logs, everything to the name server.
    ///
    /// # Errors
    /// Where there is no such program, or it does not answer.
    pub(super) fn start(kind: Kind, world: &World) -> anyhow::Result<Self> {
        let laptop = &world.laptop;
        let program = Program::find(kind.as_str())?;
        let folder = world.folder().join(kind.as_str());
        std::fs::create_dir(&folder)?;
        let mut command = program.command(laptop);
        let file = folder.join("conf");
        let flag = match kind {
            Kind::Unbound => {
                std::fs::write(&file, unbound(&folder, kind.port()))?;
                command.arg("-d").arg("-c").arg(&file);
                "-V"
            }
            Kind::Dnsmasq => {
                std::fs::write(&file, dnsmasq(kind.port()))?;
                command.arg("--keep-in-foreground");
                command.arg(format!("--conf-file={}", file.display()));
                "--version"
            }
        };
        let socket = laptop.run(|| Ok(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let query = client::query(1, "ready.bench.example");
        let answers = || {
            let mut buffer = [0; 512];
            let _ = socket.send_to(&query, (Ipv4Addr::LOCALHOST, kind.port()));
            socket.recv(&mut buffer).is_ok_and(|n| n > 3) && buffer[3] & 15 == 0
        };
        let served = Served::start(command, &folder.join("log"), answers)
            .with_context(|| kind.as_str().to_owned())?;
        Ok(Self {
            kind,
            version: program.version(laptop, kind.as_str(), flag),
            served,
        })
    }

    /// Where it answers.
    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.kind.port()).into()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.served.pid()
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
