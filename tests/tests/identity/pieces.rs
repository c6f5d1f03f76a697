//! Every way of identifying a program, each refused and each accepted.

use super::*;

const KEY: &str = "RWRleGVhdGtlecc4wvV+tu6yfYlkG0KCOcoZnlLAivsVCMwcorvy8dkU";
const SIGNED: &str = "#!/bin/sh\necho signed\n";
const SIGNATURE: &str = "untrusted comment: a test\nRURleGVhdGtleeXmuX6v5W9ujc5wW8PWFbWqAfxmaFPEODkVF5aXpNjbYxFy/12Ad8mdmrOTBnjjf2IO9Mh+9MXl0C51dH8IeAY=\ntrusted comment: file:signed hashed\nqr0iLMY4BI1uSUZnnPDGOSwZSmu3sNyrCqvUBKRnDt8g8luUZO9LT833aCe3LXvWkpakg+OswCp9HfRob6nWDg==\n";

#[test]
fn a_digest_admits_this_file_and_no_other() {
    let scene = Scene::new("");
    let good = scene.copy("/bin/echo", "good");
    let bad = scene.copy("/bin/cat", "bad");
    scene.enforce(&format!("{{sha256: {}}}", sha256(&good)));
    assert_eq!(scene.runs(&[text(&good), "hello"]), "hello\n");
    // Along the PATH, and by a relative path too.
    assert_eq!(scene.runs(&["good", "hello"]), "hello\n");
    let exeat = exeat_tests::daemon::program();
    let mut relative = scene.stage.world.laptop.command_as(PLAIN_USER, "/bin/sh");
    relative
        .args(["-c", "cd \"$1\" && shift && exec \"$@\"", "sh"])
        .args([
            scene.folder.as_os_str(),
            exeat.as_os_str(),
            "--config".as_ref(),
        ])
        .arg(scene.stage.daemon.config())
        .args(["run", "--agent", AGENT, "--", "./good", "hello"]);
    let relative = relative.stdin(Stdio::null()).output().expect("run");
    assert_eq!(relative.stdout, b"hello\n", "{}", said(&relative));
    scene.refused(&[text(&bad), "/etc/hostname"], "SHA-256 is not listed");
    scene.refused(&["/bin/ls", "/"], "/ls (SHA-256");
    // Renamed and copied it is still the same; changed by a byte it is not.
    let again = scene.copy("/bin/echo", "another-name");
    assert_eq!(scene.runs(&[text(&again), "hello"]), "hello\n");
    let mut changed = fs::read(&good).expect("read");
    *changed.last_mut().expect("byte") ^= 1;
    scene.program("good", changed);
    scene.refused(&[text(&good), "hello"], "SHA-256 is not listed");
    // Nothing of the refused ones was ever in a run.
    let status = scene.stage.daemon.status().expect("status");
    assert_eq!(status["agents"][0]["runs"], serde_json::json!([]));
}

#[test]
fn a_package_admits_its_unchanged_files() {
    let scene = Scene::new("{package: [coreutils]}");
    assert_eq!(scene.runs(&["/bin/echo", "hello"]), "hello\n");
    assert_eq!(scene.runs(&["/usr/bin/echo", "hello"]), "hello\n");
    scene.refused(&["/bin/sh", "-c", "echo x"], "no package that is named");
    // The same bytes elsewhere are nobody's.
    let copy = scene.copy("/bin/echo", "echo");
    scene.refused(&[text(&copy), "x"], "no package that is named");
    scene.enforce("{package: [\"core*\", dash]}");
    assert_eq!(scene.runs(&["/bin/sh", "-c", "echo hello"]), "hello\n");
}

#[test]
fn a_signature_admits_what_its_key_has_signed() {
    let scene = Scene::new("");
    let program = scene.program("signed", SIGNED);
    let sh = sha256(&real("/bin/sh"));
    // The interpreter is judged as well.
    scene.enforce(&format!("{{minisign: {KEY}}}"));
    scene.refused(&[text(&program)], "no signature beside it");
    fs::write(scene.path("signed.minisig"), SIGNATURE).expect("write");
    scene.refused(&[text(&program)], "dash (SHA-256");
    scene.enforce(&format!("{{minisign: {KEY}, sha256: {sh}}}"));
    assert_eq!(scene.runs(&[text(&program)]), "signed\n");
    scene.program("signed", SIGNED.replace("signed", "forged"));
    scene.refused(&[text(&program)], "does not fit what it holds");
    scene.enforce(&format!("{{minisign: {KEY}, sha256: {sh}, all: true}}"));
    scene.program("signed", SIGNED);
    scene.refused(&[text(&program)], "SHA-256 is not listed");
}

