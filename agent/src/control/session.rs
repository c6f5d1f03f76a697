//! One connection: requests in, answers out, each request checked anew.

use std::collections::HashSet;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::past;
use super::peer::Peer;
use super::protocol::{
    Code, DEFAULT_LIMIT, Holding, LEASES_A_LINE, LossCause, MAX_ANSWER, MAX_LINE, Problem, Request,
    Response,
};
use super::server::{Ahead, Answer, Handler, Rules};
use crate::asking::{DeskEvent, Outcome, Question, Settlement, grants::may_answer};
use crate::detect::is_for_people;
use crate::sink::{Filter, Hub, Record};

pub(super) struct Session {
    stream: UnixStream,
    peer: Peer,
    rules: Arc<Rules>,
    buffer: Vec<u8>,
}

/// Why a connection ends.
enum End {
    /// The peer closed it, or it broke.
    Gone,
    /// This is the last line that it gets.
    Tell(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Tell(problem)
    }
}

impl Session {
    pub(super) fn new(stream: UnixStream, peer: Peer, rules: Arc<Rules>) -> Self {
        Self {
            stream,
            peer,
            rules,
            buffer: Vec::new(),
        }
    }

    pub(super) async fn run<H: Handler>(mut self, handler: Arc<H>, cancel: CancellationToken) {
        loop {
            let limits = self.rules.limits;
            let line = tokio::select! {
                () = cancel.cancelled() => return,
                line = timeout(limits.idle, self.line()) => line,
            };
            let end = match line {
                Err(_) => return,
                Ok(Err(end)) => Err(end),
                Ok(Ok(line)) => self.answer(&line, &*handler, &cancel).await,
            };
            match end {
                Ok(()) => {}
                Err(End::Gone) => return,
                Err(End::Tell(problem)) => {
                    let _ = self.send(&Response::Error(problem)).await;
                    return;
                }
            }
        }
    }

