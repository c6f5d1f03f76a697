//! No text makes the reader panic, and what it accepts compiles or says why not.

use super::verdicts::Random;
use crate::policy::{Compiled, HostName, parse};
use agent_common::verdict::Action;
use proptest::prelude::*;

const SEED: &str = r#"version: 1
agents:
  build-bot:
    mode: enforce
    allow:
      - host: api.example.com
        ports: [443, "4000-4010"]
        reason: model endpoint
      - cidr: 10.20.0.0/16
        protocol: udp
        ports: all
      - group: g
      - host: "*.corp.example"
        ports: [443]
        private: true
        types: [TXT, MX, 65400]
        ech: keep
        tls: sni
      - {host: w.example, ports: all, http: host, via: gateway}
      - {host: v.example, ports: [443], via: {proxy: "https://p.example:1", ca: /a, certificate: /b, key: /c, credentials: /d}}
      - {host: u.example, ports: [443], inspect: {requests: [{methods: [GET], path: /v1/**}], strip: [cookie], max_body: 1MiB, patterns: [{name: k, regex: "A[0-9]{4}", action: report}]}}
    deny:
      - cidr: 169.254.169.254/32
      - {host: "*.bad.corp.example"}
    dns: {refuse: nxdomain, dnssec: validate, over_budget: report, budget: {names: 5, bytes: 8KiB}}
    gateway: {listen: [http, socks5]}
    listen:
      - {cidr: "::1", ports: 80}
groups:
  g:
    - host: registry.example.org
      ports: [443]
"#;

fn try_it(text: &str) -> bool {
    match parse("fuzz.yaml", text) {
        Ok(set) => {
            for policy in set.agents.values() {
                if let Err(error) = Compiled::new(policy) {
                    assert!(!error.to_string().is_empty());
                }
                let names = policy.names();
                for host in policy.hosts() {
                    // What a policy names can be asked for.
                    assert_eq!(HostName::asked(host.as_str()), Some(host.clone()));
                    let denied = policy.rules.iter().any(|rule| rule.action == Action::Deny);
                    assert!(denied || names.find(host.as_str()).is_some(), "{host}");
                }
            }
            true
        }
        Err(errors) => {
            assert!(!errors.errors.is_empty());
            let shown = errors.to_string();
            assert!(shown.contains("help: "), "{shown}");
            assert!(
                !shown.chars().any(|c| c.is_control() && c != '\n'),
                "{shown:?}"
            );
            false
        }
    }
}

#[test]
fn mutations_of_a_policy_never_panic() {
    let tokens = [
        "\n", " ", "  ", ":", "-", "- ", "[", "]", "{", "}", "\"", "'", "#", "&a ", "*a", "|", ">",
        "!!str ", "<<: ", "\t", "\u{0}", "\u{202e}", "é", "~", "null", "all", "0", "65536",
        "1e999", "::/0", "*.x", "? ", "%YAML", "---\n", "...\n",
    ];
    let mut random = Random::new(11);
    let mut accepted = 0;
    for _ in 0..3_000 {
        let mut text: Vec<char> = SEED.chars().collect();
        for _ in 0..=random.below(4) {
            let at = random.below(text.len() as u32) as usize;
            match random.below(4) {
                0 => {
                    text.remove(at);
                }
                1 => {
                    let token = tokens[random.below(tokens.len() as u32) as usize];
                    text.splice(at..at, token.chars());
                }
                2 => {
                    let end = (at + random.below(30) as usize).min(text.len());
                    let piece: Vec<char> = text[at..end].to_vec();
                    let to = random.below(text.len() as u32) as usize;
                    text.splice(to..to, piece);
                }
                _ => text.truncate(at.max(1)),
            }
            if text.is_empty() {
                text.push('a');
            }
        }
        accepted += u32::from(try_it(&text.into_iter().collect::<String>()));
    }
    // The mutations are small enough that some policies stay sound, and not all.
    assert!(accepted > 30 && accepted < 2_900, "{accepted}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_without_panic(text in "\\PC*|[ -~\n\t]{0,200}|([a-z]{1,3}:[ \n] *)*") {
        try_it(&text);
    }

    #[test]
    fn any_value_of_a_key_is_read_without_panic(key in "host|cidr|ports|protocol|reason|group|private|types|ech|tls|quic|http|via|inspect", value in "\\PC{0,40}") {
        try_it(&format!("version: 1\nagents:\n  a:\n    allow:\n    - {key}: {value}\n"));
    }

    #[test]
    fn any_question_is_judged_without_panic(name in "\\PC{0,40}|[a-zA-Z0-9._*\\\\-]{0,300}") {
        let set = parse("fuzz.yaml", SEED).expect("the seed");
        let names = set.agents["build-bot"].names();
        for name in [name.clone(), format!("{name}.corp.example")] {
            if names.find(&name).is_some() {
                // What is answered can be leased.
                let host = HostName::asked(&name).expect("a name");
                let end = [".corp.example", "api.example.com", "registry.example.org"];
                prop_assert!(end.iter().any(|end| host.as_str().ends_with(end)), "{host}");
            }
        }
    }
}
