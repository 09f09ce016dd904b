//! Alerts on the pipeline, their runbooks and the dashboards, as files: sound by themselves, and about things that exist. Their
//! queries run on real servers in tests/end-to-end/tests/boards.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bounceflow_deploy::{document, repository};
use bounceflow_stack::{built, promtool, said};
use serde_json::Value;

const RULES: &str = "helm/bounceflow/rules/pipeline.yaml";
const CASES: &str = "tests/deploy/tests/promtool/pipeline.yaml";
const RUNBOOKS: &str = "https://github.com/bounceflow/bounceflow/blob/main/deploy/runbooks";

fn read(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| format!("no {path}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The alerts; one name may have several rules.
fn alerts() -> Result<Vec<Value>> {
    let rules = document(&read(RULES)?)?;
    Ok(list(&rules["groups"]).flat_map(|group| list(&group["rules"])).cloned().collect())
}

/// Names of files without their extension, and their texts.
fn files(folder: &str, extension: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(repository().join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            found.insert(path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}

/// Everything the program is made of.
fn code() -> Result<String> {
    let mut folders: Vec<PathBuf> = ["bounceflow", "enrich", "warehouse", "window"]
        .map(|package| repository().join("processors").join(package).join("src"))
        .into();
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension() {
                None if path.is_dir() => folders.push(path),
                Some(extension) if extension == "rs" => code.push_str(&fs::read_to_string(path)?),
                _ => {}
            }
        }
    }
    Ok(code)
}

/// The names of bounceflow's metrics in a text, as they are described: without what a histogram adds.
fn metrics(text: &str) -> BTreeSet<String> {
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("bounceflow_") {
        let rest = &text[at..];
        let metric = &rest[..rest.find(|c| !name(c)).unwrap_or(rest.len())];
        if !text[..at].ends_with(name) {
            found.insert(metric.strip_suffix("_bucket").unwrap_or(metric).to_owned());
        }
    }
    found
}

/// What is called bounceflow_… and is no metric: a user of ClickHouse.
const NO_METRICS: [&str; 1] = ["bounceflow_bi"];

#[test]
fn promtool_finds_the_rules_sound() -> Result<()> {
    let told =
        said(Command::new(promtool()?).args(["check", "rules", "--lint=all", "--lint-fatal"]).arg(repository().join(RULES)))?;
    ensure!(told.contains(&format!("{} rules found", alerts()?.len())), "{told}");
    Ok(())
}

/// Each rule has a case in which it fires, with the labels it has; none fires in that of a healthy pipeline.
#[test]
fn every_alert_fires_where_it_must_and_only_there() -> Result<()> {
    said(Command::new(promtool()?).args(["test", "rules"]).arg(repository().join(CASES)))?;
    let cases = document(&read(CASES)?)?;
    let cases: Vec<&Value> = list(&cases["tests"]).collect();
    let firing: Vec<&str> = cases
        .iter()
        .flat_map(|case| list(&case["promql_expr_test"]))
        .flat_map(|query| list(&query["exp_samples"]))
        .map(|sample| text(&sample["labels"]))
        .collect();
    for alert in alerts()? {
        let fires = firing.iter().any(|labels| {
            let own = alert["labels"].as_object().into_iter().flatten();
            labels.contains(&format!("alertname=\"{}\"", text(&alert["alert"])))
                && own.into_iter().all(|(label, value)| labels.contains(&format!("{label}=\"{}\"", text(value))))
        });
        ensure!(fires, "no case in which {} fires with {}", alert["alert"], alert["labels"]);
        // Its words speak of labels that it has.
        let told = alert["annotations"].to_string();
        for label in told.split("$labels.").skip(1).filter_map(|rest| rest.split(' ').next()) {
            let of_it = |labels: &&&str| labels.contains(&format!("alertname=\"{}\"", text(&alert["alert"])));
            let has = firing.iter().filter(of_it).any(|labels| labels.contains(&format!("{label}=\"")));
            ensure!(has, "{} has no label {label}", alert["alert"]);
        }
    }
    // The healthy pipeline has every metric that an alert asks for, or it would prove nothing.
    let healthy = metrics(&cases[0]["input_series"].to_string());
    let asked: BTreeSet<String> = alerts()?.iter().flat_map(|alert| metrics(text(&alert["expr"]))).collect();
    ensure!(asked.is_subset(&healthy), "the healthy pipeline lacks {:?}", asked.difference(&healthy));
    let named: Vec<&str> = cases
        .iter()
        .filter(|case| list(&case["promql_expr_test"]).any(|q| list(&q["exp_samples"]).next().is_none()))
        .map(|case| text(&case["name"]))
        .collect();
    for alert in alerts()? {
        let name = text(&alert["alert"]);
        ensure!(named.iter().any(|case| case.starts_with(name)), "no case says when {name} does not fire");
    }
    Ok(())
}

#[test]
fn every_alert_says_how_bad_it_is_and_has_its_runbook() -> Result<()> {
    let runbooks = files("deploy/runbooks", "md")?;
    let index = &runbooks["README"];
    let mut severities: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for alert in alerts()? {
        let (name, annotations) = (text(&alert["alert"]).to_owned(), &alert["annotations"]);
        let severity = text(&alert["labels"]["severity"]);
        ensure!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        ensure!(annotations["runbook_url"] == format!("{RUNBOOKS}/{name}.md"), "{name}: {annotations}");
        for (field, least) in [("summary", 10), ("description", 60)] {
            ensure!(text(&annotations[field]).len() >= least, "{name}: {field}");
        }
        severities.entry(name).or_default().push(severity.to_owned());
    }
    let books: BTreeSet<&String> = runbooks.keys().filter(|name| !["README", "wrong-number"].contains(&name.as_str())).collect();
    ensure!(books == severities.keys().collect(), "runbooks {books:?}, alerts {:?}", severities.keys());
    for (name, mut severities) in severities {
        severities.dedup();
        let row = format!(
            "| [{name}]({name}.md) | {} |",
            if severities.iter().all(|s| s == &severities[0]) { severities[0].clone() } else { severities.join(", ") }
        );
        ensure!(index.contains(&row), "README.md lacks the row {row}");
        let book = &runbooks[&name];
        ensure!(book.starts_with(&format!("# {name}\n")), "{name}: title");
        for part in ["\n**Users see**", "\n## Look\n", "\n## Mend\n", "\n## Over when\n"] {
            ensure!(book.contains(part), "{name} lacks {part:?}");
        }
    }
    Ok(())
}

/// The text between backticks, blocks left out.
fn quoted(markdown: &str) -> Vec<&str> {
    let prose = markdown.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

fn blocks<'t>(markdown: &'t str, language: &str) -> Vec<&'t str> {
    markdown.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// Words as a shell makes them of a line, for the little that runbooks use.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut open) = (vec![String::new()], None, false);
    for c in line.chars() {
        match (c, quote) {
            ('#', None) if words.last().is_some_and(String::is_empty) => break,
            ('|' | '&' | '>', None) => break,
            (' ', None) if open => (words.push(String::new()), open = false).1,
            (' ', None) => {}
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => (quote, open) = (Some(c), true),
            (c, _) => (words.last_mut().unwrap().push(c), open = true).1,
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Words with dots between them: how settings, values, topics and columns are written.
fn is_dotted(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let text = text.trim_start_matches("[[").trim_end_matches("]]");
    text.contains('.') && text.split('.').all(word)
}

/// A value of the chart, a field of the configuration, a column of ClickHouse, something of Kafka's, or a name in the program.
fn is_known(setting: &str, code: &str, values: &Value, tables: &str) -> bool {
    let setting = setting.trim_start_matches("[[").trim_end_matches("]]");
    let Some((first, last)) = setting.split_once('.').zip(setting.rsplit_once('.')).map(|((first, _), (_, last))| (first, last))
    else {
        return false;
    };
    let value = setting.split('.').try_fold(values, |value, key| value.get(key)).is_some();
    let sections = ["classify", "sink", "watch", "clickhouse", "inputs", "identity", "http", "topics"];
    let field = sections.contains(&first) && code.contains(&format!("pub {last}:"));
    let column = tables.contains(&format!("### {first}\n")) && tables.contains(&format!("| `{last}` |"));
    let of_kafka = OF_KAFKA.contains(&setting);
    let group = setting == "bounceflow.watch.1" && code.contains("\"{}.watch.{}\"");
    value || field || column || of_kafka || group || code.contains(&format!("\"{setting}\""))
}

/// Settings of Kafka's own that an operator is told of.
const OF_KAFKA: [&str; 6] = [
    "session.timeout.ms",
    "min.insync.replicas",
    "offsets.retention.minutes",
    "transactional.id.expiration.ms",
    "transaction.max.timeout.ms",
    "max.compaction.lag.ms",
];

/// What can be looked up is looked up: commands and their flags, paths of the HTTP side, metrics, views, settings, values, log lines.
#[test]
fn what_a_runbook_says_exists() -> Result<()> {
    let (code, values, tables) = (code()?, document(&read("helm/bounceflow/values.yaml")?)?, read("docs/tables.md")?);
    let (described, http) = (metrics(&code), read("processors/bounceflow/src/http.rs")?);
    let labels: String = files("tests/deploy/tests/snapshots", "snap")?.into_values().collect();
    let (mut commands, mut settings) = (0, 0);
    let runbooks = files("deploy/runbooks", "md")?.into_iter().map(|(name, book)| (name, book, "deploy/runbooks"));
    for (name, book, folder) in runbooks.chain([("operators".to_owned(), read("docs/operators.md")?, "docs")]) {
        let unknown: Vec<String> =
            metrics(&book).into_iter().filter(|m| !described.contains(m) && !NO_METRICS.contains(&m.as_str())).collect();
        ensure!(unknown.is_empty(), "{name}: no metrics: {unknown:?}");
        let lines: Vec<&str> = blocks(&book, "sh").iter().flat_map(|block| block.lines()).chain(quoted(&book)).collect();
        for line in &lines {
            let words = words(line);
            // The program itself, or behind the `--` of kubectl exec.
            if let Some(at) = words.iter().position(|word| word == "bounceflow").filter(|at| *at == 0 || words[at - 1] == "--") {
                let args = &words[at + 1..];
                commands += 1;
                said(built("bounceflow")?.args(args).arg("--help")).with_context(|| format!("{name}: {line}"))?;
            }
            for url in words.iter().filter(|word| word.starts_with("localhost:9090")) {
                let path = url.trim_start_matches("localhost:9090");
                ensure!(http.contains(&format!("\"{path}\"")), "{name}: nothing serves {path}");
            }
            if let Some(selector) = words.iter().skip_while(|word| *word != "-l").nth(1).filter(|_| words[0] == "kubectl") {
                ensure!(labels.contains(&selector.replace('=', ": ")), "{name}: no object has {selector}");
            }
            if let Some((_, grep)) = line.split_once("grep '") {
                let said = grep.split('\'').next().unwrap_or_default();
                ensure!(code.contains(said), "{name}: nothing logs {said}");
            }
        }
        for value in lines.iter().flat_map(|line| line.split("--set ").skip(1)).filter_map(|rest| rest.split('=').next()) {
            let found = value.split('.').try_fold(&values, |values, key| values.get(key));
            ensure!(found.is_some(), "{name}: {value} is no value of the chart");
        }
        for setting in quoted(&book).into_iter().filter(|text| is_dotted(text)) {
            settings += 1;
            ensure!(is_known(setting, &code, &values, &tables), "{name}: what is {setting}?");
        }
        for link in book.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            ensure!(link.is_empty() || repository().join(folder).join(link).exists(), "{name}: no {link}");
        }
    }
    ensure!(commands > 25 && settings > 25, "{commands} commands and {settings} settings are too few to have been found");
    Ok(())
}

#[test]
fn dashboards_are_complete_and_ask_for_what_there_is() -> Result<()> {
    let described = metrics(&code()?);
    let dashboards = files("helm/bounceflow/dashboards", "json")?;
    let mut uids = BTreeSet::new();
    for (name, text) in &dashboards {
        let dashboard: Value = serde_json::from_str(text).with_context(|| name.clone())?;
        let uid = self::text(&dashboard["uid"]).to_owned();
        ensure!(uid.starts_with("bounceflow-") && uids.insert(uid), "{name}: uid {}", dashboard["uid"]);
        ensure!(
            self::text(&dashboard["title"]).starts_with("bounceflow: ") && self::text(&dashboard["description"]).len() > 40,
            "{name}"
        );
        let unknown: Vec<String> = metrics(text).into_iter().filter(|metric| !described.contains(metric)).collect();
        ensure!(unknown.is_empty(), "{name}: no metrics: {unknown:?}");
        let variables: BTreeSet<&str> = list(&dashboard["templating"]["list"]).map(|v| self::text(&v["name"])).collect();
        ensure!(dashboard["templating"]["list"][0]["type"] == "datasource", "{name}: no choice of a data source");
        let (mut ids, mut places, mut titles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in list(&dashboard["panels"]) {
            let place = format!("{name}: {}", panel["title"]);
            ensure!(ids.insert(panel["id"].as_u64().context("an id")?), "{place}: id");
            ensure!(titles.insert(self::text(&panel["title"])), "{place}: title");
            let grid = |field: &str| panel["gridPos"][field].as_u64().with_context(|| format!("{place}: {field}"));
            let (x, y, w, h) = (grid("x")?, grid("y")?, grid("w")?, grid("h")?);
            ensure!(x + w <= 24, "{place}: beyond the edge");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(places.insert(cell), "{place}: over another panel");
            }
            if panel["type"] == "row" {
                continue;
            }
            ensure!(self::text(&panel["description"]).len() > 10, "{place}: no description");
            ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{place}: no unit");
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{place}: {}", panel["datasource"]);
            ensure!(list(&panel["targets"]).next().is_some(), "{place}: no query");
            for target in list(&panel["targets"]) {
                let asked = [self::text(&target["expr"]), self::text(&target["rawSql"])].concat();
                ensure!(target["refId"].is_string() && !asked.is_empty(), "{place}: {target}");
                for variable in asked.split('$').skip(1) {
                    let variable = variable.trim_start_matches('{');
                    let end = variable.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(variable.len());
                    let variable = &variable[..end];
                    ensure!(variable.starts_with("__") || variables.contains(variable), "{place}: no variable {variable}");
                }
                // An installation is chosen everywhere, and never only in a part of a query.
                if panel["datasource"]["type"] == "prometheus" {
                    let selectors: usize = ["bounceflow_", "ALERTS{", "up{"].map(|name| asked.matches(name).count()).iter().sum();
                    ensure!(selectors == asked.matches("namespace=~\"$namespace\"").count(), "{place}: {asked}");
                }
            }
        }
    }
    ensure!(dashboards.keys().collect::<Vec<_>>() == ["deliverability", "pipeline-health"]);
    Ok(())
}
