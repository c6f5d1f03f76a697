//! `cargo xtask repository`: an apt and a dnf repository, signed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::yard::{self, Yard};
use super::{folder, stage};
use crate::project::Project;
use crate::step;

/// Make a signed apt and a signed dnf repository of the packages in target/package
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where they go [default: target/package/repository]
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// The OpenPGP private key that signs (as `gpg --export-secret-keys` writes it, without a
    /// passphrase). Without it a new key is made, for tests only, and thrown away
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

pub(crate) fn run(project: &Project, args: &Args) -> Result<()> {
    let into = args.into.clone();
    let into = into.unwrap_or_else(|| folder(project).join("repository"));
    let made = make(project, &into, args.key.as_deref())?;
    step::done("apt, dnf, key", &made.display().to_string());
    if args.key.is_none() {
        println!("The key was made for this run and is gone: name the real one with --key.");
    }
    Ok(())
}

/// Makes both in a copy of the yard, so that the key is nowhere else.
pub(super) fn make(project: &Project, into: &Path, key: Option<&Path>) -> Result<PathBuf> {
    let files: Vec<PathBuf> = stage::list(&folder(project))
        .context("there are no packages yet: run `cargo xtask package` first")?
        .into_iter()
        .filter(|path| path.is_file())
        .collect();
    let ends = |end: &str| files.iter().any(|path| has(path, end));
    ensure!(
        ends("deb") && ends("rpm"),
        "{} has no .deb and .rpm: run `cargo xtask package` first",
        folder(project).display()
    );
    let at = project
        .cache
        .join(format!("package/signing-{}", std::process::id()));
    let room = yard::copy_of(&yard::ensure(project)?, &at)?;
    let outcome = within(&room, &files, into, key);
    let removed = yard::remove(&at);
    outcome.and(removed)?;
    Ok(into.to_path_buf())
}

fn within(room: &Yard, files: &[PathBuf], into: &Path, key: Option<&Path>) -> Result<()> {
    room.bring(files, "/in")?;
    if let Some(key) = key {
        fs::metadata(key).with_context(|| format!("could not read {}", key.display()))?;
        room.bring(&[key.to_path_buf()], "/key")?;
    }
    step::lines(&mut room.command(["sh", "-ec", SCRIPT])?, |_| {})?;
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into).with_context(|| format!("could not make {}", into.display()))?;
    for made in stage::list(&room.root.join("out"))? {
        let mut copy = std::process::Command::new("cp");
        step::capture(copy.arg("-r").arg(made).arg(into))?;
    }
    Ok(())
}

fn has(path: &Path, end: &str) -> bool {
    path.extension().is_some_and(|found| found == end)
}

/// `/in` holds the packages, `/key` the key or nothing; `/out` is what is given on.
const SCRIPT: &str = r#"exec 2>&1
export GNUPGHOME=/root/gnupg
mkdir -m 700 -p $GNUPGHOME
if [ -d /key ]; then
    gpg --batch --import /key/*
else
    gpg --batch --passphrase '' --quick-generate-key \
        'Exeat test repository <test@example.invalid>' ed25519 sign never
fi
who=$(gpg --list-secret-keys --with-colons | awk -F: '$1 == "fpr" { print $10; exit }')
sign() { gpg --batch --yes --local-user "$who" "$@"; }

mkdir -p /out/apt/pool /out/dnf
gpg --armor --export "$who" >/out/exeat.asc
gpg --export "$who" >/out/exeat.gpg
cp /in/*.cdx.json /in/*.intoto.json /out/
for statement in /out/*.intoto.json; do sign --armor --detach-sign "$statement"; done

# apt: one suite, whose Release file is signed and vouches for everything below it.
cp /in/*.deb /out/apt/pool/
cd /out/apt
for arch in amd64 arm64; do
    mkdir -p dists/stable/main/binary-$arch
    apt-ftparchive --arch $arch packages pool >dists/stable/main/binary-$arch/Packages
    gzip -9nk dists/stable/main/binary-$arch/Packages
done
apt-ftparchive -o APT::FTPArchive::Release::Origin=Exeat \
    -o APT::FTPArchive::Release::Label=Exeat \
    -o APT::FTPArchive::Release::Suite=stable \
    -o APT::FTPArchive::Release::Codename=stable \
    -o APT::FTPArchive::Release::Components=main \
    -o 'APT::FTPArchive::Release::Architectures=amd64 arm64' \
    release dists/stable >/tmp/Release
mv /tmp/Release dists/stable/Release
sign --clearsign --output dists/stable/InRelease dists/stable/Release
sign --armor --detach-sign --output dists/stable/Release.gpg dists/stable/Release

# dnf: each package is signed, and the list of them too.
cp /in/*.rpm /out/dnf/
cd /out/dnf
for rpm in *.rpm; do
    rpmsign --define "_gpg_name $who" --define '_gpg_digest_algo sha256' --addsign "$rpm"
done
createrepo_c --quiet .
sign --armor --detach-sign --output repodata/repomd.xml.asc repodata/repomd.xml
chmod -R a+rX /out
"#;
