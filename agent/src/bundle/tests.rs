//! A fleet's keys, its bundles, and everything that somebody may have made of them.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::archive::Archive;
use super::check::{Seen, Verified, check};
use super::keep::{Place, Store};
use super::layers::{monitored, of_bundle, with_local};
use super::machine::Machine;
use super::make::{self, BundlePlan, RootPlan, SigningKey};
use super::manifest::{Local, Manifest, Turn};
use super::{MAX_BYTES, MAX_METADATA, Refusal, RefusalKind};
use crate::policy::{AgentName, mode_str, parse};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const ORG: &str =
    "version: 1\nagents:\n  bot:\n    allow:\n      - { host: api.example.com, ports: [443] }\n";
const MANIFEST: &str = "version: 1\nname: acme\nfiles:\n  - { file: org/base.yaml, layer: org }\n";

struct Fleet {
    root_key: SigningKey,
    key: SigningKey,
    roots: BTreeMap<u32, Vec<u8>>,
}

fn now() -> Timestamp {
    "2026-03-04T12:00:00Z".parse().expect("time")
}

fn key() -> SigningKey {
    SigningKey::generate().expect("key").1
}

fn plan(
    root_keys: &[&SigningKey],
    root_threshold: u32,
    keys: &[&SigningKey],
    threshold: u32,
) -> RootPlan {
    let public = |keys: &[&SigningKey]| keys.iter().map(|key| key.public().clone()).collect();
    RootPlan {
        root_keys: public(root_keys),
        root_threshold,
        keys: public(keys),
        threshold,
        lasts: DAY * 365,
    }
}

impl Fleet {
    fn new() -> Self {
        let (root_key, key) = (key(), key());
        let plan = plan(&[&root_key], 1, &[&key], 1);
        let signers = [root_key];
        let (_, root) = make::root(None, &plan, &signers, now()).expect("root");
        let [root_key] = signers;
        Self {
            root_key,
            key,
            roots: [(1, root)].into(),
        }
    }

    fn anchor(&self) -> &[u8] {
        &self.roots[&1]
    }

    fn files(policy: &str, manifest: &str) -> BTreeMap<String, Vec<u8>> {
        [("org/base.yaml", policy), ("bundle.yaml", manifest)]
            .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
            .into()
    }

    fn archive(&self, version: u32, policy: &str) -> Archive {
        self.archive_of(version, Self::files(policy, MANIFEST))
    }

    fn archive_of(&self, version: u32, files: BTreeMap<String, Vec<u8>>) -> Archive {
        let plan = BundlePlan {
            version,
            lasts: DAY * 30,
            now: now(),
        };
        let mut archive = make::bundle(files, self.roots.clone(), &plan, &[]).expect("bundle");
        make::sign(&mut archive, &self.key).expect("sign");
        archive
    }

    fn bytes(&self, version: u32, policy: &str) -> Vec<u8> {
        self.archive(version, policy).write().expect("tar")
    }

    fn check(&self, archive: &Archive, seen: &Seen) -> Result<Verified, Refusal> {
        let bytes = archive.write().expect("tar");
        check(&Archive::read(&bytes)?, self.anchor(), seen, now())
    }

    fn refused(&self, archive: &Archive, seen: &Seen) -> RefusalKind {
        self.check(archive, seen).expect_err("refused").kind()
    }
}

fn machine() -> Machine {
    Machine {
        id: "0123".into(),
        host: "ws-7".into(),
        users: vec!["alice".into()],
        groups: vec!["dev".into()],
        roles: vec!["developer".into()],
    }
}

fn name(agent: &str) -> AgentName {
    agent.parse().expect("name")
}

#[test]
fn a_bundle_is_made_signed_and_believed_without_a_network() {
    let fleet = Fleet::new();
    let verified = fleet
        .check(&fleet.archive(7, ORG), &Seen::default())
        .expect("believed");
    assert_eq!((verified.version, verified.root_version), (7, 1));
    assert_eq!(
        verified.expires,
        now().saturating_add(DAY * 30).expect("time")
    );
    assert_eq!(verified.published, now());
    assert_eq!(verified.seen.name.as_deref(), Some("acme"));
    let policies = of_bundle(&verified, &machine()).expect("policies");
    let rule = &policies[&name("bot")].rules[0];
    assert_eq!(rule.origin.to_string(), "bundle acme@7/org/base.yaml:5");
    // The same content gives the same bytes.
    assert_eq!(fleet.bytes(7, ORG), fleet.bytes(7, ORG));
}

