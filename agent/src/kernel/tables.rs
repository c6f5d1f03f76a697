//! One agent's tables: filled in the bank that is not in force, then put in force by one
//! word.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use agent_common::{
    Addr,
    layout::{Bank, MAX_AGENTS, MAX_BANKS, MAX_ENTRIES, MAX_STEERED, NameKey, Origin},
    verdict::{Entry, SetRef},
};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use aya_obj::generated::{BPF_F_NO_PREALLOC, bpf_map_type};

use super::{KernelError, sys};
use crate::policy::{Change, Compiled, HostName};

/// Flags of a map update: only an element that is not there, only one that is.
const BPF_NOEXIST: u64 = aya_obj::generated::BPF_NOEXIST as u64;
const BPF_EXIST: u64 = aya_obj::generated::BPF_EXIST as u64;

/// What a lease update did to the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// The kernel holds it.
    Held,
    /// There is no room for another address: it stays refused.
    Full,
}

/// What goes into a bank.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Exact addresses.
    pub exact: Vec<(Addr, SetRef)>,
    /// Prefixes: address and length in bits of the 16-byte form (0..=128).
    pub prefixes: Vec<(Addr, u8, SetRef)>,
    /// The names that TLS connections to an address may be for.
    pub names: Vec<(NameKey, SetRef)>,
    /// Entries that the sets point to.
    pub entries: Vec<Entry>,
    /// What the bank is beside its tables.
    pub bank: Bank,
    /// Exact addresses, and names of addresses, that may be added to the bank while it is in
    /// force.
    pub spare: u32,
}

impl Image {
    /// What a compiled policy comes to. Of the bank the caller says what is not in the policy;
    /// `spare` is [`Image::spare`].
    pub fn new(compiled: &Compiled, bank: Bank, spare: u32) -> Self {
        let key = |addr, name: &HostName| NameKey::new(addr, name.as_str());
        Self {
            exact: compiled.exact().collect(),
            prefixes: compiled.prefixes().collect(),
            names: compiled
                .named()
                .filter_map(|(addr, name, set)| Some((key(addr, name)?, set)))
                .collect(),
            entries: compiled.entries().to_vec(),
            bank: Bank {
                icmp: u8::from(compiled.icmp()),
                listeners: compiled.listeners(),
                ..bank
            },
            spare,
        }
    }
}

pub(super) type Exact = HashMap<MapData, Addr, SetRef>;
pub(super) type Prefix = LpmTrie<MapData, Addr, SetRef>;
pub(super) type Names = HashMap<MapData, NameKey, SetRef>;
pub(super) type Entries = Array<MapData, Entry>;

/// The maps of one bank.
pub(super) struct Tables {
    pub(super) exact: Exact,
    pub(super) prefix: Prefix,
    pub(super) names: Names,
    pub(super) entries: Entries,
    /// Exact addresses held, and how many there is room for.
    pub(super) used: u32,
    pub(super) room: u32,
}

/// Elements a batch: large enough that the call costs nothing, small enough that the copy
/// in the kernel stays small.
const BATCH: usize = 16 * 1024;

impl Tables {
    /// Makes the maps and fills them; nothing can see them yet.
    pub(super) fn filled(image: &Image) -> Result<Self, KernelError> {
        let used = image.exact.len() as u32;
        let room = used.saturating_add(image.spare).max(1);
        let exact = filled::<Exact, Addr, SetRef>(
            "EXACT",
            bpf_map_type::BPF_MAP_TYPE_HASH,
            room,
            0,
            image.exact.iter().copied(),
        )?;
        let prefix = filled::<Prefix, PrefixKey, SetRef>(
            "PREFIX",
            bpf_map_type::BPF_MAP_TYPE_LPM_TRIE,
            (image.prefixes.len() as u32).max(1),
            BPF_F_NO_PREALLOC,
            image
                .prefixes
                .iter()
                .map(|(addr, bits, set)| (PrefixKey::new(*bits, *addr), *set)),
        )?;
        // An element takes 350 bytes, and most agents have few names of the many that there is
        // room for.
        let names = filled::<Names, NameKey, SetRef>(
            "NAMES",
            bpf_map_type::BPF_MAP_TYPE_HASH,
            (image.names.len() as u32)
                .saturating_add(image.spare)
                .max(1),
            BPF_F_NO_PREALLOC,
            image.names.iter().copied(),
        )?;
        let entries = filled::<Entries, u32, Entry>(
            "ENTRIES",
            bpf_map_type::BPF_MAP_TYPE_ARRAY,
            MAX_ENTRIES,
            0,
            (0..).zip(image.entries.iter().copied()),
        )?;
        Ok(Self {
            exact,
            prefix,
            names,
            entries,
            used,
            room,
        })
    }
}

