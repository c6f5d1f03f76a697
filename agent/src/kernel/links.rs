//! Which program goes where, and the pinned links that hold it there.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf,
    programs::{CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, ProgramError, SockOps},
};
use aya_obj::generated::bpf_attach_type as Hook;
use serde::Serialize;

use super::{KernelError, cgroup::Slice, pins::Pins, sys};

/// What kind of aya program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SockAddr,
    Sock,
    Sockopt,
    Packet,
    SockOps,
}

/// Which cgroup it is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The cgroup2 root: sees every task, leaves at once for those outside the slice.
    Root,
    /// The slice.
    Slice,
}

/// One program and its place.
#[derive(Clone, Copy, Debug)]
pub struct Attachment {
    /// Name of the function in `agent-ebpf`.
    pub program: &'static str,
    /// The hook's name, as in events, status and metrics.
    pub hook: &'static str,
    /// Where it goes.
    pub place: Place,
    kind: Kind,
    attach_type: Hook,
}

const fn at(
    program: &'static str,
    hook: &'static str,
    place: Place,
    kind: Kind,
    attach_type: Hook,
) -> Attachment {
    Attachment {
        program,
        hook,
        place,
        kind,
        attach_type,
    }
}

/// Every program. Egress comes first: the authority is in place before the courtesies.
pub const ATTACHMENTS: &[Attachment] = &[
    at(
        "exeat_egress",
        "egress",
        Place::Slice,
        Kind::Packet,
        Hook::BPF_CGROUP_INET_EGRESS,
    ),
    at(
        "exeat_ingress",
        "ingress",
        Place::Slice,
        Kind::Packet,
        Hook::BPF_CGROUP_INET_INGRESS,
    ),
    at(
        "exeat_sock_create",
        "sock_create",
        Place::Slice,
        Kind::Sock,
        Hook::BPF_CGROUP_INET_SOCK_CREATE,
    ),
    at(
        "exeat_setsockopt",
        "setsockopt",
        Place::Slice,
        Kind::Sockopt,
        Hook::BPF_CGROUP_SETSOCKOPT,
    ),
    at(
        "exeat_sock_release",
        "sock_release",
        Place::Slice,
        Kind::Sock,
        Hook::BPF_CGROUP_INET_SOCK_RELEASE,
    ),
    at(
        "exeat_tcp_state",
        "tcp_state",
        Place::Slice,
        Kind::SockOps,
        Hook::BPF_CGROUP_SOCK_OPS,
    ),
    at(
        "exeat_bind4",
        "bind4",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET4_BIND,
    ),
    at(
        "exeat_bind6",
        "bind6",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET6_BIND,
    ),
    at(
        "exeat_recvmsg4",
        "recvmsg4",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_UDP4_RECVMSG,
    ),
    at(
        "exeat_recvmsg6",
        "recvmsg6",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_UDP6_RECVMSG,
    ),
    at(
        "exeat_getpeername4",
        "getpeername4",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET4_GETPEERNAME,
    ),
    at(
        "exeat_getpeername6",
        "getpeername6",
        Place::Slice,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET6_GETPEERNAME,
    ),
    at(
        "exeat_connect4",
        "connect4",
        Place::Root,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET4_CONNECT,
    ),
    at(
        "exeat_connect6",
        "connect6",
        Place::Root,
        Kind::SockAddr,
        Hook::BPF_CGROUP_INET6_CONNECT,
    ),
    at(
        "exeat_sendmsg4",
        "sendmsg4",
        Place::Root,
        Kind::SockAddr,
        Hook::BPF_CGROUP_UDP4_SENDMSG,
    ),
    at(
        "exeat_sendmsg6",
        "sendmsg6",
        Place::Root,
        Kind::SockAddr,
        Hook::BPF_CGROUP_UDP6_SENDMSG,
    ),
];

/// Has the verifier check a program and the kernel take it in.
pub(super) fn load(ebpf: &mut Ebpf, attachment: &Attachment) -> Result<(), KernelError> {
    let refuse = |source: ProgramError| KernelError::Program {
        program: attachment.program,
        source: source.into(),
    };
    let program = ebpf
        .program_mut(attachment.program)
        .ok_or(ProgramError::NotLoaded)
        .map_err(refuse)?;
    match attachment.kind {
        Kind::SockAddr => <&mut CgroupSockAddr>::try_from(program).and_then(|p| p.load()),
        Kind::Sock => <&mut CgroupSock>::try_from(program).and_then(|p| p.load()),
        Kind::Sockopt => <&mut CgroupSockopt>::try_from(program).and_then(|p| p.load()),
        Kind::Packet => <&mut CgroupSkb>::try_from(program).and_then(|p| p.load()),
        Kind::SockOps => <&mut SockOps>::try_from(program).and_then(|p| p.load()),
    }
    .map_err(refuse)
}

/// What [`put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Attached and pinned a new link.
    Attached,
    /// Swapped the program of a pinned link.
    Updated,
}

