//! systemd-journald itself, with its /run in a folder of the test.

use super::{AGENT, EVENTS, POLICY, id_of, refuse, sink_until};
use exeat_tests::daemon::Daemon;
use exeat_tests::wait;
use exeat_tests::world::World;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
struct Journal {
    child: Child,
    run: PathBuf,
}

impl Journal {
    fn start(folder: &Path) -> Self {
        let run = folder.join("j");
        std::fs::create_dir(&run).expect("mkdir");
        // A mount namespace of its own, where /run is the folder and the machine has an id.
        let script = "
set -e
mount --make-rprivate /
mkdir -p \"$1/systemd/journal\" \"$1/log/journal\"
echo 0123456789abcdef0123456789abcdef > \"$1/machine-id\"
mount --bind \"$1/machine-id\" /etc/machine-id
mount --bind \"$1\" /run
exec /lib/systemd/systemd-journald
";
        let child = Command::new("unshare")
            .args(["--mount", "/bin/sh", "-c", script, "sh"])
            .arg(&run)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.join("journald.log")).expect("log"))
            .spawn()
            .expect("start journald");
        let journal = Self { child, run };
        wait::until("journald's socket", wait::patience(), || {
            journal.socket().exists().then_some(())
        })
        .expect("journald");
        journal
    }

    fn socket(&self) -> PathBuf {
        self.run.join("systemd/journal/socket")
    }

    /// Entries of Exeat, as journalctl reads them from the files.
    fn entries(&self, more: &[&str]) -> Vec<Value> {
        let output = Command::new("journalctl")
            .arg("-D")
            .arg(self.run.join("log/journal"))
            .args(["--output", "json", "--all", "SYSLOG_IDENTIFIER=exeat"])
            .args(more)
            .output()
            .expect("journalctl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn journald_has_the_fields_by_name_and_a_program_adds_none() {
    let world = World::new().expect("world");
    let journal = Journal::start(world.folder());
    let config = format!(
        "{EVENTS}ship:\n  - {{name: journal, to: 'journald:{}'}}\n",
        journal.socket().display()
    );
    let daemon = Daemon::start_with(&world, POLICY, &config).expect("daemon");
    let mut agent = daemon.puppet(AGENT).expect("puppet");
    // The confined program's name for itself, with which it would write fields.
    let named = agent.ask("open('/proc/self/comm', 'w').write('a\\nPRIORITY=0')");
    named.expect("a name");
    refuse(&mut agent, 50);
    sink_until(&daemon, "journal", |sink| {
        sink["delivered"].as_u64() >= Some(50)
    });
    let mut entries = Vec::new();
    wait::until("entries in the journal", wait::patience(), || {
        entries = journal.entries(&["EXEAT_AGENT=worker", "EXEAT_REASON=no_rule"]);
        (entries.len() >= 50).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {}", entries.len()));
    let entry = entries.last().expect("one");
    for (field, value) in [
        ("EXEAT_EVENT", "deny"),
        ("EXEAT_DEST_IP", "203.0.113.20"),
        ("EXEAT_PROTOCOL", "udp"),
        ("PRIORITY", "4"),
        ("SYSLOG_FACILITY", "10"),
        ("_TRANSPORT", "journal"),
    ] {
        assert_eq!(entry[field], value, "{field} of {entry}");
    }
    let record = entry["EXEAT_RECORD"].as_str().expect("record");
    let record: Value = serde_json::from_str(record).expect("json");
    assert_eq!(entry["EXEAT_ID"], id_of(&record));
    assert_eq!(entry["EXEAT_COMM"], "a\nPRIORITY=0");
    assert!(journal.entries(&["PRIORITY=0"]).is_empty());
    let output = daemon
        .cli(&["ship", "test", "journal"])
        .output()
        .expect("test");
    assert_eq!(output.status.code(), Some(0));
    wait::until("the test record", wait::patience(), || {
        (!journal.entries(&["EXEAT_EVENT=test"]).is_empty()).then_some(())
    })
    .expect("the test record");
}
