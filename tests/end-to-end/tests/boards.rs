//! Alerts on the pipeline, dashboards and runbooks on real servers: a real run is scraped by a real Prometheus and stored in a real
//! ClickHouse; each of their queries is asked there, in ClickHouse as the user that only reads.
#![allow(clippy::print_stdout, reason = "a test says what it saw")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bounceflow_end_to_end::{Pipeline, Process, Servers, until};
use bounceflow_stack::{Alertmanager, ClickHouse, ClickHouseOptions, Prometheus, PrometheusOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The database that the grants of deploy/clickhouse speak of.
const DATABASE: &str = "bounceflow";
const READER: &str = "bounceflow_bi";
const PASSWORD: &str = "boards";
const PASSWORD_SHA256: &str = "685d9a8f0fe5b5c6e79261ea48f7a70f7a9d9e18a726240d118c2274b115ba9c";

/// Fires at the incident, and is over soon after it.
const ALERT_RULES: &str = r#"
[[rule]]
name = "refused"
metric = "bounce_rate"
window = "60s"
threshold = 0.3
min_volume = 20
for = "10s"
keep_firing = "10s"
severity = "critical"
annotations = { summary = "A provider refuses a sender" }
"#;
const INCIDENT: &str = "[[incident]]\nfrom = 2\nuntil = 25\nisp = 'gmail'\noutcome = 'gmail-domain-reputation'\nshare = 0.8\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &str, extension: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(repository().join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.insert(name, fs::read_to_string(&path)?);
        }
    }
    ensure!(!found.is_empty(), "nothing in {folder}");
    Ok(found)
}

/// The blocks of a language in a Markdown text.
fn blocks<'t>(markdown: &'t str, language: &str) -> Vec<&'t str> {
    let begin = format!("```{language}\n");
    markdown.split(begin.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// The labels of each series of an instant query.
fn labels(prometheus: &Prometheus, expression: &str) -> Result<Vec<Value>> {
    let answer: Value = serde_json::from_str(&prometheus.query(expression)?)?;
    let series = answer["data"]["result"].as_array().with_context(|| format!("{expression}: {answer}"))?;
    Ok(series.iter().map(|series| series["metric"].clone()).collect())
}

/// How many series an instant query has.
fn series(prometheus: &Prometheus, expression: &str) -> Result<usize> {
    Ok(labels(prometheus, expression)?.len())
}

/// The selectors of bounceflow's metrics in an expression, each with its matchers.
fn selectors(expression: &str) -> Vec<String> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("bounceflow_") {
        if expression[..at].ends_with(name) {
            continue;
        }
        let rest = &expression[at..];
        let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
        let matchers = rest[end..].strip_prefix('{').and_then(|more| more.find('}')).map_or(0, |close| close + 2);
        found.push(rest[..end + matchers].to_owned());
    }
    found
}

/// What Grafana makes of an expression for Prometheus.
fn as_prometheus_is_asked(expression: &str) -> Result<String> {
    let asked = expression.replace("$__rate_interval", "1m").replace("$namespace", ".*");
    ensure!(!asked.contains('$'), "a variable that is not known here: {asked}");
    Ok(asked)
}

