//! `exeat ship`.

use std::io::Write;

use clap::{Args, Subcommand};

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, print_json};
use super::term::printable;
use crate::config::Config;
use crate::ship::{ReceiverConfig, Trial, try_out};

/// Look whether the receivers of records take them
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ShipArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ShipCommand,
}

/// The subcommands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ShipCommand {
    /// Send one test record to each receiver, and say what came back
    ///
    /// The record goes past the queue, with or without a running daemon. It says that it is a
    /// test.
    Test(TestArgs),
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TestArgs {
    /// To this receiver alone
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Sends, shows, and says by the exit code whether all were taken.
pub fn run(config: &Config, args: &ShipArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let ShipCommand::Test(args) = &args.command;
    let chosen: Vec<&ReceiverConfig> = (config.ship.iter())
        .filter(|receiver| args.name.as_ref().is_none_or(|name| *name == receiver.name))
        .collect();
    if chosen.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            nobody(config, args.name.as_deref()),
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let trials: Vec<Trial> = runtime.block_on(async {
        let mut trials = Vec::with_capacity(chosen.len());
        for receiver in chosen {
            trials.push(try_out(receiver).await);
        }
        trials
    });
    match args.output.output {
        Format::Json => print_json(&trials)?,
        Format::Text => out.write_all(render(&trials, Style::stdout()).as_bytes())?,
    }
    Ok(match trials.iter().all(|trial| trial.taken) {
        true => Exit::Ok,
        false => Exit::Failed,
    })
}

fn nobody(config: &Config, wanted: Option<&str>) -> String {
    let names: Vec<&str> = config.ship.iter().map(|r| r.name.as_str()).collect();
    match (wanted, names.is_empty()) {
        (_, true) => "the configuration has no receivers: write them under `ship:`, such as\n  \
                      ship:\n    - { name: journal, to: journald }"
            .to_owned(),
        (wanted, false) => format!(
            "there is no receiver `{}`\n  receivers: {}",
            printable(wanted.unwrap_or_default()),
            names.join(", ")
        ),
    }
}

fn render(trials: &[Trial], style: Style) -> String {
    let mut columns = Columns::new(style, &["RECEIVER", "RECORD", "MS", "ID", "TO", "WHY"]);
    for trial in trials {
        let (word, tone) = match trial.taken {
            true => ("taken", Tone::Good),
            false => ("NOT TAKEN", Tone::Bad),
        };
        columns.row(&[
            (&trial.name, Tone::Plain),
            (word, tone),
            (&trial.took_ms.to_string(), Tone::Plain),
            (&trial.id, Tone::Plain),
            (&trial.to, Tone::Plain),
            (trial.why.as_deref().unwrap_or(""), Tone::Plain),
        ]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Config {
        Config::parse(std::path::Path::new("c.yaml"), text).expect("config")
    }

    fn test(config: &Config, name: Option<&str>) -> Result<(Exit, String), Failure> {
        let args = ShipArgs {
            command: ShipCommand::Test(TestArgs {
                name: name.map(str::to_owned),
                output: OutputArgs {
                    output: Format::Text,
                },
            }),
        };
        let mut out = Vec::new();
        let exit = run(config, &args, &mut out)?;
        Ok((exit, String::from_utf8(out).expect("text")))
    }

    #[test]
    fn each_receiver_is_tried_and_told_apart() {
        let dir = tempfile::tempdir().expect("dir");
        let at = dir.path().display();
        let config = with(&format!(
            "ship:\n  - {{name: good, to: 'file:{at}/out.json'}}\n  - {{name: bad, to: 'file:{at}/no/out.json'}}\n"
        ));
        let (exit, text) = test(&config, None).expect("tried");
        assert_eq!(exit, Exit::Failed);
        assert!(
            text.contains("good") && text.contains("NOT TAKEN"),
            "{text}"
        );
        let (exit, text) = test(&config, Some("good")).expect("tried");
        assert_eq!(exit, Exit::Ok, "{text}");
        let written = std::fs::read_to_string(dir.path().join("out.json")).expect("file");
        assert_eq!(written.lines().count(), 2);
        let failure = test(&config, Some("other")).expect_err("nobody");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(
            failure.message.contains("receivers: good, bad"),
            "{failure}"
        );
        let failure = test(&with(""), None).expect_err("nobody");
        assert!(
            failure.message.contains("name: journal, to: journald"),
            "{failure}"
        );
    }
}
