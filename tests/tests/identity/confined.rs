//! In the sandbox the program is the child of a child, with a root of its own: it is judged
//! and held all the same.

use super::*;

fn scene(identity: &str) -> Scene {
    Scene::with(identity, "sandbox: true\n")
}

#[test]
fn in_the_sandbox_the_right_program_runs_and_no_other() {
    let scene = scene("{package: [coreutils]}");
    assert_eq!(scene.runs(&["/bin/echo", "hello"]), "hello\n");
    let output = scene.run(&["/bin/false"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    scene.refused(&["/bin/sh", "-c", "echo x"], "no package that is named");
    let sh = sha256(&real("/bin/sh"));
    scene.enforce(&format!("{{sha256: {sh}}}"));
    let output = scene.run(&["/bin/sh", "-c", "kill -TERM $$"]);
    assert_eq!(
        output.status.signal(),
        Some(libc::SIGTERM),
        "{}",
        said(&output)
    );
    assert_eq!(
        scene.runs(&["/bin/sh", "-c", "echo $(/bin/echo hello)"]),
        "hello\n"
    );
    assert_eq!(scene.incidents(), 1);
}

#[test]
fn in_the_sandbox_a_swap_is_met_at_exec() {
    let scene = scene("");
    let (good, evil) = (
        scene.copy("/bin/true", "good"),
        scene.copy("/bin/touch", "evil"),
    );
    // Below /tmp, which is a private one in there.
    let folder = scene.folder.display();
    scene.enforce(&format!(
        "{{sha256: {}}}\n    sandbox: {{write: [{folder}]}}",
        sha256(&good)
    ));
    // The launch takes some milliseconds from the judgement to exec: many swaps fit in.
    let (mut refused, mut killed, mut ran) = (0, 0, 0);
    for round in 0..16_u64 {
        // What was killed may still hold the file, so another one takes its place.
        fs::rename(scene.copy("/bin/true", "fresh"), &good).expect("rename");
        let child = scene.command(&[text(&good), text(&scene.path("proof"))]);
        let mut child = { child }.stderr(Stdio::null()).spawn().expect("run");
        std::thread::sleep(std::time::Duration::from_millis(20 + 10 * round));
        fs::copy(&evil, scene.path("aside")).expect("copy");
        fs::rename(scene.path("aside"), &good).expect("rename");
        let status = child.wait().expect("end");
        match (status.code(), status.signal()) {
            (Some(0), _) => ran += 1,
            (Some(125), _) => refused += 1,
            (_, Some(libc::SIGKILL)) => killed += 1,
            _ => panic!("{status:?}"),
        }
        assert!(!scene.path("proof").exists(), "the other program ran");
    }
    eprintln!("{ran} ran, {refused} refused, {killed} killed at exec");
    assert!(ran + killed > 0, "no swap came after the judgement");
}
