//! The command line: a file a subcommand.

pub mod ask;
pub mod audit;
pub mod boot;
pub mod bundle;
pub mod check;
pub mod completions;
pub mod daemon;
pub mod detect;
pub mod dns;
pub mod doctor;
pub mod events;
pub mod exit;
pub mod explain;
pub mod flows;
pub mod grants;
pub mod health;
pub mod hold;
pub mod identify;
pub mod import;
pub mod learn;
pub mod leases;
pub mod man;
pub mod notify;
pub mod output;
mod past;
pub mod portal;
pub mod reload;
pub mod report;
pub mod run;
pub mod schema;
pub mod ship;
pub mod simulate;
pub mod status;
pub mod teardown;
pub mod term;
pub mod top;
pub mod ui;
pub mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};
pub use output::Format as Output;

use crate::config::Config;
use crate::control::protocol::Holding;

/// What follows the help of the command itself.
const AFTER_HELP: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, bad configuration \
    or bad policy, 3 degraded, 4 the daemon is not running, 5 not permitted. `run` has its own: see \
    `exeat run --help`.";

/// What follows the help of `run`.
const AFTER_RUN: &str = "The command runs as the user who asks: `sudo` is for --policy only, and \
    then the command is root's too.\n\nExit codes: the command's own; 125 Exeat failed and the \
    command was not started, 126 the command cannot be executed, 127 there is no such command.";

/// What follows the help of `flows`.
const AFTER_FLOWS: &str = "Examples:\n  exeat flows --since 2h --verdict deny\n  exeat flows --since \
    7d --agent build-bot --name '*.example.com' --output csv\n  exeat flows --since 24h --summary \
    destination";

/// What follows the help of `simulate`.
const AFTER_SIMULATE: &str = "Exit codes: 0 nothing would change, 1 something would, 2 the policy is \
    wrong.\n\nExample: exeat simulate --policy new.yaml --since 7d";

/// What follows the help of `explain`.
const AFTER_EXPLAIN: &str = "Exit codes: 0 the flow is allowed, 1 it is refused, 2 the question or \
    the policy is wrong.";

/// What follows the help of `ship`.
const AFTER_SHIP: &str = "Receivers are in `ship:` of the configuration. Examples:\n  sudo exeat \
    ship test\n  sudo exeat ship test siem --output json\n\nExit codes: 0 every receiver took its \
    record, 1 one did not, 2 there is no such receiver.";
/// What follows the help of `import`.
const AFTER_IMPORT: &str = "Examples:\n  exeat import plugin.json\n  exeat import plugin.json \
    --public-key vendor.pub --output /etc/exeat/policy.d/plugin.yaml";

/// What follows the help of `learn`.
const AFTER_LEARN: &str = "It prints a diff; nothing is written without --write, and nothing is in \
    force before `exeat reload`.\n\nExamples:\n  sudo exeat learn --agent build-bot -- npm ci\n  \
    sudo exeat learn --agent build-bot --for 1h\n  sudo exeat learn --agent build-bot --since 7d \
    --write /etc/exeat/policy.d/build-bot.yaml";

/// What follows the help of `top`.
const AFTER_TOP: &str = "Keys: q leaves, ? shows all of them. A question is answered by a (once), r \
    (this run), h (an hour), A (always) or d (deny), then y.\n\nExamples:\n  exeat top\n  \
    exeat top --agent build-bot --interval 0.5";
/// What follows the help of `notify`.
const AFTER_NOTIFY: &str = "It belongs to a graphical session: the desktop's autostart starts it, \
    or `systemctl --user enable --now exeat-notify`.\n\nExamples:\n  exeat notify\n  \
    exeat notify --show-only";

