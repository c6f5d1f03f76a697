//! Where the programs find fields of this kernel's own structures, from its type information.
//!
//! BPF from Rust has no relocations for them (CO-RE), so the daemon looks the places up and
//! the programs read them as constants.

use std::{fs, io};

use std::collections::BTreeMap;

use btfparse::{Offset, Readable, TypeInformation, TypeVariant};

use super::KernelError;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The places that the programs read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// `sk_buff.head`: the address of a packet's buffer.
    pub(super) skb_head: u64,
    /// `sk_buff.end`: where in it the description of the packet's pages lies (64-bit kernels
    /// keep a `u32`, `NET_SKBUFF_DATA_USES_OFFSET`).
    pub(super) skb_end: u64,
    /// In that description, the byte that tells whose the pages are.
    pub(super) page_flags: u64,
    /// Bits of that byte by which a page may still be changed by who wrote it.
    pub(super) shared: u64,
    /// What the walls of BPF LSM read, or why there can be none.
    pub(super) walls: Result<WallFields, String>,
}

/// The places that the walls read, and the hooks that they stand at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WallFields {
    /// Places, by the names of the programs' constants.
    pub(super) places: Vec<(&'static str, u64)>,
    /// Type id of the hook `bpf`, for a first try.
    pub(super) first_hook: u32,
}

/// Constant, structure and field; or fields, where kernels call it differently.
const WALL_PLACES: [(&str, &str, &str); 24] = [
    ("FILE_INODE", "file", "f_inode"),
    ("FILE_MODE", "file", "f_mode"),
    ("FILE_PRIVATE", "file", "private_data"),
    ("INODE_MODE", "inode", "i_mode"),
    ("INODE_SB", "inode", "i_sb"),
    ("INODE_INO", "inode", "i_ino"),
    ("INODE_PRIVATE", "inode", "i_private"),
    ("SB_MAGIC", "super_block", "s_magic"),
    ("SB_DEV", "super_block", "s_dev"),
    ("SOCKET_SK", "socket", "sk"),
    ("SOCK_FAMILY", "sock", "__sk_common.skc_family"),
    // Kernels before 5.15 keep another thing there.
    ("SOCK_CGROUP", "sock", "sk_cgrp_data.cgroup"),
    ("UNIX_DENTRY", "unix_sock", "path.dentry"),
    ("DENTRY_INODE", "dentry", "d_inode"),
    ("DENTRY_PARENT", "dentry", "d_parent"),
    ("CGROUP_SELF", "cgroup", "self"),
    ("CSS_PARENT", "cgroup_subsys_state", "parent"),
    ("CGROUP_KN", "cgroup", "kn"),
    ("KN_ID", "kernfs_node", "id"),
    ("KN_NAME", "kernfs_node", "name"),
    // Linux 6.15 (633488947ef6).
    ("KN_PARENT", "kernfs_node", "parent|__parent"),
    ("TASK_CGROUPS", "task_struct", "cgroups"),
    ("SET_CGROUP", "css_set", "dfl_cgrp"),
    ("TASK_TGID", "task_struct", "tgid"),
];

impl WallFields {
    fn of(types: &TypeInformation) -> Result<Self, String> {
        // A name can be that of a function or a variable too, so structures are looked for
        // among structures.
        let mut structures: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        let mut first_hook = None;
        for (id, kind) in types.get() {
            match kind {
                TypeVariant::Struct(found) => {
                    let wanted = found.name().as_deref().and_then(|name| {
                        let mut places = WALL_PLACES.iter();
                        places.find(|(_, of, _)| *of == name).map(|(_, of, _)| *of)
                    });
                    if let Some(of) = wanted {
                        structures.entry(of).or_default().push(*id);
                    }
                }
                TypeVariant::Func(found) if found.name().as_deref() == Some("bpf_lsm_bpf") => {
                    first_hook = Some(*id);
                }
                _ => {}
            }
        }
        let first_hook = first_hook.ok_or("this kernel is built without CONFIG_BPF_LSM")?;
        let place = |of: &str, field: &str| {
            let ids = structures.get(of)?;
            let mut all = field
                .split('|')
                .flat_map(|field| ids.iter().map(move |id| (*id, field)));
            all.find_map(|(id, field)| match types.offset_of(id, field) {
                Ok((_, Offset::ByteOffset(at))) => Some(u64::from(at)),
                _ => None,
            })
        };
        let mut places = Vec::new();
        for (constant, of, field) in WALL_PLACES {
            let at = place(of, field)
                .ok_or_else(|| format!("this kernel's type information has no {of}.{field}"))?;
            places.push((constant, at));
        }
        Ok(Self { places, first_hook })
    }
}

/// `SKBFL_ZEROCOPY_ENABLE`, `SKBFL_SHARED_FRAG`, `SKBFL_PURE_ZEROCOPY` and
/// `SKBFL_MANAGED_FRAG_REFS` of `skb_shared_info.flags` (Linux 5.14, 06b4feb37e64).
const FLAGS: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 4;
/// `SKBTX_DEV_ZEROCOPY` and `SKBTX_SHARED_FRAG` of `skb_shared_info.tx_flags` before.
const TX_FLAGS: u64 = 1 << 3 | 1 << 5;

struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.0.get(from..).and_then(|rest| rest.get(..buffer.len()));
        let cut = || btfparse::Error::new(btfparse::ErrorKind::EOF, "cut off");
        buffer.copy_from_slice(bytes.ok_or_else(cut)?);
        Ok(())
    }
}

impl Fields {
    /// Looks them up.
    pub(super) fn look_up() -> Result<Self, KernelError> {
        fs::read(BTF)
            .and_then(|bytes| Self::of(Bytes(bytes)))
            .map_err(|source| KernelError::Fields { file: BTF, source })
    }

    fn of(bytes: Bytes) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let types = TypeInformation::new(&bytes).map_err(|e| invalid(e.message().to_owned()))?;
        let place = |of: &str, field: &str| {
            let id = types.id_of(of)?;
            match types.offset_of(id, field).ok()?.1 {
                Offset::ByteOffset(at) => Some(u64::from(at)),
                Offset::BitOffsetAndSize(..) => None,
            }
        };
        let wanted = |of: &str, field: &str| {
            place(of, field).ok_or_else(|| invalid(format!("it has no {of}.{field}")))
        };
        let (page_flags, shared) = match place("skb_shared_info", "flags") {
            Some(at) => (at, FLAGS),
            None => (wanted("skb_shared_info", "tx_flags")?, TX_FLAGS),
        };
        Ok(Self {
            skb_head: wanted("sk_buff", "head")?,
            skb_end: wanted("sk_buff", "end")?,
            page_flags,
            shared,
            walls: WallFields::of(&types),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_them_all() {
        let fields = Fields::look_up().expect("fields");
        assert!(fields.skb_head > fields.skb_end && fields.page_flags < 16);
        let walls = fields.walls.expect("what the walls read");
        assert_eq!(walls.places.len(), WALL_PLACES.len());
        let at = |name| walls.places.iter().find(|(other, _)| *other == name);
        assert_ne!(at("FILE_INODE"), at("FILE_MODE"));
        assert_ne!(walls.first_hook, 0);
    }

    #[test]
    fn what_is_no_type_information_is_an_error() {
        for bytes in [
            vec![],
            vec![0; 100],
            b"not BTF at all, but long enough".to_vec(),
        ] {
            assert!(Fields::of(Bytes(bytes)).is_err());
        }
    }
}