#[test]
fn what_a_man_in_the_middle_can_make_of_a_bundle_is_refused_with_its_reason() {
    let fleet = Fleet::new();
    let (old, new) = (
        fleet.archive(6, ORG),
        fleet.archive(7, "version: 1\nagents: {bot: {}}\n"),
    );
    let none = Seen::default();
    let seen = fleet.check(&new, &none).expect("believed").seen;

    // A changed byte in what is signed.
    let mut changed = new.clone();
    let text = String::from_utf8(changed.targets.clone()).expect("text");
    changed.targets = text.replace("\"version\":7", "\"version\":8").into_bytes();
    assert_ne!(changed.targets, new.targets);
    assert_eq!(fleet.refused(&changed, &none), RefusalKind::BadSignature);
    // A file that was not signed for, in the place of one, beside them, and one left out.
    let mut swapped = new.clone();
    swapped.files.insert("org/base.yaml".into(), ORG.into());
    assert_eq!(fleet.refused(&swapped, &none), RefusalKind::Mixed);
    let mut more = new.clone();
    more.files.insert("org/more.yaml".into(), ORG.into());
    assert_eq!(fleet.refused(&more, &none), RefusalKind::Mixed);
    let mut less = new.clone();
    less.files.remove("org/base.yaml");
    assert_eq!(fleet.refused(&less, &none), RefusalKind::Mixed);
    // An old one again, and parts of an old one in a new one, in every mixture.
    assert_eq!(fleet.refused(&old, &seen), RefusalKind::OldVersion);
    for parts in 1..7 {
        let mut mixed = new.clone();
        if parts & 1 > 0 {
            mixed.timestamp = old.timestamp.clone();
        }
        if parts & 2 > 0 {
            mixed.snapshot = old.snapshot.clone();
        }
        if parts & 4 > 0 {
            (mixed.targets, mixed.files) = (old.targets.clone(), old.files.clone());
        }
        assert_eq!(fleet.refused(&mixed, &none), RefusalKind::Mixed, "{parts}");
        let kind = fleet.refused(&mixed, &seen);
        assert!(
            matches!(kind, RefusalKind::Mixed | RefusalKind::OldVersion),
            "{parts} {kind:?}"
        );
    }
    // Another one of the same version.
    assert_eq!(
        fleet.refused(&fleet.archive(7, ORG), &seen),
        RefusalKind::Mixed
    );
    // The same again is no harm.
    assert_eq!(fleet.check(&new, &seen).expect("again").seen, seen);
    // Held back until it is stale.
    let late = now().saturating_add(DAY * 31).expect("time");
    let error = check(&new, fleet.anchor(), &none, late).expect_err("expired");
    assert_eq!(error.kind(), RefusalKind::Expired);
}

#[test]
fn signatures_of_strangers_and_of_too_few_are_refused() {
    let fleet = Fleet::new();
    let none = Seen::default();
    let stranger = Fleet::new();
    let foreign = stranger.archive(7, ORG);
    // With their own root, which does not follow ours.
    assert_eq!(fleet.refused(&foreign, &none), RefusalKind::UnknownKeys);
    // With a second root that they signed themselves.
    let theirs = plan(&[&stranger.root_key], 1, &[&stranger.key], 1);
    let (version, root) = make::root(Some(fleet.anchor()), &theirs, &[], now()).expect("root");
    let root = make::sign_root(&root, &stranger.root_key).expect("sign");
    let mut taken = foreign.clone();
    taken.roots.insert(version, root);
    assert_eq!(fleet.refused(&taken, &none), RefusalKind::UnknownKeys);
    // Nobody at all, and the key of bundles in the place of the key of roots: a thief of the one
    // cannot make himself the other.
    let plan7 = BundlePlan {
        version: 7,
        lasts: DAY,
        now: now(),
    };
    let unsigned = make::bundle(
        Fleet::files(ORG, MANIFEST),
        fleet.roots.clone(),
        &plan7,
        &[],
    )
    .expect("made");
    assert_eq!(fleet.refused(&unsigned, &none), RefusalKind::UnknownKeys);
    let root = make::sign_root(
        &make::root(Some(fleet.anchor()), &theirs, &[], now())
            .expect("root")
            .1,
        &fleet.key,
    )
    .expect("sign");
    let mut thief = foreign;
    thief.roots.insert(2, root);
    assert_eq!(fleet.refused(&thief, &none), RefusalKind::UnknownKeys);
}

