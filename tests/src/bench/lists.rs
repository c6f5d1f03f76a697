//! Allow-lists of a given size, and addresses to ask about.

use agent_common::Addr;
use agent_common::layout::{Bank, Mode};
use agent_common::verdict::Action;
use anyhow::Context;
use exeat::kernel::tables::Image;
use exeat::policy::{
    Compiled, Http, Origin, Policy, PolicySet, Rule, RuleProtocol, Selector, Tls, Via,
};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::sock::PORT;

/// A small generator (xorshift64) with a fixed start, so that every run asks the same.
pub(crate) struct Dice(u64);

impl Dice {
    /// One of many sequences.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }
}

/// One list: nine tenths exact addresses, one tenth networks of /16 to /28.
pub(crate) struct List {
    /// Number of entries.
    pub(crate) size: usize,
    exact: Vec<u32>,
    nets: Vec<(u32, u8)>,
    known: HashSet<u32>,
    covered: HashSet<(u32, u8)>,
}

/// Lengths of the networks.
const BITS: std::ops::RangeInclusive<u8> = 16..=28;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ask {
    /// Sixteen exact addresses again and again.
    ExactHot,
    /// Exact addresses uniformly.
    ExactCold,
    /// Sixteen addresses in networks again and again.
    NetHot,
    /// Addresses in networks uniformly.
    NetCold,
    /// Addresses that the list does not have, uniformly.
    Miss,
}

impl Ask {
    pub(crate) const ALL: [Self; 5] = [
        Self::ExactHot,
        Self::ExactCold,
        Self::NetHot,
        Self::NetCold,
        Self::Miss,
    ];

    /// In tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ExactHot => "exact, hot",
            Self::ExactCold => "exact, cold",
            Self::NetHot => "CIDR, hot",
            Self::NetCold => "CIDR, cold",
            Self::Miss => "miss (refused)",
        }
    }
}

impl List {
    /// A list of `size` entries, the same at every run.
    pub(crate) fn new(size: usize) -> Self {
        let mut dice = Dice::new(size as u64);
        let nets = (size / 10).max(1);
        let mut known = HashSet::with_capacity(size);
        let mut exact = Vec::with_capacity(size);
        while exact.len() < size - nets {
            let addr = dice.roll() as u32;
            if usable(addr) && known.insert(addr) {
                exact.push(addr);
            }
        }
        let mut seen = HashSet::with_capacity(nets);
        let mut list = Vec::with_capacity(nets);
        while list.len() < nets {
            let bits = BITS.start() + dice.below(BITS.len()) as u8;
            let net = dice.roll() as u32 & mask(bits);
            if usable(net) && seen.insert((net, bits)) {
                list.push((net, bits));
            }
        }
        Self {
            size,
            exact,
            nets: list,
            known,
            covered: seen,
        }
    }

    /// `10`, `10k`, `1M`.
    pub(crate) fn name(&self) -> String {
        match self.size {
            n if n >= 1_000_000 => format!("{}M", n / 1_000_000),
            n if n >= 1_000 => format!("{}k", n / 1_000),
            n => n.to_string(),
        }
    }

    /// The exact addresses.
    pub(crate) fn exact(&self) -> &[u32] {
        &self.exact
    }

    /// The networks.
    pub(crate) fn nets(&self) -> &[(u32, u8)] {
        &self.nets
    }

    /// `count` addresses of a kind, of a sequence of its own by `seed`.
    pub(crate) fn addresses(&self, ask: Ask, seed: u64, count: usize) -> Vec<Ipv4Addr> {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let mut one = || match ask {
            Ask::ExactHot | Ask::ExactCold => self.exact[dice.below(self.exact.len())],
            Ask::NetHot | Ask::NetCold => loop {
                let (net, bits) = self.nets[dice.below(self.nets.len())];
                let addr = net | (dice.roll() as u32 & !mask(bits));
                if !self.known.contains(&addr) {
                    break addr;
                }
            },
            Ask::Miss => loop {
                let addr = dice.roll() as u32;
                if usable(addr) && !self.allows(addr) {
                    break addr;
                }
            },
        };
        let all: Vec<u32> = match ask {
            Ask::ExactHot | Ask::NetHot => {
                let few: Vec<u32> = (0..16).map(|_| one()).collect();
                few.iter().copied().cycle().take(count).collect()
            }
            _ => (0..count).map(|_| one()).collect(),
        };
        all.into_iter().map(Ipv4Addr::from).collect()
    }

    fn allows(&self, addr: u32) -> bool {
        self.known.contains(&addr)
            || BITS
                .into_iter()
                .any(|bits| self.covered.contains(&(addr & mask(bits), bits)))
    }

    /// The policy: every entry allowed at one port, TCP and UDP.
    pub(crate) fn policy(&self, agent: &str) -> anyhow::Result<Policy> {
        let text = format!("version: 1\nagents:\n  {agent}: {{}}\n");
        let set: PolicySet = exeat::policy::parse("bench", &text)
            .ok()
            .context("the frame of the policy does not parse")?;
        let mut policy = set
            .agents
            .into_values()
            .next()
            .context("the frame of the policy has no agent")?;
        policy.mode = Mode::Enforce;
        let file: Arc<str> = "bench".into();
        let hosts = self.exact.iter().map(|addr| (*addr, 32));
        policy.rules = hosts
            .chain(self.nets.iter().copied())
            .zip(0..)
            .map(|((addr, bits), number)| {
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from(addr), bits)?;
                Ok(Rule {
                    number,
                    action: Action::Allow,
                    selector: Selector::Net(net.into()),
                    protocol: RuleProtocol::Any,
                    ports: vec![(PORT, PORT)],
                    answers: None,
                    tls: Tls::None,
                    http: Http::None,
                    via: Via::Direct,
                    inspect: None,
                    reason: None,
                    group: None,
                    origin: Origin {
                        file: file.clone(),
                        line: 1,
                    },
                })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(policy)
    }
}

/// What the kernel room takes.
pub(crate) fn image(compiled: &Compiled, generation: u32) -> Image {
    let bank = Bank {
        generation,
        mode: Mode::Enforce as u8,
        ..Bank::default()
    };
    Image::new(compiled, bank, 1024)
}

/// The kernel's form of an address.
pub(crate) fn addr(ip: Ipv4Addr) -> Addr {
    Addr::from(IpAddr::V4(ip))
}

const fn mask(bits: u8) -> u32 {
    if bits == 0 {
        0
    } else {
        u32::MAX << (32 - bits)
    }
}

/// Neither "this host", loopback, multicast nor reserved.
const fn usable(addr: u32) -> bool {
    let first = addr >> 24;
    first != 0 && first != 127 && first < 224
}
