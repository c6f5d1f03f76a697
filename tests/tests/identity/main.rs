//! Which program is started as an agent: judged by the daemon before it is started, and held
//! to what was judged until it runs.

use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::{programs, wait};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

mod confined;
mod pieces;
mod swapped;

/// A laptop whose agent's programs are identified so.
struct Scene {
    stage: Stage,
    folder: PathBuf,
}

impl Scene {
    fn new(identity: &str) -> Self {
        Self::with(identity, "")
    }

    fn with(identity: &str, config: &str) -> Self {
        let stage = Stage::new(&policy(identity), config).expect("stage");
        let folder = stage.world.folder().join("programs");
        fs::create_dir(&folder).expect("folder");
        // The user's own: it may swap and change whatever is in it.
        std::os::unix::fs::chown(&folder, Some(PLAIN_USER), None).expect("chown");
        Self { stage, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An executable file of the ordinary user.
    fn program(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        programs::write(&path, contents.as_ref(), 0o755).expect("write");
        std::os::unix::fs::chown(&path, Some(PLAIN_USER), None).expect("chown");
        path
    }

    /// A copy of one of the system's programs.
    fn copy(&self, of: &str, name: &str) -> PathBuf {
        self.program(name, fs::read(of).expect(of))
    }

    fn command(&self, argv: &[&str]) -> Command {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut command = self.stage.daemon.run_command(AGENT, PLAIN_USER, &argv);
        let path = format!("{}:/usr/bin:/bin", self.folder.display());
        command.stdin(Stdio::null()).env("PATH", path);
        command
    }

    fn run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().expect("run")
    }

    #[track_caller]
    fn runs(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        assert!(output.status.success(), "{argv:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// It is refused: nothing of it ran, the person is told, and so is the record.
    #[track_caller]
    fn refused(&self, argv: &[&str], why: &str) {
        let output = self.run(argv);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(125), "{argv:?}: {text}");
        assert!(output.stdout.is_empty(), "{text}");
        assert!(text.contains(why), "{text}");
        self.incident(|message| message.contains(why) && message.contains("was not started"));
    }

    #[track_caller]
    fn incident(&self, wanted: impl Fn(&str) -> bool) -> Value {
        self.stage
            .daemon
            .event(|event| {
                event["kind"] == "identity_mismatch"
                    && event["agent"] == AGENT
                    && event["message"].as_str().is_some_and(&wanted)
            })
            .expect("incident")
    }

    fn incidents(&self) -> usize {
        let events = self.stage.daemon.events().expect("events");
        let ours = |event: &&Value| event["kind"] == "identity_mismatch";
        events.iter().filter(ours).count()
    }

    fn enforce(&self, identity: &str) {
        self.stage
            .daemon
            .enforce(&policy(identity))
            .expect("policy");
    }
}

fn policy(identity: &str) -> String {
    match identity {
        "" => POLICY.to_owned(),
        _ => format!("{POLICY}    identity: {identity}\n"),
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn sha256(path: &Path) -> String {
    let file = fs::File::open(path).expect("open");
    exeat::identity::digest(&file).expect("digest").to_string()
}

/// `/bin/sh` and the like, as they are called without links.
fn real(path: &str) -> PathBuf {
    fs::canonicalize(path).expect(path)
}
