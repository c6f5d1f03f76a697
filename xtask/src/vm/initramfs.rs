//! The first file system of a guest: the guest program, the modules that show it its disks,
//! and the plan.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};

use super::plan::Plan;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes the archive.
pub(super) fn write(to: &Path, guest: &Path, modules: &[PathBuf], plan: &Plan) -> Result<()> {
    let file = File::create(to).with_context(|| format!("could not make {}", to.display()))?;
    let mut out = BufWriter::new(file);
    let context = || format!("could not write {}", to.display());
    for name in ["dev", "proc", "sys", "root", "modules"] {
        entry(&mut out, Builder::new(name).mode(FOLDER), &[]).with_context(context)?;
    }
    // Standard output of the first process.
    let console = Builder::new("dev/console")
        .mode(CHARACTER_DEVICE)
        .rdev_major(5)
        .rdev_minor(1);
    entry(&mut out, console, &[]).with_context(context)?;
    entry(&mut out, Builder::new("init").mode(PROGRAM), &read(guest)?).with_context(context)?;
    for module in modules {
        let name = module.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name", module.display()))?;
        let at = Builder::new(&format!("modules/{name}")).mode(PLAIN);
        entry(&mut out, at, &read(module)?).with_context(context)?;
    }
    let plan = serde_json::to_vec(plan).context("the plan cannot be written as JSON")?;
    entry(&mut out, Builder::new("plan.json").mode(PLAIN), &plan).with_context(context)?;
    trailer(&mut out).with_context(context)?;
    out.flush().with_context(context)
}

fn entry(out: &mut impl Write, builder: Builder, bytes: &[u8]) -> std::io::Result<()> {
    let size = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut writer = builder.write(out, size);
    writer.write_all(bytes)?;
    writer.finish()?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn holds_guest_modules_and_plan() {
        let folder = tempfile::tempdir().expect("a folder");
        let guest = folder.path().join("guest");
        let module = folder.path().join("00-virtio.ko");
        fs::write(&guest, "program").expect("write");
        fs::write(&module, "module").expect("write");
        let archive = folder.path().join("archive");
        write(&archive, &guest, &[module], &Plan::default()).expect("an archive");
        let mut names = Vec::new();
        let mut file = File::open(&archive).expect("open");
        loop {
            let reader = Reader::new(file).expect("an entry");
            if reader.entry().is_trailer() {
                break;
            }
            names.push((reader.entry().name().to_owned(), reader.entry().mode()));
            file = reader.finish().expect("the next");
        }
        assert!(names.contains(&("init".to_owned(), PROGRAM)), "{names:?}");
        assert!(names.contains(&("modules/00-virtio.ko".to_owned(), PLAIN)));
        assert!(names.contains(&("plan.json".to_owned(), PLAIN)));
        assert!(names.contains(&("dev/console".to_owned(), CHARACTER_DEVICE)));
    }
}
