//! `exeat boot`: what systemd starts, and no person does.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};

use crate::{
    adopt::{Rules, containers::Stores},
    boot::{self, DropIn},
    config::Config,
    daemon,
    error::chain,
    kernel::{adopted, cgroup, pins::Pins},
    policy::{self, PolicySet},
};

/// What a condition must end with for its unit to have failed; less would be a unit that was
/// left out, as if nobody had wanted it (systemd.service(5), `ExecCondition=`).
const FAILED: u8 = 255;
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// Where unit files are.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What systemd starts.
#[derive(Clone, Debug, Args)]
pub struct BootArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Have units that a policy adopts wait for the daemon (systemd.generator(7))
    Generator {
        /// Where units go
        normal: PathBuf,
        /// Where those go that come before all others
        early: Option<PathBuf>,
        /// Where those go that come after all others
        late: Option<PathBuf>,
    },
    /// Wait until the own cgroup is governed, if a policy adopts it; 255 if it is not
    Guard {
        /// The unit, for what is said
        unit: String,
        /// How many seconds to wait
        #[arg(long, default_value_t = 30)]
        patience: u64,
    },
    /// Be the first process of an agent's scope, until standard input ends
    Keep,
}

/// Does it.
pub fn main(config: Option<&Path>, args: &BootArgs) -> ExitCode {
    let config = || Config::load(config).map_err(|error| chain(&error));
    let outcome = match &args.what {
        What::Keep => {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            Ok(())
        }
        What::Generator { normal, early, .. } => config()
            .and_then(|config| generate(&config, normal, early.as_deref().unwrap_or(normal))),
        What::Guard { unit, patience } => config().and_then(|config| {
            own_cgroup()
                .and_then(|own| guard(&config, &own, Duration::from_secs(*patience)))
                .map_err(|why| format!("{unit} does not start: {why}"))
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("exeat: {why}");
            FAILED.into()
        }
    }
}

/// The policy of the files, and the last one that was in force: a unit of either waits. Where
/// both differ, one of them does not hold any more or not yet, and nobody here can tell which.
/// Folders without a file say nothing of any unit: a fresh installation has them.
fn policies(config: &Config) -> (Vec<PolicySet>, Option<String>) {
    let (files, why) = match policy::load(&config.policy) {
        Ok(set) => (Some(set), None),
        Err(_) if policy::none_written(&config.policy) => (None, None),
        Err(error) => (None, Some(chain(&error))),
    };
    let last = daemon::last_good_policy(&config.state_dir);
    (files.into_iter().chain(last).collect(), why)
}

fn generate(config: &Config, normal: &Path, early: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("a unit cannot be written: {error}");
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if boot::escapes(&line) {
        eprintln!(
            "exeat: {} is on the kernel's command line: nothing waits for the daemon, and it is not started",
            boot::ESCAPE
        );
        fs::create_dir_all(early).map_err(failed)?;
        return match symlink("/dev/null", early.join(boot::DAEMON)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
            _ => Ok(()),
        };
    }
    let (policies, why) = policies(config);
    let program = std::env::current_exe().map_err(failed)?;
    let installed = installed(UNITS.iter().map(Path::new));
    for policy in &policies {
        let units = installed.iter().map(String::as_str);
        for drop_in in boot::drop_ins(policy, units, &program, &config.socket_path()) {
            write(normal, &drop_in).map_err(failed)?;
        }
    }
    match why {
        // What was in force before still holds.
        Some(why) if policies.is_empty() => Err(format!(
            "no policy says which units are to wait for the daemon: {why}"
        )),
        Some(why) => {
            eprintln!("exeat: units wait as the last good policy says: {why}");
            Ok(())
        }
        None => Ok(()),
    }
}

fn write(normal: &Path, drop_in: &DropIn) -> io::Result<()> {
    let folder = normal.join(format!("{}.d", drop_in.unit));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("50-exeat.conf"), &drop_in.text)
}

/// The names of the services and slices that have a file.
fn installed<'a>(folders: impl Iterator<Item = &'a Path>) -> BTreeSet<String> {
    folders
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".service") || name.ends_with(".slice"))
        .collect()
}

/// The path of this process's cgroup below the cgroup2 root.
fn own_cgroup() -> Result<String, String> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(str::to_owned)
        .ok_or_else(|| "this process is in no cgroup of cgroup2".to_owned())
}

