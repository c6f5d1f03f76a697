//! The life of a laptop: it sleeps, its clock is set, its network is another one.
//!
//! Nothing here decides a verdict. Leases and grants count time since boot, sleep included, so
//! they end when they should whatever the calendar says. What changes is what names stand for:
//! after each of these every name is asked again, at once, and of the servers of now.
//!
//! Nothing is polled: the kernel says that the clock was set or the machine resumed (a timer
//! that is cancelled by it) and that links, addresses or routes changed (rtnetlink). What such
//! a message says is not read; it is only the reason to look.

use std::{collections::BTreeSet, io, os::fd::AsRawFd, sync::Arc, time::Duration};

use jiff::Timestamp;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId as Clock, clock_gettime},
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Shared, asking, engine::Engine, portal};
use crate::{
    dns::{
        clock,
        resolver::{Lookup as _, Upstreams},
    },
    error::chain,
    incident::{DAEMON, Incident, IncidentKind},
    leases::Name,
    nat64::{Nat64, PROBE},
};

/// Links, addresses and routes of both families (`RTMGRP_*`, `linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Looks after a message: changes come in bursts, and `resolv.conf` is written last.
const LOOKS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(8),
];
/// A difference that is no jump: clocks are read one after the other.
const STEADY: Duration = Duration::from_secs(1);
/// The end of time, for a timer that is only to be cancelled.
const NEVER: i64 = i32::MAX as i64;

/// Watches, until the daemon ends.
pub(super) async fn watch(shared: Arc<Shared>, cancel: CancellationToken) {
    let clocks = tokio::spawn(clocks(Arc::clone(&shared), cancel.clone()));
    if let Err(error) = network(&shared, &cancel).await {
        warn!(%error, "changes of the network are not noticed; names are asked again when their time is over");
    }
    let _ = clocks.await;
}

/// What the three clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    /// The calendar, less time since boot, in milliseconds.
    calendar: i128,
    /// Time asleep since boot, in milliseconds.
    asleep: i128,
}

/// What happened between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jump {
    /// The calendar was set by so many milliseconds.
    set: i128,
    /// The machine slept for so many.
    slept: i128,
}

impl Reading {
    fn now() -> nix::Result<Self> {
        let read = |clock| {
            let time = clock_gettime(clock)?;
            Ok(i128::from(time.tv_sec()) * 1000 + i128::from(time.tv_nsec()) / 1_000_000)
        };
        let (calendar, boot, awake) = (
            read(Clock::CLOCK_REALTIME)?,
            read(Clock::CLOCK_BOOTTIME)?,
            read(Clock::CLOCK_MONOTONIC)?,
        );
        Ok(Self {
            calendar: calendar - boot,
            asleep: boot - awake,
        })
    }

    fn since(self, before: Self) -> Option<Jump> {
        let steady = STEADY.as_millis().cast_signed();
        let jump = Jump {
            set: self.calendar - before.calendar,
            slept: self.asleep - before.asleep,
        };
        (jump.set.abs() >= steady || jump.slept >= steady).then_some(jump)
    }
}

impl Jump {
    fn incident(self) -> Incident {
        let seconds = |millis: i128| millis as f64 / 1000.0;
        let mut said = Vec::new();
        if self.slept != 0 {
            said.push(format!(
                "the machine slept for {:.0} s",
                seconds(self.slept)
            ));
        }
        if self.set.abs() >= STEADY.as_millis().cast_signed() {
            let way = if self.set < 0 { "back" } else { "forward" };
            said.push(format!(
                "the clock was set {way} by {:.0} s",
                seconds(self.set.abs())
            ));
        }
        Incident::new(IncidentKind::ClockJumped, DAEMON, said.join("; "))
            .with("set_seconds", format!("{:.3}", seconds(self.set)))
            .with("slept_seconds", format!("{:.3}", seconds(self.slept)))
    }
}

async fn clocks(shared: Arc<Shared>, cancel: CancellationToken) {
    if let Err(error) = follow_clocks(&shared, &cancel).await {
        warn!(%error, "that the clock is set or the machine wakes up is not noticed");
    }
}