#[test]
fn a_threshold_of_two_needs_two_people() {
    let (root_key, one, two) = (key(), key(), key());
    let both = plan(&[&root_key], 1, &[&one, &two], 2);
    let (_, root) = make::root(None, &both, &[root_key], now()).expect("root");
    let plan = BundlePlan {
        version: 3,
        lasts: DAY,
        now: now(),
    };
    let roots: BTreeMap<_, _> = [(1, root.clone())].into();
    let mut archive = make::bundle(Fleet::files(ORG, MANIFEST), roots, &plan, &[]).expect("bundle");
    let none = Seen::default();
    make::sign(&mut archive, &one).expect("sign");
    // Twice the same person is one person.
    make::sign(&mut archive, &one).expect("sign");
    let error = check(&archive, &root, &none, now()).expect_err("one of two");
    assert_eq!(error.kind(), RefusalKind::TooFewSignatures, "{error}");
    make::sign(&mut archive, &two).expect("sign");
    check(&archive, &root, &none, now()).expect("both");
    // A signature moved under another's name counts for nobody.
    let text = String::from_utf8(archive.targets.clone()).expect("text");
    archive.targets = text.replacen(&two.id(), &key().id(), 1).into_bytes();
    assert!(check(&archive, &root, &none, now()).is_err());
}

#[test]
fn keys_are_rotated_and_a_stolen_key_is_worth_nothing_after() {
    let mut fleet = Fleet::new();
    // The thief counts up to the end, so that nothing newer can follow.
    let stolen = fleet.archive(u32::MAX, ORG);
    let seen = fleet
        .check(&stolen, &Seen::default())
        .expect("believed")
        .seen;
    let old = std::mem::replace(&mut fleet.key, key());
    let next = plan(&[&fleet.root_key], 1, &[&fleet.key], 1);
    let (version, root) = make::root(Some(fleet.anchor()), &next, &[], now()).expect("root");
    let root = make::sign_root(&root, &fleet.root_key).expect("sign");
    fleet.roots.insert(version, root);
    let fresh = fleet.archive(8, ORG);
    let after = fleet.check(&fresh, &seen).expect("the fleet recovers").seen;
    assert_eq!((after.targets, after.timestamp), (8, 8));
    // What the thief signs now is nobody's, with the new root and without it.
    let plan = BundlePlan {
        version: 9,
        lasts: DAY,
        now: now(),
    };
    let files = Fleet::files(ORG, MANIFEST);
    let mut forged = make::bundle(files, fleet.roots.clone(), &plan, &[old]).expect("made");
    assert_eq!(fleet.refused(&forged, &after), RefusalKind::UnknownKeys);
    forged.roots.remove(&2);
    assert_eq!(fleet.refused(&forged, &after), RefusalKind::UnknownKeys);
    assert_eq!(fleet.refused(&stolen, &after), RefusalKind::UnknownKeys);
}

#[test]
fn roots_follow_one_another_and_end() {
    let mut fleet = Fleet::new();
    let next = plan(&[&fleet.root_key], 1, &[&fleet.key], 1);
    let second = make::root(Some(fleet.anchor()), &next, &[], now())
        .expect("root")
        .1;
    let second = make::sign_root(&second, &fleet.root_key).expect("sign");
    let third = make::root(Some(&second), &next, &[], now())
        .expect("root")
        .1;
    let third = make::sign_root(&third, &fleet.root_key).expect("sign");
    // A gap is not jumped over; the second under the third's name is refused.
    fleet.roots.insert(3, third);
    let seen = Seen::default();
    assert_eq!(
        fleet
            .check(&fleet.archive(7, ORG), &seen)
            .expect("first")
            .root_version,
        1
    );
    fleet.roots.insert(2, second.clone());
    assert_eq!(
        fleet
            .check(&fleet.archive(7, ORG), &seen)
            .expect("third")
            .root_version,
        3
    );
    fleet.roots.insert(3, second);
    assert_eq!(
        fleet.refused(&fleet.archive(7, ORG), &seen),
        RefusalKind::OldVersion
    );
    fleet.roots = [(1, fleet.roots[&1].clone())].into();
    let late = now().saturating_add(DAY * 400).expect("time");
    let error = check(&fleet.archive(7, ORG), fleet.anchor(), &seen, late).expect_err("late");
    assert!(
        matches!(error, Refusal::Expired { ref role, .. } if role == "root"),
        "{error}"
    );
}

