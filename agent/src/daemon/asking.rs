//! Answers of people into force: a grant is written down, then in the kernel, and only then is
//! anybody who waits told.
//!
//! What an agent may do is its policy with what was granted and denied behind it, compiled and
//! swapped in as one, so that deny rules win and a packet meets entirely the one or the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use agent_common::{
    Protocol,
    verdict::{Query, judge},
};
use jiff::Timestamp;
use tracing::{error, warn};

use super::{
    Shared,
    agents::{Agent, Candidate},
    engine::{Engine, EngineError},
    state::{Held, Keeper},
};
use crate::{
    asking::{
        AnswerError, Bounds, Desk, Grant, GrantSubject, Lasts, Ruling, Who, grant_incident,
        grant_text,
        grants::{self, Grants},
    },
    control::{Peer, Problem, protocol::Code, server::Ahead},
    dns::clock,
    error::chain,
    incident::IncidentKind,
    kernel::cgroup,
    leases::Name,
    metrics::{Decision, Scope},
    policy::{Compiled, Policy, PolicySet},
    sink::Hub,
    sockets,
};

/// How often what is left of grants is written down, so that a clock that is set back while the
/// machine is off prolongs them by no more.
const SAVE: Duration = Duration::from_secs(60);

/// What people said, and what it is added to.
pub(super) struct Asking {
    pub(super) desk: Desk,
    pub(super) grants: Grants,
    /// The policies as they are written, by agent.
    bases: BTreeMap<String, Arc<Policy>>,
    /// The cgroups of the runs that grants are for, by grant: a run's name is used again.
    runs: BTreeMap<String, u64>,
    /// Agents that are cut off by a person, and since when.
    pub(super) isolated: Held,
    /// Why the grants of before are not in force.
    pub(super) trouble: Option<String>,
    saved: Duration,
    /// Grants that ended, whose connections are still to be ended.
    ended: Vec<Grant>,
    /// Answers since the start, by outcome and what they were about.
    given: [[u64; Scope::COUNT]; Decision::COUNT],
}

/// Whether what people say is of use to the runs of now.
fn is_for_a_run(grant: &Grant) -> bool {
    grant.lasts == Lasts::Run
}

impl Asking {
    /// What an earlier daemon wrote down. What cannot be read is in force no more, and left for
    /// a person to look at.
    pub(super) fn load(desk: Desk, keeper: &Keeper, boot: &str) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let isolated = keeper.load_isolated().context(
            "cannot read which agents are isolated (`isolated.json` in the state folder)",
        )?;
        let mut asking = Self {
            desk,
            grants: Grants::default(),
            bases: BTreeMap::new(),
            runs: BTreeMap::new(),
            isolated,
            trouble: None,
            saved: Duration::ZERO,
            ended: Vec::new(),
            given: Default::default(),
        };
        let read = keeper.load_grants().map_err(|e| e.to_string());
        let grants = read.and_then(|read| match read {
            None => Ok((Grants::default(), BTreeMap::new())),
            Some(bytes) => asking.read(&bytes, boot),
        });
        match grants {
            Ok((grants, runs)) => (asking.grants, asking.runs) = (grants, runs),
            Err(why) => {
                error!(
                    why,
                    "the grants of before cannot be read, and none of them holds"
                );
                asking.trouble = Some(format!(
                    "the grants of before cannot be read ({why}): none of them holds. Look at grants.json in the state folder; the next grant puts it aside"
                ));
            }
        }
        asking.publish();
        Ok(asking)
    }

    fn read(&self, bytes: &[u8], boot: &str) -> Result<(Grants, BTreeMap<String, u64>), String> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let grants = serde_json::to_vec(&file.grants).map_err(|e| e.to_string())?;
        let grants = Grants::from_bytes(&grants, boot, clock::now(), Timestamp::now());
        let mut grants = grants.map_err(|e| e.to_string())?;
        let mut runs = file.runs;
        if file.boot != boot {
            // No run outlives the boot.
            runs.clear();
            grants.end(clock::now(), Timestamp::now(), is_for_a_run);
        }
        Ok((grants, runs))
    }

    /// The policy that an agent is under: the written one, and what people said.
    fn join(&self, base: &Arc<Policy>) -> Arc<Policy> {
        match self.grants.of(base.name.as_str()).next() {
            None => Arc::clone(base),
            Some(_) => Arc::new(self.grants.join(base)),
        }
    }

    /// The desk knows what was denied.
    fn publish(&self) {
        let mut denials = self.grants.all();
        denials.retain(|grant| grant.ruling == Ruling::Deny);
        self.desk.set_denials(denials);
    }

    fn count(&mut self, grant: &Grant) {
        let decision = match grant.ruling {
            Ruling::Allow => Decision::Allowed,
            Ruling::Deny => Decision::Denied,
        };
        let scope = match grant.subject {
            GrantSubject::Name { .. } => Scope::Name,
            GrantSubject::Domain { .. } => Scope::Domain,
            GrantSubject::Address { .. } => Scope::Address,
        };
        self.given[decision.index()][scope.index()] += 1;
    }

    /// What people decided, and what nobody did.
    pub(super) fn approvals(&self) -> [[u64; Scope::COUNT]; Decision::COUNT] {
        let counts = self.desk.counts();
        let mut all = self.given;
        for (decision, count) in [
            (Decision::TimedOut, counts.timed_out),
            (Decision::Throttled, counts.throttled),
            (Decision::Withdrawn, counts.withdrawn),
        ] {
            all[decision.index()][Scope::None.index()] = count;
        }
        all
    }
}