async fn follow_clocks(shared: &Shared, cancel: &CancellationToken) -> io::Result<()> {
    let timer = TimerFd::new(
        ClockId::CLOCK_REALTIME,
        TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
    )?;
    // SAFETY: the descriptor belongs to `timer` and is the same for as long as it lives.
    let timer = unsafe { AsyncFd::register_with_interest(Watched(timer), Interest::READABLE) }
        .map_err(io::Error::from)?;
    let mut before = Reading::now()?;
    loop {
        timer.get_ref().0.set(
            Expiration::OneShot(TimeSpec::new(NEVER, 0)),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
        )?;
        // Between the last reading and the timer it may have been set.
        tell_of_jump(shared, &mut before)?;
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ready = timer.readable() => ready?.clear_ready(),
        }
        match timer.get_ref().0.wait() {
            Ok(()) | Err(Errno::ECANCELED | Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        tell_of_jump(shared, &mut before)?;
    }
}

fn tell_of_jump(shared: &Shared, before: &mut Reading) -> io::Result<()> {
    let now = Reading::now()?;
    let jump = now.since(*before);
    *before = now;
    if let Some(jump) = jump {
        shared.hub.incident(jump.incident());
        // Those whose time is over by either clock, before anything else.
        asking::tend(shared);
        portal::tend(shared);
        shared.refresh.refresh_now();
    }
    Ok(())
}

/// A descriptor to wait for.
struct Watched<T>(T);

impl AsRawFd for Watched<TimerFd> {
    fn as_raw_fd(&self) -> i32 {
        use std::os::fd::AsFd as _;
        self.0.as_fd().as_raw_fd()
    }
}

/// What a network is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Network {
    addresses: BTreeSet<String>,
    routes: BTreeSet<String>,
    servers: Vec<String>,
}

impl Network {
    fn now(shared: &Shared) -> Self {
        let mut addresses = BTreeSet::new();
        for one in getifaddrs().into_iter().flatten() {
            let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
            if one.flags.contains(InterfaceFlags::IFF_LOOPBACK) || !one.flags.contains(up) {
                continue;
            }
            let address = one.address.as_ref();
            let v4 = address
                .and_then(|a| a.as_sockaddr_in())
                .map(|a| a.ip().to_string());
            let v6 = address.and_then(|a| a.as_sockaddr_in6()).map(|a| a.ip());
            // Every link has one of those, and temporary links come and go.
            let v6 = v6
                .filter(|ip| !ip.is_unicast_link_local())
                .map(|ip| ip.to_string());
            addresses.extend(v4.or(v6).map(|ip| format!("{} {ip}", one.interface_name)));
        }
        Self {
            addresses,
            routes: routes(),
            servers: shared.resolver.labels(),
        }
    }
}

/// The routes, each as its destination, way and interface. Of IPv6 those of the main table that
/// lead somewhere.
fn routes() -> BTreeSet<String> {
    let mut all: BTreeSet<String> = procfs::net::route()
        .unwrap_or_default()
        .into_iter()
        .map(|one| {
            format!(
                "{}/{} {} {}",
                one.destination, one.mask, one.gateway, one.iface
            )
        })
        .collect();
    let text = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    for line in text.lines() {
        // Destination, its bits, source, its bits, next hop, metric, counters, flags, interface.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [to, bits, _, _, by, _, _, _, flags, device] = fields[..]
            && device != "lo"
            // Not one to an address of the machine, or a group (`RTF_LOCAL`, `RTF_ANYCAST`).
            && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x8010_0000 == 0)
            && !to.starts_with("ff")
            && !to.starts_with("fe80")
        {
            all.insert(format!("{to}/{bits} {by} {device}"));
        }
    }
    all
}

/// The next hops of IPv4's default routes.
pub(super) fn gateways() -> BTreeSet<std::net::Ipv4Addr> {
    let all = procfs::net::route().unwrap_or_default().into_iter();
    all.filter(|one| one.destination.is_unspecified() && one.mask.is_unspecified())
        .map(|one| one.gateway)
        .filter(|gateway| !gateway.is_unspecified())
        .collect()
}