impl Tables {
    /// Has an address lead to a set.
    pub(super) fn put_addr(&mut self, addr: Addr, set: SetRef) -> Result<Leased, KernelError> {
        let fail = KernelError::map("write to", "EXACT");
        match self.exact.insert(addr, set, BPF_NOEXIST) {
            Ok(()) => self.used += 1,
            Err(e) if is_errno(&e, libc::EEXIST) => {
                self.exact.insert(addr, set, BPF_EXIST).map_err(fail)?;
            }
            Err(e) if is_full(&e) => return Ok(Leased::Full),
            Err(e) => return Err(fail(e)),
        }
        Ok(Leased::Held)
    }

    /// Has an address lead nowhere.
    pub(super) fn remove_addr(&mut self, addr: &Addr) -> Result<(), KernelError> {
        match self.exact.remove(addr) {
            Ok(()) => {
                self.used -= 1;
                Ok(())
            }
            other => absent_is_fine(other).map_err(KernelError::map("write to", "EXACT")),
        }
    }

    /// Writes the names that an address may be used for. Where there is no room for one, none
    /// of those that came stays.
    pub(super) fn write_names(&mut self, change: &Change) -> Result<Leased, KernelError> {
        for (name, set) in &change.names {
            let Some(key) = NameKey::new(change.addr, name.as_str()) else {
                continue;
            };
            let fail = KernelError::map("write to", "NAMES");
            match set {
                None => absent_is_fine(self.names.remove(&key)).map_err(fail)?,
                Some(set) => match self.names.insert(key, set, 0) {
                    Ok(()) => {}
                    Err(e) if is_full(&e) => {
                        self.remove_names(change)?;
                        return Ok(Leased::Full);
                    }
                    Err(e) => return Err(fail(e)),
                },
            }
        }
        Ok(Leased::Held)
    }

    /// Removes the names that came with a change.
    pub(super) fn remove_names(&mut self, change: &Change) -> Result<(), KernelError> {
        let came = change.names.iter().filter(|(_, set)| set.is_some());
        for key in came.filter_map(|(name, _)| NameKey::new(change.addr, name.as_str())) {
            absent_is_fine(self.names.remove(&key))
                .map_err(KernelError::map("write to", "NAMES"))?;
        }
        Ok(())
    }
}

/// Writes entries from an index on.
pub(super) fn write_entries(
    map: &mut Entries,
    from: u16,
    entries: &[Entry],
) -> Result<(), KernelError> {
    for (index, entry) in (u32::from(from)..).zip(entries) {
        map.set(index, *entry, 0)
            .map_err(KernelError::map("write to", "ENTRIES"))?;
    }
    Ok(())
}

/// The key of the trie, as the kernel lays it out: `struct bpf_lpm_trie_key_u8`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrefixKey {
    bits: u32,
    addr: Addr,
}

const _: () = assert!(size_of::<PrefixKey>() == size_of::<Key<Addr>>());

impl PrefixKey {
    fn new(bits: u8, addr: Addr) -> Self {
        Self {
            bits: u32::from(bits),
            addr,
        }
    }
}

// SAFETY: `repr(C)`, integers only, no padding (see the size assertion).
unsafe impl aya::Pod for PrefixKey {}

