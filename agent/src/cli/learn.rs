//! `exeat learn`: rules from what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use similar::TextDiff;

use super::exit::{Exit, Failure};
use super::explain::{self, Flow};
use super::output::print;
use super::term::printable_lines;
use crate::config::Config;
use crate::control::protocol::{Code, MAX_NAMES, Request, Response};
use crate::control::{Client, ClientError};
use crate::flow::FlowRecord;
use crate::learn::{How, Lesson, Target, Want, insert, wire, write};
use crate::policy::{self, Policy, PolicySet, PolicyText};
use agent_common::{Protocol, Reason};

/// Records of the history, or of the daemon's memory, that are asked for.
const PAST: u32 = 100_000;
/// Destinations that are looked up in the history.
const MOST_COMPARED: usize = 300;
/// After the command ended: until nothing has come for so long.
const QUIET: Duration = Duration::from_millis(700);
/// And at most so long.
const TAIL: Duration = Duration::from_secs(5);

/// What to learn from.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LearnArgs {
    /// The agent
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// Watch for so long, such as 90s, 30m or 1h (Ctrl-C ends it before, and it is written all
    /// the same)
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with = "command")]
    pub watch: Option<Duration>,
    /// Learn from the records since then, such as 2h or 7d ago [default: 1d, where nothing is
    /// watched]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// Give names that were asked for and refused, so that no port was seen, a rule for this one
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub assume_port: Option<u16>,
    /// Policy file or folder to add to, may be repeated [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    pub policy: Vec<PathBuf>,
    /// Print what would change as a unified diff (this is what happens without --write)
    #[arg(long)]
    pub diff: bool,
    /// Put the rules into this file of the policy, or begin it
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    pub write: Option<PathBuf>,
    /// Run the command as this user (with a command, as root)
    #[arg(long, value_name = "USER", requires = "command")]
    pub user: Option<String>,
    /// Run this command as the agent, and learn until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: SignedDuration = match text.strip_suffix('d').map(str::parse::<i64>) {
        Some(Ok(days)) if (1..=3650).contains(&days) => SignedDuration::from_hours(24 * days),
        _ => text
            .parse()
            .map_err(|_| "write a time such as 90s, 30m, 2h or 7d".to_owned())?,
    };
    match Duration::try_from(span) {
        Ok(span) if !span.is_zero() => Ok(span),
        _ => Err("write a time above zero".into()),
    }
}

