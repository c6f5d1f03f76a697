//! `exeat schema`: the JSON Schema of policy files.

use std::io::Write;

/// Prints the JSON Schema of policy files, for editors.
#[derive(Clone, Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints it; the exit code is 0.
pub fn run(_: &SchemaArgs, out: &mut impl Write) -> anyhow::Result<u8> {
    out.write_all(crate::policy::schema().as_bytes())?;
    Ok(0)
}
