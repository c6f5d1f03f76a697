//! `exeat workspace`: what agents changed in copies of projects, and what becomes of it.

use std::{
    env,
    path::{Component, Path, PathBuf},
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Columns, Format, OutputArgs, Style, Tone, bytes, print, print_json};
use super::term::printable;
use crate::workspace::{
    self, Store, Workspace,
    apply::{Choice, Held, Outcome},
    changes::{Change, Kind, Since, Thing, View, What},
    text::Shown,
};

/// What to do with a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(disable_help_subcommand = true)]
pub struct WorkspaceArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub action: Action,
}

/// The subcommands of `workspace`.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Show your workspaces: project, agent, when, how many changes, whether in use
    List(OutputArgs),
    /// Show what an agent changed: text, modes, links and deletions
    Diff(DiffArgs),
    /// Take changes over into the project (exit 1 where something was left behind)
    ///
    /// Left behind is what changed in the project since the run began (--force takes it),
    /// what runs by itself outside, such as Git's hooks and editors' tasks, and links out of
    /// the project (each is taken where a PATH is it, or a folder of which all runs).
    /// Set-user-ID bits, devices, pipes and sockets never are taken over. When nothing is
    /// left, the workspace is discarded.
    Apply(ApplyArgs),
    /// Throw changes away
    Discard(DiscardArgs),
}

/// Which workspace, and how to print it.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DiffArgs {
    /// The workspace, or the beginning of its name [default: the only one of this project]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is taken over.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ApplyArgs {
    /// The workspace, or the beginning of its name [default: the only one of this project]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Only these files and folders, as `diff` names them
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Also what changed in the project meanwhile, and though the run goes on
    #[arg(long)]
    pub force: bool,
    /// Text or JSON.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What is thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct DiscardArgs {
    /// The workspace, or the beginning of its name [default: the only one of this project]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// Though the run goes on
    #[arg(long)]
    pub force: bool,
}

/// Does it.
pub fn run(args: &WorkspaceArgs) -> Result<Exit, Failure> {
    let store = Store::open().map_err(failed("cannot use the folder of workspaces"))?;
    match &args.action {
        Action::List(output) => list(&store, *output),
        Action::Diff(args) => diff(&store, args),
        Action::Apply(args) => apply(&store, args),
        Action::Discard(args) => discard(&store, args),
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let what = what.into();
    move |error| Failure::new(Exit::Failed, format!("{what}: {error}"))
}

impl From<workspace::Error> for Failure {
    fn from(error: workspace::Error) -> Self {
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::new(Exit::Usage, text)
    }
}

/// A workspace as JSON.
#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    project: &'a Path,
    agent: &'a str,
    run: &'a str,
    started: Timestamp,
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<usize>,
}

impl<'a> Listed<'a> {
    fn new(workspace: &'a Workspace, changes: Option<usize>) -> Self {
        let meta = &workspace.meta;
        Self {
            id: &workspace.id,
            project: &meta.project,
            agent: &meta.agent,
            run: &meta.run,
            started: meta.started,
            in_use: workspace.in_use(),
            changes,
        }
    }
}

fn list(store: &Store, output: OutputArgs) -> Result<Exit, Failure> {
    let all = store.list().map_err(failed("cannot list workspaces"))?;
    let all: Vec<Listed<'_>> = all
        .iter()
        .map(|one| Listed::new(one, View::open(one).ok().map(|view| view.changes.len())))
        .collect();
    match output.output {
        Format::Json => print_json(&all)?,
        Format::Text => print(&render_list(&all, Style::stdout()))?,
    }
    Ok(Exit::Ok)
}

