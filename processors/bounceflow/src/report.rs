//! `bounceflow report`: a table of the warehouse for people, in the terminal or as a file to send on.
//!
//! Read it from the top: [`run`] checks what is asked, [`write`] passes the rows of each section on as they come. What is asked of
//! ClickHouse is `bounceflow_warehouse::report`'s; each format is a [`Document`] in a file of its own name. One row is held at a time
//! (the terminal's table: a page), whatever the format.

mod words;
mod chart;
mod table;
mod csv;
mod xlsx;
mod json;
mod markdown;
mod html;
mod output;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use bounceflow_classify::FALLBACK;
use bounceflow_warehouse::report::{Filters, Period, Report, Request, Section, Sender, UnknownName, Value};
use bounceflow_warehouse::{Shards, Warehouse};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use jiff::civil::Date;
use ratatui::crossterm::terminal;

use crate::command::Configured;
use crate::config::Config;
use crate::printable::printable;
use crate::progress::{Progress, note};
use output::Output;

/// Make a report of some days: a table in the terminal, or a file to send on
///
/// Counts are summed over the days, and rates are made of the sums, beside the same number of days before (whole months: as many
/// months). Days are days in UTC.
#[derive(clap::Args)]
#[command(after_help = "\
table shows the columns that fit, markdown and html those that people need; csv, xlsx and json have all of them.
Texts that a spreadsheet would take for a formula are made harmless: csv puts a ' before them, xlsx marks them as text.
A name may be misspelt: near ones are offered. A period without events is no error: the report is empty.

Examples:
  bounceflow report isp-profiles --from 2026-10-01 --to 2026-10-31
  bounceflow report bounce-report --from 2026-10-05 --to 2026-10-11 --isp gmail --group-by sending-ip --output bounces.csv
  bounceflow report monthly --from 2026-10-01 --to 2026-10-31 --output october.xlsx --config bounceflow.toml")]