/// Waits until the kernel governs this cgroup or one above it, if one of them is to be governed.
fn guard(config: &Config, own: &str, patience: Duration) -> Result<(), String> {
    let (policies, why) = policies(config);
    if let (true, Some(why)) = (policies.is_empty(), why) {
        return Err(format!("no policy can be read: {why}"));
    }
    let slice = daemon::slice_of(config).map_err(|error| format!("{error:#}"))?;
    let rules: Vec<Rules> = policies.iter().map(boot::rules).collect();
    let stores = Stores::default();
    let adopted_by = |below: &Path| {
        let below = below.to_string_lossy();
        rules
            .iter()
            .any(|rules| rules.cgroup(&below, |id| stores.find(id)).is_some())
    };
    if !Path::new(own).ancestors().any(adopted_by) {
        return Ok(());
    }
    let ids: Vec<u64> = Path::new(own)
        .ancestors()
        .filter(|below| *below != Path::new(""))
        .filter_map(|below| cgroup::id(&slice.root().join(below)).ok())
        .collect();
    let pins = Pins::new(&config.bpffs);
    let begun = Instant::now();
    while !ids.iter().any(|id| adopted::is_held(&pins, *id)) {
        if begun.elapsed() > patience {
            return Err(format!(
                "a policy adopts it, and nothing governs it after {} s: see `exeat status` and `systemctl status {}`",
                patience.as_secs(),
                boot::DAEMON
            ));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> Config {
        Config {
            policy: vec![folder.join("policy.yaml")],
            state_dir: folder.join("state"),
            bpffs: folder.join("bpf"),
            ..Config::default()
        }
    }

    fn policy(unit: &str) -> String {
        format!("version: 1\nagents:\n  a:\n    match: [{{unit: {unit}}}]\n    allow: []\n")
    }

    #[test]
    fn a_policy_that_is_broken_does_not_let_units_of_the_last_good_one_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path());
        let (normal, early) = (folder.path().join("n"), folder.path().join("e"));
        fs::write(&config.policy[0], policy("one.service")).expect("a file");
        generate(&config, &normal, &early).expect("made");
        let made = |unit: &str| normal.join(format!("{unit}.d/50-exeat.conf")).exists();
        assert!(made("one.service"));
        fs::write(&config.policy[0], "agents: [").expect("a file");
        generate(&config, &normal, &early).expect_err("no policy at all");
        fs::create_dir(&config.state_dir).expect("a folder");
        let kept = vec![policy::PolicyText {
            name: "p".into(),
            text: policy("two.service"),
        }];
        let json = serde_json::to_vec(&kept).expect("json");
        fs::write(config.state_dir.join("last-good-policy.json"), json).expect("a file");
        generate(&config, &normal, &early).expect("made");
        assert!(made("two.service"));
        assert!(!early.exists());
    }

    #[test]
    fn a_fresh_installation_holds_no_unit_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("policy.d");
        fs::create_dir(&empty).expect("a folder");
        let config = Config {
            policy: vec![empty],
            ..config(folder.path())
        };
        let (normal, early) = (folder.path().join("n"), folder.path().join("e"));
        generate(&config, &normal, &early).expect("nothing to say");
        assert!(!normal.exists() && !early.exists());
    }

    #[test]
    fn what_is_adopted_waits_until_every_link_is_held_and_the_rest_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config {
            cgroup_root: Some(folder.path().join("cgroup")),
            ..config(folder.path())
        };
        let own = "system.slice/one.service/.control";
        let cgroup = folder.path().join("cgroup/system.slice/one.service");
        fs::create_dir_all(cgroup.join(".control")).expect("folders");
        fs::write(&config.policy[0], policy("other.service")).expect("a file");
        guard(&config, own, Duration::ZERO).expect("not adopted");
        fs::write(&config.policy[0], policy("one.service")).expect("a file");
        let why = guard(&config, own, Duration::ZERO).expect_err("not governed");
        assert!(why.contains("nothing governs it"), "{why}");
        // What the kernel holds, as it is pinned.
        let id = cgroup::id(&cgroup).expect("an id");
        let held = Pins::new(&config.bpffs).adopted().join(id.to_string());
        fs::create_dir_all(&held).expect("folders");
        let programs: Vec<&str> = adopted::programs().collect();
        for program in &programs {
            guard(&config, own, Duration::ZERO).expect_err(program);
            fs::write(held.join(program), "").expect("a pin");
        }
        guard(&config, own, Duration::ZERO).expect("governed");
        fs::write(&config.policy[0], "agents: [").expect("a file");
        guard(&config, own, Duration::ZERO).expect_err("nobody knows");
        assert!(own_cgroup().is_ok());
    }
}