/// Puts a loaded program in its place: into the pinned link where there is one, else by a
/// new link, which is pinned.
pub(super) fn put(
    ebpf: &mut Ebpf,
    attachment: &Attachment,
    slice: &Slice,
    pins: &Pins,
) -> Result<Put, KernelError> {
    pin_program(ebpf, attachment, pins)?;
    let folder = match attachment.place {
        Place::Root => slice.root(),
        Place::Slice => slice.path(),
    };
    hold(
        ebpf,
        attachment,
        folder,
        &pins.links().join(attachment.program),
    )
}

/// Has a pinned link hold a program at a cgroup.
pub(super) fn hold(
    ebpf: &Ebpf,
    attachment: &Attachment,
    folder: &Path,
    pin: &Path,
) -> Result<Put, KernelError> {
    let fail = |action| {
        move |source: Box<dyn std::error::Error + Send + Sync>| KernelError::Link {
            action,
            program: attachment.program,
            source,
        }
    };
    match sys::object_get(pin) {
        Ok(link) => {
            let program = program_fd(ebpf, attachment)?;
            match sys::link_update(link.as_fd(), program) {
                Ok(()) => return Ok(Put::Updated),
                // The cgroup was removed, and its links with it: nothing is enforced by this
                // link any more, so a new one leaves no gap that is not there already.
                Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_file(pin).map_err(KernelError::path("remove", pin))?;
                }
                Err(e) => return Err(fail("update")(e.into())),
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail("open")(e.into())),
    }
    let cgroup = File::open(folder).map_err(KernelError::path("open the cgroup", folder))?;
    let program = program_fd(ebpf, attachment)?;
    let link = sys::link_create(program, cgroup.as_fd(), attachment.attach_type)
        .map_err(|e| fail("attach")(e.into()))?;
    sys::object_pin(link.as_fd(), pin).map_err(|e| fail("pin")(e.into()))?;
    Ok(Put::Attached)
}

/// Puts this program into a link; one whose cgroup is gone holds nothing.
pub(super) fn update(
    ebpf: &Ebpf,
    attachment: &Attachment,
    link: &OwnedFd,
) -> Result<(), KernelError> {
    let program = program_fd(ebpf, attachment)?;
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        Err(e) => Err(KernelError::Link {
            action: "update",
            program: attachment.program,
            source: e.into(),
        }),
    }
}

fn program_fd<'a>(ebpf: &'a Ebpf, attachment: &Attachment) -> Result<BorrowedFd<'a>, KernelError> {
    ebpf.program(attachment.program)
        .ok_or(ProgramError::NotLoaded)
        .and_then(|program| program.fd())
        .map(|fd| fd.as_fd())
        .map_err(|source| KernelError::Program {
            program: attachment.program,
            source: source.into(),
        })
}

/// Pinned programs are for people who look (bpftool); the links hold what runs.
fn pin_program(ebpf: &mut Ebpf, attachment: &Attachment, pins: &Pins) -> Result<(), KernelError> {
    let pin = pins.programs().join(attachment.program);
    match fs::remove_file(&pin) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::path("remove", &pin)(e)),
    }
    ebpf.program_mut(attachment.program)
        .ok_or_else(|| Box::<dyn std::error::Error + Send + Sync>::from("no such program"))
        .and_then(|program| program.pin(&pin).map_err(Into::into))
        .map_err(|source| KernelError::Link {
            action: "pin the program beside",
            program: attachment.program,
            source,
        })
}

/// A link as the kernel describes it now, not as we remember it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Attached.
    Up {
        /// Id of the link.
        link: u32,
        /// Id of the program that runs.
        program: u32,
        /// Id of the cgroup.
        cgroup: u64,
    },
    /// Pinned, but its cgroup is gone.
    Dead,
    /// Not there.
    Missing,
}

/// Asks the kernel about the pinned link of a program.
pub fn state(pins: &Pins, attachment: &Attachment) -> LinkState {
    state_at(&pins.links().join(attachment.program))
}

/// The same of a link that is pinned there.
pub(super) fn state_at(pin: &Path) -> LinkState {
    let Ok(link) = sys::object_get(pin) else {
        return LinkState::Missing;
    };
    let Some(fields) = fdinfo(&link) else {
        return LinkState::Missing;
    };
    let number = |key: &str| {
        fields
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.trim().parse::<u64>().ok())
    };
    match (number("link_id"), number("prog_id"), number("cgroup_id")) {
        // A detached cgroup link reports cgroup 0 (`bpf_cgroup_link_show_fdinfo`).
        (_, _, Some(0) | None) => LinkState::Dead,
        (Some(link), Some(program), Some(cgroup)) => LinkState::Up {
            link: link as u32,
            program: program as u32,
            cgroup,
        },
        _ => LinkState::Dead,
    }
}

fn fdinfo(fd: &OwnedFd) -> Option<String> {
    fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.as_raw_fd().to_string())).ok()
}
