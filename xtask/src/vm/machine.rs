//! One boot: QEMU with a kernel, an initramfs and disks, and the guest's lines as they come.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::arch::Arch;
use super::lines::{self, Line};
use super::qemu::Qemu;
use crate::step;

/// From QEMU's start to the guest's first line, on a machine that does other things too. 7 s
/// where it has a processor of its own.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Between two lines of which none is the end of a step: killing, reading files, powering off.
const PAUSE_LIMIT: Duration = Duration::from_secs(90);

/// From systemd's being told to the next boot's first line: services end in their own time.
const REBOOT_LIMIT: Duration = Duration::from_secs(600);

const CONSOLE_TAIL: usize = 30;

/// How often a waiting thread looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(200);

/// What is booted.
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// `/dev/vda` and so on; the guest writes into a snapshot.
    pub(super) disks: &'a [&'a Path],
    /// Words for the kernel's command line besides those that every boot has.
    pub(super) append: &'a str,
    pub(super) megabytes: u32,
    /// Whether a step may have it boot anew; the disks' snapshots stay.
    pub(super) reboots: bool,
    /// QEMU's word: `tcg` or `kvm`.
    pub(super) accelerator: &'a str,
    /// Where console, lines and QEMU's own words are kept.
    pub(super) folder: &'a Path,
}

impl Machine<'_> {
    /// Boots, shows every line to `each`, and returns after `done`.
    ///
    /// Ends with an error that has the console's tail where the guest falls silent, dies, or
    /// ends without `done`; also when `stop` becomes true. QEMU is gone in every case.
    pub(super) fn run(
        &self,
        qemu: &Qemu,
        stop: &AtomicBool,
        mut each: impl FnMut(Line) -> Result<()>,
    ) -> Result<()> {
        let console = self.folder.join("console");
        let mut running = self.start(qemu, &console)?;
        let outcome = running.follow(stop, self.folder, &mut each);
        drop(running);
        outcome.map_err(|why| {
            let words = fs::read_to_string(self.folder.join("qemu")).unwrap_or_default();
            let words = words.trim();
            let qemu = if words.is_empty() {
                String::new()
            } else {
                format!("\n    QEMU wrote: {words}")
            };
            why.context(format!(
                "the guest did not say that it is done{qemu}\n    console ({}):\n{}",
                console.display(),
                tail(&console)
            ))
        })
    }

    fn start(&self, qemu: &Qemu, console: &Path) -> Result<Running> {
        let mut command = qemu.command(self.arch);
        let cpu = ["-accel", self.accelerator];
        command
            .args(self.arch.machine())
            .args(cpu)
            .args(["-smp", "1", "-m", &self.megabytes.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-chardev", "file,id=lines,path=/dev/stdout"]);
        if !self.reboots {
            // A panic reboots, and that ends QEMU.
            command.arg("-no-reboot");
        }
        match self.arch {
            Arch::X86_64 => command.args(["-serial", "chardev:lines"]),
            Arch::Aarch64 => command.args(["-device", "pci-serial,chardev=lines"]),
        };
        for disk in self.disks {
            command.arg("-drive").arg(format!(
                "file={},format=raw,if=virtio,snapshot=on",
                // QEMU's own way to write a comma.
                disk.display().to_string().replace(',', ",,")
            ));
        }
        let append = format!(
            "console={} panic=-1 quiet mitigations=off init_on_alloc=0 random.trust_cpu=on {}",
            self.arch.console(),
            self.append
        );
        command
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", append.trim()]);
        // For a person who wants to look into the guest; a record, not needed to go on.
        let _ = fs::write(self.folder.join("command"), step::shown(&command) + "\n");
        let words = File::create(self.folder.join("qemu")).context("could not make a log")?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(words);
        Running::new(command)
    }
}

/// A QEMU that is killed when this goes.
struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
}

