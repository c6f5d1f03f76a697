//! The process: what the daemon says onto the screen, what the person clicks back to the daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::board::{Board, Click, Shown};
use super::bus::{Bus, Heard, Server};
use super::findings::{self, Findings};
use super::follow::{Told, follow, follow_findings};
use super::text::{Button, Can, Text, clean, text};
use super::trust::Governed;
use crate::asking::Question;
use crate::control::{Client, ClientError, Code, Problem, Request, Response};

/// How often what has changed is shown, a server looked for, what is overdue thrown away.
const TICK: Duration = Duration::from_millis(500);
/// The pauses between two attempts to reach the bus.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);
/// Rounds of [`TICK`] between two looks for a server, where none was found.
const LOOK_AGAIN: u32 = 20;

/// How it runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// Whether answers are taken; else it only shows.
    pub answer: bool,
    /// Whether this user may answer for always.
    pub always: bool,
}

/// Why a session with a bus ended.
enum End {
    /// The bus is gone.
    Bus(String),
    /// The daemon will never talk to this process.
    Refused(Problem),
    /// Told to stop.
    Stop,
}

/// Shows questions until it is told to stop.
///
/// # Errors
/// Where the daemon does not talk to this process: it is governed.
pub async fn run(options: Options) -> Result<(), Problem> {
    let (tell, mut told) = mpsc::channel(64);
    let socket = options.socket.clone();
    // They end with the process: what they wait for cannot be called off.
    let (also, tell_also) = (socket.clone(), tell.clone());
    std::thread::spawn(move || follow(socket, tell));
    std::thread::spawn(move || follow_findings(also, tell_also));
    let mut desk = Desk {
        options,
        board: Board::default(),
        findings: Findings::default(),
        daemon: false,
        said: BTreeMap::new(),
    };
    let mut pause = SHORTEST;
    loop {
        let began = Instant::now();
        let end = match Bus::connect().await {
            Ok(bus) => Session::serve(bus, &mut desk, &mut told).await,
            Err(error) => End::Bus(error.to_string()),
        };
        match end {
            End::Stop => return Ok(()),
            End::Refused(problem) => return Err(problem),
            End::Bus(why) => desk.say("bus", format!("the session bus: {why}")),
        }
        desk.board.forget_shown();
        if began.elapsed() > LONGEST {
            pause = SHORTEST;
        }
        // The daemon is listened to meanwhile, or it would think of us as too slow.
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => break,
                one = told.recv() => match desk.hear(one) {
                    Ok(_) => {}
                    Err(End::Refused(problem)) => return Err(problem),
                    Err(_) => return Ok(()),
                },
            }
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// What outlives a bus.
struct Desk {
    options: Options,
    board: Board,
    findings: Findings,
    daemon: bool,
    /// The last that was said of each matter: it is not said twice.
    said: BTreeMap<&'static str, String>,
}

impl Desk {
    /// To the journal, once.
    fn say(&mut self, of: &'static str, what: String) {
        if self.said.get(of) != Some(&what) {
            eprintln!("exeat notify: {}", clean(&what));
            self.said.insert(of, what);
        }
    }

    /// Takes what the daemon says; gives what is to be taken off the screen.
    fn hear(&mut self, told: Option<Told>) -> Result<Vec<Shown>, End> {
        match told {
            Some(Told::Reached) => {
                self.daemon = true;
                self.say("daemon", "follows the daemon's questions".to_owned());
                Ok(Vec::new())
            }
            Some(Told::Question(question)) => {
                self.board.put(*question);
                Ok(Vec::new())
            }
            Some(Told::Settled(settlement)) => {
                Ok(self.board.take(&settlement.question).into_iter().collect())
            }
            Some(Told::Finding(incident)) => {
                self.findings.put(*incident);
                Ok(Vec::new())
            }
            Some(Told::Lost(why)) => {
                self.daemon = false;
                self.say("daemon", why);
                Ok(self.board.clear())
            }
            Some(Told::Refused(problem)) => Err(End::Refused(problem)),
            None => Err(End::Stop),
        }
    }
}

/// One session with a bus.
struct Session<'a> {
    bus: Bus,
    desk: &'a mut Desk,
    server: Option<Server>,
    /// Rounds until a server is looked for again.
    look_in: u32,
    /// Answers on their way to the daemon.
    answers: JoinSet<(String, Result<Response, ClientError>)>,
    /// The one that says how many more wait.
    rest: Option<(u32, usize)>,
    zone: TimeZone,
}