#[test]
fn what_is_no_bundle_is_refused_before_anything_is_made_of_it() {
    let kind = |bytes: &[u8]| Archive::read(bytes).expect_err("refused").kind();
    assert_eq!(kind(b""), RefusalKind::Malformed);
    assert_eq!(kind(&[0; 4096]), RefusalKind::Malformed);
    assert_eq!(kind(b"version: 1\nagents: {}\n"), RefusalKind::Malformed);
    assert_eq!(
        kind(&vec![0; MAX_BYTES as usize + 1]),
        RefusalKind::Oversize
    );
    let tar = |entries: &[(&str, tar::EntryType, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_entry_type(*kind);
            header.as_gnu_mut().expect("gnu").name[..path.len()].copy_from_slice(path.as_bytes());
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/etc/shadow").expect("link");
            }
            header.set_cksum();
            builder.append(&header, *content).expect("append");
        }
        builder.into_inner().expect("tar")
    };
    let file = tar::EntryType::Regular;
    for path in [
        "../../etc/passwd",
        "/etc/passwd",
        "metadata/0.root.json",
        "metadata/x",
        "a",
    ] {
        assert_eq!(
            kind(&tar(&[(path, file, b"x")])),
            RefusalKind::Malformed,
            "{path}"
        );
    }
    let link = ("targets/a", tar::EntryType::Symlink, &b""[..]);
    assert_eq!(kind(&tar(&[link])), RefusalKind::Malformed);
    let twice = ("targets/a", file, &b"1"[..]);
    assert_eq!(kind(&tar(&[twice, twice])), RefusalKind::Malformed);
    let large = vec![b' '; MAX_METADATA as usize + 1];
    assert_eq!(
        kind(&tar(&[("metadata/targets.json", file, &large)])),
        RefusalKind::Oversize
    );
    // A header that says more than there is.
    let whole = Fleet::new().bytes(1, ORG);
    for cut in [100, 600, 1500, whole.len() / 2] {
        assert_eq!(kind(&whole[..cut]), RefusalKind::Malformed, "{cut}");
    }
}

#[test]
fn any_byte_that_is_changed_is_noticed_or_changes_nothing() {
    let fleet = Fleet::new();
    let bytes = fleet.bytes(7, ORG);
    let good = fleet
        .check(&Archive::read(&bytes).expect("read"), &Seen::default())
        .expect("good");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..3000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = random as usize % bytes.len();
        let mut other = bytes.clone();
        other[at] ^= 1 << (random >> 61);
        let result = Archive::read(&other)
            .and_then(|archive| check(&archive, fleet.anchor(), &Seen::default(), now()));
        if let Ok(same) = result {
            assert_eq!(
                (&same.files, &same.digest),
                (&good.files, &good.digest),
                "byte {at}"
            );
            assert_eq!(same.manifest, good.manifest, "byte {at}");
        }
    }
}