    async fn answer<H: Handler>(
        &mut self,
        line: &[u8],
        handler: &H,
        cancel: &CancellationToken,
    ) -> Result<(), End> {
        self.rules.admit(&self.peer)?;
        let request = match Request::from_line(line) {
            Ok(request) => request,
            Err(problem) => return self.send(&Response::Error(problem)).await,
        };
        let admin = self.peer.may_administer(self.rules.admin_gid);
        let limit = self.rules.limits.handler;
        let answer = match request {
            Request::Events {
                follow,
                since_seq,
                agent,
                limit,
            } => {
                let filter = Filter {
                    agent,
                    uid: (!admin).then_some(self.peer.uid()),
                };
                let limit = limit.unwrap_or(DEFAULT_LIMIT) as usize;
                return self
                    .events(handler, filter, since_seq, limit, follow, cancel)
                    .await;
            }
            Request::Findings {} => {
                let uid = (!admin).then_some(self.peer.uid());
                let filter = Filter { agent: None, uid };
                return self.findings(handler, &filter, cancel).await;
            }
            Request::History { .. } => {
                let own = (!admin).then_some(self.peer.uid());
                return match within(limit, past::history(handler, request, own)).await {
                    Ok(Ok(page)) => self.page(page).await,
                    Ok(Err(problem)) | Err(problem) => self.send(&Response::Error(problem)).await,
                };
            }
            Request::Summary { .. } => {
                let own = (!admin).then_some(self.peer.uid());
                let summary = within(limit, past::summary(handler, request, own)).await;
                summary.and_then(|r| r)
            }
            Request::Leases { agent } => {
                let leases = within(limit, handler.leases(agent.as_deref())).await;
                match leases.and_then(|r| r) {
                    Ok(leases) => return self.leases(leases).await,
                    Err(problem) => Err(problem),
                }
            }
            Request::Dns { agent, name, qtype } => {
                let report = within(limit, handler.dns(&agent, &name, &qtype)).await;
                report.and_then(|r| r).map(|r| Response::Dns(Box::new(r)))
            }
            Request::Status {} => {
                let status = within(limit, handler.status()).await;
                status.map(|s| Response::Status(Box::new(s)))
            }
            Request::Reload {} if !admin => Err(Problem::new(
                Code::NotPermitted,
                format!("user {} may not reload the policy", self.peer.uid()),
                "use sudo, or have the user join the group that `control: group:` names",
            )),
            Request::Reload {} => {
                let report = within(limit, handler.reload(&self.peer)).await;
                report.and_then(|r| r).map(Response::Reload)
            }
            Request::Bundle { .. } if !admin => Err(self.for_admins("install a bundle")),
            Request::Bundle { file } => {
                let report = within(limit, handler.bundle(file.as_deref())).await;
                report.and_then(|r| r).map(Response::Bundle)
            }
            Request::Freeze { agent } => self.hold(handler, &agent, Holding::Frozen).await,
            Request::Thaw { agent } => self.hold(handler, &agent, Holding::Thawed).await,
            Request::Kill { agent } => self.hold(handler, &agent, Holding::Killed).await,
            Request::Questions { follow, agent } => {
                return self
                    .questions(handler, admin, agent.as_deref(), follow, cancel)
                    .await;
            }
            Request::Answer {
                question,
                choice,
                via,
                why,
            } => {
                let answer = Answer {
                    question,
                    choice,
                    via,
                    why,
                };
                let grant = within(limit, handler.answer(&self.peer, admin, answer)).await;
                grant
                    .and_then(|r| r)
                    .map(|g| Response::Granted(Box::new(g)))
            }
            Request::Grants { agent } => {
                let grants = within(limit, handler.grants(agent.as_deref())).await;
                let uid = self.peer.uid();
                grants.map(|grants| Response::Grants {
                    grants: grants
                        .into_iter()
                        .filter(|grant| admin || grant.by.uid == uid)
                        .collect(),
                })
            }
            Request::Grant { .. } if !admin => Err(self.for_admins("give a grant ahead")),
            Request::Grant {
                agent,
                subject,
                port,
                ruling,
                lasts,
                via,
                why,
            } => {
                let ahead = Ahead {
                    agent,
                    subject,
                    port,
                    ruling,
                    lasts,
                    via,
                    why,
                };
                let grant = within(limit, handler.grant(&self.peer, ahead)).await;
                grant
                    .and_then(|r| r)
                    .map(|g| Response::Granted(Box::new(g)))
            }
            Request::Revoke {
                grant: Some(grant),
                agent: None,
            } => {
                let report = within(limit, handler.revoke(&self.peer, admin, &grant)).await;
                report
                    .and_then(|r| r)
                    .map(|r| Response::Revoked(Box::new(r)))
            }
            Request::Revoke {
                grant: None,
                agent: Some(_),
            } if !admin => Err(self.for_admins("end everything of an agent")),
            Request::Revoke {
                grant: None,
                agent: Some(agent),
            } => {
                let report = within(limit, handler.revoke_all(&self.peer, &agent)).await;
                report
                    .and_then(|r| r)
                    .map(|r| Response::Revoked(Box::new(r)))
            }
            Request::Revoke { .. } => Err(Problem::new(
                Code::BadRequest,
                "either a grant or an agent is to be revoked",
                "send one of `grant` and `agent`",
            )),
            Request::Isolate { .. } if !admin => Err(self.for_admins("isolate an agent")),
            Request::Isolate { agent, on } => {
                let report = within(limit, handler.isolate(&self.peer, &agent, on)).await;
                report
                    .and_then(|r| r)
                    .map(|r| Response::Revoked(Box::new(r)))
            }
            Request::Portal { .. } if !admin => Err(self.for_admins("open a portal")),
            Request::Portal {
                agent,
                seconds,
                hosts,
            } => {
                let report = within(limit, handler.portal(&self.peer, agent, seconds, hosts)).await;
                report
                    .and_then(|r| r)
                    .map(|r| Response::Portal(Box::new(r)))
            }
            Request::Run { agent, program } => {
                let ticket = within(limit, handler.run(&self.peer, &agent, &program)).await;
                ticket.and_then(|r| r).map(Response::Run)
            }
        };
        self.send(&answer.unwrap_or_else(Response::Error)).await
    }

    fn for_admins(&self, what: &str) -> Problem {
        Problem::new(
            Code::NotPermitted,
            format!("user {} may not {what}", self.peer.uid()),
            "use sudo, or have the user join the group that `control: group:` names",
        )
    }