impl<'a> Session<'a> {
    async fn serve(bus: Bus, desk: &'a mut Desk, told: &mut mpsc::Receiver<Told>) -> End {
        let heard = match bus.listen().await {
            Ok(heard) => heard,
            Err(error) => return End::Bus(error.to_string()),
        };
        desk.said.remove("bus");
        let mut session = Self {
            bus,
            desk,
            server: None,
            look_in: 0,
            answers: JoinSet::new(),
            rest: None,
            zone: TimeZone::system(),
        };
        session.work(heard, told).await
    }

    async fn work(
        &mut self,
        mut heard: BoxStream<'static, Heard>,
        told: &mut mpsc::Receiver<Told>,
    ) -> End {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.bus.gone() => return End::Bus("it has ended".to_owned()),
                one = heard.next() => match one {
                    Some(one) => self.hear(one).await,
                    None => return End::Bus("it has ended".to_owned()),
                },
                Some(done) = self.answers.join_next() => {
                    if let Ok((id, answer)) = done {
                        self.answered(id, answer).await;
                    }
                }
                one = told.recv() => {
                    let new = matches!(one, Some(Told::Question(_) | Told::Finding(_)));
                    match self.desk.hear(one) {
                        Ok(closed) => self.close(closed).await,
                        Err(end) => {
                            let closed = self.desk.board.clear();
                            self.close(closed).await;
                            return end;
                        }
                    }
                    // What joins a question waits for the next round.
                    if new {
                        self.show(false).await;
                        self.show_findings().await;
                    }
                }
                _ = tick.tick() => {
                    for id in self.desk.board.overdue(Timestamp::now()) {
                        let closed = self.desk.board.take(&id).into_iter().collect();
                        self.close(closed).await;
                    }
                    self.look_in = self.look_in.saturating_sub(1);
                    self.show(true).await;
                    self.show_findings().await;
                }
            }
        }
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Owner => {
                self.server = None;
                self.look_in = 0;
                self.rest = None;
                self.desk.board.forget_shown();
            }
            Heard::Closed { sender, number } => self.desk.board.closed(&sender, number),
            Heard::Action {
                sender,
                number,
                key,
            } => {
                let owner = self.bus.owner().await;
                let click = self.desk.board.click(
                    sender.as_deref(),
                    owner.as_deref(),
                    number,
                    &key,
                    Instant::now(),
                );
                match click {
                    Click::Answers(question, button) => {
                        // Whom it was shown by is not looked at any more where that was found
                        // wanting since.
                        let used = self.server.as_ref().map(|server| server.owner.as_str());
                        match used == sender.as_deref() {
                            true => self.answer(*question, button).await,
                            false => self.desk.say(
                                "click",
                                "a click does not count: its server is not used any more"
                                    .to_owned(),
                            ),
                        }
                    }
                    Click::TooSoon(id) => self.desk.board.again(&id),
                    Click::Ignored(why) => {
                        let sender = sender.unwrap_or_default();
                        let what = format!("a click from {sender} does not count: {why}");
                        self.desk.say("click", what);
                    }
                }
            }
        }
    }

    async fn close(&self, closed: Vec<Shown>) {
        for shown in closed {
            self.bus.close(&shown.server, shown.number).await;
        }
    }

    /// Looks for a server where there is something to show.
    async fn find(&mut self) -> bool {
        if self.server.is_some() {
            return true;
        }
        if self.look_in > 0 {
            return false;
        }
        match self.bus.server().await {
            Ok(Some(server)) => {
                self.server = Some(server);
                self.desk.said.remove("server");
                return true;
            }
            Ok(None) => self.desk.say(
                "server",
                "nobody on this bus shows notifications".to_owned(),
            ),
            Err(error) => self
                .desk
                .say("server", format!("the notification server: {error}")),
        }
        self.look_in = LOOK_AGAIN;
        false
    }

    /// Puts on the screen what is not there; with `all` also what has changed.
    async fn show(&mut self, all: bool) {
        let mut ids = self.desk.board.to_show();
        let fresh = |id: &String| {
            let standing = self.desk.board.get(id);
            standing.is_some_and(|one| one.shown.is_none())
        };
        if !all {
            ids.retain(fresh);
        }
        let hidden = self.desk.board.hidden();
        let rest = self.rest.map_or(0, |(_, count)| count);
        if ids.is_empty() && hidden == rest {
            return;
        }
        let Some(governed) = self.screen().await else {
            return;
        };
        let closed = self.closed_because(&governed);
        for id in ids {
            self.show_one(&id, closed.as_deref()).await;
        }
        self.show_rest(hidden).await;
    }

    /// Who is governed, where there is a server that may be shown something.
    async fn screen(&mut self) -> Option<Governed> {
        if !self.find().await {
            return None;
        }
        let governed = match governed(&self.desk.options.socket).await {
            Ok(governed) => governed,
            // The follower will notice, and clear the board.
            Err(error) => {
                self.desk.say("status", error.to_string());
                return None;
            }
        };
        // What a governed program is shown no person sees.
        if let Some(why) = self.distrust(&governed) {
            self.desk.say("server", why);
            self.server = None;
            self.look_in = LOOK_AGAIN;
            return None;
        }
        Some(governed)
    }

    /// What rules found, without buttons: it is told, and asks nothing.
    async fn show_findings(&mut self) {
        while let Some(next) = self.desk.findings.due(Instant::now()) {
            if self.screen().await.is_none() {
                return;
            }
            let Some(server) = &self.server else { return };
            let text = findings::text(&next, server.can);
            match self.bus.notify(server, 0, &text, &[]).await {
                Ok(_) => self.desk.findings.is_shown(Instant::now()),
                Err(error) => {
                    let what = format!("the notification server: {error}");
                    self.desk.say("server", what);
                    self.server = None;
                    self.look_in = LOOK_AGAIN;
                    return;
                }
            }
        }
    }

    async fn show_one(&mut self, id: &str, closed: Option<&str>) {
        let (Some(server), Some(standing)) = (&self.server, self.desk.board.get(id)) else {
            return;
        };
        let question = &standing.question;
        let text = text(question, server.can, closed, &self.zone);
        let old = standing.shown.clone();
        let keys = match &old {
            Some(old) if closed.is_none() && !old.keys.is_empty() => old.keys.clone(),
            _ if closed.is_none() && server.can.actions => {
                new_keys(question, self.desk.options.always)
            }
            _ => BTreeMap::new(),
        };
        let actions: Vec<(String, &str)> = Button::of(question)
            .into_iter()
            .filter_map(|button| {
                let key = keys.iter().find(|(_, one)| **one == button)?.0;
                Some((key.clone(), button.label()))
            })
            .collect();
        let over = old.as_ref().map_or(0, |old| old.number);
        match self.bus.notify(server, over, &text, &actions).await {
            Ok(number) => {
                let shown = Shown {
                    server: server.owner.to_string(),
                    number,
                    // Buttons that come later have to be read, too.
                    since: match &old {
                        Some(old) if old.number == number && old.keys == keys => old.since,
                        _ => Instant::now(),
                    },
                    keys,
                };
                self.desk.board.showing(id, shown);
            }
            Err(error) => {
                self.desk
                    .say("server", format!("the notification server: {error}"));
                self.server = None;
                self.look_in = LOOK_AGAIN;
            }
        }
    }

    /// One notification for all questions that have no room.
    async fn show_rest(&mut self, hidden: usize) {
        let Some(server) = &self.server else { return };
        match self.rest {
            Some((number, _)) if hidden == 0 => {
                self.bus.close(server.owner.as_str(), number).await;
                self.rest = None;
            }
            Some((_, count)) if count == hidden => {}
            None if hidden == 0 => {}
            old => {
                let text = Text {
                    summary: format!("{hidden} more questions of Exeat wait"),
                    body: "In a terminal: exeat ask".to_owned(),
                };
                let over = old.map_or(0, |(number, _)| number);
                if let Ok(number) = self.bus.notify(server, over, &text, &[]).await {
                    self.rest = Some((number, hidden));
                }
            }
        }
    }

    /// Why the server, or the bus, is not to be listened to.
    fn distrust(&self, governed: &Governed) -> Option<String> {
        if let Some(why) = governed.distrust(&self.bus.process) {
            return Some(format!("the session bus is not used: {why}"));
        }
        let Some(server) = &self.server else {
            return Some("there is no notification server that is used".to_owned());
        };
        let (own, its) = (nix::unistd::getuid().as_raw(), server.uid);
        if its != Some(own) && its != Some(0) {
            return Some("the notification server is not used: it is another user's".to_owned());
        }
        let why = governed.distrust(&server.process)?;
        Some(format!(
            "the notification server (process {}) is not used: {why}",
            server.process.pid()
        ))
    }

    /// Why questions are shown and not answered here.
    fn closed_because(&self, governed: &Governed) -> Option<String> {
        match self.desk.options.answer {
            false => Some("this desktop only shows (`notify: answer: false`)".to_owned()),
            true => governed.clickers(),
        }
    }

    /// A click that counts. Who could be behind it is looked at again: much may have happened
    /// since the notification was shown.
    async fn answer(&mut self, question: Question, button: Button) {
        let id = question.id.clone();
        let refused = match governed(&self.desk.options.socket).await {
            Err(error) => return self.not_taken(&id, &error.to_string()).await,
            Ok(governed) => self
                .distrust(&governed)
                .or_else(|| self.closed_because(&governed)),
        };
        // Not shown: by whom is what is wrong.
        if let Some(why) = refused {
            self.desk
                .say("answer", format!("the answer to {id} was not taken: {why}"));
            return self.desk.board.again(&id);
        }
        self.desk.board.answered(&id);
        let request = Request::Answer {
            question: id.clone(),
            choice: button.choice(&question),
            via: "notification".to_owned(),
            why: None,
        };
        let socket = self.desk.options.socket.clone();
        // It may wait for an administrator's password.
        self.answers.spawn_blocking(move || {
            let answer = Client::connect(&socket).and_then(|mut client| client.ask(&request));
            (id, answer)
        });
    }

    /// What became of an answer.
    async fn answered(&mut self, id: String, answer: Result<Response, ClientError>) {
        let problem = match answer {
            Ok(Response::Granted(_) | Response::Settled(_)) => return,
            // Somebody was faster: its end is on the way.
            Err(ClientError::Refused(problem)) if problem.code == Code::NoQuestion => return,
            Ok(_) => "the daemon's answer cannot be read".to_owned(),
            Err(error) => error.to_string(),
        };
        self.not_taken(&id, &problem).await;
    }

    /// Tells the person, whom another button may help.
    async fn not_taken(&mut self, id: &str, problem: &str) {
        self.desk.board.again(id);
        if self.find().await
            && let Some(server) = &self.server
        {
            let text = failure(id, problem, server.can);
            let _ = self.bus.notify(server, 0, &text, &[]).await;
        }
        self.desk.say(
            "answer",
            format!("the answer to {id} was not taken: {problem}"),
        );
    }
}

async fn governed(socket: &Path) -> Result<Governed, ClientError> {
    let path = socket.to_owned();
    tokio::task::spawn_blocking(move || Governed::ask(&path))
        .await
        .unwrap_or_else(|error| Err(ClientError::Protocol(error.to_string())))
}

/// A key for each button that nobody can guess.
fn new_keys(question: &Question, always: bool) -> BTreeMap<String, Button> {
    Button::of(question)
        .into_iter()
        .filter(|button| always || *button != Button::Always)
        .map(|button| (format!("{:032x}", rand::random::<u128>()), button))
        .collect()
}

fn failure(id: &str, problem: &str, can: Can) -> Text {
    let problem = clean(&problem.replace('\n', " "));
    let body = match can.markup {
        true => super::text::escape(&problem),
        false => problem,
    };
    Text {
        summary: format!("Exeat: the answer to {} was not taken", clean(id)),
        body,
    }
}
