//! The metrics page as Prometheus itself reads it.

use exeat_tests::ns::Ns;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
use exeat_tests::world::NAME_SERVER;
use serde_json::Value;
use std::io::Write;
use std::process::{Child, Command, Stdio};

/// curl's "couldn't connect".
const REFUSED: Option<i32> = Some(7);

fn refuse_something(stage: &Stage) {
    let code = stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    assert_eq!(code, REFUSED);
    stage.curl_as(AGENT, "http://other.example/").expect("run");
    let code = stage.curl_as(AGENT, "http://allowed.example/");
    assert_eq!(code.expect("run"), Some(0));
}

#[test]
fn promtool_finds_nothing_to_say_about_the_live_page() {
    let stage = Stage::new(POLICY, "").expect("stage");
    refuse_something(&stage);
    let page = stage.daemon.metrics().expect("metrics");
    assert!(page.contains("exeat_build_info"), "{page}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool; install the package prometheus");
    promtool
        .stdin
        .take()
        .expect("stdin")
        .write_all(page.as_bytes())
        .expect("write");
    let output = promtool.wait_with_output().expect("promtool");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // Lint is printed with exit code 3, or with 0 by older versions.
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// A Prometheus server; killed when dropped.
struct Server {
    child: Child,
    ns: Ns,
}

const LISTEN: &str = "127.0.0.1:19090";

impl Server {
    fn start(stage: &Stage) -> Self {
        let folder = stage.world.folder().join("prometheus");
        std::fs::create_dir(&folder).expect("folder");
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n\
             - job_name: exeat\n  static_configs:\n  - targets: ['{}']\n",
            stage.daemon.metrics_address()
        );
        std::fs::write(&config, text).expect("write");
        let log = std::fs::File::create(folder.join("log")).expect("log");
        let child = stage
            .world
            .laptop
            .command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={LISTEN}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("prometheus; install the package prometheus");
        Self {
            child,
            ns: stage.world.laptop.clone(),
        }
    }

    /// The sum of what a query gives; none while there is nothing.
    fn query(&self, query: &str) -> Option<f64> {
        let output = self
            .ns
            .command("curl")
            .args(["-sS", "--noproxy", "*", "-G", "--data-urlencode"])
            .arg(format!("query={query}"))
            .arg(format!("http://{LISTEN}/api/v1/query"))
            .output()
            .ok()?;
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        let samples = answer["data"]["result"].as_array()?;
        let values = samples
            .iter()
            .filter_map(|s| s["value"][1].as_str()?.parse::<f64>().ok());
        (!samples.is_empty()).then(|| values.sum())
    }

    /// Waits until a query gives a value that is wanted.
    fn until(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let mut last = None;
        wait::until(query, wait::patience(), || {
            last = self.query(query);
            last.filter(|value| wanted(*value))
        })
        .unwrap_or_else(|e| panic!("{e}: last {last:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_server_scrapes_refusals_and_sees_the_daemon_go() {
    let mut stage = Stage::new(POLICY, "").expect("stage");
    let server = Server::start(&stage);
    server.until("up{job=\"exeat\"}", |up| up == 1.0);
    let blocked = "sum(exeat_flows_blocked_total{agent=\"worker\"})";
    assert_eq!(server.until(blocked, |_| true), 0.0, "there from the start");
    refuse_something(&stage);
    let tcp = "exeat_flows_blocked_total{agent=\"worker\",reason=\"no_rule\",protocol=\"tcp\"}";
    let seen = server.until(tcp, |count| count > 0.0);
    let page = stage.daemon.metric(
        "exeat_flows_blocked_total",
        &["agent=\"worker\"", "reason=\"no_rule\"", "protocol=\"tcp\""],
    );
    assert_eq!(seen, page.expect("metrics"));
    server.until(
        "sum(exeat_flows_allowed_total{agent=\"worker\",protocol=\"tcp\"})",
        |count| count > 0.0,
    );
    server.until(
        "sum(exeat_dns_queries_total{agent=\"worker\",verdict=\"deny\"})",
        |count| count > 0.0,
    );
    assert_eq!(server.until("exeat_enforcement_active", |_| true), 1.0);
    // The counters are the kernel's: they go on where they were after a crash.
    stage.daemon.kill9().expect("kill");
    server.until("up{job=\"exeat\"}", |up| up == 0.0);
    stage.daemon.restart().expect("restart");
    server.until("up{job=\"exeat\"}", |up| up == 1.0);
    let again = server.until(tcp, |_| true);
    assert!(again >= seen, "{again} after a restart, {seen} before");
    let resets = format!("sum(resets({tcp}[1m]))");
    assert_eq!(server.until(&resets, |_| true), 0.0);
}

/// A budget that is soon spent, and one name of every fate.
const NAMES: &str = "\
version: 1
agents:
  worker:
    dns: { budget: { names: 4 } }
    allow:
      - { host: allowed.example, ports: [80] }
      - { host: '*.wild.example', ports: [80] }
      - { host: inner.example, ports: [80] }
      - { host: gone.example, ports: [80] }
";

#[test]
fn what_becomes_of_names_is_counted() {
    let config = "  timeout_ms: 200\n  attempts: 1\n  min_ttl_seconds: 1\n";
    let stage = Stage::new(NAMES, config).expect("stage");
    stage.dns.set("inner.example", &["10.1.2.3"], 60);
    stage.dns.set("*.wild.example", &["203.0.113.30"], 60);
    stage.dns.set("short.wild.example", &["203.0.113.31"], 1);
    let mut agent = stage.daemon.puppet(AGENT).expect("puppet");
    let mut ask = |name: &str| {
        let answer = agent.value(&format!("dns_connected({NAME_SERVER:?}, {name:?})"));
        answer.expect(name)[1].as_i64().expect("a code")
    };
    let metric = |name: &str, labels: &[&str]| stage.daemon.metric(name, labels).expect("metric");
    let outcome = |outcome: &str| {
        let outcome = format!("outcome={outcome:?}");
        metric("exeat_dns_outcomes_total", &["agent=\"worker\"", &outcome])
    };
    let server = format!("upstream=\"{NAME_SERVER}:53\"");
    let up = || metric("exeat_dns_upstream_up", &[&server]);
    assert_eq!(up(), 1.0);

    let hits = metric("exeat_dns_cache_hits_total", &[]);
    let misses = metric("exeat_dns_cache_misses_total", &[]);
    let grants = metric("exeat_dns_grant_duration_seconds_count", &[]);
    let udp = [server.as_str(), "transport=\"udp\""];
    let requests = metric("exeat_dns_upstream_request_duration_seconds_count", &udp);
    assert!(requests >= 1.0, "the names of the policy were asked for");
    for name in ["a", "b", "short", "a"] {
        assert_eq!(ask(&format!("{name}.wild.example")), 0, "{name}");
    }
    assert_eq!(outcome("answered"), 4.0);
    let now = metric("exeat_dns_cache_misses_total", &[]);
    assert_eq!(now, misses + 3.0);
    let now = metric("exeat_dns_cache_hits_total", &[]);
    assert_eq!(now, hits + 1.0, "the second question for a");
    assert!(metric("exeat_dns_cache_entries", &[]) >= 3.0);
    let now = metric("exeat_dns_grant_duration_seconds_count", &[]);
    assert_eq!(now, grants + 3.0);
    let now = metric("exeat_dns_upstream_request_duration_seconds_count", &udp);
    assert!(now >= requests + 3.0, "{now}");

    assert_eq!(ask("other.example"), 5);
    assert_eq!(outcome("refused"), 1.0);
    assert_eq!(ask("d.wild.example"), 0);
    for name in ["e.wild.example", "f.wild.example"] {
        assert_eq!(ask(name), 5, "{name}");
    }
    assert_eq!(outcome("over_budget"), 2.0);
    let crossed = metric("exeat_dns_budgets_crossed_total", &["agent=\"worker\""]);
    assert_eq!(crossed, 1.0);
    let rebound = metric("exeat_dns_rebind_answers_dropped_total", &[]);
    assert_eq!(ask("inner.example"), 0, "an empty answer");
    assert_eq!(outcome("rebind"), 1.0);
    let now = metric("exeat_dns_rebind_answers_dropped_total", &[]);
    assert!(now > rebound, "{now}");

    stage.dns.failing(true);
    assert_eq!(ask("gone.example"), 2);
    assert_eq!(outcome("failed"), 1.0);
    let refused = [server.as_str(), "reason=\"rcode\""];
    assert!(metric("exeat_dns_upstream_failures_total", &refused) >= 1.0);
    assert_eq!(up(), 1.0, "a server that says so is there");
    stage.dns.silent(true);
    // Its second passes; then nobody says anything else.
    wait::until("an answer that has ended", wait::patience(), || {
        assert_eq!(ask("short.wild.example"), 0);
        (metric("exeat_dns_cache_stale_total", &[]) > 0.0).then_some(())
    })
    .expect("stale");
    assert_eq!(up(), 0.0);
    stage.dns.silent(false);
    stage.dns.failing(false);
    wait::until("the server to be well again", wait::patience(), || {
        ask("gone.example");
        (up() == 1.0).then_some(())
    })
    .expect("up");
}

#[test]
fn promtool_takes_the_alert_rules_and_each_fires_for_what_it_is_for() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards");
    for arguments in [
        ["check", "rules", "exeat-alerts.yaml"],
        ["test", "rules", "exeat-alerts.test.yaml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .expect("promtool; install the package prometheus");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}
