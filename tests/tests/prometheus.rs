//! The metrics page as Prometheus itself reads it.

use exeat_tests::ns::Ns;
use exeat_tests::stage::{AGENT, POLICY, Stage};
use exeat_tests::wait;
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