/// What is written down, with the runs.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    boot: String,
    runs: BTreeMap<String, u64>,
    grants: serde_json::Value,
}

/// The desk of a daemon; it tells what happens at it.
pub(super) fn desk(hub: &Arc<Hub>) -> Desk {
    // Not the hub itself: it is closed by whoever has it last.
    let hub = Arc::downgrade(hub);
    Desk::new(
        Bounds::default(),
        clock::boottime(),
        Box::new(move |incident| {
            if let Some(hub) = hub.upgrade() {
                hub.incident(incident);
            }
        }),
    )
}

/// From here on answers come into force.
pub(super) fn connect(shared: &Arc<Shared>) {
    let weak: Weak<Shared> = Arc::downgrade(shared);
    shared.desk.put_in_force_by(Box::new(move |grant| {
        let gone = || AnswerError::Failed("the daemon is stopping".to_owned());
        let shared = weak.upgrade().ok_or_else(gone)?;
        shared.with(|engine| engine.put_grant(grant))
    }));
}

fn failed(what: &str, error: &dyn std::error::Error) -> AnswerError {
    AnswerError::Failed(format!("{what}: {}", chain(error)))
}

impl Engine {
    /// Puts a grant in force, and writes it down before.
    fn put_grant(&mut self, grant: &Grant) -> Result<(), AnswerError> {
        let name = grant.agent.as_str();
        let now = clock::now();
        let Some(agent) = self.agents.get(name) else {
            return Err(AnswerError::Failed(format!(
                "there is no policy for an agent `{}`: see `exeat status`",
                name.escape_debug()
            )));
        };
        if grants::rules_of(grant).is_none() {
            return Err(AnswerError::Unfit(format!(
                "`{}` is no destination that a rule can name",
                grant_text(grant).escape_debug()
            )));
        }
        if let GrantSubject::Domain { domain } = &grant.subject
            && grant.ruling == Ruling::Allow
            && psl::domain_str(domain).is_none()
        {
            return Err(AnswerError::Unfit(format!(
                "anybody can register names below `{domain}`: name a domain that has one owner"
            )));
        }
        if let GrantSubject::Address { address } = grant.subject
            && grant.ruling == Ruling::Allow
        {
            grants::check_address(address, true)?;
        }
        if let Some(rule) = grants::forbidden_by(&agent.policy, grant) {
            let by = &rule.origin.file;
            return Err(AnswerError::Forbidden(match by.strip_prefix("grant ") {
                Some(id) => {
                    format!("somebody denied it (`{rule}`): `exeat revoke {id}` takes that back")
                }
                None => format!(
                    "the policy denies it, and what a deny rule says cannot be granted away: `{rule}` ({})",
                    rule.origin
                ),
            }));
        }
        let mut runs = self.asking.runs.clone();
        if let (Lasts::Run, Some(run)) = (grant.lasts, &grant.run) {
            let path = self.kernel.slice().folder(name).join(run);
            let id = cgroup::id(&path).map_err(|_| {
                AnswerError::Failed(format!("run {} has ended", run.escape_debug()))
            })?;
            runs.insert(grant.id.clone(), id);
        }
        let mut grants = self.asking.grants.clone();
        grants.add(grant.clone(), now, Timestamp::now())?;
        let before = (
            std::mem::replace(&mut self.asking.grants, grants),
            std::mem::replace(&mut self.asking.runs, runs),
        );
        let done = self
            .save_grants(now)
            .map_err(|e| failed("it could not be written down, so it is not granted", &e))
            .and_then(|()| {
                self.put_grants(name, now)
                    .map_err(|e| failed("it could not be put in force", &e))
            });
        if done.is_err() {
            (self.asking.grants, self.asking.runs) = before;
            if let Err(error) = self.save_grants(now) {
                warn!(%error, "a grant that is not in force is written down; it will be tried at the next start");
            }
            return done;
        }
        self.asking.count(grant);
        self.asking.publish();
        Ok(())
    }

