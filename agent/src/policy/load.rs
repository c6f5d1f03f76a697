//! From files and folders to a [`PolicySet`]: all of it, or every error at once.

use super::diagnostic::{Diagnostic, PolicyErrors, Pos, Report, Source};
use super::model::PolicySet;
use super::tree::MAX_FILE_BYTES;
use super::validate::{Parsed, validate};
use super::{read, tree};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Loads files, and the `*.yaml` and `*.yml` files of folders in the order of their
/// names. Groups of one file may be used in another; an agent or group in two files is
/// an error.
pub fn load(paths: &[PathBuf]) -> Result<PolicySet, PolicyErrors> {
    load_with_texts(paths).map(|(set, _)| set)
}

/// One policy file as it was read: what [`parse_all`] makes the same policy of, whatever has
/// become of the file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PolicyText {
    /// The file's name, for messages and origins.
    pub name: String,
    /// What it held.
    pub text: String,
}

/// [`load`], with the texts that it read.
pub fn load_with_texts(paths: &[PathBuf]) -> Result<(PolicySet, Vec<PolicyText>), PolicyErrors> {
    let mut report = Report::default();
    let mut texts = Vec::new();
    if paths.is_empty() {
        report.error(Diagnostic::about_file(
            "",
            "no policy file was named",
            "name a file or a folder with `*.yaml` files",
        ));
    }
    for path in files(paths, &mut report) {
        let name = path.display().to_string();
        match read_text(&path) {
            Ok(text) => texts.push(PolicyText { name, text }),
            Err(trouble) => report.error(trouble.diagnostic(&name)),
        }
    }
    Ok((parse_texts(&texts, report)?, texts))
}

/// Loads one text; `name` stands for the file in messages and origins.
pub fn parse(name: &str, text: &str) -> Result<PolicySet, PolicyErrors> {
    parse_all(&[PolicyText {
        name: name.to_owned(),
        text: text.to_owned(),
    }])
}

/// Loads texts that were read before.
pub fn parse_all(texts: &[PolicyText]) -> Result<PolicySet, PolicyErrors> {
    parse_texts(texts, Report::default())
}

fn parse_texts(texts: &[PolicyText], mut report: Report) -> Result<PolicySet, PolicyErrors> {
    let parsed: Vec<_> = texts
        .iter()
        .filter_map(|file| parse_one(&file.name, &file.text, &mut report))
        .collect();
    finish(&parsed, report)
}

fn finish(parsed: &[Parsed], mut report: Report) -> Result<PolicySet, PolicyErrors> {
    let agents = validate(parsed, &mut report);
    let warnings = report.finish()?;
    Ok(PolicySet::new(agents, warnings))
}

fn parse_one(name: &str, text: &str, report: &mut Report) -> Option<Parsed> {
    let source = Source::new(name, text.strip_prefix('\u{feff}').unwrap_or(text));
    if source.text().trim().is_empty() {
        report.error(source.diagnostic(
            Pos::START,
            "the file is empty",
            "begin the file with `version: 1`, then `agents:`",
        ));
        return None;
    }
    let root = match tree::parse(source.text()) {
        Ok(root) => root,
        Err(error) => {
            let help = syntax_help(&error.message);
            report.error(source.diagnostic(error.at, error.message, help));
            return None;
        }
    };
    let file = read::file(root, &source, report)?;
    Some(Parsed { source, file })
}

fn syntax_help(message: &str) -> &'static str {
    if message.contains("more than one YAML document") {
        "write one document a file, without `---` between agents"
    } else if message.contains("alias") || message.contains("anchor") {
        "put a wildcard in quotes, as in `host: \"*.example.com\"`; for anchors and aliases write the text out, or use a group"
    } else if message.contains("tab") {
        "indent with spaces"
    } else {
        "the text is not YAML here: look at the indentation, colons, brackets and quotes; put text with `: `, `#`, `*`, `&` or a colon at its end in quotes"
    }
}

/// Why a file could not be read.
enum Trouble {
    Io(io::Error),
    TooLarge,
    NotUtf8 { line: usize },
}

impl Trouble {
    fn diagnostic(&self, name: &str) -> Diagnostic {
        match self {
            Self::Io(error) => cannot_read(name, error),
            Self::TooLarge => Diagnostic::about_file(
                name,
                format!(
                    "the file is larger than {} MiB",
                    MAX_FILE_BYTES / 1024 / 1024
                ),
                "split it into several files of a folder",
            ),
            Self::NotUtf8 { line } => Diagnostic::about_file(
                name,
                format!("the file is not UTF-8 text (line {line})"),
                "save it as UTF-8",
            ),
        }
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Diagnostic {
    let help = match error.kind() {
        io::ErrorKind::NotFound => "look at the path; policies usually lie in /etc/exeat/policy.d",
        io::ErrorKind::PermissionDenied => "run the command as a user who may read it",
        _ => "look at the path and the file system",
    };
    Diagnostic::about_file(name, format!("cannot read it: {error}"), help)
}

fn read_text(path: &Path) -> Result<String, Trouble> {
    let file = File::open(path).map_err(Trouble::Io)?;
    // A pipe or device would not end, or would hang.
    if !file.metadata().map_err(Trouble::Io)?.is_file() {
        return Err(Trouble::Io(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Trouble::Io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Trouble::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        Trouble::NotUtf8 { line }
    })
}

/// Whether nobody has written a policy: every path is a folder that can be listed and holds no
/// policy file, or is not there.
pub fn none_written(paths: &[PathBuf]) -> bool {
    !paths.is_empty()
        && paths.iter().all(|path| {
            match std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
                Ok(entries) => policy_files(entries).is_empty(),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            }
        })
}

fn policy_files(entries: Vec<std::fs::DirEntry>) -> Vec<PathBuf> {
    let mut files: Vec<_> = entries
        .into_iter()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    files.sort();
    files
}

/// Every file that the paths name, each once.
fn files(paths: &[PathBuf], report: &mut Report) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for path in paths {
        let found = if path.is_dir() {
            folder(path, report)
        } else {
            vec![path.clone()]
        };
        for file in found {
            // The same file by two ways (named, and in a named folder) is read once.
            let key = file.canonicalize().unwrap_or_else(|_| file.clone());
            if seen.insert(key) {
                files.push(file);
            }
        }
    }
    files
}

fn folder(path: &Path, report: &mut Report) -> Vec<PathBuf> {
    let name = path.display().to_string();
    let entries = match std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => {
            report.error(cannot_read(&name, &error));
            return Vec::new();
        }
    };
    let files = policy_files(entries);
    if files.is_empty() {
        report.error(Diagnostic::about_file(
            name,
            "the folder has no `*.yaml` or `*.yml` file",
            "put a policy file into it, or name another folder",
        ));
    }
    files
}
