//! Ways to put data on a connection other than write.

use crate::context::{Context, Fault, Outcome, Technique};
use crate::sys::{self, Address};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};

const F: &str = "stream";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "sendfile", |c| sendfile(c, &connected(c)?)),
    Technique::new(F, "splice", |c| splice(c, &connected(c)?)),
    Technique::new(F, "vmsplice", |c| vmsplice(c, &connected(c)?)),
    Technique::new(F, "send-oob", |c| oob(c, &connected(c)?)),
    Technique::new(F, "send-zerocopy", |c| zerocopy(c, &connected(c)?)),
];

fn connected(c: &Context) -> Result<OwnedFd, Fault> {
    let fd = sys::tcp(libc::AF_INET)?;
    sys::connect(&fd, &Address::new(c.v4(), c.port))?;
    Ok(fd)
}

/// A file that holds the payload, at its beginning.
fn file(c: &Context) -> Result<std::fs::File, Fault> {
    let mut file = tempfile::tempfile().map_err(|e| Fault::of("open a temporary file", &e))?;
    file.write_all(c.bytes())
        .map_err(|e| Fault::of("write", &e))?;
    file.seek(SeekFrom::Start(0))
        .map_err(|e| Fault::of("seek", &e))?;
    Ok(file)
}

pub(crate) fn sendfile(c: &Context, to: &impl AsRawFd) -> Outcome {
    let file = file(c)?;
    // SAFETY: null means the file's own offset.
    let code = unsafe {
        libc::sendfile(
            to.as_raw_fd(),
            file.as_raw_fd(),
            std::ptr::null_mut(),
            c.bytes().len(),
        )
    };
    sys::check("sendfile", code as i64)?;
    sys::finish(to)?;
    Ok("sendfile".into())
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Fault> {
    nix::unistd::pipe().map_err(|errno| Fault::new("pipe", errno as i32))
}

fn empty_pipe_into(read: &OwnedFd, to: &impl AsRawFd, length: usize) -> Outcome {
    // SAFETY: null means no offset, as it must be for pipes and sockets.
    let code = unsafe {
        libc::splice(
            read.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            length,
            0,
        )
    };
    sys::check("splice", code as i64)?;
    sys::finish(to)?;
    Ok("splice".into())
}

pub(crate) fn splice(c: &Context, to: &impl AsRawFd) -> Outcome {
    let (read, write) = pipe()?;
    sys::check(
        "write",
        nix::unistd::write(&write, c.bytes()).map_or(-1, |n| n as i64),
    )?;
    empty_pipe_into(&read, to, c.bytes().len())
}

/// The packet refers to the program's own page, which is therefore never given back:
/// whatever the allocator wrote there next would leave instead.
fn vmsplice(c: &Context, to: &OwnedFd) -> Outcome {
    let (read, write) = pipe()?;
    let page: &'static [u8] = c.bytes().to_vec().leak();
    let piece = libc::iovec {
        iov_base: page.as_ptr().cast_mut().cast(),
        iov_len: page.len(),
    };
    // SAFETY: one iovec that describes the page, which lives for ever.
    let code = unsafe { libc::vmsplice(write.as_raw_fd(), &piece, 1, 0) };
    sys::check("vmsplice", code as i64)?;
    empty_pipe_into(&read, to, page.len())
}

fn oob(c: &Context, to: &OwnedFd) -> Outcome {
    // SAFETY: the pointer and the length describe the payload.
    let code = unsafe {
        libc::send(
            to.as_raw_fd(),
            c.bytes().as_ptr().cast(),
            c.bytes().len(),
            libc::MSG_OOB | libc::MSG_NOSIGNAL,
        )
    };
    sys::check("send", code as i64)?;
    sys::finish(to)?;
    Ok("urgent data".into())
}

fn zerocopy(c: &Context, to: &OwnedFd) -> Outcome {
    sys::setsockopt(to, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1i32)?;
    // SAFETY: the pointer and the length describe the payload, which lives until exit.
    let code = unsafe {
        libc::send(
            to.as_raw_fd(),
            c.bytes().as_ptr().cast(),
            c.bytes().len(),
            libc::MSG_ZEROCOPY | libc::MSG_NOSIGNAL,
        )
    };
    sys::check("send", code as i64)?;
    sys::finish(to)?;
    Ok("MSG_ZEROCOPY".into())
}
