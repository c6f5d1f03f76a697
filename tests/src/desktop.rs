//! A user's desktop: a session bus, an X display without a screen, notification servers that
//! people have; and a daemon's end of the control socket that says what a test wants.

use crate::{programs, unique, wait};
use anyhow::{Context as _, ensure};
use exeat::asking::{Choice, Grant, GrantSubject, Outcome, Question, Settlement, Subject, Who};
use exeat::control::{Problem, Request, Response};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tempfile::TempDir;

/// A process that ends with this.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The desktop.
pub struct Desktop {
    folder: TempDir,
    _display: Option<Running>,
    number: String,
    bus: Option<Running>,
}

impl Desktop {
    /// One with a bus alone.
    ///
    /// # Errors
    /// Without dbus-daemon.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("exeat-desktop-")
            .tempdir()?;
        let mut desktop = Self {
            folder,
            _display: None,
            number: String::new(),
            bus: None,
        };
        desktop.start_bus()?;
        Ok(desktop)
    }

    /// One with a display, too.
    ///
    /// # Errors
    /// Without Xvfb.
    pub fn with_display() -> anyhow::Result<Self> {
        let mut desktop = Self::new()?;
        let mut display = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "900x520x24"])
            .args(["-nolisten", "tcp", "-noreset"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("Xvfb: install the package xvfb")?;
        let mut line = String::new();
        let out = display.stdout.take().context("its output")?;
        let display = Running(display);
        BufReader::new(out).read_line(&mut line)?;
        ensure!(!line.trim().is_empty(), "Xvfb said no number");
        desktop.number = format!(":{}", line.trim());
        desktop._display = Some(display);
        Ok(desktop)
    }

    /// Starts the bus, again if it ran before.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start_bus(&mut self) -> anyhow::Result<()> {
        self.bus = None;
        let config = self.path("bus.conf");
        std::fs::write(
            &config,
            format!(
                "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
                 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
                 <busconfig><type>session</type><listen>unix:path={}</listen>\
                 <auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/>\
                 <allow own=\"*\"/></policy></busconfig>",
                self.path("bus").display()
            ),
        )?;
        let bus = Command::new("dbus-daemon")
            .arg("--nofork")
            .arg(format!("--config-file={}", config.display()))
            .spawn()
            .context("dbus-daemon: install the package dbus")?;
        self.bus = Some(Running(bus));
        wait::until("the bus", wait::patience(), || {
            UnixStream::connect(self.path("bus")).ok()
        })?;
        Ok(())
    }

    /// Ends the bus, and whoever is on it with it.
    pub fn stop_bus(&mut self) {
        self.bus = None;
        let _ = std::fs::remove_file(self.path("bus"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program of this desktop.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("HOME", self.folder.path())
            .env("NO_AT_BRIDGE", "1")
            .env("TZ", "UTC")
            .env("DISPLAY", &self.number)
            .env(
                "DBUS_SESSION_BUS_ADDRESS",
                format!("unix:path={}", self.path("bus").display()),
            );
        command
    }

    /// `exeat notify` against a control socket, and what it says.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn notify(&self, runtime_dir: &Path, arguments: &[&str]) -> anyhow::Result<Notify> {
        let config = self.path(&unique::name("config"));
        std::fs::write(&config, format!("runtime_dir: {}\n", runtime_dir.display()))?;
        self.notify_with(&config, arguments)
    }

    /// The same with a configuration of the caller's.
    ///
    /// # Errors
    /// As [`Desktop::notify`].
    pub fn notify_with(&self, config: &Path, arguments: &[&str]) -> anyhow::Result<Notify> {
        let log = self.path(&unique::name("log"));
        let child = self
            .command(crate::daemon::program())
            .arg("--config")
            .arg(config)
            .arg("notify")
            .args(arguments)
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        Ok(Notify {
            process: Running(child),
            log,
        })
    }

    /// dunst, whose menu chooses the line that [`Desktop::choose`] says.
    ///
    /// # Errors
    /// Without dunst.
    pub fn dunst(&self) -> anyhow::Result<Running> {
        let menu = self.path("menu");
        let choice = self.path("choice");
        let script = format!("#!/bin/sh\ngrep -F -m1 \"$(cat {})\"\n", choice.display());
        programs::write(&menu, script.as_bytes(), 0o755)?;
        let config = self.path("dunstrc");
        std::fs::write(
            &config,
            format!(
                "[global]\n width = (300, 700)\n offset = 20x20\n font = Monospace 10\n \
                 dmenu = {}\n mouse_left_click = context\n markup = full\n \
                 ignore_newline = no\n show_age_threshold = -1\n",
                menu.display()
            ),
        )?;
        let server = self
            .command("dunst")
            .arg("-config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("dunst: install the package dunst")?;
        self.served(Running(server))
    }

    /// The notification server of GNOME's fallback session, which has buttons.
    ///
    /// # Errors
    /// Without it.
    pub fn buttons(&self) -> anyhow::Result<Running> {
        let server = self
            .command("/usr/lib/notification-daemon/notification-daemon")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("notification-daemon: install the package of this name")?;
        self.served(Running(server))
    }

    fn served(&self, server: Running) -> anyhow::Result<Running> {
        wait::until("a notification server", wait::patience(), || {
            self.has_server().then_some(())
        })?;
        Ok(server)
    }

    /// Whether somebody has the server's name.
    pub fn has_server(&self) -> bool {
        let asked = self
            .command("dbus-send")
            .args(["--session", "--print-reply", "--dest=org.freedesktop.DBus"])
            .args(["/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner"])
            .arg("string:org.freedesktop.Notifications")
            .output();
        asked.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("boolean true"))
    }

    /// What dunst's menu will choose.
    ///
    /// # Errors
    /// Those of the write.
    pub fn choose(&self, label: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.path("choice"), label)?)
    }

    /// A person sees dunst's window, of which a picture `name` is taken, and clicks it until
    /// `answered`: by its menu, `label` is chosen.
    ///
    /// # Errors
    /// When there is no window, or no answer.
    pub fn click_dunst(
        &self,
        name: &str,
        label: &str,
        answered: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        wait::until("the window", wait::patience(), || {
            let shown = self
                .xdotool(&["search", "--onlyvisible", "--class", "dunst"])
                .ok()?;
            (!shown.trim().is_empty()).then_some(())
        })?;
        self.screenshot(name)?;
        self.choose(label)?;
        wait::until("the answer", wait::patience(), || {
            self.xdotool(&["mousemove", "820", "60", "click", "1"])
                .ok()?;
            answered().then_some(())
        })
    }

    /// Runs `xdotool`, and gives what it says.
    ///
    /// # Errors
    /// When it fails.
    pub fn xdotool(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let out = self
            .command("xdotool")
            .args(arguments)
            .output()
            .context("xdotool: install the package of this name")?;
        ensure!(out.status.success(), "xdotool {arguments:?}: {out:?}");
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// A picture of the whole display, in `target/notify`.
    ///
    /// # Errors
    /// Without ImageMagick.
    pub fn screenshot(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/notify");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.png"));
        let out = self
            .command("import")
            .args(["-window", "root"])
            .arg(&path)
            .output()
            .context("import: install the package imagemagick")?;
        ensure!(out.status.success(), "{out:?}");
        Ok(path)
    }
}

