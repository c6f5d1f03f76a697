//! nftables with the same list: a set of addresses, a set of networks, and an output hook
//! that asks them for the sockets of one cgroup.

use crate::lists::List;
use crate::sock::PORT;
use anyhow::{Context, bail};
use exeat_tests::ns::Ns;
use nix::mount::{MsFlags, mount};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;

/// Loads the list into a network namespace, for the cgroup `place` (relative to the
/// cgroup2 root, two levels deep). Stateless, without connection tracking: the least
/// that nftables can be asked to do.
pub(crate) fn load(ns: &Ns, list: &List, place: &str) -> anyhow::Result<()> {
    // nft looks for cgroups below /sys/fs/cgroup, which on this machine may be the old
    // hierarchy.
    let ns = ns.clone().with_mounts(|| {
        mount(
            Some("none"),
            "/sys/fs/cgroup",
            Some("cgroup2"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mount cgroup2 for nft")
    })?;
    let mut child = ns
        .command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft cannot be started")?;
    let rules = rules(list, place)?;
    let mut stdin = child.stdin.take().context("nft has no standard input")?;
    let fed = stdin.write_all(rules.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nft: {}", said.lines().next().unwrap_or("no reason given"));
    }
    fed.context("write to nft")
}

fn rules(list: &List, place: &str) -> anyhow::Result<String> {
    let mut text = String::with_capacity(list.size * 17 + 1024);
    text.push_str("table inet bench {\n set exact { type ipv4_addr; elements = { ");
    for addr in list.exact() {
        write!(text, "{}, ", Ipv4Addr::from(*addr))?;
    }
    text.push_str("} }\n set nets { type ipv4_addr; flags interval; auto-merge; elements = { ");
    for (net, bits) in list.nets() {
        write!(text, "{}/{bits}, ", Ipv4Addr::from(*net))?;
    }
    write!(
        text,
        "}} }}\n chain agent {{\n  ip daddr @exact meta l4proto {{ tcp, udp }} th dport {PORT} accept\n  \
         ip daddr @nets meta l4proto {{ tcp, udp }} th dport {PORT} accept\n  drop\n }}\n \
         chain out {{\n  type filter hook output priority 0; policy accept;\n  \
         socket cgroupv2 level 2 \"{place}\" jump agent\n }}\n}}\n"
    )?;
    Ok(text)
}
