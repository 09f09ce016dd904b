//! `bounceflow explain`: what a reply means and which rule says so, for people and (`--jsonl`) for machines.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bounceflow_classify::{Classifier, Command, Reply, Rule, Rules};
use bounceflow_enrich::{Isps, domain_of, normalize_domain};
use bounceflow_event::{Action, EventType, Number, Severity, Text};
use serde::{Deserialize, Serialize};

use crate::rules::{Table, files, place};

/// What is asked.
#[derive(clap::Args)]
pub struct Args {
    /// The reply, with or without its codes, such as "550 5.1.1 no such user"
    #[arg(required_unless_present = "jsonl")]
    reply: Option<String>,
    /// Host that answered
    #[arg(long, default_value = "")]
    mx: String,
    /// Recipient address or domain
    #[arg(long, default_value = "")]
    recipient: String,
    /// SMTP command that was answered, such as "RCPT TO"
    #[arg(long, default_value = "")]
    command: String,
    /// Whether it was a `deferral`, a `bounce` or an `oob_bounce`
    #[arg(long)]
    event: Option<String>,
    /// Read one JSON object a line from standard input and print one verdict a line. Fields: id, diagnostic, reply_code,
    /// enhanced_code, smtp_command, mx_host, recipient_domain, event
    #[arg(long)]
    jsonl: bool,
    /// File of rules of your own, or folder of them, beside the built-in ones; may be repeated
    #[arg(long, value_name = "PATH")]
    rules: Vec<PathBuf>,
    #[command(flatten)]
    table: Table,
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(borrow, default)]
    diagnostic: Text<'a>,
    #[serde(default)]
    reply_code: Number,
    #[serde(default)]
    enhanced_code: Text<'a>,
    #[serde(default)]
    smtp_command: Text<'a>,
    #[serde(default)]
    mx_host: Text<'a>,
    #[serde(default)]
    recipient_domain: Text<'a>,
    #[serde(default)]
    event: Text<'a>,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a serde_json::Value,
    category: &'a str,
    severity: &'a str,
    blocked: bool,
    root_cause: &'a str,
    action: &'a str,
    rule: &'a str,
    isp: &'a str,
    pattern: &'a str,
    fingerprint: String,
}

/// Answers on standard output.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let isps = args.table.read()?;
    let rules = Arc::new(files::load(&args.rules, &isps)?);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if args.jsonl {
        jsonl(rules, &isps, &mut out)?
    } else {
        one(args, rules, &isps, &mut out)?
    }
    out.flush()?;
    Ok(())
}

