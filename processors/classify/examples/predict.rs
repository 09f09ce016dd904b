//! Reads labelled replies as JSON lines on standard input, prints one verdict per line for the score script.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example talks to its terminal and may stop")]

use std::io::BufRead;
use std::sync::Arc;

use bounceflow_classify::{Classifier, Reply, Rules};
use serde_json::{Value, json};

fn main() {
    let mut classifier = Classifier::new(Arc::new(Rules::builtin().unwrap()));
    for line in std::io::stdin().lock().lines() {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let got = classifier.classify(&Reply {
            event: row["event"].as_str().and_then(|e| e.parse().ok()),
            reply_code: row["reply_code"].as_u64().unwrap_or_default() as u16,
            enhanced_code: text("enhanced_code"),
            diagnostic: text("diagnostic"),
            command: text("smtp_command"),
            isp: "",
            mx_host: text("mx_host"),
            recipient_domain: text("recipient_domain"),
        });
        let v = got.verdict;
        println!(
            "{}",
            json!({
                "id": row["id"], "category": v.category.as_str(), "severity": v.severity.as_str(), "blocked": v.blocked,
                "root_cause": v.root_cause.as_str(), "action": v.action.as_str(), "rule": &*v.rule, "isp": got.reading.provider(),
                "pattern": got.template, "fingerprint": format!("{:016x}", got.fingerprint),
            })
        );
    }
}
