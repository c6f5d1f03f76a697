//! Runs a technique of the hostile program and finds out from outside what came of it.

use crate::sink::{TcpSink, UdpSink};
use crate::sniff::{Packet, Sniffer};
use crate::technique::{Technique, program, read_lines, ready_number};
use crate::world::{LAPTOP_V4, LAPTOP_V6, World};
use crate::{programs, unique, wait};
use anyhow::{Context, anyhow};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// No technique takes longer than a few time-outs of a second and a half.
fn patience() -> Duration {
    wait::scaled(Duration::from_secs(30))
}

/// How long a visitor from outside tries. Under enforcement nobody answers, so every such
/// technique takes this long; that it is enough where somebody does, `control.rs` shows on
/// the same machine.
const VISIT: Duration = Duration::from_secs(2);

/// What came of a technique.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It got out: its evidence was seen on the wire, or, where nothing could be seen on
    /// the wire, every call succeeded.
    Out,
    /// It did not get out, and a call failed with this errno.
    Refused(i32),
    /// It did not get out, although every call succeeded.
    Dropped,
    /// The program did not get as far as a report: whoever starts it refused to.
    NotStarted,
    /// This kernel has no such thing: the errno says so, and nothing was seen.
    Unsupported(i32),
}

/// One run, with what it needs to be understood when it surprises.
#[derive(Clone, Debug)]
pub struct Report {
    /// What came of it.
    pub effect: Effect,
    /// What the program said, or why it said nothing.
    pub said: String,
    /// Payload of this run, to look for elsewhere.
    pub token: String,
}

/// Where an attack takes place.
pub struct Attack<'a> {
    /// The network.
    pub world: &'a World,
    /// Its sniffer.
    pub sniffer: &'a Sniffer,
    /// The forbidden destination.
    pub target: Ipv4Addr,
    /// See [`Attack::target`].
    pub target6: Ipv6Addr,
    /// The destination that a policy may allow.
    pub decoy: Ipv4Addr,
    /// See [`Attack::decoy`].
    pub decoy6: Ipv6Addr,
    /// Port of both, TCP and UDP.
    pub port: u16,
    /// Process for techniques that want to harm one.
    pub victim: u32,
    /// Unix socket for techniques that want to talk to one.
    pub socket: &'a Path,
    /// Folder for techniques that want to write beside the pins.
    pub folder: &'a Path,
    /// Whether a packet may leave by the policy in force: a payload in it is no leak.
    pub allowed: &'a (dyn Fn(&Packet) -> bool + Sync),
}

/// How the program is started, and how it is brought under enforcement afterwards.
pub trait Launch {
    /// A command that starts `argv` in the laptop, under enforcement if there is one.
    fn command(&self, root: bool, argv: &[String]) -> Command;
    /// A command that starts `argv` in the laptop without enforcement.
    fn before(&self, root: bool, argv: &[String]) -> Command;
    /// Puts a process that [`Launch::before`] started under enforcement.
    ///
    /// # Errors
    /// When it cannot be moved.
    fn join(&self, pid: u32) -> anyhow::Result<()>;
}

/// Without enforcement.
pub struct Free<'a>(pub &'a World);

impl Launch for Free<'_> {
    fn command(&self, root: bool, argv: &[String]) -> Command {
        let uid = if root { 0 } else { PLAIN_USER };
        let mut command = self.0.laptop.command_as(uid, &argv[0]);
        command.args(&argv[1..]);
        command
    }

    fn before(&self, root: bool, argv: &[String]) -> Command {
        self.command(root, argv)
    }

    fn join(&self, _: u32) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A user that is nobody else's: techniques that need no root run as this one.
pub const PLAIN_USER: u32 = 65_534;