/// `exeat notify`.
pub struct Notify {
    /// The process.
    pub process: Running,
    log: PathBuf,
}

impl Notify {
    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns once it has said this.
    ///
    /// # Errors
    /// When it does not.
    pub fn says(&self, what: &str) -> anyhow::Result<()> {
        let said = || self.log().contains(what).then_some(());
        wait::until(what, wait::patience(), said).with_context(|| self.log())
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("exeat notify said:\n{}", self.log());
        }
    }
}

/// A connection to the bus that does as a test says: `tests/src/bin/notifier.rs`.
pub struct Notifier {
    process: Running,
    orders: ChildStdin,
    said: mpsc::Receiver<Value>,
    unread: Vec<Value>,
    /// Its unique name.
    pub name: String,
}

impl Notifier {
    /// Starts it from its command.
    ///
    /// # Errors
    /// When it does not begin.
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("input")?;
        let out = child.stdout.take().context("output")?;
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str(&line) else {
                    return;
                };
                if tell.send(value).is_err() {
                    return;
                }
            }
        });
        let mut this = Self {
            process: Running(child),
            orders,
            said,
            unread: Vec::new(),
            name: String::new(),
        };
        let ready = this.until(|said| said[0] == "ready")?;
        this.name = ready[1].as_str().context("a name")?.to_owned();
        Ok(this)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Gives an order and waits until it was done.
    ///
    /// # Errors
    /// When it is not.
    pub fn order(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{line}")?;
        self.until(|said| said[0] == "did" && said[1] == line)?;
        Ok(())
    }

    /// The first that it said of this kind and nobody has read.
    ///
    /// # Errors
    /// When it says no such thing.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.within(wait::patience(), wanted)
    }

    /// The same, where it says nothing for so long.
    ///
    /// # Errors
    /// As [`Notifier::until`].
    pub fn within(
        &mut self,
        silence: std::time::Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        if let Some(at) = self.unread.iter().position(&wanted) {
            return Ok(self.unread.remove(at));
        }
        loop {
            let said = self.said.recv_timeout(silence)?;
            if wanted(&said) {
                return Ok(said);
            }
            self.unread.push(said);
        }
    }

    /// What it has said and nobody has read.
    pub fn rest(&mut self) -> Vec<Value> {
        self.unread.extend(self.said.try_iter());
        std::mem::take(&mut self.unread)
    }
}