pub struct Args {
    /// Which report
    #[arg(value_name = "NAME", value_parser = names())]
    report: Report,
    #[command(flatten)]
    configured: Configured,
    /// First day (UTC), such as 2026-10-01
    #[arg(long, value_name = "DATE", value_parser = day)]
    from: Date,
    /// Last day (UTC), included
    #[arg(long, value_name = "DATE", value_parser = day)]
    to: Date,
    /// Of this mailbox provider alone; may be repeated
    #[arg(long, value_name = "ISP")]
    isp: Vec<String>,
    /// Of this sender alone; may be repeated
    #[arg(long, value_name = "IDENTITY")]
    identity: Vec<String>,
    /// Of this campaign alone; may be repeated
    #[arg(long, value_name = "CAMPAIGN")]
    campaign: Vec<String>,
    /// How bounce-report tells senders apart [default: from-domain]
    #[arg(long)]
    group_by: Option<GroupBy>,
    /// How it is written [default: by the name of --output, else table]
    #[arg(long)]
    format: Option<Format>,
    /// Write to this file, which is there when it is complete; `-` is standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Width of the table in characters [default: that of the terminal; elsewhere as wide as it is]
    #[arg(long, value_name = "CHARACTERS", value_parser = clap::value_parser!(u16).range(20..))]
    width: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GroupBy {
    FromDomain,
    SendingIp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Xlsx,
    Json,
    Markdown,
    Html,
}

/// What stands over a report.
struct Meta {
    report: Report,
    period: Period,
    /// What it is narrowed down by, and how: `isp` and `gmail`.
    filters: Vec<(&'static str, String)>,
    /// When it was made (UTC).
    made: String,
}

impl Meta {
    /// What the figures are set beside, where they are.
    fn before(&self) -> Option<Period> {
        self.report.compares().then(|| self.period.before())
    }
}

/// A report in one format, written as its rows come.
trait Document {
    /// A section begins.
    fn begin(&mut self, section: Section) -> anyhow::Result<()>;
    /// A row of it, a value per column.
    fn row(&mut self, row: &[Value]) -> anyhow::Result<()>;
    /// It ends.
    fn end(&mut self) -> anyhow::Result<()>;
    /// There are no more. What was written is whole when this returns.
    fn finish(&mut self) -> anyhow::Result<()>;
}

/// Writes what is asked.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (request, meta) = (request(args), meta(args));
    let config = Config::load(&args.configured.config)?;
    let isps: Vec<String> = config.isps.ids().map(|isp| config.isps.id(isp).to_owned()).collect();
    let shards = Shards::new(config.clickhouse)?;
    let rows = crate::command::one_thread()?.block_on(async {
        // Everything a report reads, it reads here.
        let warehouse = shards.reader().await?;
        let unknown = warehouse.unknown_names(&request.filters, request.period, &isps).await?;
        if !unknown.is_empty() {
            wrong_usage(&unknown.iter().map(refusal).collect::<Vec<_>>().join("; "));
        }
        let output = Output::open(args.output.as_deref().filter(|path| path.as_os_str() != "-"))?;
        let mut document = document(args, meta, &output)?;
        let rows = write(&warehouse, &request, &mut *document, &output).await?;
        drop(document);
        output.keep()?;
        anyhow::Ok(rows)
    })?;
    if rows == 0 {
        let of = if request.filters == Filters::default() { "" } else { " of what was asked for" };
        note(format_args!("nothing{of} was counted in {} (UTC): the report is empty", request.period));
    }
    Ok(())
}

async fn write(warehouse: &Warehouse, request: &Request, document: &mut dyn Document, output: &Output) -> anyhow::Result<u64> {
    let sections = request.sections();
    let (mut all, parts) = (0, sections.len());
    for (i, section) in sections.into_iter().enumerate() {
        // A terminal shows the rows themselves.
        let what = if parts > 1 { format!("rows of {} ({}/{parts})", section.name, i + 1) } else { "rows".to_owned() };
        let mut progress = (!output.is_terminal()).then(|| Progress::new(what));
        let mut rows = warehouse.report(request, &section)?;
        document.begin(section)?;
        while let Some(row) = rows.next().await? {
            document.row(row)?;
            all += 1;
            if let Some(progress) = &mut progress {
                progress.step();
            }
        }
        document.end()?;
    }
    document.finish()?;
    Ok(all)
}

fn request(args: &Args) -> Request {
    let Some(period) = Period::new(args.from, args.to) else {
        if args.from > args.to {
            wrong_usage(&format!("--from {} is after --to {}: both days are included", args.from, args.to));
        }
        wrong_usage("--from and --to must lie between the years 1980 and 2140");
    };
    let takes = args.report.takes();
    let options = [
        ("--isp", takes.isp, !args.isp.is_empty()),
        ("--identity", takes.identity, !args.identity.is_empty()),
        ("--campaign", takes.campaign, !args.campaign.is_empty()),
        ("--group-by", takes.group_by, args.group_by.is_some()),
    ];
    for (option, taken, given) in options {
        if given && !taken {
            wrong_usage(&format!("{} cannot be broken down by {option}", args.report.name()));
        }
    }
    let filters = Filters { isps: args.isp.clone(), identities: args.identity.clone(), campaigns: args.campaign.clone() };
    let sender = match args.group_by {
        Some(GroupBy::SendingIp) => Sender::SendingIp,
        Some(GroupBy::FromDomain) | None => Sender::FromDomain,
    };
    Request { report: args.report, period, filters, sender, fallback_rules: FALLBACK.to_owned() }
}

fn meta(args: &Args) -> Meta {
    let names = [("isp", &args.isp), ("identity", &args.identity), ("campaign", &args.campaign)];
    let mut filters: Vec<(&'static str, String)> =
        names.into_iter().flat_map(|(what, names)| names.iter().map(move |name| (what, name.clone()))).collect();
    let group_by = args.group_by.as_ref().and_then(ValueEnum::to_possible_value);
    filters.extend(group_by.map(|by| ("group-by", by.get_name().to_owned())));
    let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let period = request(args).period;
    Meta { report: args.report, period, filters, made: now }
}

fn document(args: &Args, meta: Meta, output: &Output) -> anyhow::Result<Box<dyn Document>> {
    let by_name = args.output.as_ref().and_then(|path| match path.extension()?.to_str()? {
        "csv" => Some(Format::Csv),
        "xlsx" => Some(Format::Xlsx),
        "json" => Some(Format::Json),
        "md" => Some(Format::Markdown),
        "html" | "htm" => Some(Format::Html),
        _ => None,
    });
    let out = output.writer()?;
    Ok(match args.format.or(by_name).unwrap_or(Format::Table) {
        Format::Table => {
            let terminal = || terminal::size().map(|(width, _)| width).ok().filter(|_| output.is_terminal());
            Box::new(table::Table::new(out, &meta, args.width.or_else(terminal))?)
        }
        Format::Csv => Box::new(csv::Csv::new(out, &meta)),
        Format::Xlsx if output.is_terminal() => wrong_usage("a terminal shows no spreadsheet: name a file with --output"),
        Format::Xlsx => Box::new(xlsx::Xlsx::new(output.file()?, out, &meta)?),
        Format::Json => Box::new(json::Json::new(out, &meta)?),
        Format::Markdown => Box::new(markdown::Markdown::new(out, &meta)?),
        Format::Html => Box::new(html::Html::new(out, &meta)?),
    })
}

fn refusal(unknown: &UnknownName) -> String {
    let UnknownName { what, name, near } = unknown;
    let what = if *what == "isp" { "ISP" } else { what };
    match &near[..] {
        [] => format!("no {what} is called {name:?}"),
        near => {
            // Whoever sent the mail chose them.
            let near: Vec<_> = near.iter().map(|name| printable(name, false)).collect();
            format!("no {what} is called {name:?}; did you mean {}?", near.join(" or "))
        }
    }
}

fn wrong_usage(why: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{why}; see `bounceflow report --help`\n")).exit()
}

fn names() -> impl TypedValueParser<Value = Report> {
    let known = Report::ALL.map(|report| PossibleValue::new(report.name()).help(report.about()));
    PossibleValuesParser::new(known)
        .try_map(|name| Report::ALL.into_iter().find(|report| report.name() == name).ok_or("no such report"))
}

/// A day, and nothing more exact: what is counted is counted by days in UTC.
fn day(text: &str) -> Result<Date, String> {
    let well_formed = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if well_formed {
        return text.parse().map_err(|_| "there is no such day".to_owned());
    }
    match text.get(..10).map(str::parse::<Date>) {
        Some(Ok(day)) => Err(format!("reports are of whole days in UTC, without a time or another time zone: write {day}")),
        _ => Err("write it as 2026-10-01, a day in UTC".to_owned()),
    }
}
