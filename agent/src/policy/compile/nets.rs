//! The networks of a policy as a forest in one sorted list: a network comes right after
//! those that hold it, so covering networks are found by following parents.

use super::sets::Ruled;
use crate::nat64::Nat64;
use crate::policy::model::{Policy, Selector};
use crate::policy::net::fold;
use agent_common::Addr;
use agent_common::addr::V4_PREFIX_BITS;
use agent_common::verdict::Action;
use agent_common::verdict::SetRef;
use ipnet::IpNet;

/// `::ffff:0:0`: where IPv4 lies among the 128-bit addresses.
const V4_ROOT: u128 = 0xffff_0000_0000;
const NO_PARENT: u32 = u32::MAX;

pub(super) struct Node {
    start: u128,
    bits: u8,
    parent: u32,
    /// Part of [`Nets::rules`].
    rules: std::ops::Range<u32>,
    pub(super) set: SetRef,
}

impl Node {
    fn contains(&self, addr: u128) -> bool {
        let shift = 128 - u32::from(self.bits);
        shift == 128 || addr >> shift == self.start >> shift
    }

    /// Nothing above the root of IPv4 speaks of IPv4.
    fn is_v4_root(&self) -> bool {
        self.start == V4_ROOT && self.bits == V4_PREFIX_BITS
    }

    pub(super) fn is_exact(&self) -> bool {
        self.bits == 128
    }

    pub(super) fn addr(&self) -> Addr {
        Addr::from_v6(self.start.to_be_bytes())
    }

    pub(super) fn bits(&self) -> u8 {
        self.bits
    }
}

pub(super) struct Nets {
    nodes: Vec<Node>,
    rules: Vec<u32>,
}