    fn save_grants(&mut self, now: Duration) -> std::io::Result<()> {
        let grants = self.asking.grants.to_bytes(&self.boot_id)?;
        let file = File {
            boot: self.boot_id.clone(),
            runs: self.asking.runs.clone(),
            grants: serde_json::from_slice(&grants)?,
        };
        let aside = self.asking.trouble.is_some();
        self.keeper
            .save_grants(&serde_json::to_vec(&file)?, aside)?;
        if aside {
            self.asking.trouble = None;
        }
        self.asking.saved = now;
        Ok(())
    }

    /// Puts what an agent was granted in force with its policy, under a new number: verdicts
    /// that sockets carry do not hold any more.
    fn put_grants(&mut self, name: &str, now: Duration) -> Result<(), EngineError> {
        let Some(base) = self.asking.bases.get(name) else {
            return Ok(());
        };
        let policy = self.asking.join(base);
        self.put_policy(name, policy, now)
    }

    /// Puts a policy of an agent that has one in force under a new number.
    pub(super) fn put_policy(
        &mut self,
        name: &str,
        policy: Arc<Policy>,
        now: Duration,
    ) -> Result<(), EngineError> {
        let Some(index) = self.agents.get(name).map(|agent| agent.index) else {
            return Ok(());
        };
        let authority = policy.inspects().then(|| self.trust.open()).transpose();
        let authority = authority.map_err(EngineError::Trust)?;
        let generation = self.generation + 1;
        let candidate: Candidate =
            self.candidate(index, policy, generation, now, authority.as_ref())?;
        let prepared = self.kernel.prepare(index, &candidate.image)?;
        self.kernel.set_gates6(&self.ports6())?;
        self.kernel.flip(prepared)?;
        let agent = self.settle(candidate, generation, now);
        {
            let rule = |name: &str| super::agents::rule(&agent.hosts, &agent.names, name);
            self.leases.set_names(index, &rule, now);
        }
        self.agents.insert(name.to_owned(), agent);
        self.generation = generation;
        self.publish_all(index, now);
        self.unsaved.touch();
        self.watch_names();
        Ok(())
    }

    /// Every name of every policy in force is kept resolved.
    fn watch_names(&mut self) {
        let names: BTreeSet<Name> = self
            .agents
            .values()
            .flat_map(|agent| agent.hosts.iter())
            .map(|host| Name::from(host.as_str()))
            .collect();
        if **self.names.borrow() == names {
            return;
        }
        self.leases.watch(&names);
        self.failing.retain(|name| names.contains(name));
        let _ = self.names.send(Arc::new(names));
    }

    /// For a policy that is about to come into force: what was granted joins it. Gives the
    /// policies as they are written.
    pub(super) fn join_grants(&mut self, set: &mut PolicySet) -> BTreeMap<String, Arc<Policy>> {
        let mut bases = BTreeMap::new();
        for (name, policy) in &mut set.agents {
            let base = Arc::new(policy.clone());
            let joined = self.asking.join(&base);
            if !Arc::ptr_eq(&joined, &base) {
                match Compiled::new(&joined) {
                    Ok(_) => *policy = (*joined).clone(),
                    // What is written comes first.
                    Err(error) => warn!(
                        agent = name.as_str(),
                        %error,
                        "what was granted does not fit beside the policy, and does not hold"
                    ),
                }
            }
            bases.insert(name.as_str().to_owned(), base);
        }
        bases
    }

    /// The policy as it is written that an agent was under before the one that came into force.
    pub(super) fn base(&self, name: &str) -> Option<&Arc<Policy>> {
        self.asking.bases.get(name)
    }

