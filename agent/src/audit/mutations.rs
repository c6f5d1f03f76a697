//! Ten thousand ways to change a log, each found. No mutation has the private key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use super::log::Settings;
use super::record::{Kind, Link, Parsed, canonical, hash, seal};
use super::tests::{Scratch, check, rewrite, written_of};
use super::{Key, list};

const MUTATIONS: u64 = 10_000;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The log's files and `head`: what an attacker may change. `key.pub` too.
fn read(folder: &Path) -> Files {
    let names = ["head", "key.pub"].map(|name| folder.join(name));
    let files = list(folder).expect("files").into_iter().map(|f| f.path);
    files
        .chain(names)
        .map(|path| (path.clone(), fs::read(path).expect("read")))
        .collect()
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

fn log_files(files: &Files) -> Vec<PathBuf> {
    let is_log = |path: &&PathBuf| path.extension().is_some_and(|e| e == "jsonl");
    files.keys().filter(is_log).cloned().collect()
}

/// The log written anew from a record on, with right hashes and numbers, and signed by
/// somebody else's key or with the old signatures.
fn rehash(files: &mut Files, forger: Option<&Key>, rng: &mut StdRng) {
    let paths = log_files(files);
    let mut all: Vec<(PathBuf, Map<String, Value>, Kind)> = Vec::new();
    for path in &paths {
        for line in lines(&files[path]) {
            let (record, _) = Parsed::read(line.strip_suffix(b"\n").expect("line"));
            let kind = record.expect("record").kind;
            let fields = serde_json::from_slice(&line).expect("json");
            all.push((path.clone(), fields, kind));
        }
    }
    let events: Vec<usize> = (0..all.len())
        .filter(|i| all[*i].2 == Kind::Event)
        .collect();
    let target = *events.choose(rng).expect("events");
    match rng.random_range(0..3) {
        0 => drop(all.remove(target)),
        1 => {
            let again = all[target].clone();
            all.insert(target, again);
        }
        _ => all[target].1["event"]["message"] = "nothing happened".into(),
    }
    for path in &paths {
        files.insert(path.clone(), Vec::new());
    }
    let mut link = Link::start();
    for (path, mut fields, kind) in all {
        let line = match (kind, forger) {
            (Kind::Event, _) | (_, None) => {
                link.seq += 1;
                fields.insert("seq".into(), link.seq.into());
                fields.insert("prev".into(), link.hash.as_str().into());
                fields.remove("hash");
                link.hash = hash(&canonical(&fields).expect("json"));
                fields.insert("hash".into(), link.hash.as_str().into());
                let mut line = canonical(&fields).expect("json");
                line.push(b'\n');
                line
            }
            (_, Some(key)) => {
                for gone in ["hash", "sig", "key"] {
                    fields.remove(gone);
                }
                let sealed = seal(kind, fields, &link, key).expect("sealed");
                link = sealed.link;
                sealed.line
            }
        };
        files.get_mut(&path).expect("file").extend(line);
    }
}

/// Changes one thing; what it was, for the message.
fn mutate(files: &mut Files, forger: &Key, rng: &mut StdRng) -> String {
    let paths = log_files(files);
    let path = paths.choose(rng).expect("files").clone();
    let mut all = lines(&files[&path]);
    let line = rng.random_range(0..all.len());
    let name = path
        .file_name()
        .expect("name")
        .to_string_lossy()
        .into_owned();
    let what = rng.random_range(0..14);
    match what {
        0..=3 => {
            // Any byte of any file.
            let path = files
                .keys()
                .nth(rng.random_range(0..files.len()))
                .expect("file")
                .clone();
            let bytes = files.get_mut(&path).expect("file");
            let at = rng.random_range(0..bytes.len());
            let bit = rng.random_range(0..8);
            bytes[at] ^= 1 << bit;
            return format!("bit {bit} of byte {at} of {}", path.display());
        }
        4 => drop(all.remove(line)),
        5 => {
            let other = rng.random_range(0..all.len());
            if all[line] == all[other] {
                all.remove(line);
            } else {
                all.swap(line, other);
            }
        }
        6 => {
            let again = all[line].clone();
            all.insert(rng.random_range(0..=all.len()), again);
        }
        7 => {
            let from = paths.choose(rng).expect("files");
            let strange = lines(&files[from]).choose(rng).expect("line").clone();
            all.insert(line, strange);
        }
        8 => {
            let at = rng.random_range(0..files[&path].len());
            files.get_mut(&path).expect("file").truncate(at);
            return format!("{name} cut at {at}");
        }
        9 => {
            all.truncate(line);
        }
        10 => {
            let other = paths.choose(rng).expect("files").clone();
            if other == path {
                files.remove(&path);
                return format!("{name} removed");
            }
            let (a, b) = (files[&path].clone(), files[&other].clone());
            files.insert(path, b);
            files.insert(other, a);
            return format!("{name} swapped");
        }
        11 => {
            let byte: u8 = rng.random();
            let at = rng.random_range(0..=files[&path].len());
            files.get_mut(&path).expect("file").insert(at, byte);
            return format!("byte {byte} put into {name} at {at}");
        }
        12 => {
            rehash(files, None, rng);
            return "written anew with the old signatures".into();
        }
        _ => {
            rehash(files, Some(forger), rng);
            return "written anew and signed by another key".into();
        }
    }
    files.insert(path, all.concat());
    format!("mutation {what} of line {line} of {name}")
}

#[test]
fn ten_thousand_mutations_are_found() {
    let dir = Scratch::new();
    let original = dir.path().join("original");
    fs::create_dir(&original).expect("folder");
    let settings = Settings {
        max_bytes: 1200,
        keep: 100,
    };
    written_of(
        &original,
        8,
        settings,
        |n| json!({"message": n.to_string()}),
    );
    assert!(check(&original).sound);
    let files = read(&original);
    assert!(files.len() >= 5, "{:?}", files.keys());
    // A bit of `key.pub` may turn it into no key at all: then the key is given from elsewhere,
    // as it should be.
    let key = Key::open(&original, None).expect("key").public();
    let forger = Key::parse(Key::generate().expect("key").as_bytes()).expect("key");
    let mut rng = StdRng::seed_from_u64(7);
    let mut before = files.clone();
    for n in 0..MUTATIONS {
        let mut changed = files.clone();
        let what = mutate(&mut changed, &forger, &mut rng);
        if changed == files {
            panic!("mutation {n}, {what}, changed nothing");
        }
        // Only what is another than in the last round.
        for path in before.keys().chain(changed.keys()) {
            match (before.get(path), changed.get(path)) {
                (a, Some(b)) if a != Some(b) => rewrite(path, b),
                (Some(_), None) if path.exists() => fs::remove_file(path).expect("removed"),
                _ => {}
            }
        }
        let own_key =
            changed.get(&original.join("key.pub")) != files.get(&original.join("key.pub"));
        let found = match own_key {
            // Everything else is as it was: the log is sound, and its folder's key is not.
            true => {
                let given = super::verify_folder(&original, &[key]).expect("report");
                let of_folder = super::verify_folder(&original, &[]);
                given.sound && !of_folder.is_ok_and(|report| report.sound)
            }
            false => {
                let report = super::verify_folder(&original, &[key]).expect("report");
                !report.sound && report.faults.iter().all(|fault| !fault.message.is_empty())
            }
        };
        assert!(found, "mutation {n}: {what}");
        before = changed;
    }
}
