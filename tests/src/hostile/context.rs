//! What a technique is told, and what it says.

use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the caller of a technique has to do for it.
#[derive(Clone, Copy)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// Connect in by TCP to the port that it prints.
    InboundTcp,
    /// Send a datagram to the port that it prints.
    InboundUdp,
    /// Move it into the cgroup when it prints "ready", then write a line to it.
    Go,
    /// Hand it a connected TCP socket as descriptor 3.
    Fd3,
    /// Hand it a connected TCP socket as standard input.
    Stdin,
    /// Send it an unconnected TCP socket over the unix socket that is its standard input.
    Scm,
    /// Name a process with `--pid`.
    Pid,
    /// Name a unix socket with `--path`.
    Socket,
    /// Name a folder with `--path`.
    Folder,
    /// Name a setuid copy of this program with `--path`.
    Setuid,
}

/// Where the proof is found that the technique worked.
#[derive(Clone, Copy)]
pub(crate) enum Evidence {
    /// A packet that holds the payload comes out.
    Payload,
    /// A packet of this IP protocol to the target comes out.
    Protocol(u8),
    /// A group report that names the group comes out.
    Group,
    /// Nothing leaves by the wire; the program's own word is all there is.
    Word,
}

/// One way out.
pub(crate) struct Technique {
    pub(crate) name: &'static str,
    family: &'static str,
    needs_root: bool,
    needs: Needs,
    evidence: Evidence,
    pub(crate) run: fn(&Context) -> Outcome,
}

impl Technique {
    pub(crate) const fn new(
        family: &'static str,
        name: &'static str,
        run: fn(&Context) -> Outcome,
    ) -> Self {
        Self {
            name,
            family,
            needs_root: false,
            needs: Needs::Nothing,
            evidence: Evidence::Payload,
            run,
        }
    }

    /// It cannot work for an ordinary user.
    pub(crate) const fn root(mut self) -> Self {
        self.needs_root = true;
        self
    }

    pub(crate) const fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    pub(crate) const fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    pub(crate) fn describe(&self) -> Value {
        let (evidence, protocol) = match self.evidence {
            Evidence::Payload => ("payload", None),
            Evidence::Protocol(number) => ("protocol", Some(number)),
            Evidence::Group => ("group", None),
            Evidence::Word => ("word", None),
        };
        let needs = match self.needs {
            Needs::Nothing => "nothing",
            Needs::InboundTcp => "inbound-tcp",
            Needs::InboundUdp => "inbound-udp",
            Needs::Go => "go",
            Needs::Fd3 => "fd3",
            Needs::Stdin => "stdin",
            Needs::Scm => "scm",
            Needs::Pid => "pid",
            Needs::Socket => "socket",
            Needs::Folder => "folder",
            Needs::Setuid => "setuid",
        };
        json!({
            "name": self.name, "family": self.family, "needs_root": self.needs_root,
            "needs": needs, "evidence": evidence, "protocol": protocol,
        })
    }
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) call: &'static str,
    pub(crate) errno: i32,
}

impl Fault {
    /// The error that the last system call left.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::of(call, &std::io::Error::last_os_error())
    }

    pub(crate) fn of(call: &'static str, error: &std::io::Error) -> Self {
        Self {
            call,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    pub(crate) const fn new(call: &'static str, errno: i32) -> Self {
        Self { call, errno }
    }

    /// Whether the errno says that the kernel has no such family, protocol or option,
    /// which is not the same as a refusal.
    pub(crate) fn is_unsupported(&self) -> bool {
        [
            libc::EAFNOSUPPORT,
            libc::EPROTONOSUPPORT,
            libc::ESOCKTNOSUPPORT,
            libc::EPROTOTYPE,
            libc::ENOPROTOOPT,
            libc::EOPNOTSUPP,
            libc::ENOSYS,
            libc::ENOENT,
        ]
        .contains(&self.errno)
    }
}

/// Every call succeeded, with a word about it; or the one that failed.
pub(crate) type Outcome = Result<String, Fault>;

/// The command line.
pub(crate) struct Context {
    pub(crate) target: Ipv4Addr,
    pub(crate) target6: Ipv6Addr,
    /// An address that the policy may allow.
    pub(crate) decoy: Ipv4Addr,
    pub(crate) decoy6: Ipv6Addr,
    pub(crate) group: Ipv4Addr,
    pub(crate) group6: Ipv6Addr,
    pub(crate) port: u16,
    pub(crate) payload: String,
    pub(crate) pid: i32,
    pub(crate) path: String,
}

impl Context {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut context = Self {
            target: Ipv4Addr::LOCALHOST,
            target6: Ipv6Addr::LOCALHOST,
            decoy: Ipv4Addr::LOCALHOST,
            decoy6: Ipv6Addr::LOCALHOST,
            group: Ipv4Addr::new(239, 7, 7, 7),
            group6: Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x7777),
            port: 9,
            payload: "hostile".into(),
            pid: 0,
            path: String::new(),
        };
        while let Some(key) = arguments.next() {
            let value = arguments
                .next()
                .ok_or_else(|| format!("{key} needs a value"))?;
            let wrong = |_| format!("{value} is no value for {key}");
            match key.as_str() {
                "--target" => context.target = value.parse().map_err(|_| wrong(()))?,
                "--target6" => context.target6 = value.parse().map_err(|_| wrong(()))?,
                "--decoy" => context.decoy = value.parse().map_err(|_| wrong(()))?,
                "--decoy6" => context.decoy6 = value.parse().map_err(|_| wrong(()))?,
                "--group" => context.group = value.parse().map_err(|_| wrong(()))?,
                "--group6" => context.group6 = value.parse().map_err(|_| wrong(()))?,
                "--port" => context.port = value.parse().map_err(|_| wrong(()))?,
                "--pid" => context.pid = value.parse().map_err(|_| wrong(()))?,
                "--payload" => context.payload = value,
                "--path" => context.path = value,
                _ => return Err(format!("{key} is not known")),
            }
        }
        Ok(context)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.payload.as_bytes()
    }

    pub(crate) fn v4(&self) -> IpAddr {
        self.target.into()
    }

    pub(crate) fn v6(&self) -> IpAddr {
        self.target6.into()
    }

    /// The IPv4 target as an IPv6 address.
    pub(crate) fn mapped(&self) -> IpAddr {
        self.target.to_ipv6_mapped().into()
    }
}

/// Tells the caller that the preparation is over.
pub(crate) fn ready(number: u32) {
    println!("{}", json!({ "ready": number }));
    let _ = std::io::stdout().flush();
}

/// Waits for a line from the caller.
pub(crate) fn wait_for_go() -> Result<(), Fault> {
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(1..) => Ok(()),
        Ok(0) => Err(Fault::new(
            "read: the caller closed standard input",
            libc::EPIPE,
        )),
        Err(error) => Err(Fault::of("read standard input", &error)),
    }
}
