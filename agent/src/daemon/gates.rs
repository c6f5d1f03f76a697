//! The gates of all agents: their sockets, the tasks that serve them, and what each of them
//! goes by: the agent's names, its budget, the resolver, and the engine that grants.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak, atomic::Ordering::Relaxed},
    time::Instant,
};

use hickory_proto::rr::RecordType;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    containers::Namespace,
    directory::{Directory, Published},
    engine::Engine,
    fd_store::{FdStore, Owner, Service},
    holding::Holding,
    serving::{Abroad, Tasks, lock},
    watch,
};
use crate::{
    asking::{Asks, Ruling},
    dns::{
        budget::{Budget, Spent},
        clock,
        gate::{Backend, GatePorts, GateSockets, Granted, Lately, NotGranted, Records, is_askable},
        resolver::{Answer, Failed, Found, Prefetch, Question, Resolver, addresses, merge},
        stats::DnsStats,
    },
    kernel::object::Throttle,
    leases::{CLIENT_TTL, FailKind, Name, canonical},
    policy::{Ask, DnsPolicy, NameRule, NameRules, Refuse},
    sink::Hub,
};

/// Records of one gate that may wait to be told, refusals and answers each. Each gate has its
/// own queues, so that one agent's questions cannot crowd out another's.
const QUEUE: usize = 1024;

struct Gate {
    name: String,
    ports: GatePorts,
    desk: Arc<Desk>,
    records: Records,
    stop: CancellationToken,
    /// Where else it answers, and what ends that.
    abroad: Abroad,
}

/// What gates need besides their own: the resolver, and the engine once it runs.
#[derive(Clone)]
pub(super) struct Means {
    resolver: Arc<Resolver>,
    shared: Arc<SetOnce<Weak<Shared>>>,
    holding: Arc<SetOnce<Arc<Holding>>>,
}

impl Means {
    pub(super) fn new(resolver: Arc<Resolver>) -> Self {
        Self {
            resolver,
            shared: Arc::default(),
            holding: Arc::default(),
        }
    }

    /// From now on names that no rule decides are asked about.
    pub(super) fn ask_by(&self, holding: Arc<Holding>) {
        let _ = self.holding.set(holding);
    }

    /// The daemon's parts, once it runs; none once it has ended.
    pub(super) fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get().and_then(Weak::upgrade)
    }

    /// Waits until the daemon runs.
    pub(super) async fn ready(&self) {
        self.shared.wait().await;
    }

    /// From now on addresses can be granted, and gates serve.
    pub(super) fn connect(&self, shared: &Arc<Shared>) {
        // Said once, at the start.
        let _ = self.shared.set(Arc::downgrade(shared));
    }
}

/// What the agent's policy in force says of names.
#[derive(Clone, Default)]
struct Rules {
    names: Arc<NameRules>,
    dns: DnsPolicy,
    ask: Ask,
}

/// One agent's gate as it decides: [`Backend`].
pub(super) struct Desk {
    agent: u32,
    rules: RwLock<Rules>,
    budget: Mutex<Budget>,
    published: Arc<Published>,
    means: Means,
    /// Names that a person was asked about.
    lately: Mutex<Lately>,
}

impl Desk {
    fn new(agent: u32, means: Means) -> Self {
        let dns = DnsPolicy::default();
        Self {
            agent,
            rules: RwLock::default(),
            budget: Mutex::new(Budget::new(dns.budget, dns.over_budget)),
            published: Arc::default(),
            means,
            lately: Mutex::default(),
        }
    }