async fn network(shared: &Shared, cancel: &CancellationToken) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    socket.set_non_blocking(true)?;
    // SAFETY: the descriptor belongs to `socket` and is the same for as long as it lives.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
        .map_err(io::Error::from)?;
    let mut known = Network::now(shared);
    // A server that is silent must not keep the daemon from its end.
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = look_for_translators(shared) => {}
    }
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            ready = socket.readable() => ready?.clear_ready(),
        }
        for pause in LOOKS {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            drain(socket.get_ref());
            let now = Network::now(shared);
            if now == known {
                continue;
            }
            tell_of_network(shared, &known, &now);
            known = now;
            shared.refresh.refresh_now();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = look_for_translators(shared) => {}
            }
        }
    }
}

/// Messages that came meanwhile are part of what is looked at now; more than fit is no loss.
fn drain(socket: &Socket) {
    let mut room = vec![0u8; 16 << 10];
    while let Ok(length) = socket.recv(&mut &mut room[..], 0) {
        if length == 0 {
            break;
        }
    }
}

fn tell_of_network(shared: &Shared, before: &Network, now: &Network) {
    let mut what = Vec::new();
    if before.addresses != now.addresses {
        what.push("addresses");
    }
    if before.routes != now.routes {
        what.push("routes");
    }
    if before.servers != now.servers {
        what.push("name servers");
    }
    let message = format!(
        "other {}; every name is asked again",
        what.join(" and other ")
    );
    let incident = Incident::new(IncidentKind::NetworkChanged, DAEMON, message)
        .with("changed", what.join(", "))
        .with("name_servers", now.servers.join(", "));
    shared.hub.incident(incident);
}

/// Whether this network translates, and behind which prefixes. What is not answered leaves what
/// was known: to forget a prefix would open what it is known to lead to.
async fn look_for_translators(shared: &Shared) {
    let upstreams = Upstreams::of(Arc::clone(&shared.resolver));
    let Ok(found) = upstreams.lookup(Name::from(PROBE)).await.result else {
        return;
    };
    let found = Nat64::discovered(found.into_iter().map(|(addr, _)| addr));
    shared.with(|engine| engine.set_nat64(found));
}

impl Engine {
    /// Other prefixes lead to IPv4: every agent's tables are made anew with them.
    fn set_nat64(&mut self, found: Nat64) {
        if self.nat64 == found {
            return;
        }
        tracing::info!(prefixes = ?found.prefixes(), "translators to IPv4");
        self.nat64 = found;
        let policies: Vec<_> = self
            .agents
            .iter()
            .map(|(name, agent)| (name.clone(), Arc::clone(&agent.policy)))
            .collect();
        for (name, policy) in policies {
            if let Err(error) = self.put_policy(&name, policy, clock::now()) {
                warn!(
                    agent = name,
                    error = chain(&error),
                    "what its policy denies is not known in its translated form yet"
                );
            }
        }
    }
}

/// When a time from now is, by the calendar.
pub(super) fn in_time(span: Duration) -> Timestamp {
    Timestamp::now().checked_add(span).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(set: i128, slept: i128) -> Option<Jump> {
        let before = Reading {
            calendar: 1_700_000_000_000,
            asleep: 5000,
        };
        let now = Reading {
            calendar: before.calendar + set,
            asleep: before.asleep + slept,
        };
        now.since(before)
    }

    #[test]
    fn small_steps_are_no_jump_and_large_ones_say_which_way() {
        assert_eq!(jump(0, 0), None);
        assert_eq!(jump(-900, 30), None);
        let said = |set, slept| jump(set, slept).expect("a jump").incident().message;
        assert_eq!(said(-3_600_000, 0), "the clock was set back by 3600 s");
        assert_eq!(said(86_400_000, 0), "the clock was set forward by 86400 s");
        assert_eq!(said(0, 28_800_000), "the machine slept for 28800 s");
        assert_eq!(
            said(2000, 60_000),
            "the machine slept for 60 s; the clock was set forward by 2 s"
        );
    }

    #[test]
    fn the_clocks_of_now_are_steady() {
        let before = Reading::now().expect("clocks");
        assert_eq!(Reading::now().expect("clocks").since(before), None);
    }
}