/// An answer as the daemon would get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The question.
    pub question: String,
    /// The answer.
    pub choice: Choice,
    /// Through what.
    pub via: String,
}

#[derive(Default)]
struct State {
    standing: Vec<Question>,
    followers: Vec<UnixStream>,
    answers: Vec<Answered>,
    agents: Value,
    slice: String,
    refuse: Option<Problem>,
}

/// A daemon's end of the control socket. It speaks the protocol and enforces nothing.
pub struct Control {
    folder: TempDir,
    state: Arc<Mutex<State>>,
    listener: Arc<UnixListener>,
}

impl Control {
    /// One whose agents live in this slice.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(slice: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("exeat-control-")
            .tempdir()?;
        let listener = Arc::new(UnixListener::bind(folder.path().join("control.sock"))?);
        let state = Arc::new(Mutex::new(State {
            slice: slice.to_owned(),
            agents: json!([]),
            ..State::default()
        }));
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in accepting.incoming() {
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else {
                    return;
                };
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self {
            folder,
            state,
            listener,
        })
    }

    /// The runtime directory of its configuration.
    pub fn runtime_dir(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A question stands, or more joined it.
    pub fn ask(&self, question: &Question) {
        let mut state = self.state();
        state.standing.retain(|one| one.id != question.id);
        state.standing.push(question.clone());
        tell(&mut state, &Response::Question(Box::new(question.clone())));
    }

    /// It ended otherwise.
    pub fn settle(&self, id: &str, outcome: Outcome) {
        settle(&mut self.state(), id, outcome, None);
    }

    /// Whether somebody follows.
    pub fn is_followed(&self) -> bool {
        !self.state().followers.is_empty()
    }

    /// Ends every connection that follows; the questions are gone, as a daemon's would be.
    pub fn restart(&self) {
        let mut state = self.state();
        state.standing.clear();
        for stream in state.followers.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// What status says of the agents.
    pub fn set_agents(&self, agents: Value) {
        self.state().agents = agents;
    }

    /// Answers are refused with this from now on.
    pub fn refuse(&self, problem: Option<Problem>) {
        self.state().refuse = problem;
    }

    /// The answers so far.
    pub fn answers(&self) -> Vec<Answered> {
        self.state().answers.clone()
    }

    /// The first answer, waited for.
    ///
    /// # Errors
    /// When there is none.
    pub fn answer(&self) -> anyhow::Result<Answered> {
        wait::until("an answer", wait::patience(), || {
            self.answers().first().cloned()
        })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd as _;
        let both = nix::sys::socket::Shutdown::Both;
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), both);
        self.restart();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(answer: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).expect("an answer");
    line.push(b'\n');
    line
}

