//! bpf(2) in the hands of the agent. Looks, never changes: another guard may live on the
//! same machine.

use crate::context::{Context, Evidence, Outcome, Technique};
use crate::sys;

const F: &str = "bpf";

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "bpf-map-create", map_create)
        .root()
        .evidence(Evidence::Word),
    Technique::new(F, "bpf-prog-load", prog_load)
        .root()
        .evidence(Evidence::Word),
    Technique::new(F, "bpf-links", links)
        .root()
        .evidence(Evidence::Word),
];

fn bpf(
    call: &'static str,
    command: i32,
    attributes: &[u32; 32],
) -> Result<usize, crate::context::Fault> {
    // SAFETY: the pointer and the size describe `attributes`; zero is a valid rest.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of_val(attributes),
        )
    };
    sys::check(call, code)
}

fn map_create(_: &Context) -> Outcome {
    // BPF_MAP_CREATE: an array of one u32.
    let mut attributes = [0u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    bpf("BPF_MAP_CREATE", 0, &attributes)?;
    Ok("made a map".into())
}

/// Loads a program that a socket filter could be.
fn prog_load(_: &Context) -> Outcome {
    // r0 = 0; exit. Layout of struct bpf_insn: code, registers, offset, immediate.
    static CODE: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    static LICENSE: &std::ffi::CStr = c"GPL";
    let mut attributes = [0u32; 32];
    // BPF_PROG_LOAD: type, instruction count, then two pointers.
    attributes[..2].copy_from_slice(&[1, 2]);
    for (at, pointer) in [(2, CODE.as_ptr() as u64), (4, LICENSE.as_ptr() as u64)] {
        attributes[at] = pointer as u32;
        attributes[at + 1] = (pointer >> 32) as u32;
    }
    bpf("BPF_PROG_LOAD", 5, &attributes)?;
    Ok("loaded a program".into())
}

/// Opens a link of the system; with it in hand, BPF_LINK_DETACH would be one call away.
fn links(_: &Context) -> Outcome {
    const GET_NEXT_ID: i32 = 31;
    const GET_FD_BY_ID: i32 = 30;
    let mut next = [0u32; 32];
    // Without any link on the machine this is ENOENT, "unsupported".
    bpf("BPF_LINK_GET_NEXT_ID", GET_NEXT_ID, &next)?;
    next[0] = next[1];
    next[1] = 0;
    bpf("BPF_LINK_GET_FD_BY_ID", GET_FD_BY_ID, &next)?;
    Ok("holds a link".into())
}