fn render_list(all: &[Listed<'_>], style: Style) -> String {
    if all.is_empty() {
        return "no workspaces: an agent with `sandbox: { project: copy }` makes one\n".to_owned();
    }
    let heads = ["ID", "AGENT", "STARTED", "CHANGES", "STATE", "PROJECT"];
    let mut columns = Columns::new(style, &heads);
    for one in all {
        // Its project is away, or another folder by now.
        let changes = one.changes.map_or("-".to_owned(), |n| n.to_string());
        let (state, tone) = match one.in_use {
            true => ("in use", Tone::Good),
            false => ("ended", Tone::Plain),
        };
        columns.row(&[
            (one.id, Tone::Plain),
            (one.agent, Tone::Plain),
            (&one.started.strftime("%FT%TZ").to_string(), Tone::Plain),
            (&changes, Tone::Plain),
            (state, tone),
            (&one.project.to_string_lossy(), Tone::Plain),
        ]);
    }
    columns.text()
}

/// The one that is named, or the only one of the project that we are in.
fn choose(store: &Store, id: Option<&str>) -> Result<Workspace, Failure> {
    if let Some(id) = id {
        return Ok(store.find(id)?);
    }
    let here = env::current_dir().map_err(failed("cannot find the current folder"))?;
    let all = store.list().map_err(failed("cannot list workspaces"))?;
    let mut here = all
        .into_iter()
        .filter(|one| here.starts_with(&one.meta.project));
    match (here.next(), here.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::new(
            Exit::Usage,
            "there is no workspace of this folder: `exeat workspace list` shows all",
        )),
        (Some(_), Some(_)) => Err(Failure::new(
            Exit::Usage,
            "there are several workspaces of this folder: say which (`exeat workspace list` shows them)",
        )),
    }
}

fn open(workspace: &Workspace) -> Result<View, Failure> {
    let project = workspace.meta.project.display();
    View::open(workspace).map_err(failed(format!(
        "cannot compare workspace {} with {project}",
        workspace.id
    )))
}

/// A change as JSON.
#[derive(Serialize)]
struct Compared<'a> {
    #[serde(flatten)]
    change: &'a Change,
    content: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

fn diff(store: &Store, args: &DiffArgs) -> Result<Exit, Failure> {
    let workspace = choose(store, args.id.as_deref())?;
    let view = open(&workspace)?;
    let shown = |change| view.text(change).map_err(|error| error.to_string());
    if args.output.output == Format::Json {
        let compared = view.changes.iter().map(|change| {
            let (content, diff) = match shown(change) {
                Ok(Shown::Nothing) => ("none", None),
                Ok(Shown::Lines(text)) => ("text", Some(text)),
                Ok(Shown::Binary) => ("binary", None),
                Ok(Shown::TooLarge) => ("too_large", None),
                Err(_) => ("unread", None),
            };
            Compared {
                change,
                content,
                diff,
            }
        });
        print_json(&serde_json::json!({
            "workspace": Listed::new(&workspace, Some(view.changes.len())),
            "changes": compared.collect::<Vec<_>>(),
            "unread": view.unread,
        }))?;
        return Ok(Exit::Ok);
    }
    let style = Style::stdout();
    for change in &view.changes {
        print(&render_change(change, &shown(change), style))?;
    }
    if view.changes.is_empty() && view.unread.is_empty() {
        print("no changes\n")?;
    }
    for unread in &view.unread {
        let path = unread.path.to_string_lossy();
        let path = printable(&path);
        let line = format!("cannot read {path}: {}", printable(&unread.why));
        print(&format!("{}\n", style.paint(Tone::Warn, &line)))?;
    }
    Ok(Exit::Ok)
}