fn jsonl(rules: Arc<Rules>, isps: &Isps, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut classifier = Classifier::new(rules);
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let asked: Asked = serde_json::from_str(&line).with_context(|| format!("line {} of standard input", number + 1))?;
        let event = event(&asked.event).with_context(|| format!("line {} of standard input", number + 1))?;
        let domain = normalize_domain(&asked.recipient_domain).unwrap_or_default();
        let isp = isps.id(isps.of(&domain, &asked.mx_host));
        let classified = classifier.classify(&Reply {
            event,
            reply_code: u16::try_from(asked.reply_code.0).unwrap_or(0),
            enhanced_code: &asked.enhanced_code,
            diagnostic: &asked.diagnostic,
            command: &asked.smtp_command,
            isp,
            mx_host: &asked.mx_host,
            recipient_domain: &domain,
        });
        let verdict = classified.verdict;
        let answer = Answer {
            id: &asked.id,
            category: verdict.category.as_str(),
            severity: verdict.severity.as_str(),
            blocked: verdict.blocked,
            root_cause: verdict.root_cause.as_str(),
            action: verdict.action.as_str(),
            rule: &verdict.rule,
            isp,
            pattern: classified.template,
            fingerprint: format!("{:016x}", classified.fingerprint),
        };
        serde_json::to_writer(&mut *out, &answer)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn one(args: &Args, rules: Arc<Rules>, isps: &Isps, out: &mut dyn Write) -> anyhow::Result<()> {
    let domain = domain_of(&args.recipient).or_else(|| normalize_domain(&args.recipient)).unwrap_or_default();
    let isp = isps.of(&domain, &args.mx);
    let mut classifier = Classifier::new(Arc::clone(&rules));
    let classified = classifier.classify(&Reply {
        event: event(args.event.as_deref().unwrap_or(""))?,
        diagnostic: args.reply.as_deref().unwrap_or(""),
        command: &args.command,
        isp: isps.id(isp),
        mx_host: &args.mx,
        recipient_domain: &domain,
        ..Reply::default()
    });
    let (verdict, reading) = (classified.verdict, classified.reading);
    let mut codes = Vec::new();
    if reading.reply_code() != 0 {
        codes.push(reading.reply_code().to_string());
    }
    codes.extend(reading.enhanced_code().map(|code| code.to_string()));
    if reading.command() != Command::None {
        codes.push(format!("to {}", reading.command().as_str()));
    }
    writeln!(out, "reply       {}", if codes.is_empty() { "no codes".to_owned() } else { codes.join(" ") })?;
    writeln!(out, "pattern     {}", classified.template)?;
    writeln!(out, "fingerprint {:016x}", classified.fingerprint)?;
    writeln!(
        out,
        "isp         {}",
        isps.get(isp).map_or_else(|| isps.id(isp).to_owned(), |known| format!("{} ({})", known.id, known.name))
    )?;
    if reading.provider() != isps.id(isp) {
        writeln!(out, "rules see   {}: by the host that answered or the recipient's domain", reading.provider())?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "category    {}{}",
        verdict.category,
        if verdict.blocked { ", blocked: the sender or the content was refused" } else { "" }
    )?;
    writeln!(out, "severity    {}: {}", verdict.severity.as_str(), severity_in_words(verdict.severity))?;
    writeln!(out, "root cause  {}", verdict.root_cause.as_str())?;
    writeln!(out, "action      {}: {}", verdict.action.as_str(), action_in_words(verdict.action))?;
    let rule = |id: &str| rules.iter().find(|rule| rule.id() == id);
    let winner = rule(&verdict.rule);
    let at = winner.map_or_else(String::new, |rule| format!("{}, ", place(rule)));
    writeln!(out, "rule        {} ({at}rules {})", verdict.rule, rules.version())?;
    if let Some(source) = winner.map(Rule::source).filter(|source| !source.is_empty()) {
        writeln!(out, "evidence    {source}")?;
    }
    let matches = rules.explain(reading);
    writeln!(out, "\nrules that matched, the first wins:")?;
    for (number, matched) in matches.iter().enumerate() {
        let (id, verdict) = (&matched.rule, &matched.verdict);
        let at = rule(id).filter(|rule| !files::is_builtin(rule)).map_or_else(String::new, |rule| format!(" ({})", place(rule)));
        let (category, severity) = (&verdict.category, verdict.severity.as_str());
        writeln!(out, "{:>3}. {id} → {category}, {severity}; priority {}{at}", number + 1, matched.priority)?;
        for reason in &matched.found {
            writeln!(out, "       {reason}")?;
        }
    }
    Ok(())
}

fn event(text: &str) -> anyhow::Result<Option<EventType>> {
    match text {
        "" => Ok(None),
        _ => match text.parse() {
            Ok(event) => Ok(Some(event)),
            Err(()) => anyhow::bail!("event {text:?} is none of deferral, bounce, oob_bounce"),
        },
    }
}

fn severity_in_words(severity: Severity) -> &'static str {
    match severity {
        Severity::Hard => "permanent, stop sending to this recipient",
        Severity::Soft => "final for this message, the recipient may be fine",
        Severity::Deferred => "transient, being retried",
    }
}

fn action_in_words(action: Action) -> &'static str {
    match action {
        Action::RemoveRecipient => "remove the recipient from the list",
        Action::ReviewContent => "review the content, its links and attachments",
        Action::FixAuthentication => "fix SPF, DKIM or DMARC of the sender",
        Action::FixInfrastructure => "fix DNS, PTR, TLS or routing",
        Action::ReduceVelocity => "send slower",
        Action::RequestDelisting => "request delisting and slow down",
        Action::RetryLater => "retry later",
        Action::Investigate => "look at the reply: nothing is known about it",
    }
}