/// What Grafana and the plugin grafana-clickhouse-datasource make of a query: `$__conditionalAll` and variables first, in the browser,
/// then the macros of time (its pkg/macros/macros.go). `chosen`: none is All.
fn as_clickhouse_is_asked(sql: &str, chosen: Option<(&str, &str)>) -> Result<String> {
    let mut asked = sql.to_owned();
    while let Some(at) = asked.rfind("$__conditionalAll(") {
        let inside = at + "$__conditionalAll(".len();
        let mut depth = 1;
        let end = asked[inside..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let end = inside + end.with_context(|| format!("a macro without an end: {sql}"))?;
        let (condition, variable) = asked[inside..end].rsplit_once(',').with_context(|| format!("one argument: {sql}"))?;
        ensure!(["$isp", "$identity"].contains(&variable.trim()), "{variable}");
        let phrase = if chosen.is_some() { condition.to_owned() } else { "1=1".to_owned() };
        asked.replace_range(at..=end, &phrase);
    }
    if let Some((isp, identity)) = chosen {
        asked = asked.replace("${isp:singlequote}", &format!("'{isp}'"));
        asked = asked.replace("${identity:singlequote}", &format!("'{identity}'"));
    }
    for (name, from, to) in [
        ("$__timeFilter(", "toDateTime(toUnixTimestamp(now()) - 172800)", "toDateTime(toUnixTimestamp(now()) + 60)"),
        ("$__dateFilter(", "toDate(now() - 172800)", "toDate(now() + 60)"),
    ] {
        while let Some(at) = asked.find(name) {
            let end = at + asked[at..].find(')').context("a macro without an end")?;
            let column = asked[at + name.len()..end].to_owned();
            asked.replace_range(at..=end, &format!("{column} >= {from} AND {column} <= {to}"));
        }
    }
    ensure!(!asked.contains('$'), "a variable or macro that is not known here: {asked}");
    Ok(asked)
}

/// The rows that the reader gets.
fn rows(clickhouse: &ClickHouse, sql: &str) -> Result<usize> {
    let text = clickhouse.query_as(READER, PASSWORD, DATABASE, sql).with_context(|| sql.to_owned())?;
    Ok(text.lines().count())
}

/// Where a process is scraped.
fn address(process: &mut Process) -> Result<String> {
    let line = process.wait_for("Serving /healthz")?;
    Ok(line["listen"].as_str().context("a log line without its address")?.to_owned())
}

/// A run with everything a healthy one has to show: traffic, an incident, alerts, a refused reload, an Alertmanager that is gone.
struct Run {
    pipeline: Pipeline,
    prometheus: Prometheus,
    _processes: Vec<Process>,
    _alertmanager: Alertmanager,
}

impl Run {
    fn start() -> Result<Self> {
        let users = repository().join("deploy/clickhouse/users.xml");
        let names = ["BOUNCEFLOW_MIGRATE_PASSWORD_SHA256", "BOUNCEFLOW_PASSWORD_SHA256", "BOUNCEFLOW_BI_PASSWORD_SHA256"];
        let options = names
            .iter()
            .fold(ClickHouseOptions::default().user_file(users), |options, name| options.environment(*name, PASSWORD_SHA256));
        let alertmanager = Alertmanager::start_own()?;
        let folder = tempfile::tempdir()?;
        let (own, alerts) = (folder.path().join("own.toml"), folder.path().join("alerts.toml"));
        fs::write(&own, "")?;
        fs::write(&alerts, ALERT_RULES)?;
        let text = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
        let pipeline = Pipeline::builder(DATABASE)?
            .set(&["classify", "rules"], vec![text(&own)])?
            .set(&["watch", "rules"], text(&alerts))?
            // Nobody listens on the second.
            .set(&["watch", "alertmanagers"], vec![alertmanager.url().to_owned(), "http://127.0.0.1:9".to_owned()])?
            .set(&["watch", "lateness_s"], 5)?
            .servers(Servers::take()?.with_clickhouse(options)?)
            .build()?;
        let roles = [("classify", 0), ("sink", 0), ("watch", 0), ("watch", 1)];
        let mut processes = roles.iter().map(|(role, ordinal)| pipeline.run(role, *ordinal, &[])).collect::<Result<Vec<_>>>()?;
        let targets = processes.iter_mut().map(address).collect::<Result<Vec<_>>>()?;
        let rules = repository().join("helm/bounceflow/rules/pipeline.yaml").canonicalize()?;
        let prometheus = Prometheus::start(&PrometheusOptions { job: "bounceflow".to_owned(), targets, rules: vec![rules] })?;
        processes[0].ready()?;
        processes[1].ready()?;

        let scenario = pipeline.folder().join("scenario.toml");
        fs::write(&scenario, INCIDENT)?;
        let mut simulate = pipeline.simulate(&[
            "--format=mixed",
            "--failures=0.2",
            "--garbage=0.01",
            "--rate=400",
            "--duration=50s",
            &format!("--scenario={}", scenario.display()),
        ])?;
        // Rules that are read anew, and rules that are not.
        let hang_up = |process: &Process| kill(Pid::from_raw(process.pid() as i32), Signal::SIGHUP);
        for (result, text) in [("ok", "# nothing"), ("refused", "[[rule]]\nid = 'own.broken'\n")] {
            fs::write(&own, text)?;
            hang_up(&processes[0])?;
            until("the rules to be read", || {
                let reloads = processes[0].metric("bounceflow_rules_reloads_total", &[("result", result)])?;
                ensure!(reloads == 1.0, "{result}: {reloads}");
                Ok(())
            })?;
        }
        ensure!(simulate.end()?.success(), "the simulator failed: {}", simulate.log());
        pipeline.settled("classify")?;
        pipeline.settled("sink")?;
        until("an alert in ClickHouse that has fired", || {
            ensure!(pipeline.count("SELECT count() FROM {db}.alert_history WHERE fired_at IS NOT NULL")? > 0, "none");
            Ok(())
        })?;
        // Two scrapes that saw it all.
        until("Prometheus to have seen it", || {
            let rows = pipeline.count("SELECT count() FROM {db}.failures")?;
            let seen = format!("sum(bounceflow_sink_rows_total{{table='failures'}} offset 3s) >= {rows}");
            ensure!(series(&prometheus, &seen)? == 1, "not yet");
            Ok(())
        })?;
        Ok(Self { pipeline, prometheus, _processes: processes, _alertmanager: alertmanager })
    }
}

#[test]
fn every_query_of_alerts_dashboards_and_runbooks_is_answered() -> Result<()> {
    let run = Run::start()?;
    let mut wrong = Vec::new();
    alerts(&run, &mut wrong)?;
    let dashboards = files("helm/bounceflow/dashboards", "json")?;
    for (name, text) in &dashboards {
        let dashboard: Value = serde_json::from_str(text).with_context(|| name.clone())?;
        panels(&run, name, &dashboard, &mut wrong)?;
        variables(&run, name, &dashboard, &mut wrong)?;
    }
    runbooks(&run, &mut wrong)?;
    ensure!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    run.pipeline.passed();
    Ok(())
}

/// The rules as Prometheus itself judges them, and that each selector in them has something to select.
fn alerts(run: &Run, wrong: &mut Vec<String>) -> Result<()> {
    let rules: Value = until("every rule to be judged", || {
        let rules: Value = serde_json::from_str(&run.prometheus.get("/api/v1/rules")?)?;
        ensure!(!rules.to_string().contains("\"health\":\"unknown\""), "not yet");
        Ok(rules)
    })?;
    let groups = rules["data"]["groups"].as_array().context("no groups")?;
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
    ensure!(rules.len() > 15, "{} rules", rules.len());
    for rule in &rules {
        let (name, expression) = (&rule["name"], rule["query"].as_str().context("a rule without a query")?);
        if rule["health"] != "ok" {
            wrong.push(format!("{name}: {rule}"));
        }
        selected(run, &name.to_string(), expression, wrong)?;
        // One that would page in this run is mistaken.
        if rule["state"] == "firing" && rule["labels"]["severity"] == "critical" {
            wrong.push(format!("{name} fires though all is well: {rule}"));
        }
    }
    println!("{} rules", rules.len());
    Ok(())
}

fn selected(run: &Run, place: &str, expression: &str, wrong: &mut Vec<String>) -> Result<()> {
    for selector in selectors(expression) {
        if series(&run.prometheus, &format!("last_over_time({selector}[10m])"))? == 0 {
            wrong.push(format!("{place}: nothing is {selector}"));
        }
    }
    Ok(())
}

fn panels(run: &Run, name: &str, dashboard: &Value, wrong: &mut Vec<String>) -> Result<()> {
    let clickhouse = &run.pipeline.servers.clickhouse;
    let most = clickhouse.query_as(
        READER,
        PASSWORD,
        DATABASE,
        "SELECT isp, identity FROM isp_identity_matrix_this_week ORDER BY bounces DESC LIMIT 1",
    )?;
    let most = most.trim().split_once('\t').context("no ISP")?;
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let place = format!("{name}: {}", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked += 1;
            if let Some(expression) = target["expr"].as_str() {
                let expression = as_prometheus_is_asked(expression)?;
                selected(run, &place, &expression, wrong)?;
                match labels(&run.prometheus, &expression) {
                    Err(e) => wrong.push(format!("{place}: {e:#}")),
                    // What is only shown where it is not 0 may be empty.
                    Ok(none) if none.is_empty() && expression.ends_with("> 0") => {}
                    Ok(none) if none.is_empty() => wrong.push(format!("{place}: nothing for {expression}")),
                    Ok(all) => {
                        let legend = target["legendFormat"].as_str().unwrap_or_default();
                        let told = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
                        let missing: Vec<&str> =
                            told.filter(|label| all.iter().any(|series| series.get(label).is_none())).collect();
                        if !missing.is_empty() {
                            wrong.push(format!("{place}: no label {missing:?} in {expression}"));
                        }
                    }
                }
                continue;
            }
            let sql = target["rawSql"].as_str().with_context(|| format!("{place}: neither PromQL nor SQL"))?;
            for chosen in [None, Some(most)] {
                match rows(clickhouse, &as_clickhouse_is_asked(sql, chosen)?) {
                    Err(e) => wrong.push(format!("{place}: {e:#}")),
                    Ok(0) => wrong.push(format!("{place}: no rows for {chosen:?}: {sql}")),
                    Ok(_) => {}
                }
            }
        }
    }
    println!("{name}: {asked} queries");
    Ok(())
}

