//! What of the file system is there.

use super::{BOTH, HOME, Scene, stderr};
use exeat_tests::attack::PLAIN_USER;
use exeat_tests::stage::POLICY;
use std::fs;

/// Those of the home that hold secrets.
fn secrets() -> impl Iterator<Item = &'static str> {
    HOME.iter()
        .filter(|(_, text)| text.starts_with("secret"))
        .map(|(name, _)| *name)
}

#[test]
fn a_home_is_empty_but_for_tools() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        for name in secrets().chain(["notes/a", ".bashrc", ".config/tool/settings"]) {
            let outside = fs::read_to_string(scene.in_home(name)).expect("outside");
            assert!(!outside.is_empty(), "{name}");
            let output = scene.sh(&format!("cat ~/{name}"));
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(!said.contains(&*outside), "{user} {name}: {said}");
        }
        let listed =
            scene.said("cd && find . -name 'id_*' -o -name 'credentials*' -size +0 -o -name a");
        assert_eq!(listed, "", "{user}");
        assert_eq!(scene.said("~/.cargo/bin/tool"), "tool");
        assert_eq!(scene.said("git config user.name"), "A");
        // It can be used, and what is written there ends with the run.
        assert_eq!(scene.said("echo x > ~/new && cat ~/new"), "x");
        assert!(!scene.in_home("new").exists());
        assert!(!scene.works("echo x >> ~/.gitconfig"), "{user}");
        assert!(!scene.works("echo x >> ~/.cargo/bin/tool"), "{user}");
    }
}

#[test]
fn a_store_of_packages_is_changed_for_the_run_alone() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        let script = "cd ~/.cargo/registry && cat source && echo changed > source && mkdir new && touch new/file && cat source";
        assert_eq!(scene.said(script), "as it waschanged", "{user}");
        let source = scene.in_home(".cargo/registry/source");
        assert_eq!(fs::read_to_string(source).expect("read"), "as it was");
        assert!(!scene.in_home(".cargo/registry/new").exists());
    }
}

#[test]
fn a_home_that_may_be_read_or_changed_hides_its_secrets() {
    for user in BOTH {
        for (how, changed) in [("read", false), ("write", true)] {
            let scene = Scene::new(user, &format!("    sandbox: {{home: {how}}}\n"));
            for name in secrets() {
                let outside = fs::read_to_string(scene.in_home(name)).expect("outside");
                let said = scene.sh(&format!("cat ~/{name}")).stdout;
                assert_ne!(
                    String::from_utf8_lossy(&said),
                    outside,
                    "{user} {how} {name}"
                );
                let script = format!("mv ~/{0} ~/{0}.old || rm ~/{0}", name);
                assert!(!scene.works(&script), "{user} {how} {name}");
                assert!(scene.in_home(name).exists(), "{user} {how} {name}");
            }
            for name in ["notes/a", ".bashrc", ".config/tool/settings"] {
                assert!(scene.works(&format!("cat ~/{name}")), "{user} {how} {name}");
            }
            assert_eq!(scene.works("echo x > ~/notes/new"), changed, "{user}");
            assert_eq!(scene.in_home("notes/new").exists(), changed, "{user}");
            // What starts by itself is read-only all the same.
            assert!(!scene.works("echo x >> ~/.bashrc"), "{user} {how}");
            assert!(!scene.works("mv ~/.bashrc ~/old"), "{user} {how}");
            assert!(!scene.works("echo x > ~/.cargo/bin/new"), "{user} {how}");
        }
    }
}

#[test]
fn a_project_can_be_worked_in_and_what_runs_by_itself_not_changed() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        assert_eq!(scene.said("pwd"), scene.project.display().to_string());
        assert_eq!(scene.said("echo new > file && mkdir d && cat file"), "new");
        let outside = fs::read_to_string(scene.project.join("file")).expect("file");
        assert_eq!(outside, "new\n");
        assert_eq!(
            scene.said("git add file && git commit -qm first && git log --format=%s"),
            "first"
        );
        for attempt in [
            "echo x > .git/hooks/post-checkout",
            "mv .git/hooks .git/old",
            "mv .git .old && mkdir .git",
            "rm -r .git/hooks",
            "git config core.fsmonitor /tmp/x",
            "echo x >> .git/config",
            "echo x > .git/new && mv .git/new .git/config",
            "echo x >> .envrc",
            "mv .envrc .old",
            "rm .envrc",
            "chmod +x .envrc",
        ] {
            assert!(!scene.works(attempt), "{user} {attempt}");
        }
        assert!(!scene.project.join(".git/hooks/post-checkout").exists());

        let scene = Scene::new(user, "    sandbox: {autorun: true}\n");
        assert!(scene.works("echo x > .git/hooks/x && git config a.b c && echo x > .envrc"));
        let scene = Scene::new(user, "    sandbox: {project: read}\n");
        assert_eq!(scene.said("cat file"), "text");
        assert!(!scene.works("echo x > file"), "{user}");
        assert!(!scene.works("touch new"), "{user}");
        assert!(!scene.works("echo x > .git/hooks/x"), "{user}");
    }
}

