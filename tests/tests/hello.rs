use aya::Ebpf;
use aya::programs::CgroupSkb;
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../target/bpf/hello");
#[test]
fn loads() {
    let mut ebpf = Ebpf::load(OBJECT).expect("load the object");
    for name in ["hello_reset", "hello_read", "hello_anew"] {
        let p: &mut CgroupSkb = ebpf.program_mut(name).unwrap().try_into().unwrap();
        p.load().expect("load");
        println!("{name}: {:?}", p.info().unwrap().verified_instruction_count());
    }
}