    /// The questions that stand, and with `follow` what becomes of them. Who does not
    /// administer gets own ones.
    async fn questions<H: Handler>(
        &mut self,
        handler: &H,
        admin: bool,
        agent: Option<&str>,
        follow: bool,
        cancel: &CancellationToken,
    ) -> Result<(), End> {
        let uid = self.peer.uid();
        let shown = |question: &Question| {
            agent.is_none_or(|agent| question.agent == agent) && may_answer(question, uid, admin)
        };
        let (standing, mut live) = handler.desk().subscribe();
        let mut told = HashSet::new();
        for question in standing.into_iter().filter(shown) {
            told.insert(question.id.clone());
            self.send(&Response::Question(Box::new(question))).await?;
        }
        if !follow {
            return self.send(&Response::End { last_seq: 0 }).await;
        }
        let mut tick = self.recheck();
        while let Some(next) = self.next(&mut live, &mut tick, cancel).await? {
            match next {
                Ok(DeskEvent::Asked(question)) => {
                    if shown(&question) {
                        told.insert(question.id.clone());
                        self.send(&Response::Question(Box::new(question))).await?;
                    }
                }
                Ok(DeskEvent::Settled(settlement)) => {
                    if told.remove(&settlement.question) {
                        self.send(&Response::Settled(Box::new(settlement))).await?;
                    }
                }
                // What stands is what counts: it is sent anew, and what was told and does
                // not stand any more is over.
                Err(_) => {
                    let (standing, fresh) = handler.desk().subscribe();
                    live = fresh;
                    let standing: Vec<Question> = standing.into_iter().filter(shown).collect();
                    let gone: Vec<String> = told
                        .iter()
                        .filter(|id| !standing.iter().any(|q| q.id == **id))
                        .cloned()
                        .collect();
                    for question in gone {
                        told.remove(&question);
                        let settlement = Settlement {
                            question,
                            agent: String::new(),
                            outcome: Outcome::Withdrawn,
                            by: None,
                        };
                        self.send(&Response::Settled(Box::new(settlement))).await?;
                    }
                    for question in standing {
                        told.insert(question.id.clone());
                        self.send(&Response::Question(Box::new(question))).await?;
                    }
                }
            }
        }
        self.send(&Response::End { last_seq: 0 }).await
    }

    async fn hold<H: Handler>(
        &self,
        handler: &H,
        agent: &str,
        how: Holding,
    ) -> Result<Response, Problem> {
        if self.peer.uid() != 0 {
            return Err(Problem::new(
                Code::NotPermitted,
                format!(
                    "user {} may not freeze, thaw or kill an agent",
                    self.peer.uid()
                ),
                "use sudo: only root may",
            ));
        }
        let report = within(self.rules.limits.handler, handler.hold(agent, how)).await;
        report.and_then(|r| r).map(|r| Response::Held(Box::new(r)))
    }

    async fn page(&mut self, page: crate::store::Page) -> Result<(), End> {
        for record in &page.records {
            self.send(&Response::from(record)).await?;
        }
        let last_seq = page.next;
        self.send(&Response::End { last_seq }).await
    }

    async fn leases(&mut self, leases: Vec<super::protocol::Lease>) -> Result<(), End> {
        for part in leases.chunks(LEASES_A_LINE) {
            let leases = part.to_vec();
            self.send(&Response::Leases { leases }).await?;
        }
        self.send(&Response::End { last_seq: 0 }).await
    }

    async fn events<H: Handler>(
        &mut self,
        handler: &H,
        filter: Filter,
        since_seq: Option<u64>,
        limit: usize,
        follow: bool,
        cancel: &CancellationToken,
    ) -> Result<(), End> {
        let hub = handler.hub();
        let page = hub.read(&filter, since_seq, limit);
        let mut last_seq = page.last_seq;
        if page.overwritten > 0 {
            self.send(&Response::Lost {
                records: page.overwritten,
                cause: LossCause::Overwritten,
            })
            .await?;
        }
        for record in &page.records {
            self.send(&Response::from(&**record)).await?;
        }
        if !follow {
            return self.send(&Response::End { last_seq }).await;
        }
        let mut live = page.live;
        let mut tick = self.recheck();
        while let Some(next) = self.next(&mut live, &mut tick, cancel).await? {
            match next {
                Ok(record) => {
                    last_seq = record.seq();
                    if filter.admits(&record) {
                        self.send(&Response::from(&*record)).await?;
                    }
                }
                Err(records) => self.lost(hub, records).await?,
            }
        }
        self.send(&Response::End { last_seq }).await
    }

    /// What rules find and people are to be told of, from now on.
    async fn findings<H: Handler>(
        &mut self,
        handler: &H,
        filter: &Filter,
        cancel: &CancellationToken,
    ) -> Result<(), End> {
        let hub = handler.hub();
        let mut live = hub.read(filter, None, 0).live;
        let mut tick = self.recheck();
        while let Some(next) = self.next(&mut live, &mut tick, cancel).await? {
            match next {
                Ok(record) => match &*record {
                    Record::Incident(one) if is_for_people(one) && filter.admits(&record) => {
                        self.send(&Response::from(&*record)).await?;
                    }
                    _ => {}
                },
                Err(records) => self.lost(hub, records).await?,
            }
        }
        self.send(&Response::End { last_seq: 0 }).await
    }