#[test]
fn hooks_elsewhere_and_those_of_submodules_are_read_only_too() {
    let scene = Scene::new(PLAIN_USER, "");
    let run = |line: &str| {
        use std::os::unix::process::CommandExt;
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", line]).env("HOME", &scene.home);
        sh.current_dir(&scene.project)
            .uid(scene.user)
            .gid(scene.user);
        assert!(sh.status().expect("sh").success(), "{line}");
    };
    run("mkdir -p tools/hooks && git config core.hooksPath tools/hooks");
    run(
        "mkdir -p .git/modules/sub/hooks && echo ref > .git/modules/sub/HEAD && echo x > .git/modules/sub/config",
    );
    for attempt in [
        "echo x > tools/hooks/pre-commit",
        "mv tools other",
        "echo x > .git/modules/sub/hooks/x",
        "echo x > .git/modules/sub/config",
        "mv .git/modules .git/old",
    ] {
        assert!(!scene.works(attempt), "{attempt}");
    }
    assert!(scene.works("echo x > tools/other"));
}

#[test]
fn the_machine_is_read_only_and_its_secrets_are_not_there() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        for path in [
            "/usr/x", "/etc/x", "/x", "/dev/x", "/proc/x", "/run/x", "/opt/x", "/var/x", "/mnt/x",
        ] {
            assert!(!scene.works(&format!("touch {path}")), "{user} {path}");
        }
        for path in [
            "/sys/fs/cgroup",
            "/sys/fs/bpf",
            "/sys/kernel/debug",
            "/sys/kernel/security",
            "/sys/class",
            "/var/lib/exeat",
            "/run/exeat",
            "/dev/mem",
            "/dev/kmsg",
            "/dev/fuse",
            "/dev/net",
            "/dev/vda",
            "/boot",
            "/proc/kcore/x",
        ] {
            assert!(!scene.works(&format!("test -e {path}")), "{user} {path}");
        }
        let daemon = scene.stage.daemon.runtime_dir();
        assert!(!scene.works(&format!("test -e {}", daemon.display())));
        for path in ["/etc/shadow", "/proc/kcore", "/proc/keys", "/proc/kmsg"] {
            let said = scene.sh(&format!("timeout 5 head -c 100 {path}")).stdout;
            let own = user != 0 && path == "/proc/keys";
            assert!(own || said.is_empty(), "{user} {path}: {said:?}");
        }
        assert!(!scene.works("echo 1 > /proc/sys/vm/drop_caches"), "{user}");
        assert!(!scene.works("echo h > /proc/sysrq-trigger"), "{user}");
        assert!(!scene.works("mount -t tmpfs none /tmp"), "{user}");
        assert!(!scene.works("umount -l ~"), "{user}");
        assert!(!scene.works("mount -o remount,rw /usr"), "{user}");
        // What programs need is.
        for script in [
            "echo x > /tmp/x && test $(cat /tmp/x) = x",
            "echo x > /var/tmp/x && echo x > /dev/shm/x",
            "echo x > /dev/null",
            "head -c 8 /dev/urandom | wc -c | grep -q 8",
            "test -r /proc/self/status && test -L /dev/fd && ls /dev/pts",
            "getent passwd root && cat /etc/resolv.conf",
            "python3 -I -c 'import os; os.openpty()'",
            "bash -c 'cat <(echo x)'",
        ] {
            let output = scene.sh(script);
            assert!(
                output.status.success(),
                "{user} {script}: {}",
                stderr(&output)
            );
        }
        assert!(!std::path::Path::new("/tmp/x").exists());
    }
}

