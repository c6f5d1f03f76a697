//! What administrators are asked, answered by a user whom polkit lets: the real polkitd, on a system
//! bus of the test's, with the action that we ship and a rule as an administrator writes it.

use super::{Folder, Scene};
use exeat_tests::asked;
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::daemon::program;
use exeat_tests::desktop::Running;
use exeat_tests::stage::AGENT;
use exeat_tests::wait;
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

const POLKITD: &str = "/usr/lib/polkit-1/polkitd";
const ACTION: &str = include_str!("../../../dist/polkit/org.exeat.policy");

/// The user `nobody` may answer for the agent `worker`, and everybody's attempt is told.
const RULE: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id != "org.exeat.answer") return polkit.Result.NOT_HANDLED;
    polkit.log("asked about " + action.lookup("agent") + " by " + subject.user);
    if (subject.user == "nobody" && action.lookup("agent") == "AGENT")
        return polkit.Result.YES;
});
"#;

/// What a system bus lets people do: call polkit, and be nobody.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=AT</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <policy user="polkitd"><allow own="org.freedesktop.PolicyKit1"/></policy>
</busconfig>
"#;

struct System {
    folder: Folder,
    bus: Option<Running>,
    polkitd: Option<Running>,
}

impl System {
    /// A bus and the folders that polkitd reads, in the laptop of the scene.
    fn new(scene: &Scene) -> Self {
        let folder = Folder::new();
        for (name, at) in [
            ("actions", "/usr/share/polkit-1/actions"),
            ("rules", "/etc/polkit-1/rules.d"),
            ("none", "/usr/share/polkit-1/rules.d"),
        ] {
            let path = folder.path(name);
            std::fs::create_dir(&path).expect("folder");
            exeat_tests::world::open_to_all(&path).expect("chmod");
            let bind = || {
                let none = None::<&str>;
                Ok(mount(Some(&path), at, none, MsFlags::MS_BIND, none)?)
            };
            let made = scene.stage.world.laptop.run_inside(bind);
            made.unwrap_or_else(|error| panic!("{at}: {error}; install the package polkitd"));
        }
        folder.write("actions/org.exeat.policy", ACTION, 0o644);
        let socket = folder.path("bus").display().to_string();
        let config = folder.write("bus.conf", &BUS.replace("AT", &socket), 0o644);
        let bus = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg(format!("--config-file={}", config.display()))
            .spawn()
            .expect("dbus-daemon: install the package dbus");
        let this = Self {
            bus: Some(Running(bus)),
            polkitd: None,
            folder,
        };
        wait::until("the bus", wait::patience(), || {
            UnixStream::connect(&socket).ok()
        })
        .expect("the bus");
        this
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.folder.path("bus").display())
    }

    /// Starts polkitd with the rule that lets `nobody` answer for an agent.
    fn start(&mut self, scene: &Scene, agent: &str) {
        self.polkitd = None;
        assert!(Path::new(POLKITD).exists(), "install the package polkitd");
        self.wait_for_owner(false);
        let rule = RULE.replace("AGENT", agent);
        self.folder.write("rules/10-exeat.rules", &rule, 0o644);
        let log = File::create(self.folder.path("polkitd.log")).expect("log");
        let polkitd = scene
            .stage
            .world
            .laptop
            .command(POLKITD)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.address())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("polkitd");
        self.polkitd = Some(Running(polkitd));
        self.wait_for_owner(true);
    }

    fn wait_for_owner(&self, wanted: bool) {
        let has = || {
            let asked = Command::new("dbus-send")
                .arg(format!("--bus={}", self.address()))
                .args(["--print-reply", "--dest=org.freedesktop.DBus"])
                .args(["/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner"])
                .arg("string:org.freedesktop.PolicyKit1")
                .output()
                .ok()?;
            let said = String::from_utf8_lossy(&asked.stdout).into_owned();
            said.contains(&format!("boolean {wanted}")).then_some(())
        };
        wait::until("polkitd on the bus, or gone", wait::patience(), has)
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path("polkitd.log")).unwrap_or_default()
    }

    fn was_asked(&self, by: &str) {
        let text = format!("asked about {AGENT} by {by}");
        let said = || self.log().contains(&text).then_some(());
        wait::until(&text, wait::patience(), said)
            .unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }
}

fn allow(scene: &Scene, uid: u32, id: &str) -> Output {
    let args = ["ask", "allow", id, "--for", "2h"];
    scene.stage.daemon.cli_as(uid, &args).output().expect("ask")
}

fn refused(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
}

#[test]
fn whom_polkit_lets_answers_for_administrators_and_nobody_else_does() {
    let mut scene = Scene::new("admin", "");
    let mut system = System::new(&scene);
    let daemon = &mut scene.stage.daemon;
    daemon
        .with_variable("DBUS_SYSTEM_BUS_ADDRESS", system.address())
        .expect("restart");
    scene.begin();
    let id = asked::question(&scene.stage).expect("a question");
    // Nobody there who could say yes.
    refused(&allow(&scene, PLAIN_USER, &id));
    // Polkit is asked, and its default is no for who has no session at the machine.
    system.start(&scene, "another");
    refused(&allow(&scene, PLAIN_USER, &id));
    system.was_asked("nobody");
    // The rule is for this agent now: for one user, and not for another.
    system.start(&scene, AGENT);
    refused(&allow(&scene, 1, &id));
    system.was_asked("daemon");
    // The agent runs as that very user: it is turned away before anybody asks polkit.
    let (exeat, config) = (program(), scene.stage.daemon.config());
    let argv = [
        &*exeat.to_string_lossy(),
        "--config",
        &*config.to_string_lossy(),
        "ask",
        "allow",
        &id,
    ];
    let own = scene.stage.daemon.run_as(AGENT, PLAIN_USER, &argv);
    refused(&own.expect("run"));
    assert!(!system.log().contains("by nobody"), "{}", system.log());
    scene.still_waits();

    let output = allow(&scene, PLAIN_USER, &id);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{}", system.log());
    system.was_asked("nobody");
    assert_eq!(scene.ended(), 0);
    let grant = scene.grant();
    assert_eq!(grant["by"]["uid"], PLAIN_USER, "{grant}");
    assert_eq!(grant["lasts"]["seconds"], 7200, "{grant}");

    // Polkit ends, then the bus: who it let before is let no more.
    scene.begin_to(asked::FAR6);
    let id = asked::question(&scene.stage).expect("a question");
    system.polkitd = None;
    system.wait_for_owner(false);
    refused(&allow(&scene, PLAIN_USER, &id));
    system.bus = None;
    refused(&allow(&scene, PLAIN_USER, &id));
    scene.exeat_ask(&["deny", &id]);
    assert_ne!(scene.ended(), 0);
}

/// Where anybody could have polkit's name, its word would be anybody's.
#[test]
fn nobody_but_polkitd_can_take_its_name_on_such_a_bus() {
    let scene = Scene::new("admin", "");
    let system = System::new(&scene);
    for uid in [PLAIN_USER, 1] {
        let output = scene
            .stage
            .world
            .laptop
            .command_as(uid, "dbus-send")
            .arg(format!("--bus={}", system.address()))
            .args(["--print-reply", "--dest=org.freedesktop.DBus"])
            .args(["/org/freedesktop/DBus", "org.freedesktop.DBus.RequestName"])
            .args(["string:org.freedesktop.PolicyKit1", "uint32:3"])
            .output()
            .expect("dbus-send");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("AccessDenied"), "{said}");
    }
}