#[test]
fn a_script_is_judged_with_its_interpreter_and_what_env_starts() {
    let scene = Scene::new("");
    let sh = real("/bin/sh");
    let script = scene.program("script", "#!/bin/sh\necho script $0 $1\n");
    let by_env = scene.program("by-env", "#!/usr/bin/env sh\necho by env\n");
    let digests = |paths: &[&Path]| {
        let all: Vec<String> = paths.iter().map(|path| sha256(path)).collect();
        format!("{{sha256: [{}]}}", all.join(", "))
    };
    scene.enforce(&digests(&[&script]));
    scene.refused(&[text(&script)], &format!("{} (SHA-256", sh.display()));
    scene.enforce(&digests(&[&sh]));
    scene.refused(&[text(&script)], "script (SHA-256");
    scene.enforce(&digests(&[&sh, &script]));
    let output = scene.run(&[text(&script), "x"]);
    let shown = format!("script {} x\n", script.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
    assert!(said(&output).contains("may change"), "{}", said(&output));

    let env = real("/usr/bin/env");
    scene.enforce(&digests(&[&by_env, &env]));
    scene.refused(&[text(&by_env)], &format!("{} (SHA-256", sh.display()));
    scene.enforce(&digests(&[&by_env, &env, &sh]));
    assert_eq!(scene.runs(&[text(&by_env)]), "by env\n");
    // Another `sh` earlier in the PATH.
    scene.copy("/bin/echo", "sh");
    scene.refused(&[text(&by_env)], "SHA-256 is not listed");
}

#[test]
fn what_cannot_be_opened_or_found_is_refused() {
    let scene = Scene::new("{package: [\"*\"]}");
    let hidden = scene.copy("/bin/echo", "hidden");
    std::os::unix::fs::chown(&hidden, Some(0), None).expect("chown");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o711)).expect("mode");
    scene.refused(&[text(&hidden)], "could not be opened for reading");
    scene.refused(&["no-such-program"], "could not be opened for reading");
}

#[test]
fn what_is_not_asked_is_not_judged() {
    let scene = Scene::new("");
    let any = scene.copy("/bin/echo", "any");
    assert_eq!(scene.runs(&[text(&any), "hello"]), "hello\n");
    assert_eq!(scene.incidents(), 0);
}

#[test]
fn monitor_mode_tells_and_starts_it() {
    let scene = Scene::new("");
    let monitor = policy("{package: [dash]}").replace("mode: enforce", "mode: monitor");
    scene.stage.daemon.enforce(&monitor).expect("policy");
    let output = scene.run(&["/bin/echo", "hello"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    assert!(said(&output).contains("no package that is named"));
    scene.incident(|message| message.contains("was started, in monitor mode"));
}

#[test]
fn status_says_which_program_runs() {
    let scene = Scene::new("{package: [coreutils]}");
    let mut child = scene.command(&["sleep", "600"]).spawn().expect("run");
    let program = wait::until("the program in status", wait::patience(), || {
        let status = scene.stage.daemon.status().ok()?;
        let program = &status["agents"][0]["runs"][0]["programs"][0];
        program.is_object().then(|| program.clone())
    });
    child.kill().expect("kill");
    child.wait().expect("end");
    let program = program.expect("program");
    let sleep = real("/bin/sleep");
    assert_eq!(program["path"], text(&sleep));
    assert_eq!(program["sha256"], sha256(&sleep));
    assert_eq!(program["by"], serde_json::json!(["package coreutils"]));
}

#[test]
fn what_identify_prints_is_what_a_policy_takes() {
    let scene = Scene::new("");
    let script = scene.program("tool", "#!/usr/bin/env sh\necho tool\n");
    let identify = |arguments: &[&str]| {
        let mut all = vec!["identify"];
        all.extend(arguments);
        let mut command = scene.stage.daemon.cli_as(PLAIN_USER, &all);
        let output = command.env("PATH", "/usr/bin:/bin").output().expect("run");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let lines = identify(&[text(&script)]);
    scene
        .stage
        .daemon
        .enforce(&format!("{POLICY}{lines}"))
        .expect(&lines);
    assert_eq!(scene.runs(&[text(&script)]), "tool\n");
    scene.refused(&["/usr/bin/python3", "-V"], "SHA-256 is not listed");
    let found: Value =
        serde_json::from_str(&identify(&["--output", "json", "sleep"])).expect("json");
    let sleep = real("/bin/sleep");
    assert_eq!(found[0]["path"], text(&sleep));
    assert_eq!(found[0]["sha256"], sha256(&sleep));
    assert_eq!(found[0]["package"], "coreutils");
    assert_eq!(found[0]["starts"], true);
}
