//! Answers by every way that people and their services have, each through the running daemon into
//! the kernel: a connection waits there, and goes on or ends as it was answered.

mod hook;
mod page;
mod polkit;
mod terminal;
mod webhook;

use exeat_tests::asked;
use exeat_tests::puppet::Puppet;
use exeat_tests::sink::TcpSink;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::world::open_to_all;
use exeat_tests::{programs, wait};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A daemon that asks, a program of its agent, and the host that this one wants.
struct Scene {
    puppet: Puppet,
    stage: Stage,
    _sinks: [TcpSink; 2],
}

impl Scene {
    /// Asks `user` or `admin`, with more lines of configuration.
    fn new(who: &str, config: &str) -> Self {
        let stage = Stage::new(&asked::policy(who), config).expect("stage");
        let sink = |host: &str| stage.world.tcp_sink(&format!("{host}:{}", asked::PORT));
        let far6 = format!("[{}]", asked::FAR6);
        Self {
            _sinks: [asked::FAR, &far6].map(|host| sink(host).expect("sink")),
            puppet: stage.daemon.puppet(AGENT).expect("puppet"),
            stage,
        }
    }

    /// The program connects to [`asked::FAR`].
    fn begin(&mut self) {
        self.begin_to(asked::FAR);
    }

    fn begin_to(&mut self, host: &str) {
        asked::begin(&mut self.puppet, host).expect("it begins");
    }

    /// How its connection ended.
    fn ended(&mut self) -> i64 {
        asked::ended(&mut self.puppet)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.stage.daemon.log()))
    }

    /// Its connection waits, and the question about it stands.
    fn still_waits(&mut self) {
        assert!(asked::waits(&mut self.puppet).expect("puppet"));
        assert_eq!(asked::questions(&self.stage, 0).expect("ask").len(), 1);
        assert!(asked::grants(&self.stage).expect("grants").is_empty());
    }

    /// What a person types.
    fn exeat_ask(&self, args: &[&str]) {
        let args = [&["ask"], args].concat();
        let output = self.stage.daemon.cli(&args).output().expect("exeat ask");
        assert!(output.status.success(), "{output:?}");
    }

    /// The only grant.
    fn grant(&self) -> Value {
        let mut all = asked::grants(&self.stage).expect("grants");
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Waits until the daemon has said this.
    fn daemon_says(&self, what: &str) {
        let said = || self.stage.daemon.log().contains(what).then_some(());
        wait::until(what, wait::patience(), said)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.stage.daemon.log()));
    }

    /// Waits for the incident that a question was answered through this.
    fn answered(&self, outcome: &str, via: &str) {
        let wanted = |event: &Value| {
            event["kind"] == "answered"
                && event["facts"]["outcome"] == outcome
                && event["facts"]["via"] == via
        };
        self.stage.daemon.event(wanted).expect("it is told");
    }
}

/// Files that the configuration names: it is read before there is a world.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        open_to_all(folder.path()).expect("chmod");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path(name);
        programs::write(&path, text.as_bytes(), mode).expect("write");
        path
    }

    /// A file that somebody else is to write: waits until it is there and is not empty.
    fn read(&self, name: &str) -> String {
        wait::until(name, wait::patience(), || {
            let text = std::fs::read_to_string(self.path(name)).ok()?;
            (!text.is_empty()).then_some(text)
        })
        .expect("a file")
    }
}

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}