/// Egress enforcement for agents: a program reaches only what its policy names
#[derive(Debug, Parser)]
#[command(name = "exeat", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: $EXEAT_CONFIG, else /etc/exeat/config.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program as an agent: confined to what its policy names
    #[command(after_help = AFTER_RUN)]
    Run(run::RunArgs),
    /// Show agents, walls, names, counters and health (exit 0 healthy, 3 degraded, 4 not running)
    Status(status::StatusArgs),
    /// Judge this machine for a compliance script, by exit code and JSON
    #[command(after_help = health::AFTER_HELP)]
    Health(health::HealthArgs),
    /// Show refused flows, the newest last
    Events(events::EventsArgs),
    /// Watch agents, refusals and questions live, and answer questions
    #[command(after_help = AFTER_TOP)]
    Top(top::TopArgs),
    /// Show what went where, out of the history, or add it up
    #[command(after_help = AFTER_FLOWS)]
    Flows(flows::FlowsArgs),
    /// Replay the recorded flows against a changed policy, and list what would change
    #[command(after_help = AFTER_SIMULATE)]
    Simulate(simulate::SimulateArgs),
    /// Turn a plugin's permission manifest into a policy
    #[command(after_help = AFTER_IMPORT)]
    Import(import::ImportArgs),
    /// Write the tightest policy for what was seen of an agent, with the reasons
    #[command(after_help = AFTER_LEARN)]
    Learn(learn::LearnArgs),
    /// Show which addresses names stand for now, and for how long
    Leases(leases::LeasesArgs),
    /// Say what an agent would be answered for a name, and why (exit 0 answered, 1 not)
    Dns(dns::DnsArgs),
    /// Check policy files: every error at once, with file, line and what to write instead
    Check(check::CheckArgs),
    /// Say what would happen to a flow, and which rule decides
    #[command(after_help = AFTER_EXPLAIN)]
    Explain(explain::ExplainArgs),
    /// Say which program a file is: what the `identity` of a policy could say of it
    Identify(identify::IdentifyArgs),
    /// Compile the policy anew and swap it in; a policy with an error changes nothing
    Reload(output::OutputArgs),
    /// Cut an agent off from the network, then stop it; it starts nothing until it is thawed
    Freeze(hold::HoldArgs),
    /// Let a frozen agent go on
    Thaw(hold::HoldArgs),
    /// Cut an agent off from the network, then end everything that it runs
    Kill(hold::HoldArgs),
    /// Show what agents ask people for, and answer it
    #[command(after_help = ask::AFTER_HELP)]
    Ask(ask::AskArgs),
    /// Show the answers that hold
    #[command(after_help = grants::AFTER_GRANTS)]
    Grants(grants::GrantsArgs),
    /// Allow (or deny) something to an agent ahead, without a question
    #[command(after_help = grants::AFTER_GRANT)]
    Grant(grants::GrantArgs),
    /// End a grant, or everything that an agent was granted and has open
    #[command(after_help = grants::AFTER_REVOKE)]
    Revoke(grants::RevokeArgs),
    /// Cut an agent off from the network at once and let it run on, or connect it again
    #[command(after_help = grants::AFTER_ISOLATE)]
    Isolate(grants::IsolateArgs),
    /// Open a network's portal for a short time, for one agent or for the daemon's resolver
    #[command(after_help = portal::AFTER_HELP)]
    Portal(portal::PortalArgs),
    /// Try what this kernel can enforce, and say what to change
    Doctor(doctor::DoctorArgs),
    /// Enforce: load the policy, attach, resolve names, answer (runs in the foreground)
    Daemon(daemon::DaemonArgs),
    /// Write what the agents did in a period as one HTML file, for who was not there
    #[command(after_help = report::AFTER_HELP)]
    Report(report::ReportArgs),
    /// Show what happens in a local web page, and answer questions there
    #[command(after_help = ui::AFTER_HELP)]
    Ui(ui::UiArgs),
    /// Check the audit log, read it, or print the key that checks it (needs no daemon)
    Audit(audit::AuditArgs),
    /// Make, sign, check and install signed policy bundles
    #[command(after_help = bundle::AFTER_HELP)]
    Bundle(bundle::BundleArgs),
    /// Take all enforcement down; nothing else does
    Teardown(teardown::TeardownArgs),
    /// Look at what agents changed in copies of projects, take it over or throw it away
    Workspace(workspace::WorkspaceArgs),
    /// Check detection rules, and try them on recorded events
    #[command(after_help = detect::EXAMPLES)]
    Detect(detect::DetectArgs),
    /// Look whether the receivers of records take them
    #[command(after_help = AFTER_SHIP)]
    Ship(ship::ShipArgs),
    /// Show questions as desktop notifications, with buttons that answer (runs in the foreground)
    #[command(after_help = AFTER_NOTIFY)]
    Notify(notify::NotifyArgs),
    /// Print the JSON Schema of policy files
    Schema(schema::SchemaArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// What systemd starts
    #[command(hide = true)]
    Boot(boot::BootArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(man::ManArgs),
}

impl Command {
    /// Whether a closed pipe may end it: see [`term::reset_sigpipe`].
    const fn prints_and_ends(&self) -> bool {
        !matches!(
            self,
            Self::Daemon(_) | Self::Run(_) | Self::Ui(_) | Self::Notify(_)
        )
    }
}

/// Reads the arguments, does what they say, and tells how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.command.prints_and_ends() {
        term::reset_sigpipe();
    }
    match &cli.command {
        // Its codes are those of env(1), because the command's own share the room.
        Command::Run(args) => run::main(cli.config.as_deref(), args),
        // So are those of a unit's condition.
        Command::Boot(args) => boot::main(cli.config.as_deref(), args),
        // Before standard output is locked: a panic of any thread gives the terminal back by it.
        Command::Top(args) => finish(
            Config::load(cli.config.as_deref())
                .map_err(Failure::from)
                .and_then(|config| top::run(&config.socket_path(), args)),
        ),
        // Its codes are a table of its own.
        Command::Health(args) => Config::load(cli.config.as_deref())
            .map_err(Failure::from)
            .and_then(|config| health::run(&config.socket_path(), args))
            .map_or_else(|failure| finish(Err(failure)), ExitCode::from),
        _ => finish(run_command(&cli)),
    }
}

