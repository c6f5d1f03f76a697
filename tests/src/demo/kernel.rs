//! What bpf(2) says, asked without Exeat's own code or another program.

use anyhow::{Context, anyhow};
use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OBJ_GET: libc::c_long = 7;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const LINK_GET_FD_BY_ID: libc::c_long = 30;

/// An object of the kernel by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Object {
    Program(u32),
    Map(u32),
    Link(u32),
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program(id) => write!(f, "BPF program {id}"),
            Self::Map(id) => write!(f, "BPF map {id}"),
            Self::Link(id) => write!(f, "BPF link {id}"),
        }
    }
}

impl Object {
    /// Whether the kernel still has it.
    pub(super) fn exists(self) -> bool {
        let (command, id) = match self {
            Self::Program(id) => (PROG_GET_FD_BY_ID, id),
            Self::Map(id) => (MAP_GET_FD_BY_ID, id),
            Self::Link(id) => (LINK_GET_FD_BY_ID, id),
        };
        // union bpf_attr: id, next_id, open_flags.
        let attributes = [u64::from_ne_bytes(pair(id, 0)), 0];
        match bpf(command, &attributes) {
            Ok(_) => true,
            // Anything but "no such id" is no proof that it is gone.
            Err(error) => error.raw_os_error() != Some(libc::ENOENT),
        }
    }
}

/// The objects behind a pin: a map, or a link and its program.
pub(super) fn pinned(path: &Path) -> anyhow::Result<Vec<Object>> {
    use std::os::fd::AsRawFd;
    let name = CString::new(path.as_os_str().as_bytes())?;
    // union bpf_attr: pathname, bpf_fd, file_flags.
    let attributes = [name.as_ptr() as u64, 0];
    let file = bpf(OBJ_GET, &attributes).with_context(|| format!("open {}", path.display()))?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let found = objects(&info);
    if found.is_empty() {
        return Err(anyhow!("{} is no BPF object:\n{info}", path.display()));
    }
    Ok(found)
}

fn objects(fdinfo: &str) -> Vec<Object> {
    let object = |line: &str| {
        let (key, value) = line.split_once(':')?;
        let id = value.trim().parse().ok()?;
        match key {
            "link_id" => Some(Object::Link(id)),
            "prog_id" => Some(Object::Program(id)),
            "map_id" => Some(Object::Map(id)),
            _ => None,
        }
    };
    fdinfo.lines().filter_map(object).collect()
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

fn bpf(command: libc::c_long, attributes: &[u64; 2]) -> std::io::Result<OwnedFd> {
    // SAFETY: the pointer and the size describe `attributes`, which the kernel only reads
    // for these commands; what it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_fdinfo() {
        let link = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t21\nprog_tag:\tab\nprog_id:\t7\n";
        assert_eq!(objects(link), [Object::Link(21), Object::Program(7)]);
        assert_eq!(objects("map_type:\t1\nmap_id:\t3\n"), [Object::Map(3)]);
        assert_eq!(objects("pos:\t0\n"), []);
    }

    #[test]
    fn what_the_kernel_never_had_does_not_exist() {
        assert!(!Object::Link(u32::MAX).exists());
        assert!(!Object::Map(u32::MAX).exists());
    }
}
