//! Which files a command comes to: its own, and where it is a script the interpreter's, as the
//! kernel finds it (`fs/binfmt_script.c`, execve(2)).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// Bytes of a file that the kernel looks at (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;
/// Scripts of scripts that the kernel follows, and as many programs that `env` starts.
const DEPTH: usize = 5;
/// What a C library runs a file with that the kernel knows nothing of (`execvp`, exec(3)).
const SHELL: &str = "/bin/sh";

/// The first line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its interpreter.
    pub path: PathBuf,
    /// The one argument that it gets: the rest of the line.
    pub argument: Option<OsString>,
}

impl Interpreter {
    /// The program that `env` is to look for along the `PATH`, where it is the interpreter:
    /// `env NAME`, `env -S NAME …`, `env VARIABLE=value NAME`. An option that is not known is an error.
    pub fn started_by_env(&self) -> Option<Result<&OsStr, &'static str>> {
        if self.path.file_name() != Some(OsStr::new("env")) {
            return None;
        }
        let words = self.argument.as_deref().unwrap_or_default().as_bytes();
        let mut split = false;
        // Without -S the rest of the line is one word.
        let mut words = words
            .split(|byte| byte.is_ascii_whitespace())
            .filter(|word| !word.is_empty());
        let mut first = words.next();
        if first == Some(b"-S") {
            split = true;
            first = words.next();
        }
        while let Some(word) = first {
            if word.contains(&b'=') && split {
                first = words.next();
            } else if word.starts_with(b"-") || word.contains(&b'=') {
                return Some(Err("what `env` starts for it cannot be told"));
            } else if !split && words.next().is_some() {
                return Some(Err("`env` takes the rest of its first line for one name"));
            } else if word.iter().any(|byte| b"\\$'\"#".contains(byte)) {
                return Some(Err("what `env` starts for it cannot be told"));
            } else {
                return Some(Ok(OsStr::from_bytes(word)));
            }
        }
        Some(Err("`env` is to start nothing"))
    }
}

/// What the kernel makes of the beginning of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is started itself.
    Program,
    /// Its interpreter is.
    Script(Interpreter),
    /// The kernel refuses it (or another has registered it, binfmt_misc), and a shell is tried.
    Unknown,
}

/// What the kernel makes of a file that begins so; at most its first 256 bytes count.
pub fn kind(head: &[u8]) -> Kind {
    let head = head.get(..HEAD).unwrap_or(head);
    if head.starts_with(b"\x7fELF") {
        return Kind::Program;
    }
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Kind::Unknown;
    };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => &rest[..end],
        // The end of the file is one of the line; else the name must have ended before.
        None if head.len() < HEAD => rest,
        None => {
            let start = rest.iter().take_while(|byte| blank(byte)).count();
            if !rest[start..].iter().any(|byte| blank(byte) || *byte == 0) {
                return Kind::Unknown;
            }
            rest
        }
    };
    let trim = |mut text: &[u8]| -> Vec<u8> {
        while let Some((last, before)) = text.split_last()
            && blank(last)
        {
            text = before;
        }
        let start = text.iter().take_while(|byte| blank(byte)).count();
        text[start..].to_vec()
    };
    let line = trim(line);
    // A NUL ends what the kernel sees of either.
    let ends = |byte: &u8| blank(byte) || *byte == 0;
    let end = line.iter().position(ends).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Kind::Unknown;
    }
    let rest = match rest.first() {
        Some(0) | None => Vec::new(),
        Some(_) => trim(rest.split(|byte| *byte == 0).next().unwrap_or_default()),
    };
    Kind::Script(Interpreter {
        path: OsStr::from_bytes(name).into(),
        argument: (!rest.is_empty()).then(|| OsString::from(OsStr::from_bytes(&rest))),
    })
}

