//! Socket families that no IP hook sees. Only made, never used: on a machine of others
//! a vsock leads to its host.

use crate::context::{Context, Evidence, Outcome, Technique};
use crate::sys;

const F: &str = "family";

const fn family(name: &'static str, run: fn(&Context) -> Outcome) -> Technique {
    Technique::new(F, name, run).evidence(Evidence::Word)
}

pub(crate) const TECHNIQUES: &[Technique] = &[
    family("vsock", |_| make(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    family("alg", |_| make(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    family("netlink-netfilter", |_| {
        make(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)
    }),
    family("netlink-xfrm", |_| {
        make(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM)
    }),
    family("bluetooth", |_| {
        make(libc::AF_BLUETOOTH, libc::SOCK_STREAM, 3)
    }),
    family("smc", |_| make(43, libc::SOCK_STREAM, 0)),
    family("tipc", |_| make(libc::AF_TIPC, libc::SOCK_RDM, 0)),
    family("rds", |_| make(libc::AF_RDS, libc::SOCK_SEQPACKET, 0)),
    family("can", |_| make(libc::AF_CAN, libc::SOCK_RAW, 1)),
    family("kcm", |_| make(41, libc::SOCK_DGRAM, 0)),
    family("qipcrtr", |_| make(42, libc::SOCK_DGRAM, 0)),
    family("x25", |_| make(libc::AF_X25, libc::SOCK_SEQPACKET, 0)),
    family("nfc", |_| make(libc::AF_NFC, libc::SOCK_SEQPACKET, 0)),
    family("pppox", |_| make(libc::AF_PPPOX, libc::SOCK_STREAM, 0)),
];

fn make(family: i32, kind: i32, protocol: i32) -> Outcome {
    sys::socket(family, kind, protocol)?;
    Ok("made a socket".into())
}