fn render_change(change: &Change, shown: &Result<Shown, String>, style: Style) -> String {
    let path = change.path.to_string_lossy();
    let path = printable(&path);
    let (word, tone) = match change.what {
        What::Added => ("added", Tone::Good),
        What::Changed => ("changed", Tone::Plain),
        What::Mode => ("mode", Tone::Plain),
        What::Removed => ("removed", Tone::Bad),
    };
    let mut out = style.paint(tone, &format!("{word} {path}"));
    let notes = [
        describe(change),
        match shown {
            Ok(Shown::Binary) => Some(format!("no text{}", sizes(change))),
            Ok(Shown::TooLarge) => Some(format!("too large to show{}", sizes(change))),
            Ok(Shown::Nothing | Shown::Lines(_)) => None,
            Err(why) => Some(format!("cannot be read: {}", printable(why))),
        },
    ];
    for note in notes.into_iter().flatten() {
        out += &format!(" ({note})");
    }
    out.push('\n');
    let warnings = [
        change.since.map(|since| match since {
            Since::Changed => "it changed in the project since the run began".to_owned(),
            Since::Removed => "it was removed from the project since the run began".to_owned(),
        }),
        change.runs.map(|by| format!("it runs by itself: {by}")),
        change
            .leads_out
            .then(|| "it leads out of the project".to_owned()),
    ];
    for warning in warnings.into_iter().flatten() {
        out += &style.paint(Tone::Warn, &format!("! {warning}"));
        out.push('\n');
    }
    let Ok(Shown::Lines(text)) = shown else {
        return out;
    };
    let side = |letter, there: bool| match there {
        true => format!("{letter}/{path}"),
        false => "/dev/null".to_owned(),
    };
    out += &format!(
        "--- {}\n+++ {}\n",
        side('a', change.before.is_some()),
        side('b', change.after.is_some())
    );
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            _ => Tone::Plain,
        };
        out += &style.paint(tone, &safe_line(line));
        out.push('\n');
    }
    out
}

/// A line that cannot drive a terminal. Tabs are harmless, and part of what is to be seen.
fn safe_line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '\t' => out.push(c),
            c if crate::flow::is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// What is not in the word and the lines: kinds, modes, where links lead.
fn describe(change: &Change) -> Option<String> {
    let name = |thing: &Thing| match (thing.kind, &thing.target) {
        (Kind::File, _) if thing.mode & 0o6000 != 0 => {
            format!(
                "file, mode {:o}: set-ID bits are not taken over",
                thing.mode
            )
        }
        (Kind::File, _) if thing.mode & 0o111 != 0 => format!("file, mode {:o}", thing.mode),
        (Kind::File, _) => "file".to_owned(),
        (Kind::Folder, _) => "folder".to_owned(),
        (Kind::Link, Some(target)) => {
            format!("link to {}", printable(&target.to_string_lossy()))
        }
        (Kind::Link, None) => "link".to_owned(),
        (Kind::Special, _) => "device, pipe or socket: never taken over".to_owned(),
    };
    match (&change.before, &change.after) {
        (Some(before), Some(after)) if change.what == What::Mode => {
            Some(format!("{:o} → {:o}", before.mode, after.mode))
        }
        (Some(before), Some(after)) => {
            let plain = (Kind::File, Kind::File);
            if (before.kind, after.kind) != plain {
                Some(format!("{} → {}", name(before), name(after)))
            } else if before.mode != after.mode {
                Some(format!("mode {:o} → {:o}", before.mode, after.mode))
            } else {
                None
            }
        }
        (Some(before), None) if before.kind == Kind::Folder => {
            Some(format!("folder with {} inside", change.inside))
        }
        (None, Some(thing)) | (Some(thing), None) => {
            Some(name(thing)).filter(|name| name != "file")
        }
        (None, None) => None,
    }
}

fn sizes(change: &Change) -> String {
    let size = |thing: &Option<Thing>| thing.as_ref().map(|thing| bytes(thing.size));
    match (size(&change.before), size(&change.after)) {
        (Some(before), Some(after)) => format!(", {before} → {after}"),
        (Some(one), None) | (None, Some(one)) => format!(", {one}"),
        (None, None) => String::new(),
    }
}

fn in_use(workspace: &Workspace, command: &str) -> Failure {
    Failure::new(
        Exit::Failed,
        format!(
            "workspace {id} is in use: the run of `{agent}` goes on\n  end it first, or `exeat workspace {command} --force {id}`",
            id = workspace.id,
            agent = workspace.meta.agent,
        ),
    )
}

