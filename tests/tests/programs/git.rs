//! Git: a clone over HTTPS, work in it, and what of a repository runs outside.

use crate::scene::{ADDRESS, HOST, OTHER, Scene, outside};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;
use exeat_tests::wait;
use std::path::Path;
use std::process::{Child, Stdio};

/// A repository with one commit, served as files.
fn repository(scene: &Scene) {
    let workshop = scene.workshop();
    let run = |words: &[&str]| {
        let mut argv = vec!["git", "-c", "user.name=a", "-c", "user.email=a@b.example"];
        argv.extend(words);
        outside(&workshop, &argv)
    };
    run(&["init", "-q", "-b", "main", "work"]);
    std::fs::write(workshop.join("work/file"), "a file\n").expect("write");
    run(&["-C", "work", "add", "file"]);
    run(&["-C", "work", "commit", "-q", "-m", "first"]);
    run(&["clone", "-q", "--bare", "work", "work.git"]);
    run(&["-C", "work.git", "update-server-info"]);
    scene
        .files
        .put_folder("/work.git", &workshop.join("work.git"))
        .expect("files");
}

#[test]
fn git_clones_over_https_and_works() {
    let Some(git) = clients::find("git") else {
        return;
    };
    let git = git.display().to_string();
    let scene = Scene::new();
    repository(&scene);
    scene.says(&[&git, "clone", "-q", &format!("https://{HOST}/work.git")]);
    assert_eq!(scene.read("work/file"), "a file\n");
    let in_it = |words: &[&str]| {
        let mut argv = vec![
            git.as_str(),
            "-C",
            "work",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.example",
        ];
        argv.extend(words);
        scene.says(&argv)
    };
    in_it(&["checkout", "-q", "-b", "topic"]);
    in_it(&["commit", "-q", "--allow-empty", "-m", "second"]);
    in_it(&["gc", "-q"]);
    assert_eq!(in_it(&["log", "--format=%s"]), "second\nfirst\n");
    let output = scene.run(&[&git, "clone", "-q", &format!("https://{OTHER}/work.git")]);
    assert!(!output.status.success());
}

/// An SSH server on the host, with a user `git` whose key is the project's `key`; killed when
/// dropped.
struct SshHost(Child);

impl Drop for SshHost {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl SshHost {
    /// `key` is the public half of the agent's.
    fn start(scene: &Scene, server: &Path, keys: &Path, key: &str) -> Self {
        let workshop = scene.workshop();
        let at = |name: &str| workshop.join(name).display().to_string();
        std::fs::create_dir(workshop.join(".ssh")).expect("folder");
        std::fs::write(workshop.join(".ssh/authorized_keys"), key).expect("write");
        let user = format!(
            "git:x:{PLAIN_USER}:{PLAIN_USER}::{}:/bin/sh\n",
            workshop.display()
        );
        std::fs::write(workshop.join("passwd"), user).expect("write");
        outside(
            &workshop,
            &["chown", "-R", &PLAIN_USER.to_string(), &at(".")],
        );
        outside(
            &workshop,
            &[
                &keys.display().to_string(),
                "-t",
                "ed25519",
                "-f",
                &at("host-key"),
            ],
        );
        // In a mount namespace of its own, so that the user is one for this server alone.
        let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
        let mut command = scene.world.internet.command("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", script, "sh", &at("passwd")])
            .arg(server)
            .args(["-F", "-E", "-s", "-p", &format!("{ADDRESS}:22"), "-r"])
            .args([&at("host-key"), "-P", &at("pid")])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let host = Self(command.spawn().expect("server"));
        let address = format!("{ADDRESS}:22").parse().expect("address");
        wait::until("the SSH server", wait::patience(), || {
            let limit = std::time::Duration::from_secs(1);
            let connect = || Ok(std::net::TcpStream::connect_timeout(&address, limit)?);
            scene.world.internet.run(connect).ok()
        })
        .expect("server");
        host
    }
}

#[test]
fn git_clones_over_ssh() {
    let (Some(git), Some(server), Some(client), Some(keys)) = (
        clients::find("git"),
        clients::find("dropbear"),
        clients::find("dbclient"),
        clients::find("dropbearkey"),
    ) else {
        return;
    };
    let git = git.display().to_string();
    let scene = Scene::new();
    repository(&scene);
    // One key in the forms of both clients: each of them makes its own.
    let key = scene.project.join("key").display().to_string();
    let made = outside(
        &scene.workshop(),
        &[&keys.display().to_string(), "-t", "ed25519", "-f", &key],
    );
    let mut public: String = made
        .lines()
        .filter(|line| line.starts_with("ssh-ed25519 "))
        .map(|line| format!("{line}\n"))
        .collect();
    // The sandbox shows the folder by its own path alone.
    let client = client.canonicalize().expect("path");
    let mut ways = vec![format!("{} -y -y -i {key}", client.display())];
    // OpenSSH, where the machine has it.
    let openssh = [Path::new("/usr/bin/ssh"), Path::new("/usr/bin/ssh-keygen")];
    if openssh.iter().all(|program| program.is_file()) {
        let key = scene.project.join("openssh-key").display().to_string();
        outside(
            &scene.workshop(),
            &[
                "/usr/bin/ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-f",
                &key,
            ],
        );
        public += &scene.read("openssh-key.pub");
        ways.push(format!(
            "/usr/bin/ssh -F none -i {key} -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        ));
    }
    let project = scene.project.display().to_string();
    outside(
        &scene.workshop(),
        &["chown", "-R", &PLAIN_USER.to_string(), &project],
    );
    let _host = SshHost::start(&scene, &server, &keys, &public);
    for (number, way) in ways.iter().enumerate() {
        let folder = format!("clone-{number}");
        scene.says(&[
            &git,
            "-c",
            "ssh.variant=simple",
            "-c",
            &format!("core.sshCommand={way}"),
            "clone",
            "-q",
            &format!("git@{HOST}:work.git"),
            &folder,
        ]);
        assert_eq!(scene.read(&format!("{folder}/file")), "a file\n", "{way}");
    }
}
