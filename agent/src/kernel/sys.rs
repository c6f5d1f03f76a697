//! The `bpf(2)` commands that aya 0.14 has no call for, or hides.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};
use nix::sys::resource::{Resource, setrlimit};

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole bpf_attr, of which the kernel reads and writes only the
    // size that is given; what it points to is kept alive by the callers below.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: the commands that are called this way answer with a new descriptor, which is
    // ours alone.
    bpf(command, attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers, for which zero is a value; the kernel wants the unused
    // part to be zero (`bpf_check_uarg_tail_zero`).
    unsafe { std::mem::zeroed() }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Kernels before 5.11 count maps against `RLIMIT_MEMLOCK`, which is 64 KiB on some. Where
/// it cannot be lifted, making a map says so.
pub(super) fn lift_memory_limit() {
    let all = nix::sys::resource::RLIM_INFINITY;
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, all, all) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays");
    }
}

/// `BPF_LINK_CREATE`: attaches a program to a cgroup. The kernel treats every link as one
/// of several (`BPF_F_ALLOW_MULTI`), so nobody else's programs are in the way.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// `BPF_LINK_UPDATE`: puts another program in the place of a link's, without a moment in
/// between (kernel 5.7, `cgroup_bpf_replace`). A link whose cgroup is gone is ENOLINK.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// `BPF_PROG_LOAD`: whether the kernel takes a program of BPF LSM that does nothing, at the
/// hook whose type has this id. It is gone when this returns.
pub(super) fn lsm_loads(hook: u32) -> io::Result<()> {
    /// `r0 = 0; exit` (`include/uapi/linux/bpf.h`, Documentation/bpf/standardization).
    static NOTHING: [u64; 2] = [0xb7, 0x95];
    let mut attr = zeroed();
    // SAFETY: all bytes of the union are initialised, and every bit pattern of this member,
    // which is integers, is a value.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_LSM as u32;
    load.expected_attach_type = bpf_attach_type::BPF_LSM_MAC as u32;
    load.attach_btf_id = hook;
    load.insns = NOTHING.as_ptr() as u64;
    load.insn_cnt = NOTHING.len() as u32;
    load.license = c"GPL".as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(drop)
}

/// `BPF_RAW_TRACEPOINT_OPEN`: attaches a program of BPF LSM to its hook; it stands as long as
/// the link does.
pub(super) fn lsm_attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_raw_fd() as u32;
    bpf_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr)
}

/// `BPF_OBJ_PIN`: pins at a path on a bpffs.
pub(super) fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// `BPF_OBJ_GET`: opens what is pinned at a path.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// `BPF_MAP_CREATE`: a map of keys `K` and values `V` that no object describes.
pub(super) fn map_create<K, V>(
    kind: bpf_map_type,
    max_entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_1.map_type = kind as u32;
    attr.__bindgen_anon_1.key_size = size_of::<K>() as u32;
    attr.__bindgen_anon_1.value_size = size_of::<V>() as u32;
    attr.__bindgen_anon_1.max_entries = max_entries;
    attr.__bindgen_anon_1.map_flags = flags;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// `BPF_MAP_CREATE`: an array of maps that are like `inner`. `name` is what bpftool shows,
/// cut to 15 bytes.
pub(super) fn array_of_maps_create(
    name: &str,
    inner: BorrowedFd<'_>,
    max_entries: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: all bytes of the union are initialised, and every bit pattern of this member,
    // which is integers, is a value.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    create.key_size = size_of::<u32>() as u32;
    create.value_size = size_of::<u32>() as u32;
    create.max_entries = max_entries;
    create.inner_map_fd = inner.as_raw_fd() as u32;
    let room = create.map_name.len() - 1;
    for (to, from) in create.map_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// `BPF_MAP_UPDATE_BATCH` (kernel 5.6; prefix tries 5.14, before which this is ENOTSUPP):
/// inserts many elements by one call, three to four times as fast as one by one. `keys` and
/// `values` hold `count` elements each, back to back.
pub(super) fn map_update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    debug_assert_eq!(keys.len(), values.len());
    let mut attr = zeroed();
    attr.batch.map_fd = map.as_raw_fd() as u32;
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = keys.len().min(values.len()) as u32;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// `BPF_MAP_UPDATE_ELEM`: inserts one element.
pub(super) fn map_update<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Gives freed memory back to the kernel: its types take over 60 MiB while they are read,
/// once for [`super::fields`] and once by aya, and the daemon needs a quarter of that for
/// everything else.
pub(super) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
