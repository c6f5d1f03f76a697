//! What a program needs of the C library.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::step;

/// The libraries that packages of every supported distribution bring: glibc and libgcc.
const KNOWN: [&str; 8] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// The lowest version of glibc that has what the program asks for, as (2, 34).
pub(super) fn glibc(program: &Path) -> Result<(u32, u32)> {
    let mut readelf = Command::new("readelf");
    readelf.arg("--wide").arg("--dynamic").arg(program);
    for library in needed(&step::capture(readelf.env("LC_ALL", "C"))?) {
        ensure!(
            KNOWN.contains(&library.as_str()),
            "the program needs {library}, which no dependency of the packages brings"
        );
    }
    let mut readelf = Command::new("readelf");
    readelf.arg("--wide").arg("--version-info").arg(program);
    newest(&step::capture(readelf.env("LC_ALL", "C"))?)
        .context("the program names no version of glibc")
}

fn needed(said: &str) -> Vec<String> {
    said.lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

fn newest(said: &str) -> Option<(u32, u32)> {
    said.split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let mut parts = rest[..end].split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_as_numbers() {
        let said = "0x0010: Name: GLIBC_2.4  Flags: none\n Name: GLIBC_2.34 Name: GLIBC_2.2.5\n";
        assert_eq!(newest(said), Some((2, 34)));
        assert_eq!(newest("Name: GCC_3.0"), None);
    }

    #[test]
    fn reads_libraries() {
        let said = " 0x1 (NEEDED)  Shared library: [libc.so.6]\n 0x1e (FLAGS) BIND_NOW [x]\n";
        assert_eq!(needed(said), ["libc.so.6"]);
    }
}
