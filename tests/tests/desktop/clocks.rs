//! The calendar is set both ways and the machine sleeps: what was to end ends, and nothing
//! holds for longer.

use crate::{HERE, NOWHERE, POLICY, connect, incident, until_connect};
use exeat_tests::stage::{AGENT, ALLOWED, Stage};
use exeat_tests::technique::shifted_clock;
use exeat_tests::world::open_to_all;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;

/// The clocks of a daemon.
pub(crate) struct Clocks(PathBuf);

impl Clocks {
    /// Starts the daemon of a stage anew with clocks that can be set.
    pub(crate) fn of(stage: &mut Stage) -> Self {
        let path = stage.world.folder().join("clock");
        let clocks = Self(path.clone());
        std::fs::write(&path, [0; 16]).expect("the clock's file");
        open_to_all(&path).expect("the clock's file");
        stage.daemon.install(shifted_clock());
        stage
            .daemon
            .with_variable("EXEAT_TEST_CLOCK", path.display().to_string())
            .expect("a daemon with such clocks");
        clocks
    }

    /// Seconds that the calendar is off, and seconds asleep so far.
    pub(crate) fn set(&self, calendar: i64, asleep: i64) {
        let mut file = std::fs::File::options()
            .write(true)
            .open(&self.0)
            .expect("the clock's file");
        let bytes = [calendar.to_ne_bytes(), asleep.to_ne_bytes()].concat();
        file.write_all(&bytes).expect("the clock's file");
    }
}

fn grant(stage: &Stage, address: &str) {
    let output = stage
        .daemon
        .cli(&["grant", "--agent", AGENT, "--address", address])
        .args(["--port", "7000", "--for", "10m", "--why", "a test"])
        .output()
        .expect("exeat grant");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn seconds(incident: &Value, key: &str) -> f64 {
    let facts = incident.to_string();
    let from = facts.split(&format!("\"{key}\":\"")).nth(1);
    let text = from.and_then(|rest| rest.split('"').next());
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no {key}: {incident}"))
}

#[test]
fn grants_and_leases_end_by_time_asleep_and_by_the_calendar_and_are_never_prolonged() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let _hosts = [HERE, NOWHERE].map(|host| {
        let sink = stage.world.tcp_sink(&format!("{host}:7000"));
        sink.expect("sink")
    });
    stage.dns.set(ALLOWED, &[HERE], 60);
    let clocks = Clocks::of(&mut stage);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    until_connect(&mut agent, HERE, 7000, 0);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), libc::EPERM);

    // Set back by a day: nothing ends, and nothing is prolonged.
    grant(&stage, NOWHERE);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), 0);
    clocks.set(-86_400, 0);
    let told = incident(&stage, "clock_jumped", 0);
    assert!(
        (seconds(&told, "set_seconds") + 86_400.0).abs() < 5.0,
        "{told}"
    );
    assert_eq!(connect(&mut agent, NOWHERE, 7000), 0);
    assert_eq!(connect(&mut agent, HERE, 7000), 0);
    // Twenty minutes asleep, which the calendar that was set back does not show.
    clocks.set(-86_400, 1200);
    let told = incident(&stage, "clock_jumped", 1);
    assert!(
        (seconds(&told, "slept_seconds") - 1200.0).abs() < 5.0,
        "{told}"
    );
    until_connect(&mut agent, NOWHERE, 7000, libc::EPERM);
    // Names were asked anew: what is allowed goes on.
    until_connect(&mut agent, HERE, 7000, 0);

    // Set forward: what the calendar says is over is over, and stays so when it is set back.
    grant(&stage, NOWHERE);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), 0);
    clocks.set(86_400, 1200);
    incident(&stage, "clock_jumped", 2);
    until_connect(&mut agent, NOWHERE, 7000, libc::EPERM);
    clocks.set(0, 1200);
    incident(&stage, "clock_jumped", 3);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), libc::EPERM);
    until_connect(&mut agent, HERE, 7000, 0);

    // Over a kill: time that passed meanwhile counts.
    grant(&stage, NOWHERE);
    assert_eq!(connect(&mut agent, NOWHERE, 7000), 0);
    stage.daemon.kill9().expect("kill");
    clocks.set(-86_400, 3000);
    stage.daemon.restart().expect("restart");
    until_connect(&mut agent, NOWHERE, 7000, libc::EPERM);
    until_connect(&mut agent, HERE, 7000, 0);
    let escaped = stage
        .forbidden(|packet| {
            packet.is_to(HERE.parse().expect("v4")) || packet.is_to(NOWHERE.parse().expect("v4"))
        })
        .expect("settle");
    assert!(escaped.is_empty(), "{escaped:?}");
}