    /// This follower was too slow for some records.
    async fn lost(&mut self, hub: &Hub, records: u64) -> Result<(), End> {
        hub.count_follower_loss(records);
        let cause = LossCause::SlowReader;
        self.send(&Response::Lost { records, cause }).await
    }

    /// When a follower's standing is looked at again.
    fn recheck(&self) -> Interval {
        let mut tick = interval(self.rules.limits.recheck);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick
    }

    /// What happens next, for a follower, or how much was lost; none when the daemon ends.
    /// Nothing is expected from a follower but its end.
    async fn next<T: Clone>(
        &mut self,
        live: &mut Receiver<T>,
        tick: &mut Interval,
        cancel: &CancellationToken,
    ) -> Result<Option<Result<T, u64>>, End> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                end = self.receive() => {
                    end?;
                    let text = "a connection that follows takes no more requests";
                    return Err(Problem::new(Code::BadRequest, text, "open another one").into());
                }
                // It may have been moved into an agent's cgroup since it asked.
                _ = tick.tick() => self.rules.admit(&self.peer)?,
                next = live.recv() => return Ok(match next {
                    Ok(next) => Some(Ok(next)),
                    Err(RecvError::Lagged(lost)) => Some(Err(lost)),
                    Err(RecvError::Closed) => None,
                }),
            }
        }
    }

    /// The next whole line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        loop {
            let new = &self.buffer[searched..];
            if let Some(at) = new.iter().position(|b| *b == b'\n') {
                let rest = self.buffer.split_off(searched + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched >= MAX_LINE {
                let text = format!("the request is longer than {MAX_LINE} bytes");
                let help = "no request needs that; send one JSON object a line";
                return Err(Problem::new(Code::TooLong, text, help).into());
            }
            self.receive().await?;
        }
    }

    /// Reads what has come. The kernel says with every piece which process wrote it and
    /// never joins pieces of two: a connection that was inherited or passed on is of no use
    /// to whoever has it. Safe to drop while it waits.
    async fn receive(&mut self) -> Result<(), End> {
        let mut chunk = [0u8; 4096];
        let received = self
            .stream
            .async_io(Interest::READABLE, || {
                receive_from(self.stream.as_raw_fd(), &mut chunk)
            })
            .await;
        match received {
            Ok((0, _)) | Err(_) => Err(End::Gone),
            Ok((n, Some(pid))) if pid == self.peer.pid() => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Ok(_) => Err(self
                .rules
                .governed("the request was not written by the process that connected")
                .into()),
        }
    }

    async fn send(&mut self, answer: &Response) -> Result<(), End> {
        let mut line = match serde_json::to_vec(answer) {
            Ok(line) if line.len() < MAX_ANSWER => line,
            _ => {
                let text = format!("the answer would be longer than {MAX_ANSWER} bytes");
                return Err(Problem::new(Code::Internal, text, "").into());
            }
        };
        line.push(b'\n');
        match timeout(self.rules.limits.write, self.stream.write_all(&line)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.rules.counters.slow.fetch_add(1, Ordering::Relaxed);
                Err(End::Gone)
            }
        }
    }
}

async fn within<T>(
    limit: std::time::Duration,
    work: impl Future<Output = T>,
) -> Result<T, Problem> {
    timeout(limit, work).await.map_err(|_| {
        Problem::new(
            Code::Busy,
            format!("the daemon did not finish within {} s", limit.as_secs()),
            "look at the daemon's log, then try again",
        )
    })
}

/// Bytes read, and the process that wrote them; `None` if that is not known, or if
/// descriptors came along (the control buffer has no room for them, so the kernel closes
/// them and says so).
fn receive_from(fd: i32, chunk: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let mut control = nix::cmsg_space!(libc::ucred);
    let mut parts = [IoSliceMut::new(chunk)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd, &mut parts, Some(&mut control), flags)?;
    let writer = message.cmsgs().ok().and_then(|mut all| {
        all.find_map(|m| match m {
            ControlMessageOwned::ScmCredentials(c) => u32::try_from(c.pid()).ok(),
            _ => None,
        })
    });
    Ok((message.bytes, writer))
}
