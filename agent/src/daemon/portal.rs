//! A portal: for a short time a network's own name servers are asked, or an agent may reach the
//! page that a network wants to be clicked before it lets anything through. An administrator
//! opens it, it closes by itself, and both are told.
//!
//! What it opens for an agent are grants, so no deny rule gives way, a clock that is set
//! prolongs nothing, and connections end with it. It does not outlive the daemon.

use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::{Shared, asking, engine::Engine, life};
use crate::{
    asking::{AnswerError, GrantSubject, Lasts, Ruling, Who, name_of},
    control::{
        PortalStatus, Problem,
        protocol::{Code, PortalReport},
        server::Ahead,
    },
    dns::clock,
    incident::{DAEMON, Incident, IncidentKind},
};

/// The longest.
const LONGEST: Duration = Duration::from_secs(3600);
/// Where a portal's page is.
const PORTS: [u16; 2] = [80, 443];
/// Hosts of one portal.
const MOST: usize = 8;
/// The longest that an answer is believed which a network's own servers gave meanwhile.
const ANSWERS: u32 = 30;
/// What its grants are given through.
const VIA: &str = "portal";

/// One that is open.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    agent: Option<String>,
    /// Time since boot.
    until: Duration,
    closes: Timestamp,
    by: Who,
}

impl Portal {
    pub(super) fn status(&self) -> PortalStatus {
        PortalStatus {
            agent: self.agent.clone(),
            until: self.closes,
        }
    }
}

/// What is asked for.
pub(super) struct Wanted {
    pub(super) agent: Option<String>,
    pub(super) seconds: u64,
    pub(super) hosts: Vec<String>,
}

impl Engine {
    /// The longest that an answer counts: while a network's own servers are asked, that is short.
    pub(super) fn believe(&self, ttl: u32) -> u32 {
        match self
            .portal
            .as_ref()
            .is_some_and(|portal| portal.agent.is_none())
        {
            true => ttl.min(ANSWERS),
            false => ttl,
        }
    }

    /// Ends what a daemon before had opened.
    pub(super) fn close_old_portal(&mut self) {
        const WHY: &str = "the daemon was started anew";
        let ended = self.end_grants(clock::now(), WHY, |grant| grant.by.via == VIA);
        let of_grants = || ended.first().map(|grant| grant.agent.clone());
        let Some(name) = self.keeper.load_portal().or_else(of_grants) else {
            return;
        };
        let whom = match name == DAEMON {
            true => None,
            false => Some(name.as_str()),
        };
        let message = format!("the portal for {} is closed: {WHY}", self::whom(whom));
        let incident = Incident::new(IncidentKind::PortalClosed, name.clone(), message);
        self.incident(incident.with("because", WHY));
        self.remember_portal(None);
    }

    fn remember_portal(&self, open: Option<&str>) {
        if let Err(error) = self.keeper.save_portal(open) {
            warn!(%error, "that a portal is open, or is not any more, could not be written down");
        }
    }
}

