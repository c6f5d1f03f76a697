//! Ansible's role and Puppet's module, by Ansible and Puppet: all but the package and the service,
//! which need a machine of their own (`cargo xtask package-test` and `vm-test --systemd`).

use crate::{health, mdm, run, stage, text};
use exeat_tests::daemon::program;
use exeat_tests::stage::{POLICY, Stage};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Output;

/// How a run of a configuration manager ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Unchanged,
    Changed,
    Failed,
}

/// What both managers do with a policy that changes, one that is wrong, and a daemon that is gone.
fn drive(mut stage: Stage, apply: impl Fn(&Stage, &str, bool) -> (End, String)) {
    let ends = |stage: &Stage, policy: &str, wanted: End| {
        let (end, said) = apply(stage, policy, false);
        assert_eq!(end, wanted, "{said}");
    };
    let digest = |stage: &Stage| {
        let (_, verdict) = health(&stage.daemon, &[]);
        verdict["facts"]["policy_digest"]
            .as_str()
            .expect("digest")
            .to_owned()
    };
    let before = digest(&stage);
    let policy = POLICY.replace("worker", "managed");
    ends(&stage, &policy, End::Changed);
    let with_both = digest(&stage);
    assert_ne!(with_both, before, "the new policy is in force");
    let managed = stage.daemon.policy_file().with_file_name("managed.yaml");
    assert!(managed.exists());
    ends(&stage, &policy, End::Unchanged);

    // A policy with an error is not put in place.
    ends(&stage, &policy.replace("enforce", "nonsense"), End::Failed);
    assert_eq!(std::fs::read_to_string(&managed).expect("policy"), policy);
    assert_eq!(digest(&stage), with_both);

    // Others' policies are removed where that is wanted, and only there.
    let (end, said) = apply(&stage, &policy, true);
    assert_eq!(end, End::Changed, "{said}");
    assert!(!stage.daemon.policy_file().exists() && managed.exists());
    let (_, verdict) = health(&stage.daemon, &[]);
    assert_eq!(verdict["facts"]["agents_enforced"], 1);

    // A machine that is not healthy fails the run.
    stage.daemon.kill9().expect("kill");
    let (end, said) = apply(&stage, &policy, true);
    assert_eq!(end, End::Failed, "{said}");
    assert!(said.contains("not running"), "{said}");
}

fn folder(stage: &Stage, name: &str) -> PathBuf {
    let folder = stage.world.folder().join(name);
    std::fs::create_dir_all(&folder).expect("folder");
    folder
}

#[test]
fn ansibles_role_puts_policies_in_force_and_fails_where_the_machine_is_not_healthy() {
    drive(stage(), |stage, policy, exclusive| {
        let folder = folder(stage, "ansible");
        let play = json!([{
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": false,
            "roles": ["exeat"],
            "vars": {
                "ansible_python_interpreter": "auto_silent",
                "exeat_program": program(),
                "exeat_options": ["--config", stage.daemon.config()],
                "exeat_policy_dir": policy_dir(stage),
                "exeat_policies": { "managed": policy },
                "exeat_policies_exclusive": exclusive,
                "exeat_service": false,
            },
        }]);
        // JSON is YAML.
        let file = folder.join("play.yml");
        std::fs::write(&file, play.to_string()).expect("write");
        let mut ansible = stage.world.laptop.command("ansible-playbook");
        ansible
            .args(["--inventory", "localhost,", "--skip-tags", "exeat_install"])
            .arg(&file)
            .env("ANSIBLE_ROLES_PATH", mdm("ansible"))
            .env("ANSIBLE_LOCAL_TEMP", folder.join("local"))
            .env("ANSIBLE_REMOTE_TEMP", folder.join("remote"))
            .env("ANSIBLE_NOCOLOR", "1")
            .env("LC_ALL", "C.UTF-8");
        let output = run(&mut ansible);
        let said = text(&output);
        let end = match output.status.code() {
            Some(0) if said.contains(" changed=0 ") => End::Unchanged,
            Some(0) => End::Changed,
            Some(2) => End::Failed,
            code => panic!("{code:?}: {said}"),
        };
        (end, said)
    });
}

fn policy_dir(stage: &Stage) -> PathBuf {
    let file = stage.daemon.policy_file();
    file.parent().expect("a folder").to_owned()
}

/// A text between single quotes of Puppet's language.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[test]
fn puppets_module_puts_policies_in_force_and_fails_where_the_machine_is_not_healthy() {
    drive(stage(), |stage, policy, exclusive| {
        let folder = folder(stage, "puppet");
        let manifest = format!(
            "class {{ 'exeat':\n  program => {},\n  options => ['--config', {}],\n  \
             policy_dir => {},\n  policies => {{ 'managed' => {} }},\n  exclusive => {exclusive},\n  \
             manage_package => false,\n  manage_service => false,\n}}\n",
            path(&program()),
            path(&stage.daemon.config()),
            path(&policy_dir(stage)),
            quoted(policy),
        );
        let file = folder.join("site.pp");
        std::fs::write(&file, manifest).expect("write");
        let option = |name: &str| format!("--{name}={}", folder.join(name).display());
        let mut puppet = stage.world.laptop.command("puppet");
        puppet
            .args(["apply", "--detailed-exitcodes", "--color=false"])
            .arg(format!("--modulepath={}", mdm("puppet").display()))
            .args(["confdir", "vardir", "rundir", "logdir"].map(option))
            .arg(&file)
            .env("LC_ALL", "C.UTF-8");
        let output: Output = run(&mut puppet);
        let said = text(&output);
        let end = match output.status.code() {
            Some(0) => End::Unchanged,
            Some(2) => End::Changed,
            Some(1 | 4 | 6) => End::Failed,
            code => panic!("{code:?}: {said}"),
        };
        (end, said)
    });
}
