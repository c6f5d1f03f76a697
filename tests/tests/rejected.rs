//! A program that the kernel refuses is told in one line that says which and why.

use std::io::Write as _;

use aya::Ebpf;
use aya::programs::{CgroupSkb, ProgramType};
use aya::sys::is_helper_supported;
use aya_obj::generated::bpf_func_id::BPF_FUNC_get_current_pid_tgid;
use exeat::kernel::KernelError;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../target/bpf/broken");

fn load(program: &'static str) -> Result<(), KernelError> {
    let mut ebpf = Ebpf::load(OBJECT).expect("load the object");
    let found = ebpf.program_mut(program).expect("the program");
    let load = |skb: &mut CgroupSkb| skb.load();
    <&mut CgroupSkb>::try_from(found)
        .and_then(load)
        .map_err(|source| KernelError::Program {
            program,
            source: source.into(),
        })
}

/// What a person is shown, which must be one line that names program and helper once.
fn assert_useful(error: KernelError, program: &str, helper: &str) {
    // With its causes, as `exeat` prints it.
    let said = format!("{:#}", anyhow::Error::from(error));
    // Past the capture of test output: the line is there to be read, in the guests' logs too.
    let _ = writeln!(std::io::stderr(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(said.matches(program).count(), 1, "{said}");
    assert_eq!(said.matches(helper).count(), 1, "{said}");
    assert!(said.len() < 200, "{said}");
    for noise in [
        "processed ",
        "verification time",
        "syscall",
        "Verifier output",
    ] {
        assert!(!said.contains(noise), "{said}");
    }
}

#[test]
fn what_no_kernel_takes_is_told_in_one_line() {
    let error = load("broken_always").expect_err("the kernel took a program that it must not");
    assert_useful(error, "broken_always", "bpf_override_return");
}

#[test]
fn what_an_old_kernel_does_not_take_is_told_in_one_line() {
    let helper = BPF_FUNC_get_current_pid_tgid;
    let known = is_helper_supported(ProgramType::CgroupSkb, helper).expect("ask the kernel");
    match load("broken_when_old") {
        Ok(()) => assert!(
            known,
            "the kernel took a helper that it says it does not know"
        ),
        Err(error) => {
            assert!(!known, "{error}");
            assert_useful(error, "broken_when_old", "bpf_get_current_pid_tgid");
        }
    }
}