/// Learns, and writes or shows what came of it.
pub fn run(config: &Config, file: Option<&Path>, args: &LearnArgs) -> Result<Exit, Failure> {
    may_administer(config)?;
    let paths = if args.policy.is_empty() {
        &config.policy
    } else {
        &args.policy
    };
    let socket = config.socket_path();
    let (set, texts) = existing(paths)?;
    let started = Timestamp::now();
    let mut lesson = Lesson::default();
    let watching = args.watch.is_some() || !args.command.is_empty();
    let since = match (args.since, watching) {
        (Some(since), _) => Some(since),
        (None, true) => None,
        (None, false) => Some(Duration::from_secs(86_400)),
    };
    if let Some(since) = since {
        let since = started - SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX);
        past(&socket, &args.agent, since, &mut lesson)?;
    }
    if watching {
        watch(&socket, file, args, &mut lesson)?;
    }
    if lesson.records == 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "nothing was seen of the agent `{}`: run it while this watches (`--for 10m`, or \
                 `-- COMMAND`), or look further back (`--since 7d`)",
                args.agent
            ),
        ));
    }
    let old = set
        .as_ref()
        .and_then(|set| set.agents.get(args.agent.as_str()));
    if let Some(old) = old {
        settle(&mut lesson, old)?;
    }
    let known = known(&socket, &lesson);
    let written = write(
        &lesson,
        &How {
            assumed_port: args.assume_port,
            known: known.as_ref(),
        },
    );
    for flag in &written.flags {
        eprintln!("exeat: look: {}", printable_lines(flag));
    }
    if written.rules.is_empty() && written.notes.is_empty() {
        eprintln!("exeat: the policy allows everything that was seen; nothing is to be added");
        return Ok(Exit::Ok);
    }
    let place = place(args, &texts, old)?;
    let before = texts
        .iter()
        .find(|text| text.name == place.display().to_string());
    let before = before.map(|text| text.text.clone()).unwrap_or_default();
    let after = insert(&before, &args.agent, &written.rules, &written.notes)
        .map_err(|error| by_hand(&error.to_string(), &written.rules, &written.notes))?;
    check(
        &texts,
        &place,
        &after,
        set.as_ref(),
        args,
        written.rules.len(),
    )
    .map_err(|error| by_hand(&error, &written.rules, &written.notes))?;
    match &args.write {
        None => {
            let name = place.display().to_string();
            let diff = TextDiff::from_lines(&before, &after);
            let diff = diff.unified_diff().header(&name, &name).to_string();
            print(&printable_lines(&diff))?;
            eprintln!(
                "exeat: {} rules; `--write {name}` puts them there, then `exeat reload`",
                written.rules.len()
            );
        }
        Some(file) => {
            replace(file, &after).map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("cannot write {}: {error}", file.display()),
                )
            })?;
            eprintln!(
                "exeat: {} rules are in {}: read them, then `exeat reload`",
                written.rules.len(),
                file.display()
            );
        }
    }
    if old.is_some_and(|old| old.mode == agent_common::layout::Mode::Monitor) {
        eprintln!(
            "exeat: the agent is in monitor mode: write `mode: enforce` once the rules are read"
        );
    }
    Ok(Exit::Ok)
}

/// Records are of everybody's programs, and what is written becomes policy.
fn may_administer(config: &Config) -> Result<(), Failure> {
    let group = config.admin_gid()?;
    let own = nix::unistd::getgroups().unwrap_or_default();
    let member = group.is_some_and(|group| {
        own.iter().any(|g| g.as_raw() == group) || nix::unistd::getegid().as_raw() == group
    });
    match nix::unistd::geteuid().is_root() || member {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::NotPermitted,
            "learning reads what every user's programs did: use sudo, or have the user join the \
             group that `control: group:` names",
        )),
    }
}

/// The policy that is there; none where there is no file yet.
fn existing(paths: &[PathBuf]) -> Result<(Option<PolicySet>, Vec<PolicyText>), Failure> {
    if paths.iter().all(|path| !path.exists()) {
        return Ok((None, Vec::new()));
    }
    match policy::load_with_texts(paths) {
        Ok((set, texts)) => Ok((Some(set), texts)),
        Err(errors) => Err(Failure::new(Exit::Usage, errors.to_string())),
    }
}

/// The records of the history; where none is kept, what the daemon remembers.
fn past(socket: &Path, agent: &str, since: Timestamp, lesson: &mut Lesson) -> Result<(), Failure> {
    let mut before = None;
    let mut pages: Vec<Vec<FlowRecord>> = Vec::new();
    let mut records = 0;
    loop {
        let request = Request::History {
            agent: Some(agent.to_owned()),
            since: Some(since),
            until: None,
            names: Vec::new(),
            verdict: None,
            incidents: false,
            limit: None,
            before,
        };
        let (page, last) = match page(socket, &request) {
            Ok(page) => page,
            Err(ClientError::Refused(problem))
                if matches!(problem.code, Code::NoHistory | Code::UnknownMethod) =>
            {
                let request = Request::Events {
                    follow: false,
                    since_seq: None,
                    agent: Some(agent.to_owned()),
                    limit: Some(PAST),
                };
                let (mut page, _) = page(socket, &request)?;
                page.retain(|flow| flow.time >= since);
                (page, 0)
            }
            Err(error) => return Err(error.into()),
        };
        records += page.len();
        let empty = page.is_empty();
        pages.push(page);
        if last == 0 || empty || Some(last) == before {
            break;
        }
        if records >= PAST as usize {
            eprintln!("exeat: the newest {records} records are read, and none before them");
            break;
        }
        before = Some(last);
    }
    let mut flows: Vec<FlowRecord> = pages.into_iter().rev().flatten().collect();
    flows.sort_by_key(|flow| flow.time);
    // An answer names the flows behind it; that the gate answers late is no matter here.
    for flow in &flows {
        lesson.flow(flow);
    }
    Ok(())
}