#[test]
fn what_a_policy_names_is_there_and_no_more() {
    for user in BOTH {
        let scene = Scene::new(
            user,
            "    sandbox: {read: [~/notes, ~/.ssh/known_hosts, ~/not-there], write: [~/.config/tool], hide: [~/.config/tool/settings]}\n",
        );
        assert_eq!(scene.said("cat ~/notes/a ~/.ssh/known_hosts"), "noteshosts");
        assert_eq!(
            scene
                .said("ls -A ~/.ssh ~/.config | tr '\\n' ' '")
                .matches("id_")
                .count(),
            0
        );
        assert!(!scene.works("echo x > ~/notes/new"), "{user}");
        assert!(scene.works("echo x > ~/.config/tool/new"), "{user}");
        assert!(scene.in_home(".config/tool/new").exists(), "{user}");
        assert_eq!(scene.said("cat ~/.config/tool/settings"), "", "{user}");
        assert!(!scene.works("test -e ~/not-there"), "{user}");
        // A secret is there where it is named itself.
        let scene = Scene::new(user, "    sandbox: {read: [~/.ssh], write: [~/.aws]}\n");
        assert_eq!(scene.said("cat ~/.ssh/id_ed25519"), "secret: an SSH key");
        assert!(!scene.works("echo x > ~/.ssh/authorized_keys"), "{user}");
        assert!(scene.works("echo x > ~/.aws/config"), "{user}");
        assert!(!scene.works("test -s ~/.netrc"), "{user}");
        // Not with the folder that it is in.
        let scene = Scene::new(user, "    sandbox: {read: [~/.config]}\n");
        assert_eq!(scene.said("cat ~/.config/tool/settings"), "settings");
        assert!(
            !scene.works("test -s ~/.config/gcloud/credentials.db"),
            "{user}"
        );
    }
}

#[test]
fn links_lead_where_they_lead_outside() {
    use std::os::unix::fs::symlink;
    let scene = Scene::new(PLAIN_USER, "    sandbox: {read: [~/link], home: hidden}\n");
    symlink(scene.in_home("notes"), scene.in_home("link")).expect("link");
    assert_eq!(scene.said("cat ~/link/a"), "notes");
    // A secret by another name is the same secret.
    let scene = Scene::new(PLAIN_USER, "    sandbox: {home: read}\n");
    fs::rename(scene.in_home(".ssh"), scene.in_home("keys")).expect("rename");
    symlink("keys", scene.in_home(".ssh")).expect("link");
    for path in ["~/.ssh/id_ed25519", "~/keys/id_ed25519"] {
        assert!(!scene.works(&format!("test -s {path}")), "{path}");
    }
}

#[test]
fn some_folders_are_no_project() {
    for user in BOTH {
        let scene = Scene::new(user, "");
        let run = |folder: &std::path::Path, script: &str| {
            let output = scene.command_in(folder, &["sh", "-c", script]);
            let mut output = output;
            output.output().expect("run")
        };
        let output = run(
            &scene.home,
            "cat notes/a .ssh/id_ed25519; echo x > new; pwd",
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), scene.home.display().to_string(), "{output:?}");
        assert!(stderr(&output).contains("is the home"), "{output:?}");
        assert!(
            stderr(&output).contains("start it in the folder"),
            "{output:?}"
        );
        assert!(!scene.in_home("new").exists());
        for (folder, why) in [
            ("/", "holds it"),
            ("/tmp", "holds"),
            ("/etc", "belongs to the machine"),
            ("/usr/bin", "belongs to the machine"),
        ] {
            let output = run(folder.as_ref(), "pwd; touch exeat-new");
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), folder);
            assert!(stderr(&output).contains(why), "{output:?}");
            assert!(!std::path::Path::new(folder).join("exeat-new").exists());
        }
        let output = run(&scene.in_home(".ssh"), "echo started");
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        assert!(
            output.stdout.is_empty() && stderr(&output).contains("hidden"),
            "{output:?}"
        );
    }
}

#[test]
fn monitor_mode_and_a_switch_of_the_daemon_leave_it_away() {
    for (policy, config) in [
        (POLICY.replace("enforce", "monitor"), "sandbox: true\n"),
        (POLICY.to_owned(), "sandbox: false\n"),
        (format!("{POLICY}    sandbox: none\n"), "sandbox: true\n"),
    ] {
        let scene = Scene::with(PLAIN_USER, &policy, config);
        assert_eq!(scene.said("cat ~/.ssh/id_ed25519"), "secret: an SSH key");
        assert!(scene.works("echo x > .git/hooks/x"), "{policy} {config}");
    }
}
