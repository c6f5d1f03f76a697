//! Programs that run with libraries of their own release, which lie beside them: a script by the
//! program's name starts each.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::only;

/// Clients of four TLS libraries, by the names that they are called by here: NSS (and the maker
/// of its databases), GnuTLS, OpenSSL newer than the machine's may be, BoringSSL.
pub(super) const TLS: [&str; 5] = [
    "tstclnt",
    "certutil",
    "gnutls-cli",
    "openssl-3.5",
    "bssl-tool",
];

/// Makes those of [`TLS`]; their libraries and the C library's loader come along.
pub(super) fn tls(tree: &Path, into: &Path) -> Result<()> {
    let libraries = only(&tree.join("usr/lib"), "", "-linux-gnu")?;
    let loader = only(&libraries, "ld-linux", "")?;
    let beside = fresh(&into.join("tls"))?;
    place(tree, &loader, &beside.join("loader"))?;
    for folder in [libraries.join("android"), libraries] {
        place_libraries(tree, &folder, &beside)?;
    }
    for name in TLS {
        let program = name.strip_suffix("-3.5").unwrap_or(name);
        let packaged = tree.join("usr/bin").join(program);
        place(tree, &packaged, &beside.join(program))?;
        let start = format!("exec \"$at/loader\" --library-path \"$at\" \"$at/{program}\" \"$@\"");
        script(&into.join(name), "tls", &start)?;
    }
    Ok(())
}

/// Makes `java`. The launcher finds its home by the program that it is, so the C library is the
/// machine's.
pub(super) fn java(tree: &Path, into: &Path) -> Result<()> {
    let home = only(&tree.join("usr/lib/jvm"), "java-17-", "")?;
    let beside = fresh(&into.join("jre"))?;
    for folder in ["bin", "conf", "lib"] {
        place(tree, &home.join(folder), &beside.join(folder))?;
    }
    let libraries = fresh(&beside.join("libraries"))?;
    for folder in ["lib", "usr/lib"] {
        let folder = only(&tree.join(folder), "", "-linux-gnu")?;
        place_libraries(tree, &folder, &libraries)?;
    }
    let start = "LD_LIBRARY_PATH=\"$at/libraries\" exec \"$at/bin/java\" \"$@\"";
    script(&into.join("java"), "jre", start)
}

/// The C library's own parts, which are of one version: the machine's.
const OF_THE_C_LIBRARY: [&str; 18] = [
    "ld-linux",
    "libBrokenLocale.so",
    "libanl.so",
    "libc.so",
    "libc_malloc_debug.so",
    "libdl.so",
    "libm.so",
    "libmemusage.so",
    "libmvec.so",
    "libnss_compat.so",
    "libnss_dns.so",
    "libnss_files.so",
    "libpcprofile.so",
    "libpthread.so",
    "libresolv.so",
    "librt.so",
    "libthread_db.so",
    "libutil.so",
];

/// Makes the browser. It executes itself, so the C library is the machine's.
pub(super) fn chromium(tree: &Path, into: &Path) -> Result<()> {
    let beside = fresh(&into.join("chromium"))?;
    place(tree, &tree.join("usr/lib/chromium"), &beside)?;
    let libraries = fresh(&beside.join("libraries"))?;
    for folder in ["lib", "usr/lib"] {
        let folder = only(&tree.join(folder), "", "-linux-gnu")?;
        for folder in [folder.join("pulseaudio"), folder] {
            if folder.is_dir() {
                place_libraries(tree, &folder, &libraries)?;
            }
        }
    }
    for (name, path) in entries(&libraries)? {
        if OF_THE_C_LIBRARY.iter().any(|start| name.starts_with(start)) {
            fs::remove_file(&path)
                .with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    let name = "chromium-headless-shell";
    let start = format!("LD_LIBRARY_PATH=\"$at/libraries\" exec \"$at/{name}\" \"$@\"");
    script(&into.join(name), "chromium", &start)
}

/// Dropbear's server, client and maker of keys.
pub(super) const SSH: [&str; 3] = ["dropbear", "dbclient", "dropbearkey"];

/// Makes those of [`SSH`]. The server executes itself, so the C library is the machine's.
pub(super) fn ssh(tree: &Path, into: &Path) -> Result<()> {
    let beside = fresh(&into.join("ssh"))?;
    let libraries = only(&tree.join("usr/lib"), "", "-linux-gnu")?;
    place_libraries(tree, &libraries, &beside)?;
    for name in SSH {
        let places = ["usr/bin", "usr/sbin"].map(|place| tree.join(place).join(name));
        let packaged = places.iter().find(|path| path.is_file());
        let packaged = packaged.with_context(|| format!("the package has no {name}"))?;
        place(tree, packaged, &beside.join(name))?;
        let start = format!("LD_LIBRARY_PATH=\"$at\" exec \"$at/{name}\" \"$@\"");
        script(&into.join(name), "ssh", &start)?;
    }
    Ok(())
}

/// `$at` is the folder `beside`, wherever `target` was moved to.
fn script(to: &Path, beside: &str, start: &str) -> Result<()> {
    let text = format!("#!/bin/sh\nat=${{0%/*}}/{beside}\n{start}\n");
    fs::write(to, text)
        .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("could not write {}", to.display()))
}

/// An empty folder.
fn fresh(folder: &Path) -> Result<PathBuf> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
    .with_context(|| format!("could not make {}", folder.display()))?;
    Ok(folder.to_path_buf())
}

