//! `cargo xtask demo`: the main job on this machine's kernel, with all the
//! set-up, told step by step.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::build;
use crate::project::Project;
use crate::setup::{self, Tell};
use crate::step;

/// Build everything and show the main job: allowed, refused, kill -9, metrics
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What the demo may know of the user's environment; sudo would drop it.
const KEPT: [&str; 2] = ["NO_COLOR", "TERM"];

/// Who runs the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// We are root.
    Root,
    /// sudo, which asks nothing.
    Sudo,
    /// sudo, which asks for a password.
    Ask,
}

pub(crate) fn run(project: &Project, _: &Args) -> Result<()> {
    // Before the build: nobody shall wait for it in vain.
    let way = way()?;
    if way != Way::Root {
        println!(
            "The build runs as you; the demo itself loads BPF programs and makes network \
             namespaces, and runs as root by sudo{}.",
            if way == Way::Ask {
                ", which will ask for your password"
            } else {
                ""
            }
        );
    }
    step::heading("set-up");
    let tools = setup::bpf(project, Tell::All)?;
    step::heading("build");
    build::object(project, &tools)?;
    let binary = build::binary(project)?;
    // Unoptimised: the optimised build takes minutes longer and shows nothing else.
    let mut cargo = project.cargo();
    cargo.args(["build", "--package", "exeat-tests"]);
    cargo.args(["--bin", "demo", "--bin", "hostile", "--target-dir"]);
    step::loud(cargo.arg(project.target()))?;
    step::heading("demo");
    let program = project.target().join("debug/demo");
    let path = setup::path_variable()?;
    let mut demo = env_as(way);
    demo.arg(joined("EXEAT_BIN=", binary.as_os_str()))
        .arg(joined("PATH=", &path));
    for name in KEPT {
        if let Some(value) = env::var_os(name) {
            demo.arg(joined(&format!("{name}="), &value));
        }
    }
    demo.arg(&program).current_dir(&project.root);
    // In our place, so that Ctrl-C finds one program, which cleans up before it ends.
    let shown = step::shown(&demo);
    Err(anyhow!(demo.exec()).context(format!("could not start `{shown}`")))
}

fn way() -> Result<Way> {
    if setup::is_root() {
        return Ok(Way::Root);
    }
    let mut sudo = Command::new("sudo");
    match step::capture(sudo.args(["-n", "true"])) {
        Ok(_) => Ok(Way::Sudo),
        Err(_) if std::io::stdin().is_terminal() && exists("sudo") => Ok(Way::Ask),
        Err(why) => Err(why.context(
            "the demo loads BPF programs and makes network namespaces, so it needs root, and \
             sudo does not let this user in without a password: run `sudo -v` first, or run \
             `cargo xtask demo` as root",
        )),
    }
}

fn exists(program: &str) -> bool {
    let mut folders = setup::search_path().into_iter();
    folders.any(|folder| folder.join(program).is_file())
}

/// Ends in `env`, which takes variables and then the program.
fn env_as(way: Way) -> Command {
    match way {
        Way::Root => Command::new("env"),
        Way::Sudo | Way::Ask => {
            let mut sudo = Command::new("sudo");
            if way == Way::Sudo {
                sudo.arg("-n");
            }
            sudo.arg("env");
            sudo
        }
    }
}

fn joined(key: &str, value: &OsStr) -> OsString {
    let mut whole = OsString::from(key);
    whole.push(value);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_asks_only_where_it_may() {
        assert_eq!(step::shown(&env_as(Way::Root)), "env");
        assert_eq!(step::shown(&env_as(Way::Sudo)), "sudo -n env");
        assert_eq!(step::shown(&env_as(Way::Ask)), "sudo env");
    }

    #[test]
    fn variables_pass_through_env() {
        assert_eq!(joined("PATH=", OsStr::new("/a b:/c")), "PATH=/a b:/c");
    }
}