/// Port of the target and of the decoy in [`Attack::typical`].
pub const PORT: u16 = 4433;
/// Target of [`Attack::typical`].
pub const TARGET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// See [`TARGET`].
pub const TARGET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
/// Decoy of [`Attack::typical`].
pub const DECOY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// See [`DECOY`].
pub const DECOY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// Whether a packet goes to the decoy as a policy that allows TCP and UDP to its
/// [`PORT`] would have it: no options, no fragments, no other protocol.
pub fn allowed_by_decoy_policy(packet: &Packet) -> bool {
    let plain = match packet.ether_type {
        0x0800 => packet.frame.get(14) == Some(&0x45),
        0x86dd => packet
            .frame
            .get(20)
            .is_some_and(|next| [6, 17].contains(next)),
        _ => false,
    };
    let to_decoy = packet.is_to(DECOY.into()) || packet.is_to(DECOY6.into());
    let to_port = packet.ports.is_some_and(|(_, to)| to == PORT);
    plain && to_decoy && to_port && [6, 17].contains(&packet.protocol)
}

/// The sinks that stand at target and decoy.
pub struct Sinks(Vec<(TcpSink, UdpSink)>);

impl Sinks {
    /// TCP connections that were accepted by any of them.
    pub fn accepted(&self) -> usize {
        self.0.iter().map(|(tcp, _)| tcp.accepted()).sum()
    }
}

impl<'a> Attack<'a> {
    /// On the addresses above, with nobody to harm.
    pub fn typical(
        world: &'a World,
        sniffer: &'a Sniffer,
        allowed: &'a (dyn Fn(&Packet) -> bool + Sync),
    ) -> Self {
        Self {
            world,
            sniffer,
            target: TARGET,
            target6: TARGET6,
            decoy: DECOY,
            decoy6: DECOY6,
            port: PORT,
            victim: 0,
            socket: Path::new(""),
            folder: world.folder(),
            allowed,
        }
    }

    /// Sinks at target and decoy, on the port and on port 53.
    ///
    /// # Errors
    /// When an address is taken.
    pub fn sinks(&self) -> anyhow::Result<Sinks> {
        let mut sinks = Vec::new();
        for host in [
            self.target.into(),
            self.target6.into(),
            self.decoy.into(),
            self.decoy6.into(),
        ] {
            for port in [self.port, 53] {
                let address = SocketAddr::new(host, port);
                let internet = &self.world.internet;
                sinks.push((
                    TcpSink::start(internet, address)?,
                    UdpSink::start(internet, address)?,
                ));
            }
        }
        Ok(Sinks(sinks))
    }

    /// Runs all, four at a time; they do not meet, for each has its own payload and groups.
    ///
    /// # Errors
    /// As [`Attack::run`], with the technique's name.
    pub fn run_all(
        &self,
        techniques: &[Technique],
        launch: &(dyn Launch + Sync),
    ) -> anyhow::Result<BTreeMap<String, Report>> {
        let (next, reports) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
        let worker = || -> anyhow::Result<()> {
            while let Some(technique) = techniques.get(next.fetch_add(1, Ordering::Relaxed)) {
                let report = self
                    .run(technique, launch)
                    .with_context(|| technique.name.clone())?;
                reports
                    .lock()
                    .expect("reports lock")
                    .insert(technique.name.clone(), report);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .try_for_each(|w| w.join().map_err(|_| anyhow!("a worker panicked"))?)
        })?;
        Ok(reports.into_inner().expect("reports lock"))
    }

    /// Runs one technique and judges it.
    ///
    /// # Errors
    /// When the preparations fail; what the technique itself meets is in the report.
    pub fn run(&self, technique: &Technique, launch: &dyn Launch) -> anyhow::Result<Report> {
        let token = unique::token();
        let (argv, groups) = self.arguments(technique, &token)?;
        let command = match technique.needs.as_str() {
            "go" => launch.before(technique.needs_root, &argv),
            _ => launch.command(technique.needs_root, &argv),
        };
        let said = self.drive(technique, command, launch)?;
        self.world.settle(self.sniffer)?;
        let seen = match technique.evidence.as_str() {
            "payload" => self.sniffer.count(|p| p.contains(token.as_bytes())),
            "protocol" => self
                .sniffer
                .count(|p| Some(p.protocol) == technique.protocol && p.is_to(self.target.into())),
            "group" => self
                .sniffer
                .count(|p| p.is_group_report() && groups.iter().any(|group| p.contains(group))),
            _ => 0,
        };
        let effect = judge(technique, seen, &said);
        Ok(Report {
            effect,
            said,
            token,
        })
    }