#[test]
fn selectors_choose_files_and_whole_bundles() {
    let fleet = Fleet::new();
    let manifest = "version: 1\nname: acme\nfor: { host: ['ws-*'] }\nfiles:\n\
        \x20 - { file: v, layer: vendor }\n\
        \x20 - { file: r, layer: role, for: { role: [developer] } }\n\
        \x20 - { file: o, layer: role, for: { role: [ops] } }\n\
        \x20 - { file: u, layer: user, for: { user: [alice], group: ['d*'] } }\n";
    let agent = |rule: &str| {
        format!(
            "version: 1\nagents:\n  bot:\n    allow:\n      - {{ host: {rule}.example.com, ports: [443] }}\n"
        )
    };
    let files: BTreeMap<String, Vec<u8>> = ["v", "r", "o", "u"]
        .map(|name| (name.to_owned(), agent(name).into_bytes()))
        .into_iter()
        .chain([("bundle.yaml".to_owned(), manifest.into())])
        .collect();
    let verified = fleet
        .check(&fleet.archive_of(7, files), &Seen::default())
        .expect("believed");
    let hosts = |machine: &Machine| -> Vec<String> {
        let policies = of_bundle(&verified, machine).expect("policies");
        let rules = &policies[&name("bot")].rules;
        assert!(
            rules
                .iter()
                .enumerate()
                .all(|(at, rule)| rule.number == at as u32)
        );
        rules.iter().map(|rule| rule.selector.to_string()).collect()
    };
    assert_eq!(
        hosts(&machine()),
        ["v.example.com", "r.example.com", "u.example.com"]
    );
    let ops = Machine {
        roles: vec!["ops".into()],
        users: vec![],
        ..machine()
    };
    assert_eq!(hosts(&ops), ["v.example.com", "o.example.com"]);
    let elsewhere = Machine {
        host: "srv-1".into(),
        ..machine()
    };
    let error = of_bundle(&verified, &elsewhere).expect_err("not for it");
    assert_eq!(error.kind(), RefusalKind::WrongTarget);
}

#[test]
fn the_laptops_own_policy_may_only_tighten_unless_the_bundle_allows() {
    let fleet = Fleet::new();
    let org = format!("{ORG}    mode: monitor\n    deny:\n      - {{ host: bad.example.com }}\n");
    let verified = fleet
        .check(&fleet.archive(7, &org), &Seen::default())
        .expect("believed");
    let base = || of_bundle(&verified, &machine()).expect("policies");
    let with = |text: &str, may| {
        let text = format!("version: 1\nagents:\n{text}");
        with_local(base(), parse("local.yaml", &text).expect(&text), may)
    };
    // Narrower: more is denied, and it is enforced.
    let deny = "  bot:\n    deny: [{ cidr: 192.0.2.0/24 }]\n";
    let (set, left_out) = with(deny, Local::Tighten);
    assert_eq!(left_out, Vec::<String>::new());
    let bot = &set.agents[&name("bot")];
    assert_eq!((bot.rules.len(), mode_str(bot.mode)), (3, "enforce"));
    // Wider, in every way that there is: left out, and the bundle's stays.
    for wider in [
        "  bot:\n    allow: [{ host: evil.example.com, ports: [443] }]\n",
        "  bot:\n    listen: [{ cidr: 192.0.2.0/24, ports: [8080] }]\n",
        "  bot:\n    services: all\n",
        "  bot:\n    ask: user\n",
        "  bot:\n    match: [{ executable: /usr/bin/curl }]\n",
        "  bot:\n    limits: { memory: 100GiB }\n",
        "  thief:\n    match: [{ executable: /usr/bin/curl }]\n    allow: [{ cidr: 0.0.0.0/0, protocol: tcp, ports: [443] }]\n",
    ] {
        let (set, left_out) = with(wider, Local::Tighten);
        assert_eq!(left_out.len(), 1, "{wider}: {left_out:?}");
        assert_eq!(set.agents.len(), 1, "{wider}");
        assert_eq!(set.agents[&name("bot")], base()[&name("bot")], "{wider}");
    }
    // One more agent governs one more program.
    let (set, left_out) = with("  mine: {}\n", Local::Tighten);
    assert_eq!((set.agents.len(), left_out.len()), (2, 0));
    // Where the bundle allows it, rules join; where it does not want any, none do.
    let wider = "  bot:\n    allow: [{ host: bad.example.com, ports: [443] }]\n";
    let (set, left_out) = with(wider, Local::Allow);
    assert_eq!(
        (set.agents[&name("bot")].rules.len(), left_out.len()),
        (3, 0)
    );
    let (set, left_out) = with(deny, Local::Ignore);
    assert_eq!(set.agents[&name("bot")], base()[&name("bot")]);
    assert_eq!(left_out.len(), 1);
}