/// Makes a map and fills it by batches. The descriptor is ours, because aya shows that of
/// a typed map to nobody.
fn filled<M, K, V>(
    name: &'static str,
    kind: bpf_map_type,
    room: u32,
    flags: u32,
    elements: impl Iterator<Item = (K, V)>,
) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
    K: aya::Pod,
    V: aya::Pod,
{
    let fail = |action| {
        move |source: io::Error| KernelError::Map {
            action,
            map: name,
            source: source.into(),
        }
    };
    let fd = sys::map_create::<K, V>(kind, room, flags).map_err(fail("create"))?;
    let mut keys = Vec::with_capacity(BATCH);
    let mut values = Vec::with_capacity(BATCH);
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        keys.clear();
        values.clear();
        for (key, value) in elements.by_ref().take(BATCH) {
            keys.push(key);
            values.push(value);
        }
        fill(fd.as_fd(), &keys, &values).map_err(fail("fill"))?;
    }
    MapData::from_fd(fd)
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(KernelError::map("open", name))
}

/// Many elements by one call where this kernel has it for this type of map, else one by one.
fn fill<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    /// The kernel's own `ENOTSUPP`, which no header of user space has.
    const ENOTSUPP: i32 = 524;
    match sys::map_update_batch(map, keys, values) {
        Err(e) if e.raw_os_error() == Some(ENOTSUPP) => keys
            .iter()
            .zip(values)
            .try_for_each(|(key, value)| sys::map_update(map, key, value)),
        other => other,
    }
}

/// A table of steered connections, [`Steered`].
pub(super) fn steered_map() -> io::Result<OwnedFd> {
    sys::map_create::<u64, Origin>(bpf_map_type::BPF_MAP_TYPE_LRU_HASH, MAX_STEERED, 0)
}

/// Makes and pins the maps of maps, unless they are pinned already.
///
/// The loader would make them too, but with type information in the template of what they
/// hold, and kernels from 5.15 to 6.1 take such a template for unlike a map without
/// (`bpf_map_meta_equal` compares `timer_off`, -ENOENT with and -EINVAL without).
pub(super) fn pin_banks(folder: &Path) -> Result<(), KernelError> {
    use bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE};
    type Template = fn() -> io::Result<OwnedFd>;
    let outer: [(&'static str, u32, Template); 5] = [
        ("EXACT", MAX_BANKS, || {
            sys::map_create::<Addr, SetRef>(BPF_MAP_TYPE_HASH, 1, 0)
        }),
        ("PREFIX", MAX_BANKS, || {
            sys::map_create::<PrefixKey, SetRef>(BPF_MAP_TYPE_LPM_TRIE, 1, BPF_F_NO_PREALLOC)
        }),
        ("NAMES", MAX_BANKS, || {
            sys::map_create::<NameKey, SetRef>(BPF_MAP_TYPE_HASH, 1, BPF_F_NO_PREALLOC)
        }),
        ("ENTRIES", MAX_BANKS, || {
            sys::map_create::<u32, Entry>(BPF_MAP_TYPE_ARRAY, MAX_ENTRIES, 0)
        }),
        ("STEERED", MAX_AGENTS, steered_map),
    ];
    for (map, size, template) in outer {
        let path = folder.join(map);
        if path.exists() {
            continue;
        }
        template()
            .and_then(|inner| sys::array_of_maps_create(map, inner.as_fd(), size))
            .and_then(|outer| sys::object_pin(outer.as_fd(), &path))
            .map_err(|source| KernelError::Map {
                action: "create",
                map,
                source: source.into(),
            })?;
    }
    Ok(())
}

/// Whether an insert failed because the map is full.
pub(super) fn is_full(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::E2BIG))
}

/// What became of removing an element that may not be there.
pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(e) if is_errno(&e, libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn is_errno(error: &MapError, errno: i32) -> bool {
    matches!(error, MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(errno))
}