/// What the kernel makes of an open file.
///
/// # Errors
/// Where it cannot be read.
pub fn kind_of(file: &File) -> io::Result<Kind> {
    let mut head = [0; HEAD];
    let mut length = 0;
    while length < HEAD {
        match file.read_at(&mut head[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(kind(&head[..length]))
}

/// A file of a command.
#[derive(Debug)]
pub struct Part {
    /// It, open for reading.
    pub file: File,
    /// Where it is, without links.
    pub path: PathBuf,
    /// Whether the kernel starts it; else it is a script, and read by what follows.
    pub starts: bool,
}

/// The files that a command comes to, in the order in which they are needed: each script is
/// followed by its interpreter. Where that is `env`, what `env` starts follows.
///
/// # Errors
/// Where one is not there, cannot be executed or read, or cannot be told.
pub fn parts(command: &OsStr) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut next = Some(find(command)?);
    while let Some(path) = next.take() {
        if parts.len() >= 2 * DEPTH {
            return Err(io::Error::other("there are too many interpreters"));
        }
        let file = open(&path)?;
        let path = path_of(&file)?;
        let kind = kind_of(&file)?;
        parts.push(Part {
            file,
            path,
            starts: kind == Kind::Program,
        });
        let interpreter = match kind {
            Kind::Program => continue,
            Kind::Script(interpreter) => interpreter,
            Kind::Unknown => {
                next = Some(SHELL.into());
                continue;
            }
        };
        match interpreter.started_by_env() {
            None => next = Some(interpreter.path),
            Some(name) => {
                let name = name.map_err(io::Error::other)?;
                let file = open(&interpreter.path)?;
                if kind_of(&file)? != Kind::Program {
                    return Err(io::Error::other("`env` is a script"));
                }
                let path = path_of(&file)?;
                parts.push(Part {
                    file,
                    path,
                    starts: true,
                });
                next = Some(find(name)?);
            }
        }
    }
    Ok(parts)
}

/// Where an open file is.
///
/// # Errors
/// Without `/proc`.
pub fn path_of(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn open(path: &Path) -> io::Result<File> {
    // A FIFO would wait for somebody at its other end.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The file that `execvp` takes for a command.
fn find(command: &OsStr) -> io::Result<PathBuf> {
    if command.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if command.as_bytes().contains(&b'/') {
        return Ok(command.into());
    }
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut denied = false;
    for folder in env::split_paths(&path) {
        let file = folder.join(command);
        if !file.is_file() {
            continue;
        }
        match access(&file, AccessFlags::X_OK) {
            Ok(()) => return Ok(file),
            Err(_) => denied = true,
        }
    }
    Err(match denied {
        true => io::ErrorKind::PermissionDenied.into(),
        false => io::ErrorKind::NotFound.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(path: &str, argument: Option<&str>) -> Kind {
        Kind::Script(Interpreter {
            path: path.into(),
            argument: argument.map(Into::into),
        })
    }

    #[test]
    fn the_first_line_is_read_as_the_kernel_reads_it() {
        let long = format!("#!/{}", "x".repeat(300));
        let cut = format!("#!/bin/sh {}", "x".repeat(300));
        for (head, expected) in [
            ("\x7fELF\x02", Kind::Program),
            ("", Kind::Unknown),
            ("echo\n", Kind::Unknown),
            ("#!", Kind::Unknown),
            ("#!  \n/bin/sh", Kind::Unknown),
            ("#!/bin/sh", script("/bin/sh", None)),
            ("#!/bin/sh\necho", script("/bin/sh", None)),
            ("#! \t/bin/sh \t\n", script("/bin/sh", None)),
            ("#!/bin/sh  -e  -u \n", script("/bin/sh", Some("-e  -u"))),
            ("#!bin/sh\t-e\n", script("bin/sh", Some("-e"))),
            ("#!/bin/sh\r\n", script("/bin/sh\r", None)),
            ("#!/bin/sh\0x y\n", script("/bin/sh", None)),
            ("#!/bin/sh -e\0x\n", script("/bin/sh", Some("-e"))),
            (&long, Kind::Unknown),
            (&cut, script("/bin/sh", Some(&"x".repeat(256 - 10)))),
        ] {
            assert_eq!(kind(head.as_bytes()), expected, "{head:?}");
        }
    }

    #[test]
    fn what_env_starts_is_found_or_is_an_error() {
        for (line, expected) in [
            ("#!/usr/bin/env node\n", Some(Ok("node"))),
            ("#!/usr/bin/env -S node --x\n", Some(Ok("node"))),
            ("#!/usr/bin/env -S A=b node\n", Some(Ok("node"))),
            ("#!/bin/env\n", Some(Err(()))),
            ("#!/usr/bin/env -i node\n", Some(Err(()))),
            ("#!/usr/bin/env node --x\n", Some(Err(()))),
            ("#!/usr/bin/env A=b\n", Some(Err(()))),
            ("#!/usr/bin/env -S ${NODE}\n", Some(Err(()))),
            ("#!/usr/bin/node\n", None),
        ] {
            let Kind::Script(interpreter) = kind(line.as_bytes()) else {
                panic!("{line}");
            };
            let found = interpreter
                .started_by_env()
                .map(|name| name.map(|name| name.to_str().expect("text")).map_err(drop));
            assert_eq!(found, expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_beginning_is_too_strange(head in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = kind(&head);
            let mut line = b"#!/usr/bin/env ".to_vec();
            line.extend(&head);
            if let Kind::Script(interpreter) = kind(&line) {
                let _ = interpreter.started_by_env();
            }
        }
    }

    fn names(command: &Path) -> Vec<(String, bool)> {
        let parts = parts(command.as_os_str()).expect("parts");
        let name = |part: &Part| part.path.display().to_string();
        parts.iter().map(|part| (name(part), part.starts)).collect()
    }

    fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode");
        path
    }

    #[test]
    fn a_script_comes_with_its_interpreters() {
        let folder = tempfile::tempdir().expect("folder");
        let real = |path: &str| {
            let path = std::fs::canonicalize(path).expect(path);
            path.display().to_string()
        };
        let (sh, env) = (real("/bin/sh"), real("/usr/bin/env"));
        let cat = real("/bin/cat");
        assert_eq!(names(Path::new("/bin/cat")), [(cat, true)]);
        let inner = written(folder.path(), "inner", "#!/bin/sh\n");
        let inner_name = inner.display().to_string();
        let sh = (sh, true);
        assert_eq!(names(&inner), [(inner_name.clone(), false), sh.clone()]);
        let outer = written(folder.path(), "outer", &format!("#!{inner_name} -x\n"));
        let outer_name = outer.display().to_string();
        assert_eq!(
            names(&outer),
            [(outer_name, false), (inner_name, false), sh.clone()]
        );
        let by_env = written(folder.path(), "by-env", "#!/usr/bin/env sh\n");
        let by_env_name = by_env.display().to_string();
        assert_eq!(
            names(&by_env),
            [(by_env_name, false), (env, true), sh.clone()]
        );
        let plain = written(folder.path(), "plain", "echo\n");
        let plain_name = plain.display().to_string();
        assert_eq!(names(&plain), [(plain_name, false), sh]);
        let looped = folder.path().join("loop").display().to_string();
        let looped = written(folder.path(), "loop", &format!("#!{looped}\n"));
        assert!(parts(looped.as_os_str()).is_err());
        for bad in ["/no/such", "", "/etc", "no-such-program-anywhere"] {
            assert!(parts(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
