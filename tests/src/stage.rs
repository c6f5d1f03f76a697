//! The usual scene: a world with a name server, an allowed host and another one.

use crate::daemon::Daemon;
use crate::dns::DnsHost;
use crate::http::{Authority, HttpHost};
use crate::sniff::{Packet, Sniffer};
use crate::wait;
use crate::world::{NAME_SERVER, ROUTER_V4, ROUTER_V6, World};
use std::net::IpAddr;
use std::path::PathBuf;

/// The name that [`POLICY`] allows.
pub const ALLOWED: &str = "allowed.example";
/// Its address.
pub const ALLOWED_V4: &str = "203.0.113.10";
/// A name that exists and that no policy here names.
pub const OTHER: &str = "other.example";
/// Its addresses.
pub const OTHER_V4: &str = "203.0.113.20";
/// See [`OTHER_V4`].
pub const OTHER_V6: &str = "2001:db8::20";
/// The agent of [`POLICY`].
pub const AGENT: &str = "worker";

/// HTTPS and plain HTTP to one name, nothing else.
pub const POLICY: &str = "\
version: 1
agents:
  worker:
    mode: enforce
    allow:
      - host: allowed.example
        ports: [443, 80]
        reason: the one that is allowed
";

/// Hosts on both addresses, HTTPS and plain HTTP. Fields are dropped in this order: the
/// daemon must go before its network does.
pub struct Stage {
    /// The daemon, with the policy that was given.
    pub daemon: Daemon,
    /// HTTPS and HTTP of the allowed host.
    pub allowed: [HttpHost; 2],
    /// HTTPS and HTTP of the other host, on both families.
    pub other: [HttpHost; 4],
    /// Answers for both names.
    pub dns: DnsHost,
    /// Certificate of the authority, for `curl --cacert`.
    pub ca: PathBuf,
    /// Sees what leaves the laptop.
    pub sniffer: Sniffer,
    /// The network.
    pub world: World,
}

impl Stage {
    /// Sets it up under a policy, with more lines of configuration.
    ///
    /// # Errors
    /// Those of its parts.
    pub fn new(policy: &str, config: &str) -> anyhow::Result<Self> {
        let world = World::new()?;
        let sniffer = world.sniffer()?;
        let dns = world.dns()?;
        dns.set(ALLOWED, &[ALLOWED_V4], 60);
        dns.set(OTHER, &[OTHER_V4, OTHER_V6], 60);
        let authority = Authority::new()?;
        let ca = authority.write(world.folder())?;
        let allowed = [
            world.https(&format!("{ALLOWED_V4}:443"), &authority, &[ALLOWED])?,
            world.http(&format!("{ALLOWED_V4}:80"))?,
        ];
        let other = [
            world.https(&format!("{OTHER_V4}:443"), &authority, &[OTHER])?,
            world.http(&format!("{OTHER_V4}:80"))?,
            world.https(&format!("[{OTHER_V6}]:443"), &authority, &[OTHER])?,
            world.http(&format!("[{OTHER_V6}]:80"))?,
        ];
        let daemon = Daemon::start_with(&world, policy, config)?;
        Ok(Self {
            daemon,
            allowed,
            other,
            dns,
            ca,
            sniffer,
            world,
        })
    }

    /// Arguments of a curl that does not wait long.
    pub fn curl(&self, url: &str) -> Vec<String> {
        let mut argv: Vec<String> = [
            "/usr/bin/curl",
            "-sS",
            "--max-time",
            &wait::seconds(5),
            "--noproxy",
            "*",
            "--cacert",
        ]
        .map(str::to_owned)
        .into();
        argv.extend([self.ca.display().to_string(), url.to_owned()]);
        argv
    }

    /// Runs curl as an agent and an ordinary user; gives its exit code.
    ///
    /// # Errors
    /// When `exeat run` cannot be started.
    pub fn curl_as(&self, agent: &str, url: &str) -> anyhow::Result<Option<i32>> {
        let argv = self.curl(url);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(self
            .daemon
            .run_as(agent, crate::attack::PLAIN_USER, &argv)?
            .status
            .code())
    }

    /// Packets that left the laptop for anywhere but the name server, the router (where
    /// the fixtures themselves send), and what `allowed` covers.
    ///
    /// # Errors
    /// When the sniffer does not see the end of what was sent.
    pub fn forbidden(&self, allowed: impl Fn(&Packet) -> bool) -> anyhow::Result<Vec<Packet>> {
        self.world.settle(&self.sniffer)?;
        Ok(self.sniffer.packets(|p| is_forbidden(p) && !allowed(p)))
    }
}

/// Whether a packet went to a host of the internet that is not the name server; what the
/// kernel sends by itself is none.
pub fn is_forbidden(packet: &Packet) -> bool {
    let free = [NAME_SERVER, ROUTER_V4, ROUTER_V6];
    let to_free = packet.ends.is_some_and(|(_, to)| {
        free.iter()
            .any(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip == to))
    });
    !packet.is_housekeeping() && !packet.is_group_report() && !to_free
}