fn page(socket: &Path, request: &Request) -> Result<(Vec<FlowRecord>, u64), ClientError> {
    page_of(&mut Client::connect(socket)?, request)
}

fn page_of(client: &mut Client, request: &Request) -> Result<(Vec<FlowRecord>, u64), ClientError> {
    client.send(request)?;
    let mut flows = Vec::new();
    while let Some(answer) = client.next()? {
        match answer {
            Response::Flow(flow) => flows.push(*flow),
            Response::End { last_seq } => return Ok((flows, last_seq)),
            _ => {}
        }
    }
    Err(ClientError::Protocol("it ended before its end".into()))
}

/// What is waited for while the agent runs.
enum Heard {
    Flow(Box<FlowRecord>),
    Lost(u64),
    Told(wire::Told),
    /// The command's exit, or an interrupt.
    Ended(Option<i32>),
    Gone(String),
}

fn watch(
    socket: &Path,
    file: Option<&Path>,
    args: &LearnArgs,
    lesson: &mut Lesson,
) -> Result<(), Failure> {
    let servers = monitored(socket, args)?;
    let (sender, heard) = channel();
    names(servers, &sender);
    follow(socket, &args.agent, &sender)?;
    let until = args.watch.and_then(|time| Instant::now().checked_add(time));
    interrupts(&sender)?;
    if !args.command.is_empty() {
        command(file, args, &sender)?;
    }
    let ended = listen(&heard, lesson, until)?;
    if let Some(code) = ended.filter(|code| *code != 0) {
        eprintln!("exeat: the command ended with {code}");
    }
    Ok(())
}

/// The machine's DNS servers. A command runs only where the policy lets everything through.
fn monitored(socket: &Path, args: &LearnArgs) -> Result<BTreeSet<std::net::IpAddr>, Failure> {
    let Response::Status(status) = Client::connect(socket)?.ask(&Request::Status {})? else {
        return Err(ClientError::Protocol("it is no status".into()).into());
    };
    let agent = status.agents.iter().find(|agent| agent.name == args.agent);
    let what_to_write = format!(
        "write into a file of the policy\n\nagents:\n  {}:\n    mode: monitor\n\nthen `exeat reload`; \
         monitor mode lets everything through and records it, so use a machine where that may happen",
        args.agent
    );
    match agent {
        None => Err(Failure::new(
            Exit::Usage,
            format!("the policy has no agent `{}`: {what_to_write}", args.agent),
        )),
        Some(agent) if agent.mode != "monitor" && !args.command.is_empty() => Err(Failure::new(
            Exit::Usage,
            format!(
                "the agent `{0}` is enforced, so the command would be refused at its first \
                     unknown destination: {what_to_write}\n\nor learn from its refusals: `exeat \
                     learn --agent {0} --for 10m` while it runs",
                args.agent
            ),
        )),
        Some(_) => {
            let mut servers = wire::system_servers();
            let upstreams = status.resolver.upstreams.iter();
            servers.extend(upstreams.filter_map(|server| {
                let address = server.parse::<std::net::SocketAddr>().map(|s| s.ip());
                address.or_else(|_| server.parse()).ok()
            }));
            Ok(servers)
        }
    }
}

