//! Signed policy bundles against a daemon: what is signed is enforced, what somebody made of it is
//! refused with its reason, and the last good one stays in force through all of it.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::collector::{Collector, Reply};
use exeat_tests::daemon::{Daemon, program};
use exeat_tests::http::Authority;
use exeat_tests::stage::{AGENT, ALLOWED, OTHER, Stage};
use exeat_tests::wait;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// Nothing of the laptop's own.
const NO_AGENT: &str = "version: 1\nagents: {}\n";
const MANIFEST: &str = "version: 1\nname: acme\nfiles: [{ file: org.yaml, layer: org }]\n";

fn policy(host: &str) -> String {
    format!(
        "version: 1\nagents:\n  {AGENT}:\n    allow:\n      - {{ host: {host}, ports: [443, 80] }}\n"
    )
}

/// People who write policy: their keys, and what they make with them.
struct Fleet {
    folder: tempfile::TempDir,
}

impl Fleet {
    fn new() -> Self {
        let fleet = Self {
            folder: tempfile::tempdir().expect("dir"),
        };
        exeat_tests::world::open_to_all(fleet.folder.path()).expect("open");
        fleet.cli(&["key", "root.key"]);
        fleet.cli(&["key", "policy.key"]);
        let keys = ["--root-key", "root.key.pub", "--key", "policy.key.pub"];
        fleet.cli(&[&["root", "trust", "--sign", "root.key"], &keys[..]].concat());
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program());
        command
            .arg("bundle")
            .args(arguments)
            .current_dir(self.folder.path());
        command.output().expect("exeat bundle")
    }

    fn cli(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", both(&output));
    }

    /// A signed bundle.
    fn bundle(&self, version: u32, policy: &str, manifest: &str, more: &[&str]) -> PathBuf {
        let (folder, file) = (self.path("policies"), format!("{version}.bundle"));
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("bundle.yaml"), manifest).expect("write");
        std::fs::write(folder.join("org.yaml"), policy).expect("write");
        let version = version.to_string();
        let arguments = [
            "build",
            "policies",
            "--trust",
            "trust",
            "--sign",
            "policy.key",
            "--output",
            &file,
            "--version",
            &version,
        ];
        self.cli(&[&arguments[..], more].concat());
        self.path(&file)
    }

    fn config(&self, more: &str) -> String {
        let trust = self.path("trust/1.root.json");
        format!("bundle:\n  trust: {}\n{more}", trust.display())
    }

    fn stage(&self, more: &str) -> Stage {
        Stage::new(NO_AGENT, &self.config(more)).expect("stage")
    }
}