#[test]
fn a_rollout_takes_the_same_laptops_first_and_never_loosens() {
    let manifest = Manifest::parse(&format!(
        "{MANIFEST}rollout:\n  - {{ percent: 5, mode: monitor }}\n  - {{ after: 24h, percent: 5 }}\n  - {{ after: 48h, percent: 100 }}\n"
    ))
    .expect("manifest");
    let turns = |days: i32| {
        let at = now().saturating_add(DAY * days).expect("time");
        let mut counts = BTreeMap::new();
        for id in 0..4000 {
            let machine = Machine {
                id: id.to_string(),
                ..machine()
            };
            *counts
                .entry(manifest.turn(&machine, now(), at).as_str())
                .or_insert(0) += 1;
        }
        counts
    };
    let (first, second, third) = (turns(0), turns(1), turns(2));
    assert!((150..250).contains(&first["monitor"]), "{first:?}");
    assert_eq!(first["monitor"], second["enforce"]);
    assert_eq!(third, BTreeMap::from([("enforce", 4000)]));
    // A clock before the bundle was built is at its first step.
    let early = now().saturating_sub(DAY).expect("time");
    assert_ne!(manifest.turn(&machine(), now(), early), Turn::Enforce);

    let policies = |text: &str| {
        parse("a", &format!("version: 1\nagents:\n{text}"))
            .expect("ok")
            .agents
    };
    let before = policies("  a: {}\n  m: { mode: monitor }\n");
    let after =
        policies("  a:\n    allow: [{ host: x.example.com, ports: [443] }]\n  m: {}\n  n: {}\n");
    let watched = monitored(&before, after);
    assert_eq!(
        watched[&name("a")],
        before[&name("a")],
        "what is governed stays"
    );
    for agent in ["m", "n"] {
        assert_eq!(mode_str(watched[&name(agent)].mode), "monitor", "{agent}");
    }
}

#[test]
fn manifests_that_make_no_sense_are_refused() {
    for (text, why) in [
        ("version: 2\nname: acme\nfiles: []\n", "version 2"),
        ("version: 1\nname: 'A b'\nfiles: []\n", "no name"),
        ("version: 1\nname: a\nfiles: []\nfielse: 1\n", "fielse"),
        (
            "version: 1\nname: a\nfor: { host: ['['] }\nfiles: []\n",
            "[",
        ),
        (
            "version: 1\nname: a\nfiles: []\nrollout: [{ percent: 101 }]\n",
            "percents",
        ),
        (
            "version: 1\nname: a\nfiles: []\nrollout: [{ percent: 9 }, { percent: 5 }]\n",
            "rise",
        ),
        (
            "version: 1\nname: a\nfiles: []\nrollout: [{ after: 2h, percent: 1 }, { percent: 5 }]\n",
            "order",
        ),
        (
            "version: 1\nname: a\nfiles: [{ file: x, layer: boss }]\n",
            "boss",
        ),
    ] {
        let error = Manifest::parse(text).expect_err(text).to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

fn store(folder: &Path, fleet: &Fleet) -> Store {
    let trust = folder.join("root.json");
    std::fs::write(&trust, fleet.anchor()).expect("write");
    Store::open(&folder.join("bundle"), &trust).expect("store")
}

fn accept(store: &mut Store, bytes: &[u8], at: Timestamp) -> Result<Verified, Refusal> {
    let (verified, anchor) = store.check(bytes, at)?;
    store.accept(bytes, (&verified, &anchor), "test", Place::Current, at)?;
    Ok(verified)
}

#[test]
fn the_last_good_bundle_is_kept_over_restarts_expiry_and_clocks_put_back() {
    let folder = tempfile::tempdir().expect("dir");
    let fleet = Fleet::new();
    let mut first = store(folder.path(), &fleet);
    assert!(first.load(Place::Current).is_none());
    accept(&mut first, &fleet.bytes(7, ORG), now()).expect("taken");
    accept(&mut first, &fleet.bytes(8, ORG), now()).expect("taken");
    let mut again = store(folder.path(), &fleet);
    let version = |store: &Store, place| store.load(place).expect("one").expect("sound").0.version;
    assert_eq!(
        (
            version(&again, Place::Current),
            version(&again, Place::Previous)
        ),
        (8, 7)
    );
    assert_eq!(
        accept(&mut again, &fleet.bytes(7, ORG), now())
            .expect_err("old")
            .kind(),
        RefusalKind::OldVersion
    );
    // It expires; it stays, and no clock makes another stale one fresh.
    let late = now().saturating_add(DAY * 31).expect("time");
    let expired = accept(&mut again, &fleet.bytes(9, ORG), late).expect_err("expired");
    assert_eq!(expired.kind(), RefusalKind::Expired);
    assert_eq!(version(&again, Place::Current), 8);
    again.state_latest(late);
    let back = accept(&mut again, &fleet.bytes(9, ORG), now()).expect_err("still expired");
    assert_eq!(back.kind(), RefusalKind::Expired);
}

#[test]
fn a_version_that_was_rolled_back_is_not_taken_again() {
    let folder = tempfile::tempdir().expect("dir");
    let fleet = Fleet::new();
    let mut store = store(folder.path(), &fleet);
    accept(&mut store, &fleet.bytes(7, ORG), now()).expect("taken");
    assert!(store.roll_back(7).is_err(), "there is nothing before it");
    accept(&mut store, &fleet.bytes(8, ORG), now()).expect("taken");
    store.roll_back(8).expect("back");
    assert_eq!(
        store
            .load(Place::Current)
            .expect("one")
            .expect("sound")
            .0
            .version,
        7
    );
    let again = accept(&mut store, &fleet.bytes(8, ORG), now()).expect_err("bad");
    assert_eq!(again.kind(), RefusalKind::RolledBack);
    accept(&mut store, &fleet.bytes(9, ORG), now()).expect("a newer one");
}

#[test]
fn a_kept_bundle_that_was_changed_or_lost_is_an_error_and_no_other_policy() {
    let folder = tempfile::tempdir().expect("dir");
    let fleet = Fleet::new();
    let mut store = store(folder.path(), &fleet);
    accept(&mut store, &fleet.bytes(7, ORG), now()).expect("taken");
    let file = std::fs::read_dir(folder.path().join("bundle"))
        .expect("dir")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|e| e == "tar"))
        .expect("file");
    std::fs::write(&file, fleet.bytes(8, ORG)).expect("write");
    assert!(store.load(Place::Current).expect("one").is_err());
    std::fs::write(folder.path().join("bundle/state.json"), "{").expect("write");
    let trust = folder.path().join("root.json");
    assert!(
        Store::open(&folder.path().join("bundle"), &trust).is_err(),
        "not forgotten"
    );
}