/// Threads that end with the process.
fn names(servers: BTreeSet<std::net::IpAddr>, sender: &Sender<Heard>) {
    match wire::Wire::open(servers) {
        Err(error) => eprintln!(
            "exeat: answers of the DNS cannot be read ({error}), so a monitored agent's \
             destinations have no names: use sudo"
        ),
        Ok(mut wire) => {
            let sender = sender.clone();
            std::thread::spawn(move || {
                loop {
                    if let Some(told) = wire.next(Duration::from_secs(3600))
                        && sender.send(Heard::Told(told)).is_err()
                    {
                        return;
                    }
                }
            });
        }
    }
}

fn follow(socket: &Path, agent: &str, sender: &Sender<Heard>) -> Result<(), Failure> {
    let mut client = Client::connect(socket)?;
    client.send(&Request::Events {
        follow: true,
        since_seq: None,
        agent: Some(agent.to_owned()),
        limit: Some(0),
    })?;
    client.wait_forever()?;
    let sender = sender.clone();
    std::thread::spawn(move || {
        loop {
            let heard = match client.next() {
                Ok(Some(Response::Flow(flow))) => Heard::Flow(flow),
                Ok(Some(Response::Lost { records, .. })) => Heard::Lost(records),
                Ok(Some(Response::End { .. }) | None) => {
                    Heard::Gone("the daemon has stopped".into())
                }
                Ok(Some(_)) => continue,
                Err(error) => Heard::Gone(error.to_string()),
            };
            let end = matches!(heard, Heard::Gone(_));
            if sender.send(heard).is_err() || end {
                return;
            }
        }
    });
    Ok(())
}

