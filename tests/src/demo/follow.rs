//! `exeat events --follow` beside the story, its lines shown as they come.

use super::show::{From, Show, Tone};
use super::signals;
use crate::wait;
use anyhow::Context;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An event that has not been shown by then is held to be missing.
fn patience() -> Duration {
    wait::scaled(Duration::from_secs(10))
}

/// A follower that runs; killed when dropped.
pub(super) struct Follow {
    child: Child,
    seen: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Follow {
    pub(super) fn start(mut command: Command, show: Arc<Show>) -> anyhow::Result<Self> {
        let (read, write) = std::io::pipe().context("make a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(write.try_clone().context("copy a pipe")?)
            .stderr(write)
            // Ctrl-C is ours: this one is ended when we clean up.
            .process_group(0)
            .spawn()
            .context("start exeat events --follow")?;
        // It holds the ends for the child, and the reader would never see the end.
        drop(command);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = seen.clone();
        let reader = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                for line in BufReader::new(read).lines().map_while(Result::ok) {
                    let tone = match line.contains("  deny  ") {
                        true => Tone::Bad,
                        false => Tone::Plain,
                    };
                    show.line(From::Events, tone, &line);
                    // After it was shown: whoever waits for it may go on printing.
                    theirs
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(line);
                }
            })
            .context("start a thread")?;
        Ok(Self {
            child,
            seen,
            reader: Some(reader),
        })
    }

    /// Lines so far: where the next search begins.
    pub(super) fn mark(&self) -> usize {
        self.seen().len()
    }

    /// Waits for a line after `mark` that says that something with `words` was denied.
    pub(super) fn denied(&self, mark: usize, words: &str) -> anyhow::Result<bool> {
        Ok(self.wait(1, mark, words)? >= 1)
    }

    /// Waits for `number` denials, and gives how many there are.
    pub(super) fn denials(&self, number: usize) -> anyhow::Result<usize> {
        self.wait(number, 0, "")
    }

    fn wait(&self, number: usize, mark: usize, words: &str) -> anyhow::Result<usize> {
        let count = || {
            let seen = self.seen();
            let new = seen.iter().skip(mark);
            new.filter(|line| line.contains("  deny  ") && line.contains(words))
                .count()
        };
        let begun = Instant::now();
        while count() < number && begun.elapsed() < patience() {
            signals::check()?;
            // The pause between two looks, not a guess at how long it takes.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(count())
    }

    /// Waits until the follower has ended by itself.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        wait::until("exeat events to end", wait::patience(), || {
            self.child.try_wait().ok().flatten()
        })?;
        self.join();
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It can only have panicked in a print, which has been shown.
            let _ = reader.join();
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }
}
