//! One connection of an agent, from its first byte to its record.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_common::Reason;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use super::certificate::Look;
use super::flow::{Flow, Socket};
use super::serve::Gateway;
use super::{Ask, Backend, Door, GatewayRecord, Grant, Judged, Kind, Outcome, Route};
use crate::leases::Name;

/// The most that is read to see what a connection is. A ClientHello fits.
const FIRST_BYTES: usize = 2048;

/// Why a connection does not go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) denied: Option<Reason>,
    pub(super) proxy_status: Option<u16>,
    pub(super) detail: Option<String>,
}

impl Ended {
    pub(super) fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            denied: None,
            proxy_status: None,
            detail: None,
        }
    }

    pub(super) fn because(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }
}

/// What the open part of a connection stands on.
#[derive(Clone, Debug)]
struct Standing {
    ask: Ask,
    grant: Grant,
    /// A hello with an encrypted name was let through.
    ech: bool,
}

/// A connection at work.
pub(super) struct Session<B> {
    pub(super) gateway: Arc<Gateway<B>>,
    pub(super) flow: Arc<Flow>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    door: Door,
    standing: Mutex<Option<Standing>>,
    draft: Mutex<Draft>,
}

/// A record under way, and the look at a certificate that it waits for.
pub(super) struct Draft {
    pub(super) record: GatewayRecord,
    pub(super) look: Option<Look>,
    since: Duration,
    /// Nothing happened since the record before it: there is nothing to tell.
    blank: bool,
}

