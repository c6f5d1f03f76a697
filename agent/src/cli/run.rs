//! `exeat run`.

use std::{
    ffi::OsString,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use super::{Exit, Failure, finish, term::printable_lines};
use crate::{
    config::Config,
    control::{Client, ClientError, ProgramFile, Request, Response, RunTicket},
    identity::script,
    launch::{self, Confinement, Given, bus::Helper, standalone::Standalone},
    policy::{self, Sandbox},
};

/// What to run, and as whom.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The agent whose policy holds (may be left out where the --policy file has only one)
    #[arg(long, value_name = "NAME", required_unless_present = "policy")]
    pub agent: Option<String>,
    /// Enforce this policy for this run alone, without a daemon (needs root)
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Become this user before the command starts (needs root)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Becomes the command. Returns only where it could not.
pub fn main(config: Option<&Path>, args: &RunArgs) -> ExitCode {
    match confine(config, args) {
        Err(failure) => finish(Err(Failure::new(Exit::RunFailed, failure.message))),
        Ok((ticket, helper)) => {
            let broker = match &ticket.sandbox {
                // Nothing here may own a descriptor when the launcher closes them all.
                Sandbox::None => {
                    drop(helper);
                    Ok(None)
                }
                Sandbox::Walls(openings) => helper.start(&openings.dbus, args.user.as_deref()),
            };
            let broker = match broker {
                Ok(broker) => broker,
                Err(error) => {
                    return finish(Err(Failure::new(Exit::RunFailed, describe(&error))));
                }
            };
            let sockets: Vec<(PathBuf, PathBuf)> = broker
                .iter()
                .flat_map(|broker| broker.sockets())
                .map(|(outside, inside)| (outside.to_owned(), inside.to_owned()))
                .collect();
            let buses = broker.map(|broker| broker.variables()).unwrap_or_default();
            for warning in &ticket.warnings {
                eprintln!("exeat: {}", printable_lines(warning));
            }
            let bare = ticket.sandbox == Sandbox::None;
            if bare && args.user.is_none() && nix::unistd::geteuid().is_root() {
                eprintln!(
                    "exeat: the command runs as root, and root can leave its cgroup: say --user to run it as an ordinary user"
                );
            }
            let proxies = ticket.proxies.iter();
            let given = Given {
                variables: proxies
                    .map(|proxy| (proxy.variable.as_str(), proxy.url.as_str()))
                    .chain(
                        buses
                            .iter()
                            .map(|(name, address)| (*name, address.as_str())),
                    )
                    .collect(),
                authorities: ticket.authorities.as_deref(),
                open_files: ticket.open_files,
            };
            match launch::execute(
                &ticket.cgroup,
                &Confinement {
                    user: args.user.as_deref(),
                    services: &ticket.services,
                    sandbox: &ticket.sandbox,
                    names: (&ticket.agent, &ticket.run),
                    sockets: &sockets,
                },
                &given,
                &args.command,
            ) {
                Ok(never) => match never {},
                Err(error) => {
                    eprintln!("exeat: {}", printable_lines(&describe(&error)));
                    ExitCode::from(error.exit_code())
                }
            }
        }
    }
}

/// Everything before the command: from here on we are the agent.
fn confine(config: Option<&Path>, args: &RunArgs) -> Result<(RunTicket, Helper), Failure> {
    launch::check_descriptors().map_err(|e| Failure::new(Exit::RunFailed, describe(&e)))?;
    if let Some(user) = &args.user {
        launch::check_user(user).map_err(|e| Failure::new(Exit::RunFailed, describe(&e)))?;
    }
    // What speaks for the agent must not be of it, so it is there before.
    let helper = || {
        Helper::fork().map_err(|e| {
            let message = format!("cannot start a process beside the command: {e}");
            Failure::new(Exit::RunFailed, message)
        })
    };
    match &args.policy {
        None => {
            let agent = args.agent.as_deref().unwrap_or_default();
            let config = Config::load(config)?;
            let helper = helper()?;
            let ticket = ask(&config.socket_path(), agent, &args.command).map_err(|error| match error {
                ClientError::NotRunning(_) => Failure::new(
                    Exit::RunFailed,
                    format!("{error}\n  or enforce a policy for this run alone: `sudo exeat run --policy FILE -- …`"),
                ),
                error => Failure::from(error),
            })?;
            Ok((ticket, helper))
        }
        Some(file) => {
            let agent = only_agent(file, args.agent.as_deref())?;
            let standalone = Standalone::start(file)?;
            let helper = helper()?;
            Ok((ask(&standalone.socket(), &agent, &args.command)?, helper))
        }
    }
}

fn ask(socket: &Path, agent: &str, command: &[OsString]) -> Result<RunTicket, ClientError> {
    // Open until it is answered: the daemon takes them over if it wants to know what they are.
    let parts = script::parts(command.first().map(AsRef::as_ref).unwrap_or_default());
    let parts = parts.unwrap_or_default();
    let request = Request::Run {
        agent: agent.to_owned(),
        program: parts
            .iter()
            .map(|part| ProgramFile {
                fd: part.file.as_raw_fd(),
                starts: part.starts,
            })
            .collect(),
    };
    match Client::connect(socket)?.ask(&request)? {
        Response::Run(ticket) => Ok(ticket),
        _ => Err(ClientError::Protocol("it is no leave to run".into())),
    }
}

/// The agent that is meant: by name, or the only one of the file.
fn only_agent(file: &Path, named: Option<&str>) -> Result<String, Failure> {
    let set = policy::load(&[file.to_owned()])
        .map_err(|errors| Failure::new(Exit::RunFailed, errors.to_string()))?;
    let names: Vec<&str> = set.agents.keys().map(|name| name.as_str()).collect();
    match (named, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (_, []) => Err(Failure::new(
            Exit::RunFailed,
            format!(
                "{} names no agent: give it one below `agents:`",
                file.display()
            ),
        )),
        (Some(name), names) => Err(Failure::new(
            Exit::RunFailed,
            format!(
                "{} has no agent `{name}`; it has: {}",
                file.display(),
                names.join(", ")
            ),
        )),
        (None, [name]) => Ok((*name).to_owned()),
        (None, names) => Err(Failure::new(
            Exit::RunFailed,
            format!(
                "{} has {} agents: say which with --agent ({})",
                file.display(),
                names.len(),
                names.join(", ")
            ),
        )),
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    match error.source().map(ToString::to_string) {
        // Some errors say their source themselves.
        Some(source) if !text.contains(&source) => format!("{text}: {source}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::{Forbidden, LaunchError};

    #[test]
    fn an_error_is_said_once_with_its_cause() {
        let socket = Forbidden {
            descriptor: 0,
            what: "a network socket".into(),
        };
        let text = describe(&LaunchError::from(socket));
        assert_eq!(text.matches("descriptor 0").count(), 1, "{text}");
        let text = describe(&LaunchError::NotExecutable {
            command: "/etc".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        });
        assert_eq!(text, "/etc: cannot be executed: permission denied");
    }
}