fn apply(store: &Store, args: &ApplyArgs) -> Result<Exit, Failure> {
    let workspace = choose(store, args.id.as_deref())?;
    let lock = workspace
        .lock()
        .map_err(failed(format!("cannot use workspace {}", workspace.id)))?;
    if lock.is_none() && !args.force {
        return Err(in_use(&workspace, "apply"));
    }
    let paths = args
        .paths
        .iter()
        .map(|path| inside(&workspace.meta.project, path))
        .collect::<Result<Vec<_>, _>>()?;
    let view = open(&workspace)?;
    let unknown = paths.iter().find(|path| {
        let fits = |change: &Change| change.path.starts_with(path);
        !view.changes.iter().any(fits) && !view.unread.iter().any(|u| u.path.starts_with(path))
    });
    if let Some(path) = unknown {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "workspace {} has no change of {}: `exeat workspace diff` shows all",
                workspace.id,
                path.display()
            ),
        ));
    }
    let choice = Choice {
        paths,
        force: args.force,
    };
    let mut outcome = view.apply(&choice).map_err(failed(format!(
        "the changes are not all on the disk, workspace {} still has them",
        workspace.id
    )))?;
    outcome.held.extend(view.unread.iter().map(|unread| {
        let path = unread.path.to_string_lossy().into_owned();
        let held = Held::Failed(format!("cannot be read: {}", unread.why));
        workspace::apply::Left { path, held }
    }));
    let left = open(&workspace)?;
    let done = left.changes.is_empty() && left.unread.is_empty() && lock.is_some();
    if done {
        workspace
            .discard(lock)
            .map_err(failed(format!("cannot discard workspace {}", workspace.id)))?;
    }
    match args.output.output {
        Format::Json => print_json(&serde_json::json!({
            "workspace": workspace.id,
            "discarded": done,
            "taken": outcome.taken,
            "held": outcome.held,
        }))?,
        Format::Text => print(&render_outcome(
            &outcome,
            &workspace.id,
            done,
            Style::stdout(),
        ))?,
    }
    let complete = outcome.held.iter().all(|left| left.held == Held::NotNamed);
    Ok(if complete { Exit::Ok } else { Exit::Failed })
}

/// A path of the command line relative to the project.
fn inside(project: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let odd = || {
        let text = format!(
            "{} is not in the project {}",
            path.display(),
            project.display()
        );
        Failure::new(Exit::Usage, text)
    };
    let relative = match path.is_absolute() {
        true => path.strip_prefix(project).map_err(|_| odd())?,
        false => path,
    };
    let mut plain = PathBuf::new();
    for part in relative.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            _ => return Err(odd()),
        }
    }
    Ok(plain)
}

fn render_outcome(outcome: &Outcome, id: &str, done: bool, style: Style) -> String {
    let mut out = String::new();
    for one in &outcome.taken {
        let lost = if one.set_id_lost {
            " (without its set-ID bits)"
        } else {
            ""
        };
        out += &format!(
            "{} {}{lost}\n",
            style.paint(Tone::Good, "taken over"),
            printable(&one.path)
        );
    }
    for left in &outcome.held {
        let path = printable(&left.path);
        let why = match &left.held {
            Held::NotNamed => continue,
            Held::Conflict(Since::Changed) => {
                "it changed in the project since the run began: --force takes it over".to_owned()
            }
            Held::Conflict(Since::Removed) => {
                "it was removed from the project since the run began: --force takes it over"
                    .to_owned()
            }
            Held::Runs(by) => format!("{by} runs it by itself: look at it, then name it as a PATH"),
            Held::LeadsOut => {
                "it leads out of the project: name it as a PATH to take it over".to_owned()
            }
            Held::Never => "such a thing is never taken over".to_owned(),
            Held::Failed(why) => printable(why).into_owned(),
        };
        out += &format!("{} {path}: {why}\n", style.paint(Tone::Warn, "left behind"));
    }
    out += &match (outcome.taken.len(), done) {
        (_, true) => format!("nothing is left in workspace {id}: discarded\n"),
        (taken, false) => {
            let left = outcome.held.len();
            format!("{taken} taken over, {left} left in workspace {id}\n")
        }
    };
    out
}

