//! Fixtures for the live-kernel tests.
//!
//! ```text
//!            World (two network namespaces, both gone when their descriptors close)
//!   laptop ───────────────────────── veth ───────────────────────── internet
//!   Daemon, Attack, commands      Sniffer listens here →            TcpSink, UdpSink,
//!   own /etc/resolv.conf                                             HttpHost, DnsHost
//! ```
//!
//! The judge of every test is on the internet side: what a program says of itself is
//! recorded, what reached the [`sniff::Sniffer`] is believed. Everything is released
//! when dropped, also on a panic; names carry the process id and a counter, so tests may
//! run side by side.

pub mod attack;
pub mod cgroup;
pub mod daemon;
pub mod demo;
pub mod disk;
pub mod dns;
pub mod http;
pub mod ns;
pub mod pty;
pub mod puppet;
pub mod record;
pub mod service;
pub mod sink;
pub mod sniff;
pub mod stage;
pub mod technique;
pub mod traffic;
pub mod unique;
pub mod wait;
pub mod world;
