//! What the control socket asks of the engine.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Shared, asking, cut, engine::EngineError, hold, identities, lookup, polkit, portal, report,
    runs::Candidate,
};
use crate::{
    asking::{
        AnswerError, Asks, Desk, Grant, Ruling, Subject,
        grants::{check_address, may_answer, too_much},
    },
    control::{
        DnsReport, Handler, Lease, Peer, Problem, ReloadReport, RunTicket, Status,
        protocol::{
            BundleReport, Code, HoldReport, Holding, PortalReport, ProgramFile, RevokeReport,
        },
        server::{Ahead, Answer},
    },
    dns::clock,
    error::chain,
    sink::Hub,
    store::Store,
};

/// What became of requests to run.
#[derive(Debug, Default)]
pub(super) struct Launches {
    pub(super) ok: AtomicU64,
    pub(super) refused: AtomicU64,
}

pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Handler for Handle {
    async fn status(&self) -> Status {
        self.shared
            .with(|engine| report::status(&self.shared, engine))
    }

    async fn leases(&self, agent: Option<&str>) -> Result<Vec<Lease>, Problem> {
        self.shared.with(|engine| {
            if let Some(name) = agent
                && !engine.agents.contains_key(name)
            {
                return Err(Problem::new(
                    Code::NoAgent,
                    format!("there is no policy for an agent `{}`", name.escape_debug()),
                    "see `exeat status` for the agents that have one",
                ));
            }
            let now = clock::now();
            let mut leases = Vec::new();
            for (name, entry) in &engine.agents {
                if agent.is_some_and(|wanted| wanted != name) {
                    continue;
                }
                for host in engine.leases.names(entry.index) {
                    for view in engine.leases.addresses(entry.index, host, now) {
                        if !entry.holds(view.addr, host) {
                            continue;
                        }
                        let left = SignedDuration::try_from(view.remaining).unwrap_or_default();
                        leases.push(Lease {
                            agent: name.clone(),
                            name: host.to_string(),
                            address: view.addr,
                            expires: Timestamp::now()
                                .saturating_add(left)
                                .unwrap_or(Timestamp::MAX),
                            grace: !view.fresh,
                            in_use: view.in_use,
                        });
                    }
                }
            }
            Ok(leases)
        })
    }

    async fn dns(&self, agent: &str, name: &str, qtype: &str) -> Result<DnsReport, Problem> {
        let mut report = lookup::report(&self.shared, agent, name, qtype).await?;
        lookup::with_leases(&self.shared, &mut report);
        Ok(report)
    }

    async fn reload(&self, _peer: &Peer) -> Result<ReloadReport, Problem> {
        let result = self.shared.reload();
        result.map_err(|error| {
            let code = match &error {
                EngineError::Policy(_) | EngineError::Compile(_) | EngineError::Proxy { .. } => {
                    Code::Policy
                }
                EngineError::Kernel(_)
                | EngineError::Gate { .. }
                | EngineError::Gateway { .. }
                | EngineError::Trust(_) => Code::Internal,
            };
            Problem::new(
                code,
                chain(&error),
                "nothing was changed: the policy that was in force still is",
            )
        })
    }

    async fn bundle(&self, file: Option<&std::path::Path>) -> Result<BundleReport, Problem> {
        let result = match file {
            Some(path) if !path.is_absolute() => {
                let text = "the bundle's path is not absolute";
                return Err(Problem::new(Code::BadRequest, text, ""));
            }
            Some(path) => self.shared.take_bundle_file(path),
            None => self
                .shared
                .roll_bundle_back("an administrator asked for it"),
        };
        result.map_err(|refusal| {
            let word = refusal.kind();
            Problem::new(
                Code::NotEnforceable,
                format!("the bundle was refused ({}): {refusal}", word.as_str()),
                "nothing was changed: the policy that was in force still is",
            )
        })
    }

    async fn run(
        &self,
        peer: &Peer,
        agent: &str,
        program: &[ProgramFile],
    ) -> Result<RunTicket, Problem> {
        let candidate = Candidate {
            pid: peer.pid(),
            pidfd: peer.pidfd(),
        };
        let result = match identities::admit(&self.shared, peer, agent, program).await {
            Err(problem) => Err(problem),
            Ok(admitted) => {
                let _scope = tokio::task::block_in_place(|| self.shared.keep_scope(agent));
                let moved = self.shared.with(|engine| engine.run(&candidate, agent));
                moved.map(|mut ticket| {
                    if let Some(admitted) = admitted {
                        admitted.join(&self.shared, &mut ticket);
                    }
                    ticket
                })
            }
        };
        let count = match &result {
            Ok(_) => &self.shared.launches.ok,
            Err(_) => &self.shared.launches.refused,
        };
        count.fetch_add(1, Relaxed);
        result
    }

    async fn hold(&self, agent: &str, how: Holding) -> Result<HoldReport, Problem> {
        match how {
            Holding::Frozen => hold::freeze(&self.shared, agent).await,
            Holding::Thawed => hold::thaw(&self.shared, agent).await,
            Holding::Killed => hold::kill(&self.shared, agent).await,
        }
    }

    fn desk(&self) -> &Desk {
        &self.shared.desk
    }

    async fn answer(&self, peer: &Peer, admin: bool, answer: Answer) -> Result<Grant, Problem> {
        let desk = &self.shared.desk;
        let refused = |error| asking::problem(&error);
        let none = || AnswerError::NoQuestion(answer.question.clone());
        let question = desk
            .question(&answer.question)
            .ok_or_else(none)
            .map_err(refused)?;
        let mut admin = admin;
        if !may_answer(&question, peer.uid(), admin) {
            if question.asks != Asks::Admin {
                // Whose it is is not told to others.
                return Err(refused(none()));
            }
            if !polkit::allows(peer, &question.agent).await {
                let text = format!("user {} may not answer for an administrator", peer.uid());
                return Err(refused(AnswerError::NotPermitted(text)));
            }
            admin = true;
        }
        if !admin {
            let users = self.shared.config.asking.users();
            let much = too_much(&answer.choice, users);
            if let Some(why) = much {
                return Err(refused(AnswerError::NotPermitted(why.to_owned())));
            }
            if let (Subject::Address { address }, Ruling::Allow) =
                (&question.subject, answer.choice.ruling)
            {
                check_address(*address, false).map_err(refused)?;
            }
        }
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, &answer.via);
            desk.answer(&answer.question, answer.choice, who, answer.why)
        })
        .map_err(refused)
    }

    async fn grant(&self, peer: &Peer, ahead: Ahead) -> Result<Grant, Problem> {
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, &ahead.via);
            asking::give(&self.shared, who, ahead)
        })
        .map_err(|error| asking::problem(&error))
    }

    async fn grants(&self, agent: Option<&str>) -> Vec<Grant> {
        let mut grants = self.shared.with(|engine| engine.asking.grants.all());
        grants.retain(|grant| agent.is_none_or(|agent| grant.agent == agent));
        grants
    }

    async fn revoke(&self, peer: &Peer, admin: bool, grant: &str) -> Result<RevokeReport, Problem> {
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, "cli");
            cut::revoke(&self.shared, &who, admin, grant)
        })
    }

    async fn revoke_all(&self, peer: &Peer, agent: &str) -> Result<RevokeReport, Problem> {
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, "cli");
            cut::revoke_all(&self.shared, &who, agent)
        })
    }

    async fn isolate(&self, peer: &Peer, agent: &str, on: bool) -> Result<RevokeReport, Problem> {
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, "cli");
            match on {
                true => cut::isolate(&self.shared, &who, agent),
                false => cut::rejoin(&self.shared, &who, agent),
            }
        })
    }

    async fn portal(
        &self,
        peer: &Peer,
        agent: Option<String>,
        seconds: Option<u64>,
        hosts: Vec<String>,
    ) -> Result<PortalReport, Problem> {
        tokio::task::block_in_place(|| {
            let who = asking::who(peer, "cli");
            let Some(seconds) = seconds else {
                let name = crate::asking::name_of(&who);
                let closed = portal::close(&self.shared, &format!("closed by {name}"));
                return Ok(PortalReport {
                    agent: None,
                    until: None,
                    opened: Vec::new(),
                    message: match closed {
                        true => "the portal is closed".to_owned(),
                        false => "no portal was open".to_owned(),
                    },
                    warnings: Vec::new(),
                });
            };
            let wanted = portal::Wanted {
                agent,
                seconds,
                hosts,
            };
            portal::open(&self.shared, &who, wanted)
        })
    }

    fn hub(&self) -> &Hub {
        &self.shared.hub
    }

    fn store(&self) -> Option<&Store> {
        self.shared.store.as_deref()
    }
}
