//! Exeat as another build of it would be: it keeps its maps in a layout of its own, so neither
//! build opens what the other has pinned.

fn main() -> std::process::ExitCode {
    exeat::kernel::pins::pretend_layout(agent_common::layout::LAYOUT_VERSION + 1);
    exeat::cli::main()
}