/// The shared libraries of one folder of an unpacked tree.
fn place_libraries(tree: &Path, folder: &Path, into: &Path) -> Result<()> {
    for (name, path) in entries(folder)? {
        if name.contains(".so") {
            place(tree, &path, &into.join(name))?;
        }
    }
    Ok(())
}

/// Puts a file or a folder of an unpacked tree elsewhere, what its links point at in their
/// place. Links that lead nowhere are left out: what they name is made when a package is
/// installed.
fn place(tree: &Path, from: &Path, to: &Path) -> Result<()> {
    let from = resolve(tree, from)?;
    let Ok(data) = fs::metadata(&from) else {
        return Ok(());
    };
    let put = || {
        if data.is_dir() {
            return fs::create_dir_all(to);
        }
        // No second copy of it, if they share a disk.
        fs::hard_link(&from, to).or_else(|_| fs::copy(&from, to).map(drop))
    };
    put().with_context(|| format!("could not make {} of {}", to.display(), from.display()))?;
    if data.is_dir() {
        for (name, path) in entries(&from)? {
            place(tree, &path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Follows the links that a path ends in, absolute ones from the tree's root.
fn resolve(tree: &Path, path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    // As many as the kernel follows.
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&path) else {
            return Ok(path);
        };
        path = match link.strip_prefix(Component::RootDir) {
            Ok(absolute) => tree.join(absolute),
            Err(_) => path.with_file_name("").join(link),
        };
    }
    anyhow::bail!("{} is a link in a circle", path.display())
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = fs::read_dir(folder)
        .with_context(|| format!("could not list {}", folder.display()))?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().into_string().ok()?, entry.path()))
        });
    Ok(list.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    #[test]
    fn links_are_followed_within_the_tree() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, to) = (folder.path().join("tree"), folder.path().join("to"));
        write(&tree.join("etc/some.conf"), "settings");
        write(&tree.join("usr/lib/real.so.1.2"), "library");
        symlink("/etc/some.conf", tree.join("usr/lib/some.conf")).expect("link");
        symlink("real.so.1.2", tree.join("usr/lib/real.so.1")).expect("link");
        symlink("/etc/made/later", tree.join("usr/lib/later")).expect("link");
        symlink("round", tree.join("round")).expect("link");
        place(&tree, &tree.join("usr/lib"), &to).expect("placed");
        let read = |name| fs::read_to_string(to.join(name)).ok();
        assert_eq!(read("some.conf").as_deref(), Some("settings"));
        assert_eq!(read("real.so.1").as_deref(), Some("library"));
        assert!(fs::symlink_metadata(to.join("later")).is_err());
        assert!(place(&tree, &tree.join("round"), &to).is_err());
    }

    #[test]
    fn of_a_folder_of_libraries_only_those_are_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (tree, to) = (folder.path().join("tree"), folder.path().join("to"));
        for name in ["libz.so.1", "libssl3.so", "engines/x.so", "crt1.o"] {
            write(&tree.join(name), "");
        }
        fresh(&to).expect("a folder");
        place_libraries(&tree, &tree, &to).expect("placed");
        let mut placed = entries(&to).expect("list");
        placed.sort();
        let names: Vec<_> = placed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["libssl3.so", "libz.so.1"]);
    }

    #[test]
    fn a_script_starts_what_lies_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("client");
        script(&name, "beside", "exec printf '%s|' \"$at\" \"$@\"").expect("script");
        let output = Command::new(&name).args(["a b", ""]).output().expect("run");
        let expected = format!("{}/beside|a b||", folder.path().display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