// A panic elsewhere leaves what is behind these locks as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B: Backend> Session<B> {
    pub(super) fn new(
        gateway: Arc<Gateway<B>>,
        door: Door,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let flow = Flow::new();
        let draft = Draft {
            record: blank(gateway.agent, door, peer),
            look: None,
            since: Duration::ZERO,
            blank: false,
        };
        Self {
            gateway,
            flow,
            peer,
            local,
            door,
            standing: Mutex::default(),
            draft: Mutex::new(draft),
        }
    }

    pub(super) fn backend(&self) -> &B {
        &self.gateway.backend
    }

    pub(super) fn door(&self) -> Door {
        self.door
    }

    /// Adds to the record under way.
    pub(super) fn note(&self, change: impl FnOnce(&mut GatewayRecord)) {
        let mut draft = lock(&self.draft);
        draft.blank = false;
        change(&mut draft.record);
    }

    /// The record under way as it is.
    pub(super) fn noted(&self) -> GatewayRecord {
        lock(&self.draft).record.clone()
    }

    /// The look at a certificate that belongs to the record under way.
    pub(super) fn note_look(&self, look: Look) {
        lock(&self.draft).look = Some(look);
    }

    /// The name under judgement.
    pub(super) fn name(&self) -> Option<Name> {
        lock(&self.draft).record.name.clone()
    }

    /// The address that the gateway connected to.
    pub(super) fn connected(&self) -> Option<SocketAddr> {
        lock(&self.draft).record.connected
    }

    /// Asks the policy. What it allows stands, in the place of what stood before, until the
    /// policy changes its mind.
    pub(super) fn judge(&self, ask: Ask) -> Result<Grant, Ended> {
        match self.backend().judge(&ask) {
            Judged::Allow(grant) => {
                self.note(|record| {
                    record.kind = Some(ask.kind);
                    record.name = ask.name.clone();
                    record.port = ask.port;
                    record.rule_number = Some(grant.number);
                    record.rule = Some(Arc::clone(&grant.rule));
                });
                *lock(&self.standing) = Some(Standing {
                    ask,
                    grant: grant.clone(),
                    ech: false,
                });
                Ok(grant)
            }
            Judged::Deny(reason) => {
                self.note(|record| {
                    record.kind = Some(ask.kind);
                    record.name = ask.name.clone();
                    record.port = ask.port;
                });
                let mut ended = Ended::new(match ask.kind {
                    Kind::Tls => Outcome::NameNotAllowed,
                    Kind::Http => Outcome::HostNotAllowed,
                    Kind::Tunnel => Outcome::TunnelNotAllowed,
                });
                ended.denied = Some(reason);
                Err(ended)
            }
        }
    }

    /// What would be said, without consequences.
    pub(super) fn allows(&self, ask: &Ask) -> bool {
        matches!(self.backend().judge(ask), Judged::Allow(_))
    }

    /// Whether bytes may pass that nobody looks at.
    pub(super) fn allows_unread(&self, ask: &Ask) -> bool {
        matches!(self.backend().judge(ask), Judged::Allow(grant) if grant.inspect.is_none())
    }

    /// An encrypted name went through under what stands.
    pub(super) fn stands_on_ech(&self) {
        if let Some(standing) = &mut *lock(&self.standing) {
            standing.ech = true;
        }
    }

    /// Waits until the policy no longer has what stands. A connection that has shown nothing
    /// yet is judged by the new policy anyway.
    pub(super) async fn revoked(&self, mut changes: watch::Receiver<u64>) -> Ended {
        loop {
            if changes.changed().await.is_err() {
                return Ended::new(Outcome::PolicyChanged).because("the policy is gone");
            }
            let Some(standing) = lock(&self.standing).clone() else {
                continue;
            };
            match self.backend().judge(&standing.ask) {
                Judged::Allow(grant) => {
                    let same = grant.route == standing.grant.route
                        && grant.inspect == standing.grant.inspect;
                    if !same || standing.ech && !grant.ech || !self.still_reaches(&standing, &grant)
                    {
                        return Ended::new(Outcome::PolicyChanged);
                    }
                }
                Judged::Deny(reason) => {
                    let mut ended = Ended::new(Outcome::PolicyChanged);
                    ended.denied = Some(reason);
                    return ended;
                }
            }
        }
    }

    /// Whether the name may still stand for the address that the connection goes to.
    fn still_reaches(&self, standing: &Standing, grant: &Grant) -> bool {
        match (&standing.ask.name, &grant.route, self.connected()) {
            (Some(name), Route::Direct, Some(to)) => {
                self.backend().may_reach(name, to.ip(), to.port(), grant)
            }
            _ => true,
        }
    }

    /// Closes the record under way and begins another. `None` when nothing happened since
    /// the last one.
    pub(super) fn finish(&self, ended: Ended) -> Option<Draft> {
        let fresh = Draft {
            record: blank(self.gateway.agent, self.door, self.peer),
            look: None,
            since: self.flow.elapsed(),
            blank: true,
        };
        let mut draft = lock(&self.draft);
        let mut done = std::mem::replace(&mut *draft, fresh);
        draft.record.destination = done.record.destination;
        drop(draft);
        if done.blank {
            return None;
        }
        let (sent, received) = self.flow.take_bytes();
        let stats = &self.gateway.stats;
        stats.sent.fetch_add(sent, Relaxed);
        stats.received.fetch_add(received, Relaxed);
        stats.ended(ended.outcome);
        let record = &mut done.record;
        record.sent = sent;
        record.received = received;
        record.elapsed = self.flow.elapsed().saturating_sub(done.since);
        record.outcome = ended.outcome;
        record.denied = ended.denied;
        record.proxy_status = ended.proxy_status;
        record.detail = ended.detail;
        Some(done)
    }

    /// The first byte of a connection that says nothing for a while. All that came with it is
    /// put back together: hyper reads a head that begins with a single byte only when it is
    /// whole, and what is none would wait for its time-out.
    pub(super) async fn first_byte(&self, socket: &mut Socket) -> Result<u8, Ended> {
        let mut bytes = Vec::with_capacity(FIRST_BYTES);
        match timeout(self.gateway.config.first_byte, socket.read_buf(&mut bytes)).await {
            Err(_) => Err(Ended::new(Outcome::FirstByteTimeout)),
            Ok(Err(error)) => Err(Ended::new(Outcome::Reset).because(error)),
            Ok(Ok(_)) => {
                let first = bytes
                    .first()
                    .copied()
                    .ok_or_else(|| Ended::new(Outcome::Left))?;
                socket.put_back(bytes);
                Ok(first)
            }
        }
    }
}

fn blank(agent: u32, door: Door, peer: SocketAddr) -> GatewayRecord {
    GatewayRecord {
        agent,
        door,
        peer,
        destination: None,
        kind: None,
        name: None,
        port: 0,
        sni: None,
        shown: None,
        alpn: Vec::new(),
        alpn_chosen: None,
        certificate: None,
        rule_number: None,
        rule: None,
        denied: None,
        connected: None,
        proxy: None,
        proxy_status: None,
        sent: 0,
        received: 0,
        requests: 0,
        elapsed: Duration::ZERO,
        request: None,
        outcome: Outcome::Broken,
        detail: None,
    }
}
