//! A real browser (Chromium without a window), steered by the DevTools protocol over two pipes:
//! JSON with a zero byte behind each message. Nothing listens on any port for it.

use crate::{clients, wait};
use anyhow::{Context, anyhow, bail};
use data_encoding::BASE64;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;
use tempfile::TempDir;

/// What `cargo xtask setup` brings.
pub const NAME: &str = "chromium-headless-shell";

/// One page of a browser; ended when dropped.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: String,
    next: u64,
    /// Everything that the browser told and nobody asked for.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one, if the machine has it ([`clients::find`]). `command` makes a command of a
    /// program: as which user, in which network.
    ///
    /// # Errors
    /// When it does not start or does not answer.
    pub fn start(command: impl FnOnce(&Path) -> Command) -> anyhow::Result<Option<Self>> {
        let Some(program) = clients::find(NAME) else {
            return Ok(None);
        };
        let profile = tempfile::tempdir()?;
        let (their_in, to) = pipe()?;
        let (from, their_out) = pipe()?;
        let mut command = command(&program.canonicalize()?);
        command
            .args([
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--window-size=1180,1400",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (first, second) = (their_in.as_raw_fd(), their_out.as_raw_fd());
        let hand_over = move || -> std::io::Result<()> {
            // Out of the way first: either may be 3 or 4 itself.
            let duplicate = |fd| {
                nix::errno::Errno::result(
                    // SAFETY: makes a descriptor of one that is open, and nothing else.
                    unsafe { libc::fcntl(fd, libc::F_DUPFD, 10) },
                )
            };
            for (fd, place) in [(duplicate(first)?, 3), (duplicate(second)?, 4)] {
                // SAFETY: as above; what was at the place is not used after the fork.
                nix::errno::Errno::result(unsafe { libc::dup2(fd, place) })?;
                // SAFETY: it was made just now, and nobody else knows it.
                unsafe { libc::close(fd) };
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(hand_over) };
        let child = command.spawn().context("start the browser")?;
        drop((their_in, their_out));
        let (told, from_thread) = channel();
        let mut lines = BufReader::new(File::from(from));
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while matches!(lines.read_until(0, &mut message), Ok(n) if n > 0) {
                message.pop();
                let value = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if told.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            to: File::from(to),
            from: from_thread,
            session: String::new(),
            next: 0,
            events: Vec::new(),
            _profile: profile,
        };
        browser.attach()?;
        Ok(Some(browser))
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        let target = self.ask("Target.createTarget", json!({ "url": "about:blank" }))?;
        let wanted = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.ask("Target.attachToTarget", wanted)?;
        let session = session["sessionId"].as_str().context("a session")?;
        self.session = session.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.ask(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// A command of the protocol, and its result.
    ///
    /// # Errors
    /// What the browser said, or that it said nothing.
    pub fn ask(&mut self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        let until = Instant::now() + wait::patience();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = match self.from.recv_timeout(left) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => bail!("{method}: no answer"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: the browser has ended"),
            };
            match answer["id"].as_u64() {
                Some(id) if id == self.next => {
                    return match answer.get("error") {
                        Some(error) => Err(anyhow!("{method}: {error}")),
                        None => Ok(answer["result"].clone()),
                    };
                }
                Some(_) => {}
                None => self.events.push(answer),
            }
        }
    }

    /// Opens an address and waits until the page is there.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn open(&mut self, url: &str) -> anyhow::Result<()> {
        let went = self.ask("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = went["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.until("document.readyState === 'complete'")
    }

    /// The value of an expression of JavaScript in the page.
    ///
    /// # Errors
    /// When it throws.
    pub fn value(&mut self, expression: &str) -> anyhow::Result<Value> {
        let parameters = json!({
            "expression": expression,
            "returnByValue": true,
            "awaitPromise": true,
        });
        let said = self.ask("Runtime.evaluate", parameters)?;
        match said.get("exceptionDetails") {
            Some(thrown) => Err(anyhow!("{expression}: {thrown}")),
            None => Ok(said["result"]["value"].clone()),
        }
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it does not become so; with what the page shows.
    pub fn until(&mut self, expression: &str) -> anyhow::Result<()> {
        let waited = wait::until(expression, wait::patience(), || {
            let value = self.value(expression).ok()?;
            (value == Value::Bool(true)).then_some(())
        });
        waited.map_err(|error| {
            let shown = self.value("document.body.innerText").unwrap_or_default();
            error.context(format!("the page shows: {shown}"))
        })
    }

    /// Clicks where the element is that a selector finds, as a hand does.
    ///
    /// # Errors
    /// When there is none, or it cannot be clicked.
    pub fn click(&mut self, selector: &str) -> anyhow::Result<()> {
        let at = format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            Value::from(selector)
        );
        let at = self.value(&at)?;
        for kind in ["mousePressed", "mouseReleased"] {
            let parameters = json!({
                "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1,
            });
            self.ask("Input.dispatchMouseEvent", parameters)?;
        }
        Ok(())
    }

    /// Writes what the page looks like to a file of the folder that `EXEAT_SCREENSHOTS` names,
    /// light and dark; nothing, if it names none.
    ///
    /// # Errors
    /// When the browser draws nothing or the file cannot be written.
    pub fn picture(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(folder) = std::env::var_os("EXEAT_SCREENSHOTS") else {
            return Ok(());
        };
        for scheme in ["light", "dark"] {
            let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
            self.ask("Emulation.setEmulatedMedia", json!({ "features": feature }))?;
            let parameters = json!({ "captureBeyondViewport": true });
            let drawn = self.ask("Page.captureScreenshot", parameters)?;
            let drawn = drawn["data"].as_str().context("a picture")?;
            let path = Path::new(&folder).join(format!("{name}-{scheme}.png"));
            std::fs::write(path, BASE64.decode(drawn.as_bytes())?)?;
        }
        Ok(())
    }

    fn told(&self, method: &str) -> impl Iterator<Item = &Value> {
        let of_it = self.events.iter().filter(move |e| e["method"] == *method);
        of_it.map(|event| &event["params"])
    }

    /// Every address that the page asked for, in order.
    pub fn requests(&self) -> Vec<String> {
        let all = self.told("Network.requestWillBeSent");
        all.filter_map(|event| event["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// What the page complained of: exceptions, the console, and what the browser itself logs
    /// (what a policy of the page stopped, among others).
    pub fn complaints(&self) -> Vec<String> {
        [
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ]
        .into_iter()
        .flat_map(|method| {
            self.told(method)
                .map(move |event| format!("{method}: {event}"))
        })
        .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipe() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}