    /// Another policy is in force. Grants of agents that are gone end, and answers of agents
    /// that ask nobody any more; so do their questions.
    pub(super) fn set_bases(&mut self, bases: BTreeMap<String, Arc<Policy>>) {
        self.asking.bases = bases;
        let bases = &self.asking.bases;
        let asks = |agent: &str| {
            let base = bases.get(agent)?;
            Some(base.ask.who != crate::asking::Asks::Nobody)
        };
        let over: BTreeSet<String> = self
            .asking
            .grants
            .all()
            .into_iter()
            .filter(|grant| match asks(&grant.agent) {
                None => true,
                Some(asks) => !asks && grant.question.is_some(),
            })
            .map(|grant| grant.id)
            .collect();
        self.asking.desk.withdraw(|q| asks(&q.agent) != Some(true));
        if !over.is_empty() {
            self.end_grants(
                clock::now(),
                "the policy asks nobody for the agent any more",
                |grant| over.contains(&grant.id),
            );
        }
    }

    /// Whether the run of a grant has ended.
    fn has_ended(&self, grant: &Grant) -> bool {
        let slice = self.kernel.slice();
        match (&grant.lasts, &grant.run) {
            (Lasts::Run, Some(run)) => {
                let path = slice.folder(&grant.agent).join(run);
                let known = self.asking.runs.get(&grant.id).copied();
                cgroup::id(&path).ok() != known || known.is_none() || !cgroup::is_populated(&path)
            }
            (Lasts::Run, None) => {
                let cgroups = self.cgroups_of(&grant.agent);
                !cgroups.iter().any(|path| cgroup::is_populated(path))
            }
            _ => false,
        }
    }

    /// Ends the grants whose time or run is over, in the kernel first.
    pub(super) fn tend_grants(&mut self, now: Duration) {
        let runs: BTreeSet<String> = self
            .asking
            .grants
            .all()
            .into_iter()
            .filter(|grant| self.has_ended(grant))
            .map(|grant| grant.id)
            .collect();
        if !runs.is_empty() {
            self.end_grants(now, "its run has ended", |grant| runs.contains(&grant.id));
        }
        self.end_grants(now, "its time is over", |_| false);
        if self.asking.grants.is_timed()
            && now >= self.asking.saved + SAVE
            && let Err(error) = self.save_grants(now)
        {
            warn!(%error, "what is left of the grants could not be written down");
        }
    }

    /// Ends the grants that are over, and those that `which` says.
    pub(super) fn end_grants(
        &mut self,
        now: Duration,
        why: &str,
        which: impl Fn(&Grant) -> bool,
    ) -> Vec<Grant> {
        let before = self.asking.grants.clone();
        let ended = self.asking.grants.end(now, Timestamp::now(), which);
        if ended.is_empty() {
            return ended;
        }
        let agents: BTreeSet<&String> = ended.iter().map(|grant| &grant.agent).collect();
        for agent in agents {
            if let Err(error) = self.put_grants(agent, now) {
                error!(
                    agent,
                    error = chain(&error),
                    "grants that are over could not be ended; they are tried again"
                );
                self.asking.grants = before;
                return Vec::new();
            }
        }
        self.asking.ended.extend(ended.iter().cloned());
        for grant in &ended {
            self.asking.runs.remove(&grant.id);
            self.asking.desk.forget(&grant.agent, &grant.subject);
        }
        self.asking.publish();
        if let Err(error) = self.save_grants(now) {
            warn!(%error, "that grants ended could not be written down; what is left of their time is");
        }
        for grant in &ended {
            let message = format!("{}: {why} ({})", grant_text(grant), grant.id);
            let incident = grant_incident(IncidentKind::GrantEnded, grant, message);
            self.incident(incident.with("because", why));
        }
        ended
    }

    /// Ends what its policy does not allow any more. What is allowed by name is judged at its
    /// next packet.
    fn not_allowed_any_more(
        &self,
        name: &str,
        held: Vec<sockets::Earlier>,
    ) -> Vec<sockets::Earlier> {
        let agent = self.agents.get(name);
        let refused = |socket: &sockets::Earlier| {
            let Some(peer) = socket.peer else {
                return false;
            };
            // Its gate and gateway, and itself.
            if peer.ip().is_loopback() {
                return false;
            }
            agent.is_none_or(|agent| !allows(agent, socket.protocol, peer, socket.local.port()))
        };
        held.into_iter().filter(refused).collect()
    }
}

