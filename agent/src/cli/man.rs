//! `exeat man`: the manual pages, made from the command line itself. Hidden: it is for
//! whoever builds a package, and `cargo xtask docs` calls it.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_mangen::roff::{Roff, bold, roman};
use clap_mangen::{Man, roff::Inline};

use super::{Cli, Exit, Failure};

/// Where the pages go.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Folder that gets a file a page; made if it is missing
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Writes the pages.
pub fn run(args: &ManArgs) -> Result<Exit, Failure> {
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(&args.dir)?;
        for (name, page) in pages()? {
            std::fs::write(args.dir.join(name), page)?;
        }
        Ok(())
    };
    write().map_err(|error| {
        let dir = args.dir.display();
        Failure::new(
            Exit::Failed,
            format!("cannot write pages to {dir}: {error}"),
        )
    })?;
    Ok(Exit::Ok)
}

/// File name and text of every page: `exeat.1`, and `exeat-NAME.1` for each subcommand that
/// help lists, and `exeat-NAME-NAME.1` for what is below one.
///
/// # Errors
/// None that is known; writing to memory is fallible by type.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = vec![page(root.clone(), "")?];
    for command in root.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages.push(page(command.clone(), command.get_name())?);
        for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            pages.push(page(below.clone(), command.get_name())?);
        }
    }
    Ok(pages)
}

fn page(command: clap::Command, subcommand: &str) -> io::Result<(String, Vec<u8>)> {
    let has_subcommands = command.get_subcommands().any(|c| !c.is_hide_set());
    let man = Man::new(command)
        .source(concat!("exeat ", env!("CARGO_PKG_VERSION")))
        .manual("Exeat");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    rest.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in Exit::meanings(subcommand) {
        entry(&mut rest, &code.to_string(), meaning);
    }
    if subcommand == "run" {
        entry(&mut rest, "other", "the command's own");
    }
    rest.control("SH", ["FILES"]);
    for (file, meaning) in FILES {
        entry(&mut rest, file, meaning);
    }
    rest.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in ENVIRONMENT {
        entry(&mut rest, variable, meaning);
    }
    rest.to_writer(&mut text)?;
    Ok((man.get_filename(), text))
}

fn entry(roff: &mut Roff, term: &str, meaning: &str) {
    let inline = |inline: Inline| [inline];
    roff.control("TP", []);
    roff.text(inline(bold(term)));
    roff.text(inline(roman(meaning)));
}

/// By their default paths.
const FILES: [(&str, &str); 5] = [
    (
        "/etc/exeat/config.yaml",
        "how the daemon runs; every key has a default",
    ),
    (
        "/etc/exeat/policy.d/*.yaml",
        "what agents may reach; merged in the order of their names",
    ),
    (
        "/run/exeat/control.sock",
        "where the daemon answers the other commands",
    ),
    (
        "/sys/fs/bpf/exeat/",
        "pinned programs, links and maps: what is enforced, daemon or not",
    ),
    (
        "~/.local/state/exeat/workspaces/",
        "what agents changed in copies of projects; below $XDG_STATE_HOME where that is set",
    ),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    (
        "EXEAT_CONFIG",
        "the configuration file, where --config does not name one",
    ),
    (
        "EXEAT_LOG",
        "what the daemon logs to standard error, such as debug or exeat::dns=trace; default exeat=info,warn, without the DNS library",
    ),
    ("NO_COLOR", "if set and not empty, output has no colours"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_has_a_page_with_its_exit_codes() {
        let pages = pages().expect("pages");
        let page = |name: &str| {
            let found = pages.iter().find(|(file, _)| file == name);
            let (_, text) = found.unwrap_or_else(|| panic!("no page {name}"));
            String::from_utf8(text.clone()).expect("text")
        };
        let root = Cli::command();
        let visible = || root.get_subcommands().filter(|c| !c.is_hide_set());
        let below = |command: &clap::Command| command.get_subcommands().count();
        let all: usize = visible().map(|command| 1 + below(command)).sum();
        assert_eq!(pages.len(), all + 1, "a page too many");
        assert!(page("exeat.1").contains("exeat\\-status(1)"));
        for command in visible() {
            let name = command.get_name();
            let text = page(&format!("exeat-{name}.1"));
            let (_, status) = text.split_once(".SH \"EXIT STATUS\"").expect(name);
            for (code, meaning) in Exit::meanings(name) {
                let line = format!("\\fB{code}\\fR\n");
                assert!(status.contains(&line), "{name}: no code {code}\n{text}");
                let words = meaning.split([' ', '-']).next().expect("a word");
                assert!(status.contains(words), "{name}: {meaning}");
            }
        }
        assert!(page("exeat-run.1").contains("\\fB127\\fR"));
        assert!(!page("exeat-check.1").contains("\\fB127\\fR"));
    }

    #[test]
    fn pages_are_written_to_a_folder_that_need_not_exist() {
        let dir = tempfile::tempdir().expect("dir");
        let dir = dir.path().join("man");
        run(&ManArgs { dir: dir.clone() }).expect("written");
        let text = std::fs::read_to_string(dir.join("exeat-run.1")).expect("page");
        assert!(text.contains(".TH exeat-run 1"), "{text}");
    }
}