#[test]
fn without_a_root_nothing_is_believed_and_another_root_begins_anew() {
    let folder = tempfile::tempdir().expect("dir");
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let mut one = store(folder.path(), &fleet);
    std::fs::remove_file(folder.path().join("root.json")).expect("remove");
    let refused = accept(&mut one, &fleet.bytes(7, ORG), now()).expect_err("no trust");
    assert_eq!(refused.kind(), RefusalKind::NoTrust);
    let mut one = store(folder.path(), &fleet);
    accept(&mut one, &fleet.bytes(7, ORG), now()).expect("taken");
    assert!(accept(&mut one, &other.bytes(9, ORG), now()).is_err());
    let mut one = store(folder.path(), &other);
    // What is kept is still what was believed, until a bundle of the new root comes.
    assert_eq!(
        one.load(Place::Current)
            .expect("one")
            .expect("sound")
            .0
            .version,
        7
    );
    accept(&mut one, &other.bytes(3, ORG), now()).expect("taken");
    assert_eq!(
        one.load(Place::Current)
            .expect("one")
            .expect("sound")
            .0
            .version,
        3
    );
    assert!(one.load(Place::Previous).is_none());
}

#[test]
fn another_bundle_of_the_same_people_does_not_take_its_place() {
    let fleet = Fleet::new();
    let seen = fleet
        .check(&fleet.archive(7, ORG), &Seen::default())
        .expect("believed")
        .seen;
    let files = Fleet::files(ORG, &MANIFEST.replace("acme", "servers"));
    let other = fleet.archive_of(8, files);
    assert_eq!(fleet.refused(&other, &seen), RefusalKind::WrongTarget);
}

#[test]
fn pauses_grow_stay_bounded_and_differ() {
    use super::pull::pause;
    use std::time::Duration;
    let every = Duration::from_secs(3600);
    assert_eq!(pause(every, 0, 0.0), every);
    assert_eq!(pause(every, 0, 1.0), every.mul_f64(1.1));
    let long: Vec<_> = (1..40).map(|n| pause(every, n, 1.0)).collect();
    assert!(long.is_sorted() && long[0] == Duration::from_secs(5));
    assert_eq!(long[38], every);
    assert_eq!(pause(every, 40, 0.0), every / 2);
}
