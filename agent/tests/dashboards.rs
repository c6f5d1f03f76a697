//! The alert rules and the dashboard speak of metrics and labels that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;
use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Labels by metric, by the reference that is made from the registry.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let row = Regex::new(r"(?m)^\| `([a-z_]+)` \| (\w+) \| ([^|]*) \|").expect("regex");
    let mut found = BTreeMap::new();
    for row in row.captures_iter(&file("docs/metrics.md")) {
        let labels: BTreeSet<String> = row[3]
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        if &row[2] == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                found.insert(format!("{}{suffix}", &row[1]), labels.clone());
            }
        }
        found.insert(row[1].to_owned(), labels);
    }
    assert!(found.len() > 30);
    found
}

fn check(place: &str, expression: &str) -> usize {
    let metrics = metrics();
    let name = Regex::new(r"(exeat_[a-z0-9_]+)(\{[^}]*\})?").expect("regex");
    let label = Regex::new(r"([a-z_]+)\s*(?:=~|!~|!=|=)").expect("regex");
    let all: BTreeSet<_> = metrics.values().flatten().map(String::as_str).collect();
    let mut seen = 0;
    for found in name.captures_iter(expression) {
        seen += 1;
        let labels = metrics.get(&found[1]);
        let labels = labels.unwrap_or_else(|| panic!("{place}: there is no metric {}", &found[1]));
        for matcher in label.captures_iter(found.get(2).map_or("", |m| m.as_str())) {
            let known =
                labels.contains(&matcher[1]) || ["instance", "job", "le"].contains(&&matcher[1]);
            assert!(known, "{place}: {} has no label {}", &found[1], &matcher[1]);
        }
    }
    let by = Regex::new(r"by \(([^)]*)\)").expect("regex");
    for found in by.captures_iter(expression) {
        for label in found[1].split(',').map(str::trim) {
            let known = all.contains(label) || ["instance", "le"].contains(&label);
            assert!(known, "{place}: no metric has the label {label}");
        }
    }
    seen
}

#[test]
fn alerts_name_metrics_that_exist() {
    let rules: Value = serde_saphyr::from_str(&file("dashboards/exeat-alerts.yaml")).expect("yaml");
    let rules = rules["groups"][0]["rules"]
        .as_array()
        .expect("rules")
        .clone();
    assert!(rules.len() >= 10);
    for rule in rules {
        let place = rule["alert"].as_str().expect("alert");
        assert!(
            check(place, rule["expr"].as_str().expect("expr")) > 0,
            "{place}"
        );
        for key in ["summary", "description"] {
            assert!(rule["annotations"][key].is_string(), "{place}: {key}");
        }
        let severity = rule["labels"]["severity"].as_str().expect("severity");
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{place}"
        );
    }
}

#[test]
fn the_dashboard_names_metrics_that_exist() {
    let board: Value = serde_json::from_str(&file("dashboards/exeat-grafana.json")).expect("json");
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().expect("panels") {
        let place = panel["title"].as_str().expect("title");
        assert!(ids.insert(panel["id"].as_u64().expect("id")), "{place}");
        for target in panel["targets"].as_array().expect("targets") {
            assert!(
                check(place, target["expr"].as_str().expect("expr")) > 0,
                "{place}"
            );
        }
    }
    for variable in board["templating"]["list"].as_array().expect("variables") {
        if let Some(query) = variable["query"]["query"].as_str() {
            check("a variable", query);
        }
    }
}
