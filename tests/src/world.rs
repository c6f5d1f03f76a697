//! A private network: the laptop on one side, the internet on the other.

use crate::dns::DnsHost;
use crate::http::{Authority, HttpHost};
use crate::ns::Ns;
use crate::sink::{Doors, TcpSink, UdpSink};
use crate::sniff::Sniffer;
use crate::{unique, wait};
use anyhow::Context;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use tempfile::TempDir;

/// The laptop's own addresses.
pub const LAPTOP_V4: &str = "10.99.0.2";
/// See [`LAPTOP_V4`].
pub const LAPTOP_V6: &str = "fd99::2";
/// The internet's end of the wire.
pub const ROUTER_V4: &str = "10.99.0.1";
/// See [`ROUTER_V4`].
pub const ROUTER_V6: &str = "fd99::1";
/// The name server in the laptop's `/etc/resolv.conf`.
pub const NAME_SERVER: &str = "203.0.113.53";

/// Every address of these ranges is a host of the internet.
const HOSTS_V4: &[&str] = &[
    "203.0.113.0/24",
    "198.51.100.0/24",
    "192.0.2.0/24",
    "1.2.3.0/24",
];
const HOSTS_V6: &[&str] = &["2001:db8::/32"];

/// Two network namespaces joined by a veth pair, both interfaces called `eth0`.
pub struct World {
    /// Where agents and the daemon run.
    pub laptop: Ns,
    /// Where stub hosts run.
    pub internet: Ns,
    folder: TempDir,
}