fn tell(state: &mut State, answer: &Response) {
    let line = line(answer);
    state
        .followers
        .retain_mut(|stream| stream.write_all(&line).is_ok());
}

fn settle(state: &mut State, id: &str, outcome: Outcome, by: Option<Who>) {
    state.standing.retain(|one| one.id != id);
    let settlement = Settlement {
        question: id.to_owned(),
        agent: "builder".to_owned(),
        outcome,
        by,
    };
    tell(state, &Response::Settled(Box::new(settlement)));
}

fn serve(mut stream: UnixStream, shared: &Mutex<State>) {
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    for request in BufReader::new(reading).lines().map_while(Result::ok) {
        let mut state = lock(shared);
        let answer = match Request::from_line(request.as_bytes()) {
            Ok(Request::Status {}) => status(&state),
            Ok(Request::Questions { follow: true, .. }) => {
                for question in state.standing.clone() {
                    let _ = stream.write_all(&line(&Response::Question(Box::new(question))));
                }
                if let Ok(follower) = stream.try_clone() {
                    state.followers.push(follower);
                }
                continue;
            }
            Ok(Request::Answer {
                question,
                choice,
                via,
                ..
            }) => answer(&mut state, question, choice, via),
            // Its rules find nothing.
            Ok(Request::Findings {}) => continue,
            other => panic!("{other:?}"),
        };
        drop(state);
        let _ = stream.write_all(&line(&answer));
    }
}

fn answer(state: &mut State, question: String, choice: Choice, via: String) -> Response {
    if let Some(problem) = &state.refuse {
        return Response::Error(problem.clone());
    }
    state.answers.push(Answered {
        question: question.clone(),
        choice,
        via: via.clone(),
    });
    let by = Who {
        uid: 0,
        name: None,
        via,
    };
    settle(state, &question, Outcome::Allowed, Some(by.clone()));
    Response::Granted(Box::new(Grant {
        id: "grant1".to_owned(),
        agent: "builder".to_owned(),
        run: None,
        ruling: choice.ruling,
        subject: GrantSubject::Name {
            name: "a.example".to_owned(),
        },
        port: None,
        lasts: choice.lasts,
        by,
        why: None,
        question: Some(question),
        program: None,
        given: jiff_now(),
        until: None,
    }))
}

fn status(state: &State) -> Response {
    let status = json!({
        "type": "status",
        "daemon": {
            "pid": 1, "version": "0", "revision": "0", "started": "2026-01-01T00:00:00Z",
            "uptime_seconds": 1, "slice": state.slice,
        },
        "enforcement": {"active": true, "walls": []},
        "agents": state.agents,
        "names": [],
        "policy": {
            "digest": "", "sources": [], "generation": 1,
            "loaded_at": "2026-01-01T00:00:00Z", "last_error": null,
        },
        "resolver": {"upstreams": [], "queries": 0, "failures": 0},
        "events": {
            "received": 0, "lost_kernel": 0, "lost_ring": 0, "lost_queue": 0, "throttled": 0,
        },
        "health": {"state": "ok", "reasons": []},
    });
    serde_json::from_value(status).expect("a status")
}

fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// A question about a host, that stands for two minutes.
pub fn question(id: &str, name: &str) -> Question {
    let now = jiff_now();
    Question {
        id: id.to_owned(),
        agent: "builder".to_owned(),
        run: Some("run-1".to_owned()),
        subject: Subject::Name {
            name: name.to_owned(),
        },
        domain: None,
        port: Some(443),
        protocol: Some(agent_common::protocol::ProtocolClass::Tcp),
        process: None,
        asks: exeat::asking::Asks::User,
        uid: Some(0),
        asked: now,
        expires: now + jiff::SignedDuration::from_secs(120),
        waiting: 1,
    }
}
