//! Git, over HTTPS and over SSH.

use crate::scene::{HOST, HOST_V4, Scene, give, open_tree, outside};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::clients;
use exeat_tests::wait;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A bare repository with one file, below what the host serves.
fn repository(scene: &Scene) -> PathBuf {
    let work = scene.world.folder().join("work");
    let bare = scene.served.join("demo.git");
    let git = |folder: &Path, words: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(folder)
            .args(["-c", "user.name=a", "-c", "user.email=a@example"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null");
        outside(git.args(words));
    };
    std::fs::create_dir(&work).expect("mkdir");
    git(&work, &["init", "-q", "-b", "main"]);
    std::fs::write(work.join("file"), "from the repository\n").expect("write");
    git(&work, &["add", "file"]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(
        &work,
        &["clone", "-q", "--bare", ".", &bare.display().to_string()],
    );
    // For a server that knows nothing of Git (gitprotocol-http(5), "dumb").
    git(&bare, &["update-server-info"]);
    open_tree(&bare);
    bare
}

#[test]
fn git_clones_over_https_and_commits() {
    let scene = Scene::new("");
    repository(&scene);
    scene.sh(&format!(
        "git -c http.sslCAInfo=\"$PWD/ca.pem\" clone -q https://{HOST}/demo.git
         cd demo
         echo more >> file
         git -c user.name=a -c user.email=a@example commit -q -a -m two
         git log --oneline | wc -l > ../commits"
    ));
    assert_eq!(scene.read("demo/file"), "from the repository\nmore\n");
    assert_eq!(scene.read("commits").trim(), "2");
    scene.nothing_else_was_reached();
}

/// A server of SSH; it is killed when dropped.
struct Ssh(Child);

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a user `git` in with the key whose public half this is.
fn ssh(scene: &Scene, dropbear: &Path, host_key: &Path, public: &str) -> Ssh {
    let home = scene.world.folder().join("git-home");
    std::fs::create_dir_all(home.join(".ssh")).expect("mkdir");
    std::fs::write(home.join(".ssh/authorized_keys"), public).expect("write");
    for (path, mode) in [(home.clone(), 0o755), (home.join(".ssh"), 0o700)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let passwd = scene.world.folder().join("passwd");
    let users = format!(
        "root:x:0:0::/root:/bin/sh\ngit:x:0:0::{}:/bin/sh\n",
        home.display()
    );
    std::fs::write(&passwd, users).expect("write");
    // It knows its users by /etc/passwd, and needs one with a shell.
    let script = "mount --bind \"$1\" /etc/passwd && exec \"$2\" -F -E -m -r \"$3\" -p \"$4:22\"";
    let mut command = scene.world.internet.command("unshare");
    command.args([
        "--mount",
        "--propagation",
        "private",
        "/bin/sh",
        "-c",
        script,
        "sh",
    ]);
    command
        .args([passwd.as_path(), dropbear, host_key])
        .arg(HOST_V4);
    let log = std::fs::File::create(scene.world.folder().join("dropbear.log")).expect("log");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log);
    let server = Ssh(command.spawn().expect("dropbear"));
    wait::until("the SSH server", wait::patience(), || {
        let reach = || Ok(TcpStream::connect((HOST_V4, 22))?);
        scene.world.internet.run(reach).ok()
    })
    .expect("it listens");
    server
}

#[test]
fn git_clones_over_ssh() {
    let (Some(dropbear), Some(keys)) = (clients::find("dropbear"), clients::find("dropbearkey"))
    else {
        return;
    };
    let scene = Scene::new("");
    let bare = repository(&scene);
    let host_key = scene.world.folder().join("host-key");
    outside(
        Command::new(keys)
            .args(["-t", "ed25519", "-f"])
            .arg(&host_key),
    );
    let key = scene.project.join("key");
    let mut keygen = Command::new("ssh-keygen");
    outside(
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key),
    );
    give(&key, PLAIN_USER);
    let public = scene.read("key.pub");
    let _server = ssh(&scene, &dropbear, &host_key, &public);
    scene.sh(&format!(
        "ssh='ssh -F none -i key -o IdentitiesOnly=yes -o UserKnownHostsFile=known -o StrictHostKeyChecking=accept-new'
         git -c core.sshCommand=\"$ssh\" clone -q git@{HOST}:{} demo
         $ssh git@{HOST} 'echo from the other side' > word",
        bare.display()
    ));
    assert_eq!(scene.read("demo/file"), "from the repository\n");
    assert_eq!(scene.read("word"), "from the other side\n");
    scene.nothing_else_was_reached();
}
