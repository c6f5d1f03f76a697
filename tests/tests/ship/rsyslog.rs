//! rsyslog itself, over TLS with a certificate of the daemon's.

use super::{AGENT, EVENTS, POLICY, ids, on_disk, refuse, secret, set, sink_until};
use exeat_tests::daemon::Daemon;
use exeat_tests::http::Authority;
use exeat_tests::wait;
use exeat_tests::world::World;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const PORT: u16 = 6514;

/// Killed when dropped.
struct Rsyslog {
    child: Child,
}

impl Rsyslog {
    fn start(world: &World, folder: &Path) -> Self {
        let mut command = world.laptop.command("/usr/sbin/rsyslogd");
        command.arg("-n").arg("-f").arg(folder.join("rsyslog.conf"));
        command.arg("-i").arg(folder.join("rsyslog.pid"));
        let log = std::fs::File::create(folder.join("rsyslogd.log")).expect("log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start rsyslogd: `cargo xtask setup` brings it");
        let rsyslog = Self { child };
        wait::until("rsyslogd to listen", wait::patience(), || {
            let listens = world
                .laptop
                .run(|| Ok(std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok()));
            listens.ok().filter(|listens| *listens).map(drop)
        })
        .unwrap_or_else(|error| {
            let log = std::fs::read_to_string(folder.join("rsyslogd.log"));
            panic!("{error}: {}", log.unwrap_or_default())
        });
        rsyslog
    }

    /// As a machine that loses its power would end it.
    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("reap");
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder with a configuration that writes each message on a line: the id of its structured
/// data and its text.
fn configure(world: &World, authority: &Authority, ca: &Path) -> (PathBuf, PathBuf) {
    let folder = world.folder().join("rsyslog");
    std::fs::create_dir(&folder).expect("mkdir");
    let (certificate, key) = authority.pair(&["127.0.0.1"]).expect("certificate");
    let certificate = secret(&folder, "server.pem", &certificate);
    let key = secret(&folder, "server.key", &key);
    let out = folder.join("messages");
    let text = format!(
        r#"global(workDirectory="{folder}" maxMessageSize="64k"
  defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" address="127.0.0.1" port="{PORT}")
template(name="each" type="string" string="%pri% %app-name% %msgid% %structured-data% %msg%\n")
action(type="omfile" file="{out}" template="each" fileCreateMode="0644")
"#,
        folder = folder.display(),
        ca = ca.display(),
        certificate = certificate.display(),
        key = key.display(),
        out = out.display(),
    );
    std::fs::write(folder.join("rsyslog.conf"), text).expect("write");
    (folder, out)
}

/// Ids in the structured data of the lines.
fn arrived(out: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(out).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once("[exeat@32473 id=\"")?.1.split_once('"'))
        .map(|(id, _)| id.to_owned())
        .collect()
}

#[test]
fn rsyslog_over_tls_gets_every_record_over_its_own_end_and_the_daemons() {
    let world = World::new().expect("world");
    let authority = Authority::new().expect("authority");
    let stranger = Authority::new().expect("authority");
    let ca = authority.write(world.folder()).expect("ca");
    let wrong = stranger.write(world.folder()).expect("ca");
    let (folder, out) = configure(&world, &authority, &ca);
    let (certificate, key) = authority.pair(&["laptop.example"]).expect("certificate");
    let certificate = secret(world.folder(), "client.pem", &certificate);
    let key = secret(world.folder(), "client.key", &key);
    let lines = world.folder().join("lines.json");
    let own = format!(
        "certificate_file: {}, key_file: {}",
        certificate.display(),
        key.display()
    );
    let config = format!(
        "{EVENTS}ship:
  - {{name: lines, to: 'file:{lines}'}}
  - {{name: syslog, to: 'syslog+tls://127.0.0.1:{PORT}', ca_file: {ca}, {own}}}
  - {{name: stranger, to: 'syslog+tls://127.0.0.1:{PORT}', ca_file: {wrong}, {own}}}
",
        lines = lines.display(),
        ca = ca.display(),
        wrong = wrong.display(),
    );
    let first = Rsyslog::start(&world, &folder);
    let mut daemon = Daemon::start_with(&world, POLICY, &config).expect("daemon");
    let mut agent = daemon.puppet(AGENT).expect("puppet");
    refuse(&mut agent, 300);
    sink_until(&daemon, "syslog", |sink| {
        sink["delivered"].as_u64() >= Some(300)
    });
    let stranger = sink_until(&daemon, "stranger", |sink| sink["trouble"].is_string());
    assert_eq!(stranger["delivered"], 0, "{stranger}");
    let trouble = stranger["trouble"].as_str().expect("trouble");
    assert!(trouble.contains("invalid peer certificate"), "{trouble}");
    wait::until("rsyslog to have written them", wait::patience(), || {
        (set(&arrived(&out)).len() >= 300).then_some(())
    })
    .expect("written");

    first.kill();
    refuse(&mut agent, 300);
    sink_until(&daemon, "syslog", |sink| {
        sink["queued"].as_u64() >= Some(300) && sink["trouble"].is_string()
    });
    sink_until(&daemon, "lines", |sink| sink["queued"] == 0);
    on_disk(&daemon, "syslog", 300);
    daemon.kill9().expect("kill");
    let _second = Rsyslog::start(&world, &folder);
    daemon.restart().expect("restart");
    sink_until(&daemon, "syslog", |sink| sink["queued"] == 0);
    let mut missing = BTreeSet::new();
    wait::until("rsyslog to have written them", wait::patience(), || {
        let there = set(&arrived(&out));
        missing = set(&ids(&lines)).difference(&there).cloned().collect();
        missing.is_empty().then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {} are missing", missing.len()));
    let text = std::fs::read_to_string(&out).expect("messages");
    let line = text
        .lines()
        .find(|line| line.contains(" deny "))
        .expect("a refusal");
    assert!(
        line.starts_with("84 exeat deny [exeat@32473 id=\""),
        "{line}"
    );
    assert!(line.contains("dest_ip=\"203.0.113.20\""), "{line}");
    let json = line.split_once("] {").expect("a record").1;
    serde_json::from_str::<serde_json::Value>(&format!("{{{json}")).expect("json");
}
