//! How much one laptop sends to a fleet's receiver, through an agent that exists.

use crate::{mdm, read, run, stage};
use exeat_tests::ns::Ns;
use exeat_tests::stage::{AGENT, Stage};
use exeat_tests::wait;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Stdio};

/// What docs/sizing.md says that one laptop with one agent writes at most, of the series that
/// `prometheus/agent.yml` keeps.
const KEPT: f64 = 40.0;

/// A Prometheus; killed when dropped.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(ns: &Ns, folder: &Path, arguments: &[String]) -> Prometheus {
    let log = std::fs::File::create(folder.join("log")).expect("log");
    let child = ns
        .command("prometheus")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log"))
        .stderr(log)
        .spawn()
        .expect("prometheus; install the package prometheus");
    Prometheus(child)
}

fn folder(stage: &Stage, name: &str) -> std::path::PathBuf {
    let folder = stage.world.folder().join(name);
    std::fs::create_dir(&folder).expect("folder");
    folder
}

const RECEIVER: &str = "127.0.0.1:19190";

fn query(stage: &Stage, query: &str) -> Option<f64> {
    let mut curl = stage.world.laptop.command("curl");
    curl.args(["-sS", "--noproxy", "*", "-G", "--data-urlencode"])
        .arg(format!("query={query}"))
        .arg(format!("http://{RECEIVER}/api/v1/query"));
    let answer: Value = serde_json::from_slice(&run(&mut curl).stdout).ok()?;
    answer["data"]["result"][0]["value"][1]
        .as_str()?
        .parse()
        .ok()
}

#[test]
fn a_laptops_agent_writes_few_series_to_the_fleet_and_catches_up_after_it_was_away() {
    let stage = stage();
    let at = folder(&stage, "agent");
    let config = at.join("agent.yml");
    let text = read(&mdm("prometheus/agent.yml"))
        .replace("127.0.0.1:9479", &stage.daemon.metrics_address())
        .replace(
            "https://metrics.example.invalid",
            &format!("http://{RECEIVER}"),
        )
        .replace("laptop: LAPTOP", "laptop: l-1")
        .replace(
            "scrape_interval: 60s",
            "scrape_interval: 1s\n  scrape_timeout: 1s",
        )
        .replace("max_backoff: 5m", "max_backoff: 1s");
    std::fs::write(&config, &text).expect("write");
    let check = run(std::process::Command::new("promtool")
        .args(["check", "config", "--agent"])
        .arg(&config));
    assert!(check.status.success(), "{}", crate::text(&check));

    // The laptop is away: what happens now is written to the agent's disk.
    let agent = start(
        &stage.world.laptop,
        &at,
        &[
            "--enable-feature=agent".into(),
            format!("--config.file={}", config.display()),
            format!("--storage.agent.path={}", at.join("data").display()),
            "--web.listen-address=127.0.0.1:19191".into(),
        ],
    );
    let isolate = run(&mut stage.daemon.cli(&["isolate", "--agent", AGENT]));
    assert!(isolate.status.success());
    let away = jiff::Timestamp::now().as_second();
    wait::until("the agent to have scraped", wait::patience(), || {
        let mut curl = stage.world.laptop.command("curl");
        let url = "http://127.0.0.1:19191/metrics";
        let output = run(curl.args(["-sS", "--noproxy", "*", url]));
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        // Of some versions with a label for the kind of sample.
        let line = page
            .lines()
            .find(|line| line.starts_with("prometheus_agent_samples_appended_total"))?;
        let (_, count) = line.rsplit_once(' ')?;
        (count.parse::<f64>().ok()? > 0.0).then_some(())
    })
    .expect("scraped");

    // It is back.
    let home = folder(&stage, "receiver");
    let empty = home.join("prometheus.yml");
    std::fs::write(&empty, "global: {}\n").expect("write");
    let receiver = start(
        &stage.world.laptop,
        &home,
        &[
            "--web.enable-remote-write-receiver".into(),
            format!("--config.file={}", empty.display()),
            format!("--storage.tsdb.path={}", home.join("data").display()),
            format!("--web.listen-address={RECEIVER}"),
        ],
    );
    let isolated = "sum(exeat_incidents_total{laptop=\"l-1\",kind=\"isolated\"})";
    wait::until(
        "the incident at the fleet's receiver",
        wait::patience(),
        || query(&stage, isolated).filter(|count| *count >= 1.0),
    )
    .expect("written");
    let oldest = "min(min_over_time(timestamp(exeat_enforcement_active)[10m:1s]))";
    let oldest = query(&stage, oldest).expect("a sample");
    assert!(
        oldest <= (away + 20) as f64,
        "what was scraped meanwhile is there: {oldest} {away}"
    );
    let kept = query(&stage, "count({__name__=~\"exeat_.*\",laptop=\"l-1\"})").expect("series");
    let dropped = "count({__name__=~\"exeat_(flows|dns|gateway).*\"})";
    assert_eq!(query(&stage, dropped), None);
    assert!(
        kept <= KEPT,
        "{kept} series, and docs/sizing.md says {KEPT}"
    );
    let page = stage.daemon.metrics().expect("metrics");
    let all = page.lines().filter(|line| !line.starts_with('#')).count();
    eprintln!(
        "of {all} series ({} bytes a scrape) {kept} are kept",
        page.len()
    );
    drop((agent, receiver));
}
