//! The demo's small internet, and what arrived there.

use crate::dns::DnsHost;
use crate::http::{Authority, HttpHost, Request};
use crate::sink::UdpSink;
use crate::sniff::{Packet, Sniffer};
use crate::stage::is_forbidden;
use crate::world::{World, open_to_all};
use crate::{programs, wait};
use anyhow::Context;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The names that `policies/demo.yaml` allows, and their addresses.
pub(super) const API: &str = "api.example.test";
pub(super) const API_V4: &str = "203.0.113.10";
pub(super) const PLAIN: &str = "plain.example.test";
pub(super) const PLAIN_V4: &str = "203.0.113.11";
/// A host that exists and answers, and that the policy does not name.
pub(super) const OTHER: &str = "other.example.test";
pub(super) const OTHER_V4: &str = "203.0.113.20";
pub(super) const OTHER_V6: &str = "2001:db8::20";
/// It also listens here.
pub(super) const UDP_PORT: u16 = 9999;
/// A name server that anyone may ask, and that is not the laptop's.
pub(super) const FOREIGN: &str = "198.51.100.53";
/// Who asks it tells it the question, and so anything at all.
pub(super) const SECRET: &str = "secret-4711";

/// Stub hosts and the laptop. Fields are dropped in this order.
pub(super) struct Scene {
    hosts: Vec<HttpHost>,
    other: Vec<HttpHost>,
    udp: UdpSink,
    dns: DnsHost,
    foreign: DnsHost,
    sniffer: Sniffer,
    /// Connections of the time before enforcement: their last packets may come late.
    before: HashSet<Flow>,
    pub(super) world: World,
}

type Flow = (Option<(IpAddr, IpAddr)>, Option<(u16, u16)>);

/// What reached places that the policy does not name, since the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Reached {
    /// Packets on the wire.
    pub(super) packets: usize,
    /// Requests, datagrams and questions that hosts took.
    pub(super) hosts: usize,
}

impl Reached {
    pub(super) fn since(self, mark: Self) -> Self {
        Self {
            packets: self.packets - mark.packets,
            hosts: self.hosts - mark.hosts,
        }
    }

    pub(super) fn nothing(self) -> bool {
        self == Self::default()
    }
}

impl Scene {
    pub(super) fn new() -> anyhow::Result<Self> {
        let world = World::new()?;
        let sniffer = world.sniffer()?;
        let dns = world.dns()?;
        dns.set(API, &[API_V4], 60);
        dns.set(PLAIN, &[PLAIN_V4], 60);
        dns.set(OTHER, &[OTHER_V4, OTHER_V6], 60);
        let foreign = DnsHost::start(
            &world.internet,
            SocketAddr::new(FOREIGN.parse().context("an address")?, 53),
        )?;
        let authority = Authority::new()?;
        let scene = Self {
            hosts: vec![
                world.https(&format!("{API_V4}:443"), &authority, &[API])?,
                world.http(&format!("{PLAIN_V4}:80"))?,
            ],
            other: vec![
                world.https(&format!("{OTHER_V4}:443"), &authority, &[OTHER])?,
                world.http(&format!("{OTHER_V4}:80"))?,
                world.https(&format!("[{OTHER_V6}]:443"), &authority, &[OTHER])?,
                world.http(&format!("[{OTHER_V6}]:80"))?,
            ],
            udp: world.udp_sink(&format!("{OTHER_V4}:{UDP_PORT}"))?,
            dns,
            foreign,
            sniffer,
            before: HashSet::new(),
            world,
        };
        let ca = authority.write(scene.world.folder())?;
        scene.write_home(&ca)?;
        Ok(scene)
    }

    /// What the agent's shell finds at home: a curl that trusts the demo's authority and
    /// does not wait long, and the program `hostile`.
    fn write_home(&self, ca: &Path) -> anyhow::Result<()> {
        let home = self.home();
        let bin = home.join("bin");
        std::fs::create_dir_all(&bin)?;
        open_to_all(&home)?;
        open_to_all(&bin)?;
        let curlrc = format!(
            "silent\nshow-error\nmax-time = {}\nnoproxy = \"*\"\ncacert = \"{}\"\n",
            wait::seconds(5),
            ca.display()
        );
        std::fs::write(home.join(".curlrc"), curlrc)?;
        open_to_all(&home.join(".curlrc"))?;
        // Every user may run a copy: the original may lie in somebody's closed home.
        programs::copy(&crate::technique::program(), &bin.join("hostile"), 0o755)
    }

    pub(super) fn home(&self) -> PathBuf {
        self.world.folder().join("home")
    }

    /// The environment of a shell, whole.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let home = self.home().display().to_string();
        vec![
            ("PATH", format!("{home}/bin:/usr/local/bin:/usr/bin:/bin")),
            ("HOME", home),
            ("LC_ALL", "C".to_owned()),
        ]
    }

    /// From here on packets of connections that exist now do not count.
    pub(super) fn forget(&mut self) -> anyhow::Result<()> {
        self.world.settle(&self.sniffer)?;
        let packets = self.sniffer.packets(|p| self.counts(p));
        self.before = packets.iter().map(|p| (p.ends, p.ports)).collect();
        Ok(())
    }

    /// What reached forbidden places, once all that was sent has been read.
    pub(super) fn reached(&self) -> anyhow::Result<Reached> {
        self.world.settle(&self.sniffer)?;
        let questions = |dns: &DnsHost, name: &dyn Fn(&str) -> bool| -> usize {
            let names = dns.names();
            names.iter().filter(|n| name(n)).map(|n| dns.asked(n)).sum()
        };
        let requests: usize = self.other.iter().map(|host| host.requests().len()).sum();
        let hosts = requests
            + self.udp.arrivals().len()
            + questions(&self.foreign, &|_| true)
            + questions(&self.dns, &|name| ![API, PLAIN].contains(&name));
        Ok(Reached {
            packets: self.sniffer.count(|p| self.counts(p)),
            hosts,
        })
    }

    /// Packets that the sniffer had no room for: with any, "0 packets" proves nothing.
    pub(super) fn lost(&self) -> anyhow::Result<usize> {
        self.sniffer.lost()
    }

    /// Whether a packet goes where the policy does not let it.
    fn counts(&self, packet: &Packet) -> bool {
        let allowed = [(API_V4, 443), (PLAIN_V4, 80)].iter().any(|(ip, port)| {
            packet.protocol == 6
                && packet.ports.is_some_and(|(_, to)| to == *port)
                && ip.parse().is_ok_and(|ip| packet.is_to(ip))
        });
        is_forbidden(packet) && !allowed && !self.before.contains(&(packet.ends, packet.ports))
    }

    /// Requests that the allowed hosts took, with the host's address.
    pub(super) fn requests(&self) -> Vec<(SocketAddr, Request)> {
        let of = |host: &HttpHost| {
            let address = host.address();
            let requests = host.requests();
            requests.into_iter().map(move |request| (address, request))
        };
        self.hosts.iter().flat_map(of).collect()
    }
}