impl World {
    /// Makes it, and returns when packets of both families go through.
    ///
    /// # Errors
    /// Without root, or where `ip` is missing.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("exeat-test-").tempdir()?;
        let resolv = folder.path().join("resolv.conf");
        // One short try: a refused or silent server must not make tests slow.
        std::fs::write(
            &resolv,
            format!(
                "nameserver {NAME_SERVER}\noptions timeout:{} attempts:1\n",
                wait::seconds(1)
            ),
        )?;
        open_to_all(folder.path())?;
        open_to_all(&resolv)?;
        // Before the laptop\'s mounts are made, because it gets a copy of what is there now.
        crate::disk::mount_bpffs()?;
        let switch = folder.path().join("nsswitch.conf");
        std::fs::write(&switch, "passwd: files\ngroup: files\nhosts: files dns\n")?;
        open_to_all(&switch)?;
        let laptop = Ns::new()?.with_mounts(|| {
            bind_mount(&resolv, Path::new("/etc/resolv.conf"))?;
            // The machine's own may ask systemd-resolved over its Unix socket, which a
            // network namespace does not keep out.
            let machines = Path::new("/etc/nsswitch.conf");
            match machines.exists() {
                true => bind_mount(&switch, machines),
                false => Ok(()),
            }
        })?;
        let world = Self {
            laptop,
            internet: Ns::new()?,
            folder,
        };
        world.wire()?;
        world.wait_until_usable()?;
        Ok(world)
    }

    fn wire(&self) -> anyhow::Result<()> {
        for ns in [&self.laptop, &self.internet] {
            // Duplicate address detection would keep addresses unusable for a second.
            ns.sysctl("ipv6/conf/default/accept_dad", "0")?;
            ns.sysctl("ipv6/conf/default/router_solicitations", "0")?;
            ns.ip("link set lo up")?;
        }
        let peer = self.internet.net_path();
        self.laptop.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {peer}"
        ))?;
        self.end(&self.laptop, LAPTOP_V4, LAPTOP_V6)?;
        self.end(&self.internet, ROUTER_V4, ROUTER_V6)?;
        self.laptop
            .ip(&format!("route add default via {ROUTER_V4}"))?;
        self.laptop
            .ip(&format!("-6 route add default via {ROUTER_V6}"))?;
        // What systemd sets everywhere: everyone may make ping sockets.
        self.laptop
            .sysctl("ipv4/ping_group_range", "0 2147483647")?;
        self.laptop.sysctl("ipv4/tcp_fastopen", "3")?;
        self.internet.sysctl("ipv4/tcp_fastopen", "3")?;
        self.internet.sysctl("ipv4/ip_nonlocal_bind", "1")?;
        self.internet.sysctl("ipv6/ip_nonlocal_bind", "1")?;
        for hosts in HOSTS_V4 {
            self.internet
                .ip(&format!("route add local {hosts} dev lo"))?;
        }
        for hosts in HOSTS_V6 {
            self.internet
                .ip(&format!("-6 route add local {hosts} dev lo"))?;
        }
        Ok(())
    }

    fn end(&self, ns: &Ns, v4: &str, v6: &str) -> anyhow::Result<()> {
        ns.ip(&format!("addr add {v4}/24 dev eth0"))?;
        ns.ip(&format!("-6 addr add {v6}/64 dev eth0 nodad"))?;
        ns.ip("link set eth0 up")?;
        Ok(())
    }

    fn wait_until_usable(&self) -> anyhow::Result<()> {
        for address in [ROUTER_V4, ROUTER_V6] {
            let to = SocketAddr::new(address.parse()?, 7);
            let server = self.internet.run(|| Ok(UdpSocket::bind(to)?))?;
            server.set_nonblocking(true)?;
            let client = self.laptop.run(|| Ok(UdpSocket::bind(any(to.ip()))?))?;
            wait::until("the wire to carry packets", wait::patience(), || {
                // Sending fails until the carrier is up and the route usable.
                let _ = client.send_to(b"?", to);
                server.recv(&mut [0; 8]).ok()
            })?;
        }
        Ok(())
    }

    /// A folder that everyone may read, gone with the world.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts to record what leaves the laptop.
    ///
    /// # Errors
    /// When the packet socket cannot be made.
    pub fn sniffer(&self) -> anyhow::Result<Sniffer> {
        Sniffer::start(&self.internet)
    }

    /// Returns when everything that the laptop has sent so far has been read by `sniffer`.
    /// It sends a packet after it, and waits for that one.
    ///
    /// # Errors
    /// When the marker does not arrive.
    pub fn settle(&self, sniffer: &Sniffer) -> anyhow::Result<()> {
        // Twice: packets of another CPU may still be in that CPU's backlog when the first
        // marker is read, but not when the second, sent later, is.
        for _ in 0..2 {
            let marker = unique::token();
            let socket = self.laptop.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
            wait::until("the marker packet", wait::patience(), || {
                let _ = socket.send_to(marker.as_bytes(), (ROUTER_V4, 9));
                let seen = sniffer.count(|p| p.contains(marker.as_bytes()));
                (seen > 0).then_some(())
            })?;
        }
        Ok(())
    }

    /// A TCP sink of the internet.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn tcp_sink(&self, address: &str) -> anyhow::Result<TcpSink> {
        TcpSink::start(&self.internet, address.parse()?)
    }

    /// TCP hosts of the internet, at every address of it.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn doors(&self, port: u16) -> anyhow::Result<Doors> {
        Doors::start(&self.internet, SocketAddr::from(([0, 0, 0, 0], port)))
    }

    /// A UDP sink of the internet.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn udp_sink(&self, address: &str) -> anyhow::Result<UdpSink> {
        UdpSink::start(&self.internet, address.parse()?)
    }

    /// A plain HTTP host of the internet.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn http(&self, address: &str) -> anyhow::Result<HttpHost> {
        HttpHost::plain(&self.internet, address.parse()?)
    }

    /// An HTTPS host of the internet with a certificate of `authority` for `names`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn https(
        &self,
        address: &str,
        authority: &Authority,
        names: &[&str],
    ) -> anyhow::Result<HttpHost> {
        HttpHost::tls(&self.internet, address.parse()?, authority, names)
    }

    /// The name server of [`NAME_SERVER`], over UDP and TCP.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn dns(&self) -> anyhow::Result<DnsHost> {
        DnsHost::start(&self.internet, SocketAddr::new(NAME_SERVER.parse()?, 53))
    }
}

fn any(of: IpAddr) -> SocketAddr {
    match of {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    }
}

fn bind_mount(source: &Path, target: &Path) -> anyhow::Result<()> {
    use nix::mount::{MsFlags, mount};
    let target = target
        .canonicalize()
        .with_context(|| format!("{} must exist", target.display()))?;
    mount(
        Some(source),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("bind mount over {}", target.display()))
}

/// Lets every user read a file, or enter and read a folder.
///
/// # Errors
/// Those of chmod.
pub fn open_to_all(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))
}