/// Opens one, in the place of one that is open.
pub(super) fn open(shared: &Shared, by: &Who, wanted: Wanted) -> Result<PortalReport, Problem> {
    let span = Duration::from_secs(wanted.seconds);
    if span.is_zero() || span > LONGEST {
        return Err(Problem::new(
            Code::BadRequest,
            format!(
                "a portal is open for 1 second to {} minutes",
                LONGEST.as_secs() / 60
            ),
            "say for how long with `--for 5m`",
        ));
    }
    if wanted.hosts.len() > MOST {
        let text = format!("a portal has at most {MOST} hosts");
        return Err(Problem::new(Code::BadRequest, text, "name fewer"));
    }
    if let Some(agent) = &wanted.agent
        && !shared.with(|engine| engine.agents.contains_key(agent))
    {
        return Err(Problem::new(
            Code::NoAgent,
            format!("there is no policy for an agent `{}`", agent.escape_debug()),
            "see `exeat status` for the agents that have one",
        ));
    }
    close(shared, "another one is opened");
    let by = Who {
        via: VIA.to_owned(),
        ..by.clone()
    };
    let closes = life::in_time(span);
    let portal = Portal {
        agent: wanted.agent.clone(),
        until: clock::now() + span,
        closes,
        by: by.clone(),
    };
    let mut opened = Vec::new();
    let mut warnings = Vec::new();
    match &wanted.agent {
        None => {
            shared.with(|engine| {
                engine.remember_portal(Some(DAEMON));
                engine.portal = Some(portal);
            });
            shared.resolver.ask_the_network(Some(clock::now() + span));
            opened.extend(shared.resolver.labels());
            shared.refresh.refresh_now();
        }
        Some(agent) => {
            shared.with(|engine| engine.remember_portal(Some(agent)));
            let named = wanted.hosts.iter().map(|name| GrantSubject::Name {
                name: name.to_ascii_lowercase(),
            });
            let nearby = life::gateways()
                .into_iter()
                .map(|ip| GrantSubject::Address { address: ip.into() });
            for subject in named.chain(nearby) {
                match open_one(shared, agent, &by, &subject, wanted.seconds) {
                    Ok(()) => opened.push(text_of(&subject)),
                    Err(error) => warnings.push(format!("{}: {error}", text_of(&subject))),
                }
            }
            if opened.is_empty() {
                shared.with(|engine| {
                    end(engine, "nothing could be opened");
                    engine.remember_portal(None);
                });
                return Err(Problem::new(
                    Code::Forbidden,
                    format!("nothing could be opened: {}", warnings.join("; ")),
                    "name the portal's host with `--host`",
                ));
            }
            shared.with(|engine| engine.portal = Some(portal));
        }
    }
    let whom = whom(wanted.agent.as_deref());
    let message = format!(
        "{whom} may use the portal of this network until {closes} ({}): opened by {}",
        opened.join(", "),
        name_of(&by)
    );
    let name = wanted.agent.clone().unwrap_or_else(|| DAEMON.to_owned());
    let incident = Incident::new(IncidentKind::PortalOpened, name, message.clone())
        .with("until", closes.to_string())
        .with("opened", opened.join(", "))
        .with("by", name_of(&by))
        .of_user(Some(by.uid));
    shared.hub.incident(incident);
    Ok(PortalReport {
        agent: wanted.agent,
        until: Some(closes),
        opened,
        message,
        warnings,
    })
}

fn whom(agent: Option<&str>) -> String {
    match agent {
        Some(agent) => format!("agent {agent}"),
        None => "the daemon's resolver".to_owned(),
    }
}

fn text_of(subject: &GrantSubject) -> String {
    match subject {
        GrantSubject::Name { name } => name.clone(),
        GrantSubject::Domain { domain } => domain.clone(),
        GrantSubject::Address { address } => address.to_string(),
    }
}

fn open_one(
    shared: &Shared,
    agent: &str,
    by: &Who,
    subject: &GrantSubject,
    seconds: u64,
) -> Result<(), AnswerError> {
    for port in PORTS {
        let ahead = Ahead {
            agent: agent.to_owned(),
            subject: subject.clone(),
            port: Some(port),
            ruling: Ruling::Allow,
            lasts: Lasts::For { seconds },
            via: VIA.to_owned(),
            why: Some("portal".to_owned()),
        };
        asking::give(shared, by.clone(), ahead)?;
    }
    Ok(())
}

/// Ends the portal's grants, in the kernel first. False where that is not possible now.
fn end(engine: &mut Engine, why: &str) -> bool {
    engine.end_grants(clock::now(), why, |grant| grant.by.via == VIA);
    !engine
        .asking
        .grants
        .all()
        .iter()
        .any(|grant| grant.by.via == VIA)
}

/// Closes what is open; says whether something was.
pub(super) fn close(shared: &Shared, why: &str) -> bool {
    let closed = shared.with(|engine| {
        let portal = engine.portal.clone()?;
        if !end(engine, why) {
            warn!("a portal could not be closed; it is tried again");
            return None;
        }
        engine.portal = None;
        engine.remember_portal(None);
        Some(portal)
    });
    let Some(portal) = closed else {
        return false;
    };
    shared.resolver.ask_the_network(None);
    asking::end_connections(shared);
    if portal.agent.is_none() {
        // What the network's servers said is asked anew of those that are configured.
        shared.refresh.refresh_now();
    }
    let message = format!(
        "the portal for {} is closed: {why}",
        whom(portal.agent.as_deref())
    );
    let name = portal.agent.unwrap_or_else(|| DAEMON.to_owned());
    let incident = Incident::new(IncidentKind::PortalClosed, name, message)
        .with("because", why)
        .of_user(Some(portal.by.uid));
    shared.hub.incident(incident);
    true
}

/// Each second: closes what is over.
pub(super) fn tend(shared: &Shared) {
    let over = shared.with(|engine| {
        let portal = engine.portal.as_ref()?;
        Some(clock::now() >= portal.until || Timestamp::now() >= portal.closes)
    });
    if over == Some(true) {
        close(shared, "its time is over");
    }
}
