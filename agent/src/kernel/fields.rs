//! Where the programs find fields of this kernel's own structures, from its type information.
//!
//! BPF from Rust has no relocations for them (CO-RE), so the daemon looks the places up and
//! the programs read them as constants.

use std::{fs, io};

use btfparse::{Offset, Readable, TypeInformation};

use super::KernelError;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The places that the programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