fn discard(store: &Store, args: &DiscardArgs) -> Result<Exit, Failure> {
    let workspace = choose(store, args.id.as_deref())?;
    let lock = workspace
        .lock()
        .map_err(failed(format!("cannot use workspace {}", workspace.id)))?;
    if lock.is_none() && !args.force {
        return Err(in_use(&workspace, "discard"));
    }
    workspace
        .discard(lock)
        .map_err(failed(format!("cannot discard workspace {}", workspace.id)))?;
    print(&format!("discarded workspace {}\n", workspace.id))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32) -> Thing {
        Thing {
            kind: Kind::File,
            mode,
            size: 1500,
            target: None,
        }
    }

    fn change(what: What, before: Option<Thing>, after: Option<Thing>) -> Change {
        Change::for_tests("a\x1b/b".into(), what, before, after)
    }

    #[test]
    fn a_change_is_shown_without_its_teeth() {
        let mut one = change(What::Changed, Some(file(0o644)), Some(file(0o755)));
        one.runs = Some("Git");
        one.since = Some(Since::Changed);
        let text = Shown::Lines("@@ -1 +1 @@\n-\told\n+new\x1b[2J\u{202e}\r\n".into());
        assert_eq!(
            render_change(&one, &Ok(text), Style::default()),
            "changed a\\u{1b}/b (mode 644 → 755)\n\
             ! it changed in the project since the run began\n\
             ! it runs by itself: Git\n\
             --- a/a\\u{1b}/b\n+++ b/a\\u{1b}/b\n\
             @@ -1 +1 @@\n-\told\n+new\\u{1b}[2J\\u{202e}\\u{d}\n"
        );
    }

    #[test]
    fn every_kind_is_described() {
        let shown = |change: &Change, shown| render_change(change, &Ok(shown), Style::default());
        let link = Thing {
            kind: Kind::Link,
            target: Some("x\n".into()),
            ..file(0o777)
        };
        let folder = Thing {
            kind: Kind::Folder,
            ..file(0o755)
        };
        for (one, what, text) in [
            (
                change(What::Added, None, Some(link.clone())),
                Shown::Nothing,
                "added a\\u{1b}/b (link to x\\u{a})\n",
            ),
            (
                change(What::Removed, Some(folder.clone()), None),
                Shown::Nothing,
                "removed a\\u{1b}/b (folder with 3 inside)\n",
            ),
            (
                change(What::Changed, Some(folder), Some(file(0o644))),
                Shown::Binary,
                "changed a\\u{1b}/b (folder → file) (no text, 1.5 kB → 1.5 kB)\n",
            ),
            (
                change(What::Mode, Some(file(0o644)), Some(file(0o600))),
                Shown::Nothing,
                "mode a\\u{1b}/b (644 → 600)\n",
            ),
            (
                change(What::Added, None, Some(file(0o4755))),
                Shown::TooLarge,
                "added a\\u{1b}/b (file, mode 4755: set-ID bits are not taken over) (too large to show, 1.5 kB)\n",
            ),
            (
                change(What::Added, None, Some(file(0o644))),
                Shown::Lines("@@ -0,0 +1 @@\n+x\n".into()),
                "added a\\u{1b}/b\n--- /dev/null\n+++ b/a\\u{1b}/b\n@@ -0,0 +1 @@\n+x\n",
            ),
        ] {
            assert_eq!(shown(&one, what), text);
        }
    }

    #[test]
    fn paths_are_those_of_the_project() {
        let project = Path::new("/p");
        let plain = |path: &str| inside(project, Path::new(path)).ok();
        assert_eq!(plain("./a//b/"), Some("a/b".into()));
        assert_eq!(plain("/p/a"), Some("a".into()));
        assert_eq!(plain("."), Some("".into()));
        for out in ["../a", "a/../b", "/q/a", "/"] {
            assert_eq!(plain(out), None, "{out}");
        }
    }
}
