//! Set-up, build, demo, test and bench of Exeat.
fn main() {}
