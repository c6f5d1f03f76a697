//! A program that is another one by the time it is executed.

use super::*;
use exeat::control::protocol::ProgramFile;
use exeat::control::{Client, Request, Response};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;

/// A launcher that names one file and executes another, as a swap between the two would have
/// an honest one do: `exeat run` is too fast to be caught in between at will.
///
/// The process that asks is the one that is confined, so it is a child of the test's.
fn launch(
    scene: &Scene,
    named: &Path,
    executed: &Path,
    between: impl Fn() + Send + Sync + 'static,
) -> Output {
    let socket = scene.stage.daemon.control_socket().expect("socket");
    let named = fs::File::open(named).expect("open");
    let mut command = scene.stage.world.laptop.command_as(PLAIN_USER, executed);
    let asked = move || {
        let request = Request::Run {
            agent: AGENT.to_owned(),
            program: vec![ProgramFile {
                fd: named.as_raw_fd(),
                starts: true,
            }],
        };
        let answer = Client::connect(&socket).and_then(|mut client| client.ask(&request));
        match answer {
            Ok(Response::Run(_)) => {
                between();
                Ok(())
            }
            other => Err(std::io::Error::other(format!("{other:?}"))),
        }
    };
    // SAFETY: the tests' process allocates in its child; its other threads hold no lock of
    // the allocator's for good (glibc's fork takes them).
    unsafe { command.pre_exec(asked) };
    command
        .arg(scene.path("proof"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .expect("launch")
}

#[test]
fn what_is_swapped_after_it_was_judged_does_not_run() {
    let scene = Scene::new("");
    let good = scene.copy("/bin/true", "good");
    let evil = scene.copy("/bin/touch", "evil");
    scene.enforce(&format!("{{sha256: {}}}", sha256(&good)));
    let proof = scene.path("proof");
    assert!(launch(&scene, &good, &good, || ()).status.success());

    // Another file.
    let output = launch(&scene, &good, &evil, || ());
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");
    let incident = scene.incident(|message| message.contains("the run was killed"));
    assert!(
        incident["run"].is_string() && incident["pid"].is_u64(),
        "{incident}"
    );
    assert_eq!(incident["uid"], PLAIN_USER);

    // Renamed over it in between.
    let (from, to) = (scene.path("evil"), scene.path("good"));
    let rename = move || fs::rename(&from, &to).expect("rename");
    let output = launch(&scene, &good, &good, rename);
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");

    // The same file, written anew in between.
    let good = scene.copy("/bin/true", "good");
    let evil = fs::read("/bin/touch").expect("read");
    let to = good.clone();
    let output = launch(&scene, &good, &good, move || {
        let file = fs::File::options().write(true).truncate(true).open(&to);
        std::io::Write::write_all(&mut file.expect("open"), &evil).expect("write");
    });
    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{output:?}");

    assert!(!proof.exists(), "something of it ran");
    assert_eq!(scene.incidents(), 3);
}

#[test]
fn a_race_of_swaps_never_runs_the_other_program() {
    let scene = Scene::new("");
    let (good, evil) = (
        scene.copy("/bin/true", "good"),
        scene.copy("/bin/touch", "evil"),
    );
    let name = scene.path("command");
    std::os::unix::fs::symlink(&good, &name).expect("link");
    scene.enforce(&format!("{{sha256: {}}}", sha256(&good)));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let racer = {
        let (stop, name, aside) = (stop.clone(), name.clone(), scene.path("aside"));
        let ways = [evil, good];
        std::thread::spawn(move || {
            let mut swaps = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for way in &ways {
                    let _ = fs::remove_file(&aside);
                    std::os::unix::fs::symlink(way, &aside).expect("link");
                    fs::rename(&aside, &name).expect("rename");
                    swaps += 1;
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            }
            swaps
        })
    };
    let proof = scene.path("proof");
    let (mut ran, mut refused, mut killed) = (0, 0, 0);
    for _ in 0..60 {
        let output = scene.run(&[text(&name), text(&proof)]);
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => ran += 1,
            (Some(125), _) => refused += 1,
            (_, Some(libc::SIGKILL)) => killed += 1,
            _ => panic!("{output:?}"),
        }
        assert!(!proof.exists(), "the other program ran");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let swaps = racer.join().expect("racer");
    eprintln!("{swaps} swaps: {ran} ran, {refused} refused, {killed} killed at exec");
    assert!(ran > 0 && refused + killed > 0, "the race was none");
}