    fn rules(&self) -> Rules {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_rules(&self, names: &Arc<NameRules>, dns: DnsPolicy, ask: Ask) {
        self.budget().set_limits(dns.budget, dns.over_budget);
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        *rules = Rules {
            names: Arc::clone(names),
            dns,
            ask,
        };
    }

    /// The addresses of a name that the policy allows, paid for as a question at the gate is.
    pub(super) async fn look_up(&self, name: &Name) -> Result<Vec<IpAddr>, FailKind> {
        let rule = self.rule(name).ok_or(FailKind::Refused)?;
        let known = match self.spend(name, &rule) {
            Spent::Blocked(_) => return Err(FailKind::Refused),
            Spent::Known => true,
            Spent::Within | Spent::Reported(_) => false,
        };
        let (v4, v6) = tokio::join!(
            self.paid(name, &rule, known, RecordType::A),
            self.paid(name, &rule, known, RecordType::AAAA),
        );
        without_ttl(merge(v4, v6))
    }

    /// The addresses of one family; `known`: the name was paid for before.
    async fn paid(&self, name: &Name, rule: &NameRule, known: bool, rtype: RecordType) -> Found {
        let question = plain(name, rtype, self.validate());
        if let Some(answer) = self.cached(&question, rule) {
            return addresses(&answer);
        }
        if known && let Spent::Blocked(_) = self.repeat(name, rule) {
            let ended = self.ended(&question).ok_or(FailKind::Refused)?;
            return addresses(&ended);
        }
        found(self.resolve(question).await)
    }

    /// The addresses of a name that is no agent's business.
    pub(super) async fn look_up_freely(&self, name: &Name) -> Result<Vec<IpAddr>, FailKind> {
        let resolver = &self.means.resolver;
        let (v4, v6) = (
            plain(name, RecordType::A, false),
            plain(name, RecordType::AAAA, false),
        );
        let (v4, v6) = tokio::join!(resolver.ask(&v4), resolver.ask(&v6));
        without_ttl(merge(found(v4), found(v6)))
    }

    /// What `domain` has used up in the last hour: names, bytes and bits.
    pub(super) fn spent(&self, domain: &str) -> (u64, u64, u64) {
        self.budget().spent(domain, clock::now())
    }
}

fn plain(name: &Name, rtype: RecordType, validate: bool) -> Question {
    Question {
        name: Arc::clone(name),
        rtype,
        dnssec_ok: false,
        validate,
    }
}

fn found(answer: Result<Answer, Failed>) -> Found {
    addresses(&answer.map_err(|failed| failed.kind)?)
}

fn without_ttl(found: Found) -> Result<Vec<IpAddr>, FailKind> {
    Ok(found?.into_iter().map(|(addr, _)| addr).collect())
}

impl Backend for Desk {
    fn rule(&self, name: &str) -> Option<NameRule> {
        self.rules().names.find(name)
    }

    fn asks(&self, name: &Name) -> bool {
        let rules = self.rules();
        if rules.ask.who == Asks::Nobody || !is_askable(name) || !rules.names.silent_of(name) {
            return false;
        }
        let allowed = |name: &str| rules.names.find(name).is_some();
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        !lately.is_appended(name, clock::now(), allowed)
    }

    async fn ask(&self, name: Name) -> Ruling {
        let Some(holding) = self.means.holding.get() else {
            return Ruling::Deny;
        };
        holding.ask_name(self.agent, &name, self.rules().ask).await
    }

    fn refuse(&self) -> Refuse {
        self.rules().dns.refuse
    }

    fn validate(&self) -> bool {
        self.rules().dns.validate
    }

    fn spend(&self, name: &str, rule: &NameRule) -> Spent {
        let Some(domain) = rule.budget_of(name) else {
            return Spent::Within;
        };
        self.budget().spend(name, domain, clock::now())
    }

    fn repeat(&self, name: &str, rule: &NameRule) -> Spent {
        let Some(domain) = rule.budget_of(name) else {
            return Spent::Within;
        };
        // Each type, with and without signatures.
        let ways = 2 * rule.types.len();
        self.budget().repeat(domain, ways, clock::now())
    }

    fn cached(&self, question: &Question, rule: &NameRule) -> Option<Answer> {
        let prefetch = match rule.wildcard {
            // It would be a repeat that nobody paid for.
            Some(_) => Prefetch::Never,
            None => Prefetch::Hot,
        };
        self.means.resolver.cached(question, prefetch)
    }

    fn ended(&self, question: &Question) -> Option<Answer> {
        self.means.resolver.ended(question)
    }

    async fn resolve(&self, question: Question) -> Result<Answer, Failed> {
        self.means.resolver.ask(&question).await
    }