fn both(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn install(daemon: &Daemon, bundle: &Path) -> Output {
    let path = bundle.display().to_string();
    daemon
        .cli(&["bundle", "install", &path])
        .output()
        .expect("install")
}

fn installed(daemon: &Daemon, bundle: &Path) -> String {
    let output = install(daemon, bundle);
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    both(&output)
}

fn status(daemon: &Daemon) -> Value {
    daemon.status().expect("status")["bundle"].clone()
}

fn wait_for(daemon: &Daemon, what: &str, done: impl Fn(&Value) -> bool) {
    let found = wait::until(what, wait::patience(), || {
        done(&status(daemon)).then_some(())
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {:#}\n{}", status(daemon), daemon.log()));
}

/// Only the allowed name is reached.
fn holds(stage: &Stage, when: &str) {
    let to = |name: &str| {
        stage
            .curl_as(AGENT, &format!("https://{name}/"))
            .expect("curl")
    };
    assert_eq!(to(ALLOWED), Some(0), "{when}: {}", stage.daemon.log());
    assert_ne!(to(OTHER), Some(0), "{when}");
}

fn incident(daemon: &Daemon, kind: &str, part: &str) {
    let found = daemon.event(|event| event["kind"] == kind && event.to_string().contains(part));
    found.unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
}

#[test]
fn poisoned_bundles_are_refused_with_their_reason_and_the_last_good_one_is_enforced() {
    let fleet = Fleet::new();
    let mut stage = fleet.stage("");
    assert_eq!(status(&stage.daemon), Value::Null);
    let old = fleet.bundle(6, &policy(OTHER), MANIFEST, &[]);
    let good = fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[]);
    let said = installed(&stage.daemon, &good);
    assert!(said.contains("acme version 7 is taken"), "{said}");
    holds(&stage, "installed");
    incident(&stage.daemon, "bundle_installed", "acme");
    assert!(installed(&stage.daemon, &good).contains("in force already"));

    let new = fleet.bundle(8, &policy(OTHER), MANIFEST, &[]);
    let bytes = std::fs::read(&new).expect("bundle");
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = bytes.clone();
        let mut found = 0;
        for at in 0..bytes.len() - from.len() {
            if &bytes[at..at + from.len()] == from.as_bytes() {
                bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
                found += 1;
            }
        }
        assert!(found > 0, "{from}");
        let path = fleet.path("poisoned");
        std::fs::write(&path, bytes).expect("write");
        path
    };
    let written = |name: &str, bytes: &[u8]| {
        std::fs::write(fleet.path(name), bytes).expect("write");
        fleet.path(name)
    };
    let strangers = Fleet::new();
    let elsewhere = format!("{MANIFEST}for: {{ host: [elsewhere] }}\n");
    let servers = MANIFEST.replace("acme", "servers");
    let poisoned: Vec<(PathBuf, &str)> = vec![
        (replaced("\"version\":8", "\"version\":9"), "bad_signature"),
        (old, "old_version"),
        (
            strangers.bundle(9, &policy(OTHER), MANIFEST, &[]),
            "unknown_keys",
        ),
        (written("large", &vec![0; (16 << 20) + 1]), "oversize"),
        (written("text", policy(OTHER).as_bytes()), "malformed"),
        (written("cut", &bytes[..bytes.len() / 2]), "malformed"),
        (
            fleet.bundle(10, &policy(OTHER), &elsewhere, &[]),
            "wrong_target",
        ),
        (
            fleet.bundle(11, &policy(OTHER), &servers, &[]),
            "wrong_target",
        ),
        (
            fleet.bundle(12, "version: 1\nagents: [", MANIFEST, &[]),
            "policy",
        ),
        (fleet.path("gone"), "storage"),
    ];
    for (bundle, reason) in poisoned {
        let output = install(&stage.daemon, &bundle);
        let said = both(&output);
        if reason == "storage" {
            assert_ne!(output.status.code(), Some(0), "{said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{reason}: {said}");
        assert!(
            said.contains(&format!("refused ({reason})")),
            "{reason}: {said}"
        );
        let bundle = status(&stage.daemon);
        assert_eq!(bundle["current"]["version"], 7, "{reason}");
        assert_eq!(bundle["refused"]["reason"], reason, "{bundle:#}");
        incident(&stage.daemon, "bundle_refused", reason);
        let count = stage.daemon.metric(
            "exeat_bundles_refused_total",
            &[&format!("reason=\"{reason}\"")],
        );
        assert!(count.expect("metric") >= 1.0, "{reason}");
    }
    let mixed = replaced(OTHER, &"x".repeat(OTHER.len()));
    let said = both(&install(&stage.daemon, &mixed));
    assert!(said.contains("refused (mixed)"), "{said}");
    let stale = fleet.bundle(13, &policy(OTHER), MANIFEST, &["--expires", "1s"]);
    let stale = stale.display().to_string();
    wait::until("it to expire", wait::patience(), || {
        let seen = fleet.run(&["verify", &stale, "--trust", "trust/1.root.json"]);
        both(&seen).contains("expired").then_some(())
    })
    .expect("expired");
    let said = both(&install(&stage.daemon, Path::new(&stale)));
    assert!(said.contains("refused (expired)"), "{said}");
    holds(&stage, "after all of them");

    stage.daemon.kill9().expect("kill");
    holds_without_daemon(&stage);
    stage.daemon.restart().expect("restart");
    assert_eq!(status(&stage.daemon)["current"]["version"], 7);
    holds(&stage, "after a kill");
    // A stranger on the laptop installs nothing, and what is good still comes in.
    let path = new.display().to_string();
    let mut command = stage
        .daemon
        .cli_as(PLAIN_USER, &["bundle", "install", &path]);
    assert_eq!(command.output().expect("install").status.code(), Some(5));
    installed(&stage.daemon, &new);
    let bundle = status(&stage.daemon);
    assert_eq!(
        (&bundle["current"]["version"], &bundle["refused"]),
        (&8.into(), &Value::Null)
    );
}

/// What the daemon that is gone enforced is asked of the kernel by `exeat run`, which fails.
fn holds_without_daemon(stage: &Stage) {
    let code = stage
        .curl_as(AGENT, &format!("https://{OTHER}/"))
        .expect("curl");
    assert_ne!(code, Some(0));
}

#[test]
fn keys_are_rotated_and_two_have_to_sign_where_the_root_says_so() {
    let fleet = Fleet::new();
    let stage = fleet.stage("");
    installed(
        &stage.daemon,
        &fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[]),
    );
    fleet.cli(&["key", "a.key"]);
    fleet.cli(&["key", "b.key"]);
    let next = [
        "root",
        "trust",
        "--root-key",
        "root.key.pub",
        "--key",
        "a.key.pub",
        "--key",
        "b.key.pub",
        "--threshold",
        "2",
    ];
    fleet.cli(&next);
    // Until the old root's people have signed it the new root is nothing.
    let early = install(
        &stage.daemon,
        &fleet.bundle(8, &policy(ALLOWED), MANIFEST, &[]),
    );
    assert_eq!(early.status.code(), Some(1), "{}", both(&early));
    fleet.cli(&["sign", "trust/2.root.json", "--key", "root.key"]);
    let stolen = both(&install(
        &stage.daemon,
        &fleet.bundle(9, &policy(OTHER), MANIFEST, &[]),
    ));
    assert!(stolen.contains("unknown_keys"), "{stolen}");
    let bundle = fleet.bundle(10, &policy(ALLOWED), MANIFEST, &[]);
    let path = bundle.display().to_string();
    fleet.cli(&["sign", &path, "--key", "a.key"]);
    let one = both(&install(&stage.daemon, &bundle));
    assert!(one.contains("too_few_signatures"), "{one}");
    fleet.cli(&["sign", &path, "--key", "b.key"]);
    fleet.cli(&["verify", &path, "--trust", "trust/1.root.json"]);
    installed(&stage.daemon, &bundle);
    assert_eq!(status(&stage.daemon)["current"]["root_version"], 2);
    holds(&stage, "with new keys");
}

#[test]
fn the_laptops_own_policy_only_tightens_what_the_bundle_says() {
    let fleet = Fleet::new();
    let stage = fleet.stage("");
    installed(
        &stage.daemon,
        &fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[]),
    );
    stage.daemon.write_policy(&policy(OTHER)).expect("write");
    let output = stage.daemon.reload().expect("reload");
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        both(&output).contains("only make the bundle's narrower"),
        "{}",
        both(&output)
    );
    holds(&stage, "with a wider policy beside it");
    // A new bundle is not kept out by it.
    installed(
        &stage.daemon,
        &fleet.bundle(8, &policy(ALLOWED), MANIFEST, &[]),
    );
    holds(&stage, "a new bundle beside a wider policy");
    let left_out = status(&stage.daemon)["left_out"].to_string();
    assert!(left_out.contains(OTHER), "{left_out}");
    let deny = format!("version: 1\nagents:\n  {AGENT}:\n    deny: [{{ host: {ALLOWED} }}]\n");
    stage.daemon.enforce(&deny).expect("narrower");
    let code = stage
        .curl_as(AGENT, &format!("https://{ALLOWED}/"))
        .expect("curl");
    assert_ne!(code, Some(0), "what the laptop denies is denied");
}

