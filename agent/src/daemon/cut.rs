//! Taking back what people granted, and cutting agents off while they run on.
//!
//! The kernel refuses first, then connections are ended, so that nothing opens again meanwhile.

use std::time::Instant;

use jiff::Timestamp;
use tracing::warn;

use super::{
    Shared,
    asking::{end_connections, open_sockets},
    engine::Engine,
};
use crate::{
    asking::{Who, grant_text, name_of, with_who},
    control::{
        Problem,
        protocol::{Code, RevokeReport},
    },
    dns::clock,
    error::chain,
    incident::{Incident, IncidentKind},
    sockets,
};

impl Engine {
    /// Cuts an agent off in the kernel: no packet of it passes from here on, and nothing that its
    /// gateway has taken goes on.
    fn cut(&mut self, name: &str) -> Result<u32, Problem> {
        let index = self.index_of(name).ok_or_else(|| self.no_agent(name))?;
        self.kernel.isolate(index, true).map_err(|error| {
            let text = format!("agent {name} could not be cut off: {}", chain(&error));
            Problem::new(Code::Internal, text, "see `exeat status`, then try again")
        })?;
        self.gateways.close(index);
        Ok(index)
    }

    /// Whether the agent is to stay cut off.
    pub(super) fn stays_cut(&self, name: &str) -> bool {
        self.held.contains_key(name) || self.asking.isolated.contains_key(name)
    }

    fn save_isolated(&self, warnings: &mut Vec<String>) {
        if let Err(error) = self.keeper.save_isolated(&self.asking.isolated) {
            warn!(%error, "what is isolated could not be written down");
            warnings.push(format!(
                "it could not be written down ({error}), so it does not hold over a reboot"
            ));
        }
    }
}

/// Ends every connection of an agent that is cut off. Gives their number, or a warning.
fn end_all(shared: &Shared, agent: &str, warnings: &mut Vec<String>) -> u32 {
    let gone = tokio::task::block_in_place(|| {
        let mut held = open_sockets(shared, agent)?;
        held.retain(|socket| socket.peer.is_some() && !socket.listens);
        sockets::destroy(held)
    });
    match gone {
        Ok(gone) => gone as u32,
        Err(error) => {
            warnings.push(format!(
                "programs were not told that their connections are dead ({error}); no packet of them passes"
            ));
            0
        }
    }
}

/// Ends one grant, and the connections that nothing else allows.
pub(super) fn revoke(
    shared: &Shared,
    by: &Who,
    admin: bool,
    id: &str,
) -> Result<RevokeReport, Problem> {
    let begun = Instant::now();
    let none = || {
        let text = format!("there is no grant `{}`", id.escape_debug());
        Problem::new(
            Code::NoGrant,
            text,
            "see those that hold with `exeat grants`",
        )
    };
    let ended = shared.with(|engine| {
        let grant = engine.asking.grants.get(id).ok_or_else(none)?;
        // Whose it is is not told to others.
        if !admin && grant.by.uid != by.uid {
            return Err(none());
        }
        let why = format!("revoked by {}", name_of(by));
        Ok(engine.end_grants(clock::now(), &why, |grant| grant.id == id))
    })?;
    if !ended.iter().any(|grant| grant.id == id) {
        let text = format!("grant {id} could not be ended in the kernel: it still holds");
        return Err(Problem::new(
            Code::Internal,
            text,
            "see the daemon's log; `exeat isolate` cuts the agent off",
        ));
    }
    let connections = end_connections(shared);
    let grant = ended.iter().find(|grant| grant.id == id);
    let agent = grant.map(|grant| grant.agent.clone()).unwrap_or_default();
    let what = grant.map(grant_text).unwrap_or_default();
    Ok(RevokeReport {
        message: format!("agent {agent}: {what} is not granted any more"),
        isolated: shared.with(|engine| engine.stays_cut(&agent)),
        agent,
        grants: ended,
        connections,
        took_us: micros(begun),
        warnings: Vec::new(),
    })
}

fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Ends every grant and every connection of an agent.
pub(super) fn revoke_all(shared: &Shared, by: &Who, name: &str) -> Result<RevokeReport, Problem> {
    let begun = Instant::now();
    let mut warnings = Vec::new();
    // Nothing may open again while what is open is ended.
    shared.with(|engine| engine.cut(name))?;
    let connections = end_all(shared, name, &mut warnings);
    let took_us = micros(begun);
    let why = format!("revoked by {}", name_of(by));
    let (ended, isolated) = shared.with(|engine| {
        let now = clock::now();
        let had = engine.asking.grants.of(name).count();
        let ended = engine.end_grants(now, &why, |grant| grant.agent == name);
        let still = |text: &str| {
            Problem::new(
                Code::Internal,
                format!("agent {name}: {text}"),
                "it stays cut off: see the daemon's log, then `exeat isolate --agent NAME --off`",
            )
        };
        if had > 0 && ended.is_empty() {
            return Err(still("its grants could not be ended"));
        }
        if engine.stays_cut(name) {
            return Ok((ended, true));
        }
        engine
            .renew(name, now)
            .and_then(|()| match engine.index_of(name) {
                Some(index) => Ok(engine.kernel.isolate(index, false)?),
                None => Ok(()),
            })
            .map_err(|error| still(&chain(&error)))?;
        Ok((ended, false))
    })?;
    shared.desk.withdraw(|question| question.agent == name);
    Ok(RevokeReport {
        agent: name.to_owned(),
        message: format!(
            "agent {name}: {} ended, {} ended",
            counted(ended.len(), "grant"),
            counted(connections as usize, "connection")
        ),
        grants: ended,
        connections,
        isolated,
        took_us,
        warnings,
    })
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

/// Cuts an agent off from the network, and lets it run on.
pub(super) fn isolate(shared: &Shared, by: &Who, name: &str) -> Result<RevokeReport, Problem> {
    let begun = Instant::now();
    let mut warnings = Vec::new();
    let already = shared.with(|engine| {
        engine.cut(name)?;
        let already = engine.asking.isolated.contains_key(name);
        if !already {
            engine
                .asking
                .isolated
                .insert(name.to_owned(), Timestamp::now());
            engine.save_isolated(&mut warnings);
        }
        Ok(already)
    })?;
    let connections = end_all(shared, name, &mut warnings);
    let took_us = micros(begun);
    shared.desk.withdraw(|question| question.agent == name);
    let ended = counted(connections as usize, "connection");
    let message = match already {
        true => format!("agent {name} was isolated already; {ended} ended"),
        false => format!(
            "agent {name} is isolated: nothing of it reaches the network, and {ended} ended"
        ),
    };
    if !already {
        let incident = Incident::new(IncidentKind::Isolated, name, message.clone())
            .with("connections", connections.to_string())
            .with("took_us", took_us.to_string());
        shared.hub.incident(with_who(incident, by));
    }
    Ok(RevokeReport {
        agent: name.to_owned(),
        grants: Vec::new(),
        connections,
        isolated: true,
        took_us,
        message,
        warnings,
    })
}

/// Connects an agent again.
pub(super) fn rejoin(shared: &Shared, by: &Who, name: &str) -> Result<RevokeReport, Problem> {
    let begun = Instant::now();
    let mut warnings = Vec::new();
    let (was, held) = shared.with(|engine| {
        let index = engine.index_of(name);
        let held = engine.held.contains_key(name);
        // Also where taking back what it was granted was broken off.
        let cut = index.is_some_and(|index| engine.kernel.is_isolated(index)) && !held;
        let was = cut || engine.asking.isolated.contains_key(name);
        if !was && index.is_none() {
            return Err(engine.no_agent(name));
        }
        if was {
            if let Some(index) = index
                && !held
            {
                engine
                    .renew(name, clock::now())
                    .and_then(|()| Ok(engine.kernel.isolate(index, false)?))
                    .map_err(|error| {
                        let text = format!("agent {name} is still isolated: {}", chain(&error));
                        Problem::new(Code::Internal, text, "see `exeat status`, then try again")
                    })?;
            }
            engine.asking.isolated.remove(name);
            engine.save_isolated(&mut warnings);
        }
        Ok((was, held))
    })?;
    let message = match (was, held) {
        (false, _) => format!("agent {name} was not isolated"),
        (true, true) => format!("agent {name} is not isolated any more, but still frozen"),
        (true, false) => format!("agent {name} is connected again: its policy is in force"),
    };
    if was {
        let incident = Incident::new(IncidentKind::Rejoined, name, message.clone());
        shared.hub.incident(with_who(incident, by));
    }
    Ok(RevokeReport {
        agent: name.to_owned(),
        grants: Vec::new(),
        connections: 0,
        isolated: held,
        took_us: micros(begun),
        message,
        warnings,
    })
}
