//! Manifests that are taken, and those that are not.

use super::*;
use crate::policy::Sandbox;

/// Made once by minisign with a key that was thrown away, over the canonical form of [`NOTES`].
const KEY: &str = "RWTwi9X80pEe2fO/F6hqkBjzzZdhNWjVOaSiawhyAGaTKg5Vtau9719/";
const SIGNATURE: &str = "untrusted comment: untrusted\nRUTwi9X80pEe2SBngPfr0d7gvnOZcnYu9uTNDujeccDgZm6LOyogT+l8F29AmCsO+wSMg64Wze+qT7jOSAY1sFGgu0EqaWjm/g8=\ntrusted comment: plugin\nooCQW6Bg6oiJ3BLCD0NAaDP6AA5d2RkbJRnvZeqQyPOzhm3+3FfFD6CnifJP0L0Aff3AFwtBd9nqeqWRlAvFAQ==\n";

const NOTES: &str = r#"{
  "version": "1.2.0",
  "name": "notes",
  "permissions": {
    "network": ["https://api.example.com/v1/*"],
    "filesystem": ["~/notes", {"path": "./", "mode": "write"}],
    "cloud": []
  }
}"#;

fn signed(change: impl Fn(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(NOTES).expect("JSON");
    value["signature"] = SIGNATURE.into();
    change(&mut value);
    value.to_string()
}

fn manifest(filesystem: &str, network: &str) -> String {
    format!(
        r#"{{"name":"p","version":"1","permissions":{{"filesystem":{filesystem},"network":{network}}}}}"#
    )
}

fn refusal(text: &str) -> String {
    import(text, &How::default()).expect_err(text).to_string()
}

#[test]
fn a_manifest_becomes_a_policy() {
    let imported = import(NOTES, &How::default()).expect("taken");
    let known = "version: 1
agents:
  # imported from the manifest of notes 1.2.0, NOT signed
  \"notes\":
    mode: enforce
    allow:
      # the manifest has only the path /v1/* of it: this rule allows every path, `inspect` could judge requests
      - host: \"api.example.com\"
        ports: [443]
        reason: of the plugin's manifest
    sandbox:
      project: write
      read: [\"~/notes\"]
";
    assert_eq!(imported.policy, known);
    assert_eq!(
        imported.warnings,
        ["the manifest is not signed: anybody may have written it"]
    );
}

#[test]
fn urls_and_patterns_become_hosts_and_ports() {
    for (entry, rules) in [
        ("https://a.example/", "host: \"a.example\" [443]"),
        (
            "https://a.example:8443/x?token=secret",
            "host: \"a.example\" [8443]",
        ),
        ("http://a.example", "host: \"a.example\" [80]"),
        ("wss://a.example/socket", "host: \"a.example\" [443]"),
        ("*://*.a.example/*", "host: \"*.a.example\" [443, 80]"),
        ("a.example", "host: \"a.example\" [443]"),
        ("*.a.example:22", "host: \"*.a.example\" [22]"),
        ("10.0.0.0/8:5432", "cidr: \"10.0.0.0/8\" [5432]"),
        ("192.0.2.7", "cidr: \"192.0.2.7\" [443]"),
        ("https://[2001:db8::1]:444/", "cidr: \"2001:db8::1\" [444]"),
        ("2001:db8::1", "cidr: \"2001:db8::1\" [443]"),
    ] {
        let text = manifest("[]", &serde_json::json!([entry]).to_string());
        let imported = import(&text, &How::default()).unwrap_or_else(|e| panic!("{entry}: {e}"));
        let lines: Vec<&str> = imported
            .policy
            .lines()
            .filter_map(|line| {
                let line = line.trim();
                line.strip_prefix("- ")
                    .or_else(|| line.strip_prefix("ports: "))
            })
            .collect();
        assert_eq!(lines.join(" "), rules, "{entry}");
        assert!(!imported.policy.contains("secret"), "{}", imported.policy);
    }
}

#[test]
fn what_is_not_understood_is_an_error() {
    for (text, said) in [
        ("", "not JSON"),
        ("[]", "no manifest"),
        (
            r#"{"name":"p","version":"1"}"#,
            "missing field `permissions`",
        ),
        (
            r#"{"name":"p","version":"1","permissions":{},"more":1}"#,
            "unknown field `more`",
        ),
        (
            r#"{"name":"p","version":"1","permissions":{"usb":[]}}"#,
            "unknown field `usb`",
        ),
        (
            r#"{"name":"A b","version":"1","permissions":{}}"#,
            "--agent",
        ),
        (
            r#"{"name":"p","version":"1","permissions":{"cloud":["aws:s3"]}}"#,
            "--without-cloud",
        ),
        (
            &manifest(r#"[{"path":"/x","mode":"execute"}]"#, "[]"),
            "no mode",
        ),
        (
            &manifest(r#"[{"path":"/x","mode":"read","deep":true}]"#, "[]"),
            "no manifest",
        ),
        (&manifest(r#"["/home/*/x"]"#, "[]"), "wildcards"),
        (&manifest(r#"["$XDG_DATA_HOME/x"]"#, "[]"), "wildcards"),
        (&manifest(r#"["x"]"#, "[]"), "cannot be opened"),
        (&manifest(r#"["/"]"#, "[]"), "cannot be opened"),
        (&manifest(r#"["/x/../etc"]"#, "[]"), "`/x/../etc`"),
        (&manifest("[]", r#"["ftp://a.example/"]"#), "only https"),
        (
            &manifest("[]", r#"["https://user:pw@a.example/"]"#),
            "user or password",
        ),
        (&manifest("[]", r#"["https://a.example:0/"]"#), "port"),
        (&manifest("[]", r#"["https://a.example:+1/"]"#), "port"),
        (&manifest("[]", r#"["a.*.example"]"#), "whole first label"),
        (&manifest("[]", r#"["a.example/path"]"#), "a.example/path"),
        (&manifest("[]", r#"["a b"]"#), "no destination"),
        (&manifest("[]", r#"[{"host":"a.example"}]"#), "no manifest"),
    ] {
        let error = refusal(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn every_destination_is_refused_unless_a_person_says_so() {
    for entry in [
        "*",
        "<all_urls>",
        "*://*/*",
        "https://*/",
        "*:443",
        "0.0.0.0/0",
        "::/0",
    ] {
        let text = manifest("[]", &serde_json::json!([entry]).to_string());
        let error = refusal(&text);
        assert!(error.contains("--allow-any"), "{entry}: {error}");
        let how = How {
            allow_any: true,
            ..How::default()
        };
        let imported = import(&text, &how).unwrap_or_else(|e| panic!("{entry}: {e}"));
        assert!(
            imported
                .warnings
                .iter()
                .any(|w| w.contains("every destination")),
            "{entry}"
        );
    }
}

#[test]
fn folders_become_openings_of_the_sandbox() {
    let text = manifest(
        r#"["~", {"path":"~/","mode":"read"}, {"path":"${HOME}/out","mode":"rw"}, "/srv/data", {"path":"./","mode":"read"}]"#,
        "[]",
    );
    let imported = import(&text, &How::default()).expect("taken");
    let set = policy::parse("p", &imported.policy).expect("a policy");
    let Sandbox::Walls(openings) = &set.agents["p"].sandbox else {
        panic!("a sandbox");
    };
    assert_eq!(
        openings.to_string(),
        "home read, project read, reads /srv/data, writes ~/out"
    );
}

#[test]
fn cloud_permissions_are_left_out_only_when_a_person_says_so() {
    let text = r#"{"name":"p","version":"1","permissions":{"cloud":["aws:s3\n- x"]}}"#;
    let how = How {
        without_cloud: true,
        ..How::default()
    };
    let imported = import(text, &how).expect("taken");
    assert!(
        imported.policy.contains("# LEFT OUT"),
        "{}",
        imported.policy
    );
    assert_eq!(imported.warnings.len(), 2);
}

#[test]
fn a_signature_is_of_the_key_and_of_every_word() {
    let by = |text: &str, key| {
        import(
            text,
            &How {
                public_key: Some(key),
                ..How::default()
            },
        )
    };
    let imported = by(&signed(|_| {}), KEY).expect("signed");
    assert!(
        imported.policy.contains("signed by the key"),
        "{}",
        imported.policy
    );
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    let file = format!("untrusted comment: x\n{KEY}\n");
    assert!(by(&signed(|_| {}), &file).is_ok(), "a key file");
    // Another layout and order of keys is the same manifest.
    let pretty: Value = serde_json::from_str(&signed(|_| {})).expect("JSON");
    let pretty = serde_json::to_string_pretty(&pretty).expect("JSON");
    assert!(by(&pretty, KEY).is_ok());

    let other = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    for (text, key, said) in [
        (
            signed(|v| v["version"] = "1.2.1".into()),
            KEY,
            "was changed",
        ),
        (
            signed(|v| v["permissions"]["network"][0] = "https://evil.example/".into()),
            KEY,
            "was changed",
        ),
        (
            signed(|v| v["permissions"]["cloud"] = serde_json::json!(["aws"])),
            KEY,
            "was changed",
        ),
        (signed(|_| {}), other, "not by this key"),
        (
            signed(|v| v["signature"] = "none".into()),
            KEY,
            "none of minisign",
        ),
        (signed(|_| {}), "nonsense", "the key that was given"),
        (NOTES.to_owned(), KEY, "not signed"),
    ] {
        let error = by(&text, key).expect_err(said).to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
    let unchecked = import(&signed(|_| {}), &How::default()).expect("taken");
    assert!(
        unchecked.policy.contains("NOT checked"),
        "{}",
        unchecked.policy
    );
}

#[test]
fn text_of_the_manifest_stays_in_its_comment() {
    let text = serde_json::json!({
        "name": "p\n  evil:\n    allow: []\n#",
        "version": "1\n\u{2028}agents: {}",
        "permissions": {"network": ["https://a.example/x\u{85}y"]}
    });
    let how = How {
        agent: Some("p"),
        ..How::default()
    };
    assert!(
        import(&text.to_string(), &how).is_err(),
        "a control character in a URL"
    );
    let mut text = text;
    text["permissions"] = serde_json::json!({});
    let imported = import(&text.to_string(), &how).expect("taken");
    let set = policy::parse("p", &imported.policy).expect("a policy");
    assert_eq!(set.agents.len(), 1, "{}", imported.policy);
}
