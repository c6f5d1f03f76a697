//! The same calls through io_uring, where no system call is made for each.

use crate::context::{Context, Fault, Needs, Outcome, Technique};
use crate::sys::{self, Address};
use io_uring::{IoUring, Probe, opcode, squeue, types::Fd};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const F: &str = "io_uring";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "uring-tcp4", |c| tcp(c, libc::AF_INET, c.v4())),
    Technique::new(F, "uring-tcp6", |c| tcp(c, libc::AF_INET6, c.v6())),
    Technique::new(F, "uring-tcp-mapped", |c| {
        tcp(c, libc::AF_INET6, c.mapped())
    }),
    Technique::new(F, "uring-udp-send", udp_connected),
    Technique::new(F, "uring-udp-sendmsg", udp_sendmsg),
    Technique::new(F, "uring-udp-send-zc", udp_zerocopy),
    Technique::new(F, "uring-socket", from_socket_on),
    Technique::new(F, "uring-sqpoll", sqpoll),
    Technique::new(F, "uring-accept", accept).needs(Needs::InboundTcp),
];

struct Ring(IoUring);

impl Ring {
    fn new() -> Result<Self, Fault> {
        IoUring::new(8)
            .map(Self)
            .map_err(|e| Fault::of("io_uring_setup", &e))
    }

    /// A kernel answers EINVAL to an operation that it does not know, as it does to much
    /// else; so it is asked before.
    fn knows(&self, call: &'static str, code: u8) -> Result<(), Fault> {
        let mut probe = Probe::new();
        self.0
            .submitter()
            .register_probe(&mut probe)
            .map_err(|e| Fault::of("io_uring_register", &e))?;
        match probe.is_supported(code) {
            true => Ok(()),
            false => Err(Fault::new(call, libc::EOPNOTSUPP)),
        }
    }

    /// Runs one operation to its end.
    fn run(&mut self, call: &'static str, entry: &squeue::Entry) -> Result<i32, Fault> {
        // SAFETY: everything that the entry points at outlives this call, which ends only
        // when the operation has completed.
        unsafe { self.0.submission().push(entry) }
            .map_err(|_| Fault::new("io_uring: queue full", libc::EBUSY))?;
        self.0
            .submit_and_wait(1)
            .map_err(|e| Fault::of("io_uring_enter", &e))?;
        let result = self
            .0
            .completion()
            .next()
            .map_or(-libc::EIO, |done| done.result());
        if result < 0 {
            Err(Fault::new(call, -result))
        } else {
            Ok(result)
        }
    }

    fn connect(&mut self, fd: &OwnedFd, to: &Address) -> Result<(), Fault> {
        let entry = opcode::Connect::new(Fd(fd.as_raw_fd()), to.as_ptr(), to.len()).build();
        self.run("io_uring connect", &entry).map(drop)
    }

    fn send(&mut self, fd: &OwnedFd, bytes: &[u8]) -> Result<(), Fault> {
        let entry =
            opcode::Send::new(Fd(fd.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32).build();
        self.run("io_uring send", &entry).map(drop)
    }
}

fn tcp(c: &Context, family: i32, to: IpAddr) -> Outcome {
    let mut ring = Ring::new()?;
    let fd = sys::tcp(family)?;
    ring.connect(&fd, &Address::new(to, c.port))?;
    ring.send(&fd, c.bytes())?;
    sys::finish(&fd)?;
    Ok("connect and send by io_uring".into())
}

fn udp_connected(c: &Context) -> Outcome {
    let mut ring = Ring::new()?;
    let fd = sys::udp(libc::AF_INET)?;
    ring.connect(&fd, &Address::new(c.v4(), c.port))?;
    ring.send(&fd, c.bytes())?;
    Ok("connect and send by io_uring".into())
}

fn udp_sendmsg(c: &Context) -> Outcome {
    let mut ring = Ring::new()?;
    let fd = sys::udp(libc::AF_INET6)?;
    let to = Address::new(c.v6(), c.port);
    let mut piece = libc::iovec {
        iov_base: c.bytes().as_ptr().cast_mut().cast(),
        iov_len: c.bytes().len(),
    };
    // SAFETY: all bytes zero is a value of msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    ring.run(
        "io_uring sendmsg",
        &opcode::SendMsg::new(Fd(fd.as_raw_fd()), &header).build(),
    )?;
    Ok("sendmsg by io_uring".into())
}

/// Zero-copy send with an address: neither connect nor sendmsg.
fn udp_zerocopy(c: &Context) -> Outcome {
    let mut ring = Ring::new()?;
    ring.knows("io_uring send_zc", opcode::SendZc::CODE)?;
    let fd = sys::udp(libc::AF_INET)?;
    let to = Address::new(c.v4(), c.port);
    let entry = opcode::SendZc::new(
        Fd(fd.as_raw_fd()),
        c.bytes().as_ptr(),
        c.bytes().len() as u32,
    )
    .dest_addr(to.as_ptr())
    .dest_addr_len(to.len())
    .build();
    ring.run("io_uring send_zc", &entry)?;
    Ok("send_zc by io_uring".into())
}

/// Not even the socket is made by a system call.
fn from_socket_on(c: &Context) -> Outcome {
    let mut ring = Ring::new()?;
    ring.knows("io_uring socket", opcode::Socket::CODE)?;
    let made = ring.run(
        "io_uring socket",
        &opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
    )?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(made) };
    ring.connect(&fd, &Address::new(c.v4(), c.port))?;
    ring.send(&fd, c.bytes())?;
    sys::finish(&fd)?;
    Ok("socket, connect and send by io_uring".into())
}

/// A kernel thread makes the calls.
fn sqpoll(c: &Context) -> Outcome {
    let ring = IoUring::builder()
        .setup_sqpoll(100)
        .build(8)
        .map_err(|e| Fault::of("io_uring_setup(SQPOLL)", &e))?;
    let mut ring = Ring(ring);
    let fd = sys::udp(libc::AF_INET)?;
    ring.connect(&fd, &Address::new(c.v4(), c.port))?;
    ring.send(&fd, c.bytes())?;
    Ok("connect and send by the kernel's thread".into())
}

fn accept(c: &Context) -> Outcome {
    let mut ring = Ring::new()?;
    let fd = sys::tcp(libc::AF_INET)?;
    sys::listen(&fd)?;
    crate::context::ready(sys::local_port(&fd)?.into());
    let entry = opcode::Accept::new(
        Fd(fd.as_raw_fd()),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    )
    .build();
    // The ring waits without end.
    sys::readable(&fd)?;
    let made = ring.run("io_uring accept", &entry)?;
    // SAFETY: the kernel has just made it; nobody else owns it.
    let connection = unsafe { OwnedFd::from_raw_fd(made) };
    ring.send(&connection, c.bytes())?;
    sys::finish(&connection)?;
    Ok("accepted and answered by io_uring".into())
}
