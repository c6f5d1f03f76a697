//! osquery is in no registry that a build machine reaches. What it does with the files is done
//! here: it opens an ATC table's file read-only, under an authorizer that lets it select, and
//! calls SQLite for all of it.

use crate::{mdm, read, run, stage};
use exeat_tests::stage::AGENT;
use exeat_tests::wait;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::path::Path;

fn only_select(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Function { .. } => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

/// The names of a query's columns, and its rows.
type Table = (Vec<String>, Vec<Vec<Cell>>);

fn select(db: &Connection, query: &str) -> rusqlite::Result<Table> {
    let mut statement = db.prepare(query)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| (0..names.len()).map(|n| row.get(n)).collect())?;
    let rows = rows.collect::<rusqlite::Result<_>>()?;
    Ok((names, rows))
}

fn of_file(file: &Path, query: &str) -> Table {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(file, flags).expect("open");
    db.authorizer(Some(only_select)).expect("authorizer");
    select(&db, query).unwrap_or_else(|e| panic!("{query}: {e}"))
}

#[test]
fn tables_and_queries_of_osquery_show_what_agents_did_while_the_daemon_writes() {
    let stage = stage();
    let file: Value = serde_json::from_str(&read(&mdm("osquery/exeat.conf"))).expect("JSON");
    let tables = file["auto_table_construction"].as_object().expect("tables");
    let history = stage.daemon.state_dir().join("history.sqlite");
    stage.curl_as(AGENT, "https://203.0.113.20/").expect("run");
    let isolate = run(&mut stage.daemon.cli(&["isolate", "--agent", AGENT]));
    assert!(isolate.status.success());
    // osquery's own tables, made of what its constructed ones say.
    let osquery = Connection::open_in_memory().expect("memory");
    for (name, table) in tables {
        assert_eq!(table["path"], "/var/lib/exeat/history.sqlite");
        assert_eq!(table["platform"], "linux");
        let query = table["query"].as_str().expect("a query");
        let (names, rows) = wait::until("rows of the history", wait::patience(), || {
            let of_agent = |row: &Vec<Cell>| row.contains(&Cell::Text(AGENT.into()));
            Some(of_file(&history, query)).filter(|(_, rows)| rows.iter().any(of_agent))
        })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
        let columns: Vec<&str> = (table["columns"].as_array().expect("columns").iter())
            .map(|column| column.as_str().expect("a name"))
            .collect();
        assert_eq!(names, columns, "{name}");
        let marks = vec!["?"; columns.len()].join(", ");
        osquery
            .execute_batch(&format!("CREATE TABLE {name} ({})", columns.join(", ")))
            .expect("table");
        for row in rows {
            let insert = format!("INSERT INTO {name} VALUES ({marks})");
            osquery
                .execute(&insert, rusqlite::params_from_iter(row))
                .expect("row");
        }
    }
    let schedule = file["schedule"].as_object().expect("schedule");
    let mut seen = 0;
    for (name, one) in schedule {
        let query = one["query"].as_str().expect("a query");
        assert!(
            one["interval"].as_u64() >= Some(600),
            "{name} costs too much"
        );
        if query.contains("FROM curl") {
            continue;
        }
        seen += 1;
        let (_, rows) = select(&osquery, query).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!rows.is_empty(), "{name}");
        assert!(
            rows.iter()
                .flatten()
                .any(|cell| *cell == Cell::Text(AGENT.into())),
            "{name}"
        );
    }
    assert_eq!(seen, 2);
    let (_, size) = of_file(
        &history,
        "SELECT avg(length(record)), count(*), max(length(record)) FROM records",
    );
    eprintln!(
        "bytes of a record as JSON, records, the longest: {:?}",
        size[0]
    );
    let refused = "SELECT destination, time FROM exeat_flows WHERE verdict = 'deny'";
    let (_, rows) = select(&osquery, refused).expect("refusals");
    let [Cell::Text(to), Cell::Integer(time)] = rows[0].as_slice() else {
        panic!("{rows:?}");
    };
    assert!(to.starts_with("203.0.113.20"), "{to}");
    let now = jiff::Timestamp::now().as_second();
    assert!((now - 600..=now + 60).contains(time), "{time} in seconds");
}

/// What osquery's table `curl` would have of a query's URL: status and body.
fn curl(stage: &exeat_tests::stage::Stage, query: &str) -> (String, String) {
    let (_, rest) = query.split_once("url = '").expect("a URL");
    let (url, _) = rest.split_once('\'').expect("its end");
    let url = url.replace("127.0.0.1:9479", &stage.daemon.metrics_address());
    let mut curl = stage.world.laptop.command("curl");
    let output = run(curl.args(["-sS", "--noproxy", "*", "-w", "\n%{http_code}", &url]));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (body, code) = text.rsplit_once('\n').expect("a code");
    (code.to_owned(), body.to_owned())
}

#[test]
fn policies_of_fleet_pass_where_the_machine_is_well_and_only_there() {
    let mut stage = stage();
    let queries: Vec<String> = read(&mdm("fleet/policies.yml"))
        .lines()
        .filter_map(|line| line.trim().strip_prefix("query: ").map(str::to_owned))
        .collect();
    assert_eq!(queries.len(), 2);
    let passes = |stage: &exeat_tests::stage::Stage| -> Vec<bool> {
        let passes = queries.iter().map(|query| {
            let (code, body) = curl(stage, query);
            let db = Connection::open_in_memory().expect("memory");
            db.execute_batch("CREATE TABLE curl (url, response_code INTEGER, result)")
                .expect("table");
            let (_, rest) = query.split_once("url = '").expect("a URL");
            let (url, _) = rest.split_once('\'').expect("its end");
            // Where nobody answers osquery has no row.
            if code != "000" {
                db.execute("INSERT INTO curl VALUES (?, ?, ?)", (url, &code, &body))
                    .expect("row");
            }
            !select(&db, query).expect("query").1.is_empty()
        });
        passes.collect()
    };
    assert_eq!(passes(&stage), [true, true]);
    stage
        .daemon
        .write_policy("version: 1\nagents: 7\n")
        .expect("write");
    stage.daemon.reload().expect("reload");
    assert_eq!(passes(&stage), [false, true], "not well, and enforcing");
    stage.daemon.kill9().expect("kill");
    assert_eq!(passes(&stage), [false, false]);
}