fn key(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

/// First address and number of bits in the 128-bit space.
fn position(net: IpNet) -> (u128, u8) {
    let bits = match net {
        IpNet::V4(v4) => v4.prefix_len() + V4_PREFIX_BITS,
        IpNet::V6(v6) => v6.prefix_len(),
    };
    (key(&Addr::from(net.network())), bits)
}

/// The networks that lead to denied IPv4 networks from within an allowed IPv6 one.
fn translated(policy: &Policy, nat64: &Nat64) -> Vec<(u128, u8, u32)> {
    let nets = |action| {
        let rules = policy
            .rules
            .iter()
            .filter(move |rule| rule.action == action);
        rules.filter_map(|rule| match &rule.selector {
            Selector::Net(net) => Some((fold(*net), rule.number)),
            Selector::Host(_) => None,
        })
    };
    let open: Vec<IpNet> = nets(Action::Allow)
        .map(|(net, _)| net)
        .filter(|net| matches!(net, IpNet::V6(_)))
        .collect();
    if open.is_empty() {
        return Vec::new();
    }
    let mut items = Vec::new();
    for (net, rule) in nets(Action::Deny) {
        let IpNet::V4(net) = net else { continue };
        for net in nat64.translated(net).map(IpNet::V6) {
            if open
                .iter()
                .any(|one| one.contains(&net) || net.contains(one))
            {
                let (start, bits) = position(net);
                items.push((start, bits, rule));
            }
        }
    }
    items
}

impl Nets {
    /// The networks of every rule that names one. `make` turns what a network comes to
    /// (given what its parent came to, and its own rules) into what is kept for its
    /// children, and into the set. What is denied of IPv4 is denied of its translated form too,
    /// where a network is allowed that reaches there.
    pub(super) fn new<E>(
        policy: &Policy,
        nat64: &Nat64,
        mut make: impl FnMut(&[Ruled], &[u32], &Selector) -> Result<(Vec<Ruled>, SetRef), E>,
    ) -> Result<Self, E> {
        let mut items: Vec<(u128, u8, u32)> = policy
            .rules
            .iter()
            .filter_map(|rule| match &rule.selector {
                Selector::Net(net) => {
                    let (start, bits) = position(fold(*net));
                    Some((start, bits, rule.number))
                }
                Selector::Host(_) => None,
            })
            .collect();
        items.extend(translated(policy, nat64));
        items.sort_unstable();
        let mut nets = Self {
            nodes: Vec::with_capacity(items.len() + 1),
            rules: Vec::with_capacity(items.len()),
        };
        for (start, bits, rule) in items {
            nets.rules.push(rule);
            let end = nets.rules.len() as u32;
            match nets.nodes.last_mut() {
                Some(last) if last.start == start && last.bits == bits => last.rules.end = end,
                _ => nets.nodes.push(Node {
                    start,
                    bits,
                    parent: NO_PARENT,
                    rules: end - 1..end,
                    set: SetRef::EMPTY,
                }),
            }
        }
        nets.wall_off_v4();
        nets.link(policy, &mut make)?;
        Ok(nets)
    }

    /// An IPv6 network that holds `::ffff:0:0/96` (such as `::/0`) does not mean IPv4.
    /// The longest-prefix look-up would let IPv4 addresses fall into it, so an empty
    /// network takes its place there.
    fn wall_off_v4(&mut self) {
        let above = |node: &Node| node.bits < V4_PREFIX_BITS && node.contains(V4_ROOT);
        if !self.nodes.iter().any(above) {
            return;
        }
        let root = (V4_ROOT, V4_PREFIX_BITS);
        if let Err(index) = self
            .nodes
            .binary_search_by_key(&root, |node| (node.start, node.bits))
        {
            let wall = Node {
                start: V4_ROOT,
                bits: V4_PREFIX_BITS,
                parent: NO_PARENT,
                rules: 0..0,
                set: SetRef::EMPTY,
            };
            self.nodes.insert(index, wall);
        }
    }

    /// One sweep in order, with the networks that hold the present one on a stack.
    fn link<E>(
        &mut self,
        policy: &Policy,
        make: &mut impl FnMut(&[Ruled], &[u32], &Selector) -> Result<(Vec<Ruled>, SetRef), E>,
    ) -> Result<(), E> {
        let mut stack: Vec<(u32, Vec<Ruled>)> = Vec::new();
        for index in 0..self.nodes.len() {
            let start = self.nodes[index].start;
            while stack
                .pop_if(|(top, _)| !self.nodes[*top as usize].contains(start))
                .is_some()
            {}
            let node = &self.nodes[index];
            let parent = stack.last();
            let inherited: &[Ruled] = match parent {
                Some((_, kept)) if !node.is_v4_root() => kept,
                _ => &[],
            };
            let parent = parent.map_or(NO_PARENT, |(parent, _)| *parent);
            let own = &self.rules[node.rules.start as usize..node.rules.end as usize];
            let (kept, set) = match own.first() {
                None => (Vec::new(), SetRef::EMPTY),
                Some(first) => make(inherited, own, &policy.rules[*first as usize].selector)?,
            };
            let node = &mut self.nodes[index];
            node.parent = parent;
            node.set = set;
            if !node.is_exact() {
                stack.push((index as u32, kept));
            }
        }
        Ok(())
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The network of exactly this address.
    pub(super) fn exact(&self, addr: &Addr) -> Option<&Node> {
        let key = (key(addr), 128);
        let index = self
            .nodes
            .binary_search_by_key(&key, |node| (node.start, node.bits));
        self.nodes.get(index.ok()?)
    }

    /// The networks that hold the address, narrowest first, the exact one too. Above the
    /// root of IPv4 none is named for an IPv4 address.
    pub(super) fn covering(&self, addr: &Addr) -> impl Iterator<Item = &Node> {
        let addr = key(addr);
        let after = self
            .nodes
            .partition_point(|node| (node.start, node.bits) <= (addr, 128));
        let mut next = after.checked_sub(1);
        std::iter::from_fn(move || {
            loop {
                let node = self.nodes.get(next?)?;
                next = match node.parent {
                    NO_PARENT => None,
                    _ if node.is_v4_root() && node.contains(addr) => None,
                    parent => Some(parent as usize),
                };
                if node.contains(addr) {
                    return Some(node);
                }
            }
        })
    }

    /// The rules of a network itself.
    pub(super) fn rules_of(&self, node: &Node) -> &[u32] {
        &self.rules[node.rules.start as usize..node.rules.end as usize]
    }
}