    fn arguments(
        &self,
        technique: &Technique,
        token: &str,
    ) -> anyhow::Result<(Vec<String>, [Vec<u8>; 2])> {
        // Groups of this run only, so that no report of another one is taken for it.
        let [_, a, b, c] = unique::number().to_be_bytes();
        let group = Ipv4Addr::new(239, a | 0x40, b, c);
        let group6 = Ipv6Addr::new(
            0xff15,
            0x7777,
            0,
            0,
            0,
            u16::from(a),
            u16::from(b),
            u16::from(c),
        );
        let path = match technique.needs.as_str() {
            "socket" => self.socket.to_owned(),
            "folder" => self.folder.to_owned(),
            "setuid" => self.setuid_copy()?,
            _ => PathBuf::new(),
        };
        let mut argv = vec![
            program().to_string_lossy().into_owned(),
            technique.name.clone(),
        ];
        for (key, value) in [
            ("--target", self.target.to_string()),
            ("--target6", self.target6.to_string()),
            ("--decoy", self.decoy.to_string()),
            ("--decoy6", self.decoy6.to_string()),
            ("--group", group.to_string()),
            ("--group6", group6.to_string()),
            ("--port", self.port.to_string()),
            ("--payload", token.to_owned()),
            ("--pid", self.victim.to_string()),
            ("--path", path.to_string_lossy().into_owned()),
        ] {
            argv.extend([key.to_owned(), value]);
        }
        Ok((argv, [group.octets().to_vec(), group6.octets().to_vec()]))
    }

    fn setuid_copy(&self) -> anyhow::Result<PathBuf> {
        let copy = self.world.folder().join(unique::name("setuid"));
        programs::copy(&program(), &copy, 0o4755).context("copy the hostile program")?;
        Ok(copy)
    }

