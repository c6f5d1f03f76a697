//! A list of servers, asked in order until one answers.

use std::sync::{Arc, Mutex, PoisonError};

use hickory_proto::op::{DnsRequestOptions, DnsResponse, Query};
use tokio::task::JoinSet;

use super::Fault;
use super::server::Server;
use super::validate::Validator;
use crate::dns::clock::Clock;
use crate::leases::FailKind;

/// Servers that are asked in order.
pub(super) struct Servers {
    list: Vec<Arc<Server>>,
    clock: Clock,
    /// They end with the list.
    probes: Mutex<JoinSet<()>>,
}

impl Servers {
    pub(super) fn new(list: Vec<Server>, clock: Clock) -> Self {
        Self {
            list: list.into_iter().map(Arc::new).collect(),
            clock,
            probes: Mutex::default(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.list.iter().map(AsRef::as_ref)
    }

    pub(super) fn labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.list.iter().map(|server| server.label())
    }

    /// Those that are well, in the order of the configuration; then the others, first the
    /// one whose pause ends first: asked last, but asked. One whose pause has ended is
    /// probed beside, so that no question has to wait to find out that it is still dead.
    fn order(&self) -> Vec<Arc<Server>> {
        let now = (self.clock)();
        let (mut order, mut ailing) = (Vec::new(), Vec::new());
        for server in &self.list {
            let mut health = server.health();
            if health.is_well() {
                order.push(server.clone());
            } else {
                // With nobody well the questions themselves are the probes.
                let probe = self.list.len() > 1 && health.take_probe(now);
                ailing.push((health.until(), server.clone(), probe));
            }
        }
        ailing.sort_by_key(|(until, ..)| *until);
        for (_, server, probe) in ailing {
            if probe {
                self.probe(server.clone());
            }
            order.push(server);
        }
        order
    }

    fn probe(&self, server: Arc<Server>) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        while probes.try_join_next().is_some() {}
        probes.spawn(async move { server.probe().await });
    }

    /// The answer of the first that has one, and which it was.
    pub(super) async fn ask(
        &self,
        query: &Query,
        options: DnsRequestOptions,
    ) -> Result<(DnsResponse, Arc<str>), Fault> {
        let mut fault = Fault::new(FailKind::NoUpstream, Arc::from(""));
        for server in self.order() {
            match server.ask(query, options).await {
                Ok(response) => return Ok((response, server.label().clone())),
                Err(kind) => fault = Fault::new(kind, server.label().clone()),
            }
        }
        Err(fault)
    }
}

/// Servers, and what they are asked for.
pub(super) struct Route {
    /// Tells routes apart in the cache: the zone and its servers. The same servers are
    /// the same route, so a network that one comes back to finds what it left.
    pub(super) id: Arc<str>,
    pub(super) servers: Arc<Servers>,
    validator: Option<Validator>,
}

impl Route {
    /// A route; without a validator nothing that comes by it is validated.
    pub(super) fn new(zone: &str, servers: Servers, validator: Option<Validator>) -> Self {
        let mut id = zone.to_owned();
        for label in servers.labels() {
            id.push(' ');
            id.push_str(label);
        }
        Self {
            id: id.into(),
            servers: Arc::new(servers),
            validator,
        }
    }

    /// Asks. Records of what was validated carry their proof.
    pub(super) async fn ask(
        &self,
        query: &Query,
        dnssec_ok: bool,
        validate: bool,
    ) -> Result<(DnsResponse, Arc<str>, bool), Fault> {
        let mut options = DnsRequestOptions::default();
        options.edns_set_dnssec_ok = dnssec_ok;
        match (&self.validator, validate) {
            (Some(validator), true) => {
                let (response, label) = validator.ask(&self.servers, query).await?;
                Ok((response, label, true))
            }
            (None, _) | (_, false) => {
                let (response, label) = self.servers.ask(query, options).await?;
                Ok((response, label, false))
            }
        }
    }
}
