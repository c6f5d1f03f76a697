//! systemd-journald's native protocol: fields by name, in one datagram.
//!
//! The format is two rules (systemd.io/JOURNAL_NATIVE_PROTOCOL), and the crates that write it
//! are loggers of the process's own events: none takes a field by its name at run time.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};

use super::outcome::{Delivery, Outcome, Trouble};
use super::parcel::Parcel;

pub(super) struct Journald {
    pub(super) socket: PathBuf,
}

impl Journald {
    /// A datagram is journald's once the kernel has taken it: the socket outlives the
    /// journal's restarts (systemd holds it).
    pub(super) fn deliver(&self, batch: &[&Parcel]) -> Delivery {
        let failed =
            |errno: Errno| Trouble::later(format!("{}: {}", self.socket.display(), errno.desc()));
        let to = UnixAddr::new(&self.socket).map_err(failed)?;
        let from = socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(failed)?;
        let mut outcome = Outcome::default();
        for (n, parcel) in batch.iter().enumerate() {
            let entry = entry(parcel);
            let parts = [IoSlice::new(&entry)];
            let sent = sendmsg(from.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&to));
            let sent = match sent {
                Err(Errno::EMSGSIZE | Errno::ENOBUFS) => by_memory(&from, &to, &entry),
                sent => sent.map(drop),
            };
            match sent {
                Ok(()) => {}
                Err(errno) if n == 0 => return Err(failed(errno)),
                Err(errno) => {
                    outcome.again = (n..batch.len()).collect();
                    outcome.why = Some(format!("{}: {}", self.socket.display(), errno.desc()));
                    return Ok(outcome);
                }
            }
        }
        Ok(outcome)
    }
}

/// What is too large for a datagram goes as a sealed file in memory.
fn by_memory(from: &impl std::os::fd::AsRawFd, to: &UnixAddr, entry: &[u8]) -> nix::Result<()> {
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = File::from(memfd_create(c"exeat-journal", flags)?);
    let written = file.write_all(entry);
    written.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let handed = [file.as_raw_fd()];
    let with = [ControlMessage::ScmRights(&handed)];
    sendmsg(from.as_raw_fd(), &[], &with, MsgFlags::empty(), Some(to)).map(drop)
}

fn entry(parcel: &Parcel) -> Vec<u8> {
    let head = &parcel.head;
    let mut entry = Vec::with_capacity(2048);
    let mut put = |name: &str, value: &str| field(&mut entry, name, value);
    put("MESSAGE", &head.message);
    put("PRIORITY", &head.severity.number().to_string());
    put("SYSLOG_IDENTIFIER", "exeat");
    put("SYSLOG_FACILITY", "10");
    put("EXEAT_ID", &head.id.to_string());
    put("EXEAT_EVENT", &head.event);
    put("EXEAT_TIME", &head.time.to_string());
    for (name, value) in &head.fields {
        put(&field_name(name), value);
    }
    put("EXEAT_RECORD", &parcel.body);
    entry
}

/// journald takes upper-case letters, digits and `_`, 64 of them at most.
fn field_name(name: &str) -> String {
    let fits = |c: char| match c.to_ascii_uppercase() {
        c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    let name: String = name.chars().map(fits).take(58).collect();
    format!("EXEAT_{name}")
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        // With its length: a program that has a line break in its name adds no field.
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::parcel::tests::parcel;
    use std::io::Read as _;
    use std::os::fd::FromRawFd as _;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn fields_have_names_and_a_line_break_makes_none() {
        let mut parcel = parcel();
        let hostile = "x\nPRIORITY=0\nEXEAT_AGENT=other";
        parcel.head.fields.insert("exe".into(), hostile.into());
        parcel.head.fields.insert("fact_a.b".into(), "1".into());
        let entry = entry(&parcel);
        let text = String::from_utf8_lossy(&entry);
        assert!(text.contains("\nPRIORITY=4\n"), "{text}");
        assert!(text.contains("\nEXEAT_FACT_A_B=1\n"), "{text}");
        let mut expected = b"\nEXEAT_EXE\n".to_vec();
        expected.extend((hostile.len() as u64).to_le_bytes());
        expected.extend(hostile.as_bytes());
        assert!(entry.windows(expected.len()).any(|part| part == expected));
    }

    #[test]
    fn a_large_entry_goes_as_a_sealed_file() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("bind");
        let to = Journald { socket: path };
        let mut large = parcel();
        large.body = format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20));
        to.deliver(&[&large]).expect("sent");
        let mut space = nix::cmsg_space!(std::os::fd::RawFd);
        let got = nix::sys::socket::recvmsg::<()>(
            journal.as_raw_fd(),
            &mut [],
            Some(&mut space),
            MsgFlags::empty(),
        )
        .expect("received");
        let handed = got.cmsgs().expect("control").find_map(|c| match c {
            nix::sys::socket::ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        // SAFETY: it was received just now and is nobody else's.
        let mut file = unsafe { File::from_raw_fd(handed.expect("a file")) };
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("rewind");
        file.read_to_string(&mut text).expect("read");
        assert!(text.contains("EXEAT_RECORD={\"x\":\"yyy"));
        assert!(file.write_all(b"more").is_err(), "it is sealed");
    }
}