    /// Starts it, does for it what it needs, and returns its last line.
    fn drive(
        &self,
        technique: &Technique,
        mut command: Command,
        launch: &dyn Launch,
    ) -> anyhow::Result<String> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut friend = None;
        match technique.needs.as_str() {
            "go" => {
                command.stdin(Stdio::piped());
            }
            "stdin" => {
                command.stdin(OwnedFd::from(self.connection()?));
            }
            "scm" => {
                let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
                command.stdin(OwnedFd::from(theirs));
                friend = Some(ours);
            }
            "fd3" => leave_open_as_3(&mut command, self.connection()?.into()),
            _ => {}
        }
        let mut child = command.spawn().context("start the hostile program")?;
        // The command holds our copies of what the child inherits.
        drop(command);
        if let Some(friend) = friend {
            self.pass_a_socket(&friend)?;
        }
        let outcome = self.converse(technique, &mut child, launch);
        let _ = child.kill();
        let _ = child.wait();
        outcome
    }

    fn converse(
        &self,
        technique: &Technique,
        child: &mut Child,
        launch: &dyn Launch,
    ) -> anyhow::Result<String> {
        let lines = read_lines(child.stdout.take().context("no stdout")?)?;
        let errors = read_lines(child.stderr.take().context("no stderr")?)?;
        let mut last = String::new();
        // Kept open until the program has ended.
        let mut visitors: Vec<TcpStream> = Vec::new();
        loop {
            let line = match lines.recv_timeout(patience()) {
                Ok(line) => line,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    return Err(anyhow!(
                        "{} did not end within {:?}",
                        technique.name,
                        patience()
                    ));
                }
            };
            let Some(number) = ready_number(&line) else {
                last = line;
                continue;
            };
            match technique.needs.as_str() {
                "inbound-tcp" => visitors.extend(self.visit(technique, number as u16)),
                "inbound-udp" => self.post(number as u16)?,
                "go" => {
                    launch.join(child.id())?;
                    let mut stdin = child.stdin.take().context("no stdin")?;
                    stdin.write_all(b"go\n")?;
                }
                _ => {}
            }
        }
        if last.is_empty() {
            last = errors.iter().collect::<Vec<_>>().join("; ");
        }
        Ok(last)
    }

    /// A TCP connection from the laptop to the target, made without enforcement.
    fn connection(&self) -> anyhow::Result<TcpStream> {
        let to = SocketAddr::new(self.target.into(), self.port);
        self.world
            .laptop
            .run(|| TcpStream::connect_timeout(&to, patience()).context("connect for the agent"))
    }

    /// Sends an unconnected TCP socket of the laptop to the program.
    fn pass_a_socket(&self, friend: &std::os::unix::net::UnixStream) -> anyhow::Result<()> {
        use nix::sys::socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
        };
        let made = self.world.laptop.run(|| {
            Ok(socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?)
        })?;
        let fds = [made.as_raw_fd()];
        let piece = [std::io::IoSlice::new(b"s")];
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(
            friend.as_raw_fd(),
            &piece,
            &control,
            MsgFlags::empty(),
            None,
        )
        .context("SCM_RIGHTS")?;
        Ok(())
    }

    /// Connects to the laptop from the target. That nobody answers is what an enforced
    /// listener looks like; that nothing left for the target is seen by whoever counts.
    fn visit(&self, technique: &Technique, port: u16) -> Option<TcpStream> {
        let (from, to): (IpAddr, &str) = match technique.name.ends_with('6') {
            true => (self.target6.into(), LAPTOP_V6),
            false => (self.target.into(), LAPTOP_V4),
        };
        self.world
            .internet
            .run(|| connect_from(from, SocketAddr::new(to.parse()?, port), VISIT))
            .ok()
    }

    /// Sends a datagram to the laptop from outside.
    fn post(&self, port: u16) -> anyhow::Result<()> {
        self.world.internet.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"hello", (LAPTOP_V4, port))?;
            Ok(())
        })
    }
}

/// A TCP connection from an address of the thread's namespace.
fn connect_from(from: IpAddr, to: SocketAddr, limit: Duration) -> anyhow::Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
        sockopt,
    };
    use nix::sys::time::{TimeVal, TimeValLike};
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let made = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(
        made.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(from, 0)),
    )?;
    // It bounds connect too.
    let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis())?);
    setsockopt(&made, sockopt::SendTimeout, &limit)?;
    connect(made.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(made.into())
}

fn judge(technique: &Technique, seen: usize, said: &str) -> Effect {
    let value: Value = serde_json::from_str(said).unwrap_or(Value::Null);
    let errno = value["errno"]
        .as_i64()
        .and_then(|errno| i32::try_from(errno).ok())
        .unwrap_or(0);
    match value["outcome"].as_str() {
        _ if seen > 0 => Effect::Out,
        Some("sent") if technique.evidence == "word" => Effect::Out,
        Some("sent") => Effect::Dropped,
        Some("refused") => Effect::Refused(errno),
        Some("unsupported") => Effect::Unsupported(errno),
        _ => Effect::NotStarted,
    }
}

fn leave_open_as_3(command: &mut Command, fd: OwnedFd) {
    let pass = move || {
        // SAFETY: plain system call; dup2 clears close-on-exec on the copy. Should the
        // descriptor be 3 already, the flag has to be cleared by hand.
        let code = unsafe {
            if fd.as_raw_fd() == 3 {
                libc::fcntl(3, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd.as_raw_fd(), 3)
            }
        };
        if code < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(pass) };
}
