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
//!
//! | variable | what |
//! |---|---|
//! | `EXEAT_BIN` | the binary under test; else `target/release/exeat` |
//! | `EXEAT_PATIENCE` | a factor on every time-out ([`wait::scaled`]); 1 |
//! | `EXEAT_REPORT` | the folder where [`record`] writes `attacks.json`; else it is not written |
//! | `EXEAT_KILLS` | kills of the daemon under traffic; 50 |
//! | `EXEAT_POLICIES` | random policies of each half of `verdict`; 100 |
//! | `EXEAT_SCREENSHOTS` | the folder for pictures of pages; else none are made |

pub mod asked;
pub mod attack;
pub mod browser;
pub mod cgroup;
pub mod clients;
pub mod collector;
pub mod daemon;
pub mod demo;
pub mod desktop;
pub mod disk;
pub mod dns;
pub mod fd_store;
pub mod files;
pub mod http;
pub mod ns;
pub mod programs;
pub mod pty;
pub mod puppet;
pub mod record;
pub mod service;
pub mod services;
pub mod sink;
pub mod sniff;
pub mod stage;
pub mod technique;
pub mod traffic;
pub mod ui;
pub mod unique;
pub mod wait;
pub mod world;

/// How often a test does the thing that it is about: `usual`, or what the environment
/// variable `name` says. Nothing else makes it less.
///
/// # Panics
/// When the variable is no number above zero.
pub fn count(name: &str, usual: usize) -> usize {
    let Ok(text) = std::env::var(name) else {
        return usual;
    };
    text.parse()
        .ok()
        .filter(|&count| count > 0)
        .unwrap_or_else(|| panic!("{name}={text}: it is a number above zero"))
}