fn allows(agent: &Agent, protocol: u8, peer: std::net::SocketAddr, local: u16) -> bool {
    if agent.policy.mode == agent_common::layout::Mode::Monitor {
        return true;
    }
    let protocol = Protocol::new(protocol);
    let query = |port| Query {
        addr: peer.ip().into(),
        port,
        protocol,
    };
    judge(&agent.compiled, &query(peer.port())).is_allow()
        || protocol == Protocol::TCP
            && agent_common::verdict::judge_reply(&agent.compiled, &query(local)).is_allow()
}

/// What an agent has open: sockets that were made in its cgroups, and those that its processes
/// hold.
pub(super) fn open_sockets(shared: &Shared, agent: &str) -> std::io::Result<Vec<sockets::Earlier>> {
    let paths = shared.with(|engine| engine.cgroups_of(agent));
    let (mut processes, mut ids) = (Vec::new(), Vec::new());
    for path in &paths {
        processes.extend(sockets::processes_below(path));
        ids.extend(sockets::cgroups_below(path));
    }
    let found = sockets::earlier(&processes, &ids)?;
    Ok(found.sockets)
}

/// Each second: questions and grants whose time is over.
pub(super) fn tend(shared: &Shared) {
    shared.desk.tend();
    shared.with(|engine| engine.tend_grants(clock::now()));
    end_connections(shared);
}

/// Ends live connections that only grants allowed that have ended. Gives their number.
pub(super) fn end_connections(shared: &Shared) -> u32 {
    let ended = shared.with(|engine| std::mem::take(&mut engine.asking.ended));
    let agents: BTreeSet<&String> = ended
        .iter()
        .filter(|grant| grant.ruling == Ruling::Allow)
        .map(|grant| &grant.agent)
        .collect();
    let mut count = 0;
    for agent in agents {
        let gone = tokio::task::block_in_place(|| {
            let held = open_sockets(shared, agent)?;
            let refused = shared.with(|engine| engine.not_allowed_any_more(agent, held));
            sockets::destroy(refused)
        });
        match gone {
            Ok(gone) => count += gone as u32,
            Err(error) => {
                warn!(agent, %error, "connections are not ended at once; their packets are refused")
            }
        }
    }
    count
}

/// Who asks, as the kernel says.
pub(super) fn who(peer: &Peer, via: &str) -> Who {
    let known = ["cli", "notification", "top", "web", "hook", "webhook"];
    let name = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(peer.uid()));
    Who {
        uid: peer.uid(),
        name: name.ok().flatten().map(|user| user.name),
        via: match known.contains(&via) {
            true => via.to_owned(),
            false => "other".to_owned(),
        },
    }
}

/// An answer that was not taken, in the words of the control socket.
pub(super) fn problem(error: &AnswerError) -> Problem {
    let (code, help) = match error {
        AnswerError::NoQuestion(_) => (Code::NoQuestion, "see what stands with `exeat ask`"),
        AnswerError::Unfit(_) => (Code::BadRequest, ""),
        AnswerError::NotPermitted(_) => (
            Code::NotPermitted,
            "ask an administrator, or answer more narrowly or for a shorter time",
        ),
        AnswerError::Forbidden(_) => (Code::Forbidden, ""),
        AnswerError::Failed(_) => (Code::Internal, "nothing was granted; see the daemon's log"),
    };
    Problem::new(code, error.to_string(), help)
}

/// Gives a grant that nobody asked for.
pub(super) fn give(shared: &Shared, by: Who, ahead: Ahead) -> Result<Grant, AnswerError> {
    let given = Timestamp::now();
    if ahead.lasts == Lasts::Run {
        let text = "no run has asked: say for how long";
        return Err(AnswerError::Unfit(text.to_owned()));
    }
    let grant = Grant {
        id: crate::asking::new_id(),
        agent: ahead.agent,
        run: None,
        ruling: ahead.ruling,
        subject: ahead.subject,
        port: ahead.port,
        lasts: ahead.lasts,
        by,
        why: ahead
            .why
            .map(|why| why.chars().take(crate::asking::WHY).collect()),
        question: None,
        program: None,
        given,
        until: crate::asking::until(ahead.lasts, given)?,
    };
    shared.with(|engine| engine.put_grant(&grant))?;
    shared.desk.granted(&grant);
    Ok(grant)
}