fn variables(run: &Run, name: &str, dashboard: &Value, wrong: &mut Vec<String>) -> Result<()> {
    for variable in dashboard["templating"]["list"].as_array().context("no variables")? {
        if let Some(sql) = variable["query"].as_str().filter(|_| variable["type"] == "query") {
            match rows(&run.pipeline.servers.clickhouse, sql) {
                Ok(1..) => {}
                other => wrong.push(format!("{name}: variable {}: {other:?}", variable["name"])),
            }
        }
    }
    Ok(())
}

fn runbooks(run: &Run, wrong: &mut Vec<String>) -> Result<()> {
    let clickhouse = &run.pipeline.servers.clickhouse;
    let id = run.pipeline.value("SELECT alert_id FROM {db}.alert_history WHERE fired_at IS NOT NULL LIMIT 1")?;
    let (mut promql, mut sql) = (0, 0);
    for (name, text) in files("deploy/runbooks", "md")? {
        for expression in blocks(&text, "promql") {
            promql += 1;
            selected(run, &name, expression, wrong)?;
            if let Err(e) = series(&run.prometheus, expression.trim()) {
                wrong.push(format!("{name}: {e:#}"));
            }
        }
        for query in blocks(&text, "sql") {
            sql += 1;
            match rows(clickhouse, &query.replace("{alert:String}", &format!("'{id}'"))) {
                Err(e) => wrong.push(format!("{name}: {e:#}")),
                // From an alert to its failures: every step finds something.
                Ok(0) if query.contains("{alert:String}") => wrong.push(format!("{name}: no rows: {query}")),
                Ok(_) => {}
            }
        }
    }
    println!("runbooks: {promql} of PromQL, {sql} of SQL");
    Ok(())
}

#[test]
fn the_selectors_of_an_expression_are_found() {
    let found = selectors("rate(bounceflow_x_total{r=\"1\", n=~\".*\"}[5m]) > max(bounceflow_y) unless not_bounceflow_z");
    assert_eq!(found, ["bounceflow_x_total{r=\"1\", n=~\".*\"}", "bounceflow_y"]);
}

#[test]
fn a_query_is_asked_as_the_plugin_would() -> Result<()> {
    let sql = "SELECT 1 FROM t WHERE $__dateFilter(d) AND (i = '' OR $__conditionalAll(isp IN (${isp:singlequote}), $isp))";
    let all = as_clickhouse_is_asked(sql, None)?;
    ensure!(all == "SELECT 1 FROM t WHERE d >= toDate(now() - 172800) AND d <= toDate(now() + 60) AND (i = '' OR 1=1)", "{all}");
    let one = as_clickhouse_is_asked(sql, Some(("gmail", "a")))?;
    ensure!(one.ends_with("(i = '' OR isp IN ('gmail'))"), "{one}");
    as_clickhouse_is_asked("SELECT $__unknown", None).err().context("taken")?;
    Ok(())
}