fn run_command(cli: &Cli) -> Result<Exit, Failure> {
    let config = || Config::load(cli.config.as_deref());
    let socket = || config().map(|c| c.socket_path());
    let out = &mut std::io::stdout().lock();
    match &cli.command {
        Command::Status(args) => status::run(&socket()?, args),
        Command::Events(args) => events::run(&socket()?, args),
        Command::Flows(args) => flows::run(&socket()?, args),
        Command::Simulate(args) => simulate::run(&socket()?, args),
        Command::Import(args) => import::run(args),
        Command::Learn(args) => learn::run(&config()?, cli.config.as_deref(), args),
        Command::Leases(args) => leases::run(&socket()?, args),
        Command::Dns(args) => dns::run(&socket()?, args),
        Command::Reload(args) => reload::run(&socket()?, *args),
        Command::Freeze(args) => hold::run(&socket()?, args, Holding::Frozen),
        Command::Thaw(args) => hold::run(&socket()?, args, Holding::Thawed),
        Command::Kill(args) => hold::run(&socket()?, args, Holding::Killed),
        Command::Notify(args) => notify::run(&config()?, args),
        Command::Ask(args) => ask::run(&socket()?, args),
        Command::Grants(args) => grants::list(&socket()?, args),
        Command::Grant(args) => grants::grant(&socket()?, args),
        Command::Revoke(args) => grants::revoke(&socket()?, args),
        Command::Isolate(args) => grants::isolate(&socket()?, args),
        Command::Portal(args) => portal::run(&socket()?, args),
        Command::Check(args) => check::run(args, out).map_err(Failure::from)?.try_into(),
        Command::Explain(args) => explain::run(args, &config()?.policy, out)
            .map_err(Failure::from)?
            .try_into(),
        Command::Identify(args) => identify::run(args, out),
        Command::Ship(args) => ship::run(&config()?, args, out),
        Command::Schema(args) => schema::run(args, out).map_err(Failure::from)?.try_into(),
        Command::Detect(args) => detect::run(&config()?, args),
        Command::Doctor(args) => doctor::run(&config()?, args),
        Command::Daemon(args) => daemon::run(config()?, args),
        Command::Report(args) => report::run(&config()?, args),
        Command::Ui(args) => ui::run(&config()?, args),
        Command::Audit(args) => audit::run(args, &|| config().map(|c| c.audit_folder())),
        Command::Bundle(args) => bundle::run(&|| config().map_err(Failure::from), args),
        Command::Teardown(args) => teardown::run(&config()?, args),
        Command::Workspace(args) => workspace::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::Run(_) | Command::Top(_) | Command::Health(_) | Command::Boot(_) => {
            Ok(Exit::Usage)
        }
    }
}

/// Says what failed, once, and gives the code.
pub fn finish(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("exeat: {}", term::printable_lines(&failure.message));
            failure.exit.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_are_read() {
        let line = "exeat events -f --agent a --since-seq 7 -n 5 --output json --config /c";
        let cli = Cli::try_parse_from(line.split(' ')).expect("parsed");
        assert_eq!(cli.config, Some("/c".into()));
        let Command::Events(args) = cli.command else {
            panic!("{cli:?}");
        };
        let expected = events::EventsArgs {
            follow: true,
            agent: Some("a".into()),
            since_seq: Some(7),
            limit: 5,
            output: output::OutputArgs {
                output: output::Format::Json,
            },
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn wrong_usage_is_code_2() {
        let error = Cli::try_parse_from(["exeat", "status", "--outpt", "json"]).expect_err("usage");
        assert_eq!(error.kind(), ErrorKind::UnknownArgument);
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()));
    }

    #[test]
    fn without_a_daemon_the_code_is_4_and_a_missing_configuration_is_2() {
        let dir = tempfile::tempdir().expect("dir");
        let config = dir.path().join("c.yaml");
        let text = format!("runtime_dir: {}\n", dir.path().display());
        std::fs::write(&config, text).expect("write");
        for command in ["status", "events", "leases", "reload"] {
            let args = ["exeat", command, "--config"].map(std::ffi::OsString::from);
            let with = |file: &std::path::Path| {
                let args = args.iter().cloned().chain([file.into()]);
                run_command(&Cli::try_parse_from(args).expect("parsed")).expect_err("no daemon")
            };
            let failure = with(&config);
            assert_eq!(failure.exit, Exit::NotRunning, "{command}");
            assert!(
                failure.message.contains("the daemon is not running"),
                "{failure}"
            );
            assert_eq!(
                with(&dir.path().join("gone.yaml")).exit,
                Exit::Usage,
                "{command}"
            );
        }
    }
}