    fn granted(
        &self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        rule: &NameRule,
    ) -> Option<Granted> {
        let now = clock::now();
        let held = self.published.granted(name);
        let mut granted = Granted::default();
        for (addr, ttl) in addresses {
            let Some(addr) = canonical(*addr, rule.private) else {
                granted.rebound.push(*addr);
                continue;
            };
            let (_, until) = held.iter().find(|(held, _)| *held == addr)?;
            let left = until.checked_sub(now)?;
            if left < CLIENT_TTL.min(std::time::Duration::from_secs((*ttl).into())) {
                return None;
            }
            granted.held.push((addr, left));
        }
        if !granted.rebound.is_empty()
            && let Some(shared) = self.means.shared()
        {
            // What goes by the engine is counted by the leases.
            let dropped = granted.rebound.len() as u64;
            shared.dns.rebind_dropped.fetch_add(dropped, Relaxed);
        }
        Some(granted)
    }

    async fn grant(
        &self,
        name: &Name,
        addresses: &[(IpAddr, u32)],
        _rule: &NameRule,
    ) -> Result<Granted, NotGranted> {
        let Some(shared) = self.means.shared() else {
            return Err(NotGranted {
                why: "the daemon is starting or stopping".to_owned(),
            });
        };
        let begun = Instant::now();
        let grant = |engine: &mut Engine| engine.grant(self.agent, name, addresses, clock::now());
        let granted = shared.try_with(|engine| {
            engine
                .grants_at_once(self.agent, addresses.len())
                .then(|| grant(engine))
        });
        let granted = granted.unwrap_or_else(|| shared.with(grant));
        shared.dns.grants.add(begun.elapsed());
        Ok(granted)
    }
}

/// Every gate that is open.
pub(super) struct Gates {
    open: BTreeMap<u32, Gate>,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    throttle: Throttle,
    stats: Arc<DnsStats>,
    means: Means,
    cancel: CancellationToken,
    tasks: Tasks,
    store: Arc<Mutex<FdStore>>,
}

impl Gates {
    pub(super) fn new(
        directory: Arc<Directory>,
        hub: Arc<Hub>,
        throttle: Throttle,
        stats: Arc<DnsStats>,
        means: Means,
        cancel: CancellationToken,
        store: Arc<Mutex<FdStore>>,
    ) -> Self {
        Self {
            open: BTreeMap::new(),
            directory,
            hub,
            throttle,
            stats,
            means,
            cancel,
            tasks: Tasks::default(),
            store,
        }
    }

    /// Opens the gate of an agent if it is not open: the one that the last daemon had, or a
    /// new one, if possible at the same ports. What is asked waits until the engine runs:
    /// before that nothing could be granted. Call it within a tokio runtime.
    pub(super) fn open(
        &mut self,
        agent: u32,
        name: &str,
        last: GatePorts,
    ) -> io::Result<GatePorts> {
        if let Some(gate) = self.open.get(&agent) {
            return Ok(gate.ports);
        }
        let sockets = lock(&self.store).take_or_open(
            &Owner::new(Service::Gate, name, agent),
            |kept| GateSockets::kept(agent, last, kept),
            || GateSockets::bind(agent, last),
            |sockets| sockets.each().collect(),
        )?;
        let ports = sockets.ports();
        let desk = Arc::new(Desk::new(agent, self.means.clone()));
        let stop = self.cancel.child_token();
        let (records, refusals, answers) = Records::channel(QUEUE);
        self.tasks.spawn(watch::gate_records(
            refusals,
            answers,
            self.throttle,
            Arc::clone(&self.directory),
            Arc::clone(&self.hub),
            stop.clone(),
        ));
        self.serve(agent, sockets, &desk, &records, stop.clone());
        let gate = Gate {
            name: name.to_owned(),
            ports,
            desk,
            records,
            stop,
            abroad: Abroad::default(),
        };
        self.open.insert(agent, gate);
        Ok(ports)
    }

    /// Closes the gate of an agent: its queries are refused from now on.
    pub(super) fn close(&mut self, agent: u32) {
        if let Some(gate) = self.open.remove(&agent) {
            gate.stop.cancel();
            lock(&self.store).forget(&Owner::new(Service::Gate, &gate.name, agent));
            self.stats.forget_gate(agent);
        }
    }

    /// The ports of an agent's gate, and the other network namespaces in which it answers.
    pub(super) fn abroad(&self, agent: u32) -> Option<(GatePorts, BTreeSet<Namespace>)> {
        let gate = self.open.get(&agent)?;
        Some((gate.ports, gate.abroad.namespaces()))
    }

