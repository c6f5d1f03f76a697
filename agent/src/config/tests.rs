use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("c.yaml"), text)
}

fn upstream(text: &str) -> Upstream {
    text.parse().expect("a server")
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn empty_means_every_default() {
    assert_eq!(parse("").expect("empty"), Config::default());
    assert_eq!(
        parse("# only a comment\n").expect("comment"),
        Config::default()
    );
    let metrics: SocketAddr = "127.0.0.1:9479".parse().expect("address");
    assert_eq!(Config::default().metrics, Metrics::At(metrics));
}

#[test]
fn every_key_is_read() {
    let text = "
policy: [/a, /b.yaml]
slice: agents.slice
cgroup_root: /cg
bpffs: /bpf
runtime_dir: /r
state_dir: /s
metrics: off
metrics_allow_remote: true
sandbox: false
scopes: false
resolver:
  upstreams: [192.0.2.1, '[2001:db8::1]:5353', 'tls://192.0.2.2#dns.example']
  zones: [{zone: corp.example, upstreams: ['https://192.0.2.3/q#dns.example'], insecure: true}]
  ca_file: /ca.pem
  timeout_ms: 100
  attempts: 3
  grace_seconds: 3601
  min_ttl_seconds: 7
  max_ttl_seconds: 70
  negative_max_ttl_seconds: 8
  serve_stale_seconds: 0
  case_randomization: false
events: {keep: 5, rate: 6, burst: 7, file: /f, file_max_bytes: 65536}
audit: {enabled: false, folder: /au, max_bytes: 65536, keep: 2, checkpoint_seconds: 1, allowed: true}
gateway: {authorities: /etc/exeat/corp.pem}
control: {group: wheel}
history: {enabled: false, file: /h.sqlite, max_age: 1d12h, max_bytes: 2MiB}
ship: [{name: journal, to: journald, only: [incidents]}]
notify: {answer: false}
detect: {starter: false, rules: [/d], act: false}
bundle: {trust: /t.json, file: /b, url: 'https://h/b', every: 2h, roles: [dev], users: [alice]}
asking:
  users_may_always: true
  users_may_domain: true
  hook: {command: [/opt/ask, -v], user: nobody, timeout_seconds: 20}
  webhook: {url: 'https://chat.example/ask', secret_file: /etc/exeat/secret, ca_file: /etc/exeat/chat.pem, timeout_seconds: 60}
";
    let config = parse(text).expect("valid");
    let expected = Config {
        policy: vec!["/a".into(), "/b.yaml".into()],
        slice: Slice("agents.slice".into()),
        cgroup_root: Some("/cg".into()),
        bpffs: "/bpf".into(),
        runtime_dir: "/r".into(),
        state_dir: "/s".into(),
        metrics: Metrics::Off,
        metrics_allow_remote: true,
        resolver: Resolver {
            upstreams: vec![
                upstream("192.0.2.1:53"),
                upstream("[2001:db8::1]:5353"),
                upstream("tls://192.0.2.2:853#dns.example"),
            ],
            zones: vec![Zone {
                zone: "corp.example".to_owned().try_into().expect("zone"),
                upstreams: vec![upstream("https://192.0.2.3:443/q#dns.example")],
                insecure: true,
            }],
            ca_file: Some("/ca.pem".into()),
            timeout_ms: 100,
            attempts: 3,
            grace_seconds: 3601,
            min_ttl_seconds: 7,
            max_ttl_seconds: 70,
            negative_max_ttl_seconds: 8,
            serve_stale_seconds: 0,
            case_randomization: false,
        },
        events: Events {
            keep: 5,
            rate: 6,
            burst: 7,
            file: Some("/f".into()),
            file_max_bytes: 65536,
        },
        audit: Audit {
            enabled: false,
            folder: Some("/au".into()),
            max_bytes: 65536,
            keep: 2,
            checkpoint_seconds: 1,
            allowed: true,
        },
        gateway: Gateway {
            authorities: Some("/etc/exeat/corp.pem".into()),
        },
        sandbox: false,
        scopes: false,
        control: Control {
            group: Some("wheel".into()),
        },
        history: History {
            enabled: false,
            file: Some("/h.sqlite".into()),
            max_age: Duration::from_secs(36 * 3600),
            max_bytes: 2 << 20,
        },
        ship: vec![
            serde_saphyr::from_str("{name: journal, to: journald, only: [incidents]}")
                .expect("receiver"),
        ],
        notify: Notify { answer: false },
        detect: Detect {
            starter: false,
            rules: vec!["/d".into()],
            act: false,
        },
        asking: Asking {
            users_may_always: true,
            users_may_domain: true,
            hook: Some(crate::asking::hook::HookConfig {
                command: vec!["/opt/ask".into(), "-v".into()],
                user: "nobody".into(),
                timeout_seconds: 20,
            }),
            webhook: Some(crate::asking::webhook::WebhookConfig {
                url: "https://chat.example/ask".into(),
                secret_file: "/etc/exeat/secret".into(),
                ca_file: Some("/etc/exeat/chat.pem".into()),
                timeout_seconds: 60,
            }),
        },
        bundle: crate::bundle::config::BundleConfig {
            trust: "/t.json".into(),
            file: Some("/b".into()),
            url: Some("https://h/b".parse().expect("url")),
            every: Duration::from_secs(7200),
            roles: vec!["dev".into()],
            users: Some(vec!["alice".into()]),
            ..Default::default()
        },
    };
    assert_eq!(config, expected);
}

#[test]
fn an_unknown_key_names_file_line_column_and_line() {
    let text = error("slice: a.slice\nmetric: off\n");
    assert!(
        text.starts_with("c.yaml:2:1: unknown field `metric`"),
        "{text}"
    );
    assert!(text.contains("2 | metric: off"), "{text}");
    let nested = error("events:\n  kep: 3\n");
    assert!(nested.starts_with("c.yaml:2:3: "), "{nested}");
}

#[test]
fn wrong_values_are_refused_with_the_way_out() {
    for (text, expected) in [
        ("slice: a/b", "one path component"),
        ("slice: ..", "one path component"),
        ("slice: ''", "one path component"),
        ("slice: system.slice", "rest of the system"),
        ("slice: cgroup.procs", "files of its own"),
        ("metrics: 0.0.0.0:9479", "metrics_allow_remote: true"),
        ("metrics: localhost:9479", "write IP:PORT"),
        ("metrics: 'no'", "write IP:PORT"),
        ("policy: []", "names no file"),
        ("policy: [etc]", "absolute path"),
        ("runtime_dir: /run/../etc", "without `..`"),
        (
            "resolver: {upstreams: [dns.example]}",
            "is not a DNS server",
        ),
        (
            "resolver: {upstreams: ['192.0.2.1:0']}",
            "is not a DNS server",
        ),
        (
            "resolver: {upstreams: ['tls://192.0.2.1']}",
            "name of its certificate is missing",
        ),
        (
            "resolver: {zones: [{zone: corp.example}]}",
            "missing field `upstreams`",
        ),
        (
            "resolver: {zones: [{zone: corp.example, upstreams: []}]}",
            "corp.example lists 0 servers",
        ),
        (
            "resolver: {zones: [{zone: '*.corp.example', upstreams: [192.0.2.1]}]}",
            "is not a zone",
        ),
        (
            "resolver: {zones: [{zone: a, upstreams: [192.0.2.1], search: true}]}",
            "unknown field `search`",
        ),
        ("resolver: {ca_file: ca.pem}", "absolute path"),
        ("resolver: {ca_file: /ca.pem}", "no server is tls://"),
        ("resolver: {serve_stale_seconds: 259201}", "not between 0"),
        (
            "resolver: {negative_max_ttl_seconds: 10801}",
            "not between 0",
        ),
        ("resolver: {attempts: 0}", "not between 1 and 10"),
        (
            "resolver: {min_ttl_seconds: 100, max_ttl_seconds: 99}",
            "not between 100",
        ),
        ("events: {burst: 10}", "not between 200"),
        ("events: {keep: 0}", "not between 1"),
        ("metrics: off\nmetrics: off", "duplicate"),
    ] {
        let message = error(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    assert!(parse("metrics: 0.0.0.0:1\nmetrics_allow_remote: true").is_ok());
}

#[test]
fn only_the_default_file_may_be_missing() {
    let dir = tempfile::tempdir().expect("dir");
    let gone = dir.path().join("gone.yaml");
    let there = dir.path().join("there.yaml");
    std::fs::write(&there, "metrics: off\n").expect("write");
    let load = |flag, env, default| Config::load_from(flag, env, default);
    assert_eq!(
        load(None, None, &gone).expect("defaults"),
        Config::default()
    );
    for (flag, env) in [(Some(&*gone), None), (None, Some(&*gone))] {
        let text = load(flag, env, &there).expect_err("missing").to_string();
        assert!(text.contains("gone.yaml"), "{text}");
    }
    let flag_wins = load(Some(&there), Some(&gone), &gone).expect("flag");
    assert_eq!(flag_wins.metrics, Metrics::Off);
    std::fs::write(&gone, vec![b'#'; (MAX_BYTES + 1) as usize]).expect("write");
    let too_large = load(Some(&gone), None, &there);
    assert!(matches!(too_large, Err(ConfigError::TooLarge { .. })));
}

#[test]
fn the_admin_group_must_exist() {
    let gid = |text: &str| parse(text).expect("valid").admin_gid();
    assert_eq!(gid("").expect("none"), None);
    assert_eq!(gid("control: {group: root}").expect("root"), Some(0));
    let text = gid("control: {group: no-such-group}")
        .expect_err("none")
        .to_string();
    assert!(text.contains("no group `no-such-group`"), "{text}");
}

#[test]
fn a_receiver_that_cannot_be_is_told_with_its_key_and_its_name() {
    let text = error("ship:\n  - {name: siem, to: 'otlp+http://siem.example:4318'}\n");
    assert!(
        text.starts_with("c.yaml: `ship`: receiver `siem`, to: "),
        "{text}"
    );
    let text = error("ship:\n  - {name: siem, to: kafka}\n");
    assert!(
        text.contains("c.yaml:2:") && text.contains("write one of journald"),
        "{text}"
    );
}
