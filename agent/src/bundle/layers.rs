//! From the files of a bundle, and those of the laptop, to the policies that are in force.
//!
//! Layers come in the order vendor, org, role, machine, user, and the laptop's own files last. A
//! layer that may only tighten can deny more, require more walls and end monitoring, and can
//! describe agents that nobody described; everything else of it is left out, and told.

use std::collections::BTreeMap;

use agent_common::layout::Mode;
use agent_common::verdict::Action;

use super::Refusal;
use super::check::Verified;
use super::machine::Machine;
use super::manifest::{Layer, Local};
use crate::policy::{AgentName, Compiled, Policy, PolicySet, PolicyText, parse_all};

/// Policies by agent.
pub type Policies = BTreeMap<AgentName, Policy>;

/// The policies of a bundle for a laptop, without the laptop's own.
pub fn of_bundle(bundle: &Verified, machine: &Machine) -> Result<Policies, Refusal> {
    let manifest = &bundle.manifest;
    if let Err(key) = manifest.only.fits(machine) {
        let message = format!("its `for: {key}:` does not name this laptop");
        return Err(Refusal::WrongTarget(message));
    }
    let mut layers: BTreeMap<(Layer, bool), Vec<PolicyText>> = BTreeMap::new();
    for entry in &manifest.files {
        if entry.only.fits(machine).is_err() {
            continue;
        }
        let text = bundle.files.get(&entry.file).cloned().unwrap_or_default();
        let name = format!("bundle {}@{}/{}", manifest.name, bundle.version, entry.file);
        let layer = layers.entry((entry.layer, entry.only_tighten)).or_default();
        layer.push(PolicyText { name, text });
    }
    let mut policies = Policies::new();
    for ((_, only_tighten), texts) in layers {
        let set = parse_all(&texts).map_err(|errors| Refusal::Policy(errors.to_string()))?;
        for (name, over) in set.agents {
            let trouble = match only_tighten {
                true => tighten(&mut policies, name, over),
                false => {
                    extend(&mut policies, name, over);
                    Ok(())
                }
            };
            trouble.map_err(Refusal::Policy)?;
        }
    }
    for policy in policies.values() {
        Compiled::new(policy)
            .map_err(|error| Refusal::Policy(format!("agent {}: {error}", policy.name.as_str())))?;
    }
    Ok(policies)
}

/// Joins the laptop's own policies. What may not be joined is left out; the second value says
/// what, and why.
pub fn with_local(
    mut policies: Policies,
    local: PolicySet,
    may: Local,
) -> (PolicySet, Vec<String>) {
    let mut left_out = Vec::new();
    for (name, over) in local.agents {
        match may {
            Local::Ignore => left_out.push(format!(
                "agent {}: the bundle takes nothing of this laptop's own policy",
                name.as_str()
            )),
            Local::Tighten => {
                let result = tighten(&mut policies, name, over);
                left_out.extend(result.err());
            }
            Local::Allow => {
                let before = policies.get(&name).cloned();
                extend(&mut policies, name.clone(), over);
                let fits = policies.get(&name).map(Compiled::new);
                if let Some(Err(error)) = fits {
                    left_out.push(format!("agent {}: {error}", name.as_str()));
                    match before {
                        Some(before) => policies.insert(name, before),
                        None => policies.remove(&name),
                    };
                }
            }
        }
    }
    (PolicySet::new(policies, local.warnings), left_out)
}

/// A step of a roll-out that monitors: an agent that is governed stays as it is, one that nothing
/// governs yet is watched.
pub fn monitored(before: &Policies, after: Policies) -> Policies {
    let mut policies = before.clone();
    for (name, mut policy) in after {
        let governed = before
            .get(&name)
            .is_some_and(|old| old.mode == Mode::Enforce);
        if !governed {
            policy.mode = Mode::Monitor;
            policies.insert(name, policy);
        }
    }
    policies
}

/// A policy that says nothing, to tell what another one says.
fn silent(name: &AgentName) -> Option<Policy> {
    let text = format!("version: 1\nagents:\n  {}: {{}}\n", name.as_str());
    let set = crate::policy::parse("", &text).ok()?;
    set.agents.into_values().next()
}

/// Both together; where both say something that is said once, the later one counts.
fn extend(policies: &mut Policies, name: AgentName, over: Policy) {
    let Some(base) = policies.get_mut(&name) else {
        policies.insert(name, over);
        return;
    };
    let Some(silent) = silent(&name) else { return };
    let Policy {
        name: _,
        mode,
        rules,
        dns,
        services,
        gateway,
        require,
        sandbox,
        limits,
        identity,
        matching,
        ask,
    } = over;
    base.mode = mode;
    base.rules.extend(rules);
    number(base);
    base.require.extend(require);
    base.matching.extend(matching);
    if dns != silent.dns {
        base.dns = dns;
    }
    if services != silent.services {
        base.services = services;
    }
    if gateway != silent.gateway {
        base.gateway = gateway;
    }
    if sandbox != silent.sandbox {
        base.sandbox = sandbox;
    }
    if limits != silent.limits {
        base.limits = limits;
    }
    if identity != silent.identity {
        base.identity = identity;
    }
    if ask != silent.ask {
        base.ask = ask;
    }
}

/// Only what makes narrower. The error says what does not.
fn tighten(policies: &mut Policies, name: AgentName, over: Policy) -> Result<(), String> {
    let agent = name.as_str().to_owned();
    let wrong = |what: String| {
        Err(format!(
            "agent {agent}: {what}, and this policy may only make the bundle's narrower"
        ))
    };
    let Some(base) = policies.get_mut(&name) else {
        // Programs that another agent's policy is for must not be drawn under a wider one.
        if !over.matching.is_empty() {
            return wrong("it says `match` of an agent that the bundle does not know".into());
        }
        policies.insert(name, over);
        return Ok(());
    };
    let Some(silent) = silent(&name) else {
        return wrong("it cannot be compared".into());
    };
    let Policy {
        name: _,
        mode,
        rules,
        dns,
        services,
        gateway,
        require,
        sandbox,
        limits,
        identity,
        matching,
        ask,
    } = over;
    if let Some(rule) = rules.iter().find(|rule| rule.action != Action::Deny) {
        return wrong(format!("`{rule}` ({})", rule.origin));
    }
    for (key, said) in [
        ("dns", dns != silent.dns),
        ("services", services != silent.services),
        ("gateway", gateway != silent.gateway),
        ("sandbox", sandbox != silent.sandbox),
        ("limits", limits != silent.limits),
        ("identity", identity != silent.identity),
        ("match", !matching.is_empty()),
        ("ask", ask != silent.ask),
    ] {
        if said {
            return wrong(format!("it says `{key}`"));
        }
    }
    let mut joined = base.clone();
    joined.rules.extend(rules);
    number(&mut joined);
    joined.require.extend(require);
    if mode == Mode::Enforce {
        joined.mode = Mode::Enforce;
    }
    if let Err(error) = Compiled::new(&joined) {
        return wrong(error.to_string());
    }
    *base = joined;
    Ok(())
}

fn number(policy: &mut Policy) {
    for (number, rule) in policy.rules.iter_mut().enumerate() {
        rule.number = number as u32;
    }
}