    /// Has an agent's gate answer in another network namespace too, at sockets that were made
    /// there. False where they are not those of the gate.
    pub(super) fn serve_abroad(
        &mut self,
        agent: u32,
        namespace: Namespace,
        sockets: GateSockets,
    ) -> bool {
        let Some(gate) = self.open.get(&agent) else {
            return false;
        };
        if sockets.port4() != gate.ports.v4 || gate.abroad.has(namespace) {
            return false;
        }
        let stop = gate.stop.child_token();
        self.serve(agent, sockets, &gate.desk, &gate.records, stop.clone());
        if let Some(gate) = self.open.get_mut(&agent) {
            gate.abroad.add(namespace, stop);
        }
        true
    }

    /// Serves at sockets of an agent's gate, once there is an engine that can grant.
    fn serve(
        &self,
        agent: u32,
        sockets: GateSockets,
        desk: &Arc<Desk>,
        records: &Records,
        stop: CancellationToken,
    ) {
        let serve = sockets.serve(
            Arc::clone(desk),
            records.clone(),
            self.stats.gate(agent),
            stop.clone(),
        );
        let failed = "a DNS gate of the agent failed; names are refused there";
        self.tasks
            .serve(&self.means, agent, stop.clone(), failed, serve);
    }

    /// Ends an agent's gate in every other network namespace but these.
    pub(super) fn leave(&mut self, agent: u32, present: &BTreeSet<Namespace>) {
        if let Some(gate) = self.open.get_mut(&agent) {
            gate.abroad.leave(present);
        }
    }

    /// Every agent of the policy has its gate: what the last daemon had besides is closed.
    pub(super) fn settle(&mut self) {
        lock(&self.store).close_rest();
    }

    /// Puts what an agent's policy says of names in force at its gate.
    /// `ask` says nobody for an agent that is only monitored.
    pub(super) fn set_rules(&self, agent: u32, names: &Arc<NameRules>, dns: DnsPolicy, ask: Ask) {
        if let Some(gate) = self.open.get(&agent) {
            gate.desk.set_rules(names, dns, ask);
        }
    }

    /// The agent's gate as it decides.
    pub(super) fn desk(&self, agent: u32) -> Option<Arc<Desk>> {
        self.open.get(&agent).map(|gate| Arc::clone(&gate.desk))
    }

    /// What the agent's gate answers with.
    pub(super) fn published(&self, agent: u32) -> Arc<Published> {
        self.open
            .get(&agent)
            .map(|gate| Arc::clone(&gate.desk.published))
            .unwrap_or_default()
    }

    /// Ports by agent.
    pub(super) fn ports(&self) -> BTreeMap<u32, GatePorts> {
        self.open
            .iter()
            .map(|(agent, gate)| (*agent, gate.ports))
            .collect()
    }

    /// Agents by the port of their gate at `::1`.
    pub(super) fn ports6(&self) -> BTreeMap<u16, u32> {
        self.open
            .iter()
            .filter(|(_, gate)| gate.ports.v6 != 0)
            .map(|(agent, gate)| (gate.ports.v6, *agent))
            .collect()
    }

    /// The tasks, to be joined at the end.
    pub(super) fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::resolver::ResolverConfig;

    #[tokio::test]
    async fn the_tasks_of_gates_that_are_gone_are_not_kept() {
        let stats = Arc::new(DnsStats::default());
        let resolver = Resolver::new(ResolverConfig::default(), Arc::clone(&stats));
        let throttle = Throttle {
            per_second: 1,
            burst: 1,
        };
        let mut gates = Gates::new(
            Arc::default(),
            Arc::new(Hub::new(1, None)),
            throttle,
            stats,
            Means::new(Arc::new(resolver.expect("resolver"))),
            CancellationToken::new(),
            Arc::default(),
        );
        let tasks = gates.tasks();
        let kept = || tasks.kept();
        for _ in 0..100 {
            gates.open(0x1320, "a", GatePorts::default()).expect("open");
            let open = kept();
            assert!(open <= 4, "{open} tasks of two gates at the most");
            gates.close(0x1320);
            // Those of this one end before the next is opened, or are counted with it.
            tokio::task::yield_now().await;
        }
    }
}