#[test]
fn a_bundle_that_makes_health_worse_is_rolled_back_and_stays_away() {
    let fleet = Fleet::new();
    let stage = fleet.stage("");
    let manifest = format!("{MANIFEST}roll_back: {{ within: 5m, worse_for: 1s }}\n");
    installed(
        &stage.daemon,
        &fleet.bundle(7, &policy(ALLOWED), &manifest, &[]),
    );
    holds(&stage, "before");
    let bad = policy(ALLOWED) + "      - { host: gone.example, ports: [443] }\n";
    let bad = fleet.bundle(8, &bad, &manifest, &[]);
    installed(&stage.daemon, &bad);
    let long = wait::patience() * 3;
    wait::until("the bundle to be rolled back", long, || {
        (status(&stage.daemon)["rolled_back"] == 8).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", stage.daemon.log()));
    assert_eq!(status(&stage.daemon)["current"]["version"], 7);
    incident(&stage.daemon, "bundle_rolled_back", "health was worse");
    holds(&stage, "rolled back");
    let again = both(&install(&stage.daemon, &bad));
    assert!(again.contains("refused (rolled_back)"), "{again}");
}

#[test]
fn a_step_that_monitors_watches_new_agents_and_loosens_no_old_one() {
    let fleet = Fleet::new();
    let stage = fleet.stage("");
    installed(
        &stage.daemon,
        &fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[]),
    );
    let step = format!("{MANIFEST}rollout: [{{ percent: 100, mode: monitor }}]\n");
    let more = policy(OTHER) + "  second:\n    allow: []\n";
    let said = installed(&stage.daemon, &fleet.bundle(8, &more, &step, &[]));
    assert!(said.contains("new agents monitored"), "{said}");
    holds(&stage, "the old agent");
    let code = stage
        .curl_as("second", &format!("http://{OTHER}/"))
        .expect("curl");
    assert_eq!(code, Some(0), "the new one is watched");
    let nobody = format!("{MANIFEST}rollout: [{{ percent: 0 }}, {{ after: 5d, percent: 100 }}]\n");
    let said = installed(
        &stage.daemon,
        &fleet.bundle(9, &policy(OTHER), &nobody, &[]),
    );
    assert!(said.contains("waits for its turn"), "{said}");
    let bundle = status(&stage.daemon);
    assert_eq!(
        (&bundle["current"]["version"], &bundle["waiting"]),
        (&8.into(), &9.into())
    );
    let back = stage
        .daemon
        .cli(&["bundle", "roll-back"])
        .output()
        .expect("roll back");
    assert_eq!(back.status.code(), Some(0), "{}", both(&back));
    assert_eq!(status(&stage.daemon)["current"]["version"], 7);
    holds(&stage, "rolled back by hand");
}

#[test]
fn a_file_that_mdm_puts_there_is_taken_and_so_is_the_next_one() {
    let fleet = Fleet::new();
    let there = fleet.path("mdm.bundle");
    let stage = fleet.stage(&format!("  file: {}\n", there.display()));
    let put = |bundle: PathBuf| std::fs::rename(bundle, &there).expect("rename");
    put(fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[]));
    wait_for(&stage.daemon, "the file", |b| b["current"]["version"] == 7);
    holds(&stage, "by a file");
    std::fs::write(&there, b"half a bund").expect("write");
    wait_for(&stage.daemon, "a refusal", |b| {
        b["refused"]["reason"] == "malformed"
    });
    holds(&stage, "a broken file");
    put(fleet.bundle(8, &policy(ALLOWED), MANIFEST, &[]));
    wait_for(&stage.daemon, "the next file", |b| {
        b["current"]["version"] == 8
    });
}

