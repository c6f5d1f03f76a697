//! sendmsg and sendmmsg, with control messages.

use crate::context::Fault;
use crate::sys::{self, Address};
use std::os::fd::AsRawFd;

/// A control message: level, type, bytes.
pub(crate) type Control<'a> = (i32, i32, &'a [u8]);

/// Lays out control messages as the kernel reads them: `struct cmsghdr` (length, level,
/// type), the bytes, padded to eight.
pub(crate) fn layout(messages: &[Control<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (level, kind, bytes) in messages {
        let length = size_of::<libc::cmsghdr>() + bytes.len();
        out.extend((length as u64).to_ne_bytes());
        out.extend(level.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(*bytes);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

fn header(piece: &mut libc::iovec, to: Option<&Address>, control: &mut [u8]) -> libc::msghdr {
    // SAFETY: all bytes zero is a value of msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    header.msg_iov = piece;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len();
    }
    header
}

pub(crate) fn sendmsg(
    fd: &impl AsRawFd,
    bytes: &[u8],
    to: Option<&Address>,
    control: &[Control<'_>],
) -> Result<(), Fault> {
    let mut control = layout(control);
    let mut piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let header = header(&mut piece, to, &mut control);
    // SAFETY: the header points at values that outlive the call.
    let code = unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    sys::check("sendmsg", code as i64).map(drop)
}

/// Sends a message to each address in one call; all must go.
pub(crate) fn sendmmsg(fd: &impl AsRawFd, messages: &[(&[u8], &Address)]) -> Result<(), Fault> {
    let mut pieces: Vec<libc::iovec> = messages
        .iter()
        .map(|(bytes, _)| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .zip(messages)
        .map(|(piece, (_, to))| libc::mmsghdr {
            msg_hdr: header(piece, Some(to), &mut []),
            msg_len: 0,
        })
        .collect();
    // SAFETY: the headers point at values that outlive the call.
    let code = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as u32,
            0,
        )
    };
    // The kernel reports an error only if the first fails; one of several that fails shows
    // as a smaller number.
    if sys::check("sendmmsg", code.into())? < messages.len() {
        return Err(Fault::new("sendmmsg: not every message went", libc::EPERM));
    }
    Ok(())
}