/// Ctrl-C ends the watching, not the writing.
fn interrupts(sender: &Sender<Heard>) -> Result<(), Failure> {
    use nix::sys::signal::{SigSet, Signal};
    let ends = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    ends.thread_block().map_err(std::io::Error::from)?;
    let sender = sender.clone();
    std::thread::spawn(move || {
        while ends.wait().is_ok() {
            if sender.send(Heard::Ended(None)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// `exeat run` beside this process, which the agent could not leave again.
fn command(file: Option<&Path>, args: &LearnArgs, sender: &Sender<Heard>) -> Result<(), Failure> {
    use std::os::unix::process::CommandExt as _;
    let mut run = Command::new("/proc/self/exe");
    if let Some(file) = file {
        run.arg("--config").arg(file);
    }
    run.args(["run", "--agent", &args.agent]);
    if let Some(user) = &args.user {
        run.args(["--user", user]);
    }
    run.arg("--").args(&args.command).stdin(Stdio::inherit());
    let unblock = || {
        use nix::sys::signal::SigSet;
        SigSet::empty()
            .thread_set_mask()
            .map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec only a system call is made.
    unsafe { run.pre_exec(unblock) };
    let mut child = run.spawn().map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot start `exeat run`: {error}"))
    })?;
    let sender = sender.clone();
    std::thread::spawn(move || {
        let code = child.wait().ok().map(|status| status.code().unwrap_or(128));
        let _ = sender.send(Heard::Ended(Some(code.unwrap_or(1))));
    });
    Ok(())
}

/// Listens until the time is over or the command has ended, and then what is on its way.
fn listen(
    heard: &Receiver<Heard>,
    lesson: &mut Lesson,
    until: Option<Instant>,
) -> Result<Option<i32>, Failure> {
    let mut ended: Option<(Instant, Option<i32>)> = None;
    // Flows wait until what was answered before them is read, which comes by another way.
    let mut flows: Vec<Box<FlowRecord>> = Vec::new();
    let end = loop {
        let now = Instant::now();
        let wait = match (ended, until) {
            (Some((at, code)), _) if now >= at + TAIL => break code,
            (Some(_), _) => QUIET,
            (None, Some(until)) if now >= until => {
                ended = Some((now, None));
                QUIET
            }
            (None, Some(until)) => until - now,
            (None, None) => Duration::from_secs(3600),
        };
        match heard.recv_timeout(wait) {
            Ok(Heard::Flow(flow)) => flows.push(flow),
            Ok(Heard::Told(told)) => lesson.answer(&told.name, &told.addresses),
            Ok(Heard::Lost(records)) => lesson.left_out += records,
            Ok(Heard::Ended(code)) => ended = ended.or(Some((Instant::now(), code))),
            Ok(Heard::Gone(why)) => {
                return Err(Failure::new(
                    Exit::NotRunning,
                    format!("{why}, so what was seen is not whole: nothing is written"),
                ));
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((_, code)) = ended {
                    break code;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break None,
        }
        if flows.len() >= 1024 {
            flows.drain(..).for_each(|flow| lesson.flow(&flow));
        }
    };
    flows.drain(..).for_each(|flow| lesson.flow(&flow));
    Ok(end)
}

/// Takes out what the policy allows already, and what a deny rule of it forbids: that is a
/// person's word, and nothing that was seen changes it.
fn settle(lesson: &mut Lesson, old: &Policy) -> Result<(), Failure> {
    let mut forbidden: BTreeMap<Want, crate::learn::Seen> = BTreeMap::new();
    let mut failed = None;
    let mut keep = |want: &Want| {
        let flow = flow_of(want);
        match explain::explain(old, &flow) {
            Ok(answer) => match answer.verdict {
                agent_common::verdict::Verdict::Allow { .. } => (false, false),
                agent_common::verdict::Verdict::Deny { reason, .. } => {
                    let denied = answer
                        .name
                        .as_ref()
                        .is_some_and(|name| name.denied_by.is_some());
                    let forbidden = reason == Reason::DenyRule || denied;
                    (!forbidden, forbidden)
                }
            },
            Err(error) => {
                failed = Some(error.to_string());
                (true, false)
            }
        }
    };
    lesson.wants.retain(|want, seen| {
        let (keep, denied) = keep(want);
        if denied {
            forbidden.insert(want.clone(), seen.clone());
        }
        keep
    });
    lesson.asked.retain(|(name, _), _| {
        keep(&Want {
            target: Target::Name(name.clone()),
            protocol: "tcp",
            port: 443,
        })
        .0
    });
    if let Some(error) = failed {
        return Err(Failure::new(Exit::Usage, error));
    }
    for (want, seen) in forbidden {
        let Want {
            target,
            protocol,
            port,
        } = want;
        let text = format!("{protocol} {target} port {port}: a deny rule of the policy");
        lesson.closed.insert(text, seen);
    }
    Ok(())
}

fn flow_of(want: &Want) -> Flow {
    Flow {
        protocol: match want.protocol {
            "udp" => Protocol::UDP,
            "icmp" => Protocol::ICMP,
            _ => Protocol::TCP,
        },
        target: match &want.target {
            Target::Name(name) => explain::Target::Host(name.clone()),
            Target::Address(address) => explain::Target::Addr(*address),
        },
        port: want.port,
    }
}

/// Destinations that the history has from before they were seen here; none where no history is
/// kept. A name is known by its addresses too: records of a monitored agent have no names.
fn known(socket: &Path, lesson: &Lesson) -> Option<BTreeSet<String>> {
    let mut all: BTreeMap<String, (Timestamp, BTreeSet<String>)> = BTreeMap::new();
    let wants = lesson
        .wants
        .iter()
        .map(|(want, seen)| (want.target.to_string(), seen));
    let asked = lesson
        .asked
        .iter()
        .map(|((name, _), seen)| (name.as_str().to_owned(), seen));
    for (target, seen) in wants.chain(asked) {
        let (first, hosts) = all
            .entry(target.clone())
            .or_insert((seen.first, BTreeSet::new()));
        *first = (*first).min(seen.first);
        hosts.insert(target);
        hosts.extend(seen.addresses.iter().map(ToString::to_string));
    }
    let mut client = Client::connect(socket).ok()?;
    let mut known = BTreeSet::new();
    for (number, (target, (first, hosts))) in all.into_iter().enumerate() {
        let request = Request::History {
            agent: None,
            since: None,
            until: Some(first),
            names: hosts.into_iter().take(MAX_NAMES).collect(),
            verdict: None,
            incidents: false,
            limit: Some(1),
            before: None,
        };
        // Of very many nobody reads which are new.
        if number >= MOST_COMPARED || !page_of(&mut client, &request).ok()?.0.is_empty() {
            known.insert(target);
        }
    }
    Some(known)
}

/// The file that the rules go to: the one that is named, the one that has the agent, or the first.
fn place(args: &LearnArgs, texts: &[PolicyText], old: Option<&Policy>) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.write {
        return Ok(file.clone());
    }
    let of_rules = old.and_then(|old| old.rules.iter().find(|rule| rule.group.is_none()));
    if let Some(rule) = of_rules {
        return Ok(PathBuf::from(&*rule.origin.file));
    }
    let has = |text: &&PolicyText| {
        policy::parse(&text.name, &text.text)
            .is_ok_and(|set| set.agents.contains_key(args.agent.as_str()))
    };
    match texts.iter().find(has) {
        Some(text) => Ok(PathBuf::from(&text.name)),
        None if texts.len() == 1 && old.is_some() => Ok(PathBuf::from(&texts[0].name)),
        None if old.is_some() => Err(Failure::new(
            Exit::Usage,
            format!(
                "which file has the agent `{}` is not clear: say --write FILE",
                args.agent
            ),
        )),
        None => Ok(PathBuf::from(format!("{}.yaml", args.agent))),
    }
}

/// The whole policy with the changed file must load, say the same of all other agents, and have
/// the new rules besides the old ones.
fn check(
    texts: &[PolicyText],
    place: &Path,
    after: &str,
    set: Option<&PolicySet>,
    args: &LearnArgs,
    added: usize,
) -> Result<(), String> {
    let name = place.display().to_string();
    let mut all: Vec<PolicyText> = texts
        .iter()
        .filter(|text| text.name != name)
        .cloned()
        .collect();
    all.push(PolicyText {
        name,
        text: after.to_owned(),
    });
    let new = policy::parse_all(&all).map_err(|errors| errors.to_string())?;
    for (agent, policy) in set.iter().flat_map(|set| &set.agents) {
        let now = new.agents.get(agent).ok_or("an agent would be gone")?;
        if agent.as_str() != args.agent && digest(now) != digest(policy) {
            return Err(format!("the agent `{agent}` would change"));
        }
    }
    let old = set.and_then(|set| set.agents.get(args.agent.as_str()));
    let now = new
        .agents
        .get(args.agent.as_str())
        .ok_or("the agent is not in the file")?;
    let rules = |policy: &Policy| {
        policy
            .rules
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let (had, has) = (old.map(rules).unwrap_or_default(), rules(now));
    let kept = had.iter().all(|rule| has.contains(rule));
    match kept && has.len() == had.len() + added {
        true => Ok(()),
        false => Err("the file would not say what it should".into()),
    }
}

/// What a policy says, without where it says it.
fn digest(policy: &Policy) -> String {
    let agents = [(policy.name.clone(), policy.clone())].into();
    PolicySet::new(agents, Vec::new()).digest
}

fn by_hand(why: &str, rules: &[String], notes: &[String]) -> Failure {
    let all: String = rules.iter().chain(notes).map(String::as_str).collect();
    Failure::new(
        Exit::Failed,
        format!("{why}\n\nthe rules, for `allow:`\n\n{all}"),
    )
}

/// Whole or not at all: the daemon may read the file at any moment.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.exeat-{}", std::process::id()));
    let mode = match std::fs::metadata(file) {
        Ok(old) => std::os::unix::fs::PermissionsExt::mode(&old.permissions()),
        Err(_) => 0o644,
    };
    let written = (|| {
        let mut new = std::fs::File::options()
            .write(true)
            .create_new(true)
            .open(&beside)?;
        new.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&beside, file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in ["", "0s", "-1h", "soon", "d", "0d", "99999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