#[test]
fn bundles_are_pulled_with_a_certificate_of_the_laptop_and_only_when_they_are_new() {
    let fleet = Fleet::new();
    let authority = Authority::new().expect("authority");
    authority.write(fleet.folder.path()).expect("write");
    let ca = fleet.path("laptops.pem");
    std::fs::write(&ca, authority.pem()).expect("write");
    let (certificate, key) = authority.pair(&["laptop-7"]).expect("pair");
    std::fs::write(fleet.path("own.pem"), certificate).expect("write");
    std::fs::write(fleet.path("own.key"), key).expect("write");
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(fleet.path("own.key"), private).expect("chmod");
    let at = |name: &str| fleet.path(name).display().to_string();
    let stage = fleet.stage(&format!(
        "  url: https://127.0.0.1:8443/acme.bundle\n  every: 1m\n  ca_file: {}\n  \
         certificate_file: {}\n  key_file: {}\n",
        ca.display(),
        at("own.pem"),
        at("own.key")
    ));
    // The server comes up after the daemon asked in vain; then it asks for a certificate.
    let bytes = std::fs::read(fleet.bundle(7, &policy(ALLOWED), MANIFEST, &[])).expect("read");
    let tags = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tags);
    let server = Collector::start(
        &stage.world.laptop,
        "127.0.0.1:8443".parse().expect("address"),
        Some(mutual(&authority)),
        move |_, request| {
            let tag = request.headers.get("if-none-match").cloned();
            seen.lock().expect("lock").push(tag.clone());
            Some(match tag.as_deref() {
                Some("\"seven\"") => Reply::new(304, ""),
                _ => Reply::new(200, bytes.clone()).with("etag", "\"seven\""),
            })
        },
    )
    .expect("server");
    wait::until("the bundle to be pulled", wait::patience() * 4, || {
        (status(&stage.daemon)["current"]["version"] == 7).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", stage.daemon.log()));
    holds(&stage, "pulled");
    assert_eq!(tags.lock().expect("lock")[0], None);
    assert_eq!(server.posts().len(), tags.lock().expect("lock").len());
    let source = status(&stage.daemon)["current"]["source"].clone();
    assert_eq!(source, "https://127.0.0.1:8443/acme.bundle");
    assert!(
        stage.daemon.log().contains("no bundle could be pulled"),
        "{}",
        stage.daemon.log()
    );
}

/// A server that talks to laptops with a certificate only.
fn mutual(authority: &Authority) -> Arc<rustls::ServerConfig> {
    let (chain, key) = authority.pair(&["127.0.0.1"]).expect("pair");
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("root");
    roots.add(root).expect("root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    )
    .build()
    .expect("verifier");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .expect("chain");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .expect("certificate");
    Arc::new(config)
}