impl Running {
    fn new(mut command: Command) -> Result<Self> {
        // Out of reach of the terminal's Ctrl-C, which is for us to handle; and killed by the
        // kernel if we are.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made: prctl and getppid.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before.
                if std::os::unix::process::parent_id() != parent {
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                Ok(())
            });
        }
        let shown = step::shown(&command);
        let mut child = command
            .spawn()
            .with_context(|| format!("could not start `{shown}`"))?;
        let stdout = child.stdout.take();
        Ok(Self { child, stdout })
    }

    fn follow(
        &mut self,
        stop: &AtomicBool,
        folder: &Path,
        each: &mut impl FnMut(Line) -> Result<()>,
    ) -> Result<()> {
        let stdout = self.stdout.take().context("QEMU has no output")?;
        let mut copy = File::create(folder.join("lines")).context("could not make a log")?;
        let (sender, receiver) = mpsc::channel();
        // It ends with QEMU, which `drop` kills, or when nobody listens.
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let mut deadline = Instant::now() + BOOT_LIMIT;
        let mut waits_for = "its first line".to_owned();
        let mut boots = 1;
        loop {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let text = match receiver.recv_timeout(LOOK) {
                Ok(text) => text,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => continue,
                Err(RecvTimeoutError::Timeout) => bail!("waited in vain for {waits_for}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().context("could not wait for QEMU")?;
                    bail!("the machine went off ({status}) while we waited for {waits_for}");
                }
            };
            writeln!(copy, "{text}").context("could not keep the lines")?;
            let line = lines::read(&text)?;
            match &line {
                Line::Done { .. } => return Ok(()),
                Line::Start { start, seconds } => {
                    deadline = Instant::now() + Duration::from_secs(*seconds) + PAUSE_LIMIT;
                    waits_for = format!("the end of the step {start}");
                }
                Line::End(end) => {
                    deadline = Instant::now() + PAUSE_LIMIT;
                    waits_for = format!("what follows the step {}", end.end);
                }
                Line::Reboot { .. } => {
                    boots += 1;
                    deadline = Instant::now() + REBOOT_LIMIT;
                    waits_for = "the next boot".to_owned();
                }
                Line::Boot { .. } => {
                    // A panic, where the machine is one that reboots.
                    if boots == 0 {
                        bail!("the machine booted anew by itself while we waited for {waits_for}");
                    }
                    boots -= 1;
                    deadline = Instant::now() + PAUSE_LIMIT;
                    waits_for = "the first step".to_owned();
                }
                Line::Out { .. } | Line::File { .. } => {}
            }
            each(line)?;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good as killed; `wait` reaps it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of the console, indented.
fn tail(console: &PathBuf) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    if lines.is_empty() {
        return "    (nothing)".to_owned();
    }
    lines[lines.len().saturating_sub(CONSOLE_TAIL)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell instead of QEMU: what follows is about the lines alone.
    fn said(script: &str) -> Result<Vec<Line>> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut running = Running::new(command).expect("sh");
        let mut seen = Vec::new();
        let stop = AtomicBool::new(false);
        let outcome = running.follow(&stop, folder.path(), &mut |line| {
            seen.push(line);
            Ok(())
        });
        outcome.map(|()| seen)
    }

    #[test]
    fn ends_with_done_and_not_before() {
        let seen =
            said(r#"echo '{"out":"a"}'; echo '{"done":true}'; exec sleep 600"#).expect("done");
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn a_machine_that_goes_off_is_a_failure() {
        let why = said(r#"echo '{"start":"gate","seconds":5}'; exit 3"#).expect_err("no done");
        let why = format!("{why:#}");
        assert!(why.contains("exit status: 3"), "{why}");
        assert!(why.contains("the end of the step gate"), "{why}");
    }

    #[test]
    fn another_boot_is_a_failure_unless_it_was_asked_for() {
        let boot = r#"echo '{"boot":{"kernel":"6.1","lsm":"","ms":1}}'"#;
        let done = r#"echo '{"done":true}'"#;
        let asked = format!(r#"{boot}; echo '{{"reboot":1}}'; {boot}; {done}; exec sleep 600"#);
        assert_eq!(said(&asked).expect("done").len(), 3);
        let why = said(&format!("{boot}; {boot}; {done}; exec sleep 600")).expect_err("a panic");
        assert!(format!("{why:#}").contains("by itself"), "{why:#}");
    }

    #[test]
    fn noise_is_a_failure() {
        let why = said("echo '[ 1.0] Kernel panic'; exec sleep 600").expect_err("no line");
        assert!(format!("{why:#}").contains("Kernel panic"));
    }

    #[test]
    fn stops_when_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sleep");
        command.arg("600").stdout(Stdio::piped());
        let mut running = Running::new(command).expect("sleep");
        let pid = running.child.id();
        let stop = AtomicBool::new(true);
        let outcome = running.follow(&stop, folder.path(), &mut |_| Ok(()));
        assert!(format!("{:#}", outcome.expect_err("stopped")).contains("interrupted"));
        drop(running);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
