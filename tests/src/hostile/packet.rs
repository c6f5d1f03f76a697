//! Below IP: packet sockets, AF_XDP, TUN devices. All need CAP_NET_RAW or CAP_NET_ADMIN.

use crate::context::{Context, Evidence, Fault, Outcome, Technique};
use crate::packets;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

const F: &str = "packet";
const PACKET_QDISC_BYPASS: i32 = 20;

pub(crate) const TECHNIQUES: &[Technique] = &[
    Technique::new(F, "packet-raw", |c| raw(c, false)).root(),
    Technique::new(F, "packet-raw-qdisc-bypass", |c| raw(c, true)).root(),
    Technique::new(F, "packet-dgram", dgram).root(),
    Technique::new(F, "packet-in-user-namespace", in_user_namespace).evidence(Evidence::Word),
    Technique::new(F, "tun-forward", tun).root(),
    Technique::new(F, "af-xdp", xdp)
        .root()
        .evidence(Evidence::Word),
];

fn address(protocol: i32) -> Result<libc::sockaddr_ll, Fault> {
    // SAFETY: all bytes zero is a value of sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = sys::interface()?;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&[0xff; 6]);
    Ok(address)
}

fn send(fd: &OwnedFd, frame: &[u8]) -> Result<(), Fault> {
    let to = address(libc::ETH_P_IP)?;
    // SAFETY: the pointers and lengths describe `frame` and `to`.
    let code = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    sys::check("sendto", code as i64).map(drop)
}

fn packet(c: &Context) -> Vec<u8> {
    packets::ipv4(
        packets::SOURCE,
        c.target,
        17,
        &packets::udp(c.port, c.bytes()),
    )
}

fn raw(c: &Context, bypass: bool) -> Outcome {
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    if bypass {
        sys::setsockopt(&fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1i32)?;
    }
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(packet(c));
    send(&fd, &frame)?;
    Ok("a whole frame".into())
}

fn dgram(c: &Context) -> Outcome {
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    send(&fd, &packet(c))?;
    Ok("a packet below IP".into())
}

/// A user namespace gives the capability, but only over networks of its own.
fn in_user_namespace(_: &Context) -> Outcome {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Fault::new("unshare", errno as i32))?;
    sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    Ok("a packet socket in a namespace of its own".into())
}

/// Feeds a packet in at a TUN device and lets the kernel forward it out.
fn tun(c: &Context) -> Outcome {
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: libc::c_short,
        _rest: [u8; 22],
    }
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|e| Fault::of("open /dev/net/tun", &e))?;
    let name = format!("x{}", std::process::id());
    let mut request = Request {
        name: [0; 16],
        flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short,
        _rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads a struct ifreq, of which `Request` is the layout.
    let code = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    sys::check("TUNSETIFF", code.into())?;
    ip(&["addr", "add", "10.77.0.1/24", "dev", &name])?;
    ip(&["link", "set", &name, "up"])?;
    for path in [
        "ipv4/ip_forward".to_owned(),
        format!("ipv4/conf/{name}/forwarding"),
    ] {
        put(&format!("/proc/sys/net/{path}"), "1")?;
    }
    put("/proc/sys/net/ipv4/conf/all/rp_filter", "0")?;
    put(&format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
    let source = std::net::Ipv4Addr::new(10, 77, 0, 2);
    let packet = packets::ipv4(source, c.target, 17, &packets::udp(c.port, c.bytes()));
    device
        .write_all(&packet)
        .map_err(|e| Fault::of("write to the TUN device", &e))?;
    Ok("a packet forwarded from a TUN device".into())
}

fn put(path: &str, value: &str) -> Result<(), Fault> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| Fault::of("write a sysctl", &e))
}

fn ip(arguments: &[&str]) -> Result<(), Fault> {
    match std::process::Command::new("ip").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) => Err(Fault::new("ip", libc::EPERM)),
        Err(error) => Err(Fault::of("run ip", &error)),
    }
}

fn xdp(_: &Context) -> Outcome {
    sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    Ok("an AF_XDP socket".into())
}
