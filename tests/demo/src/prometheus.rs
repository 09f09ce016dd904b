//! What the running roles say of themselves over HTTP: ready or not, and the figures of `/metrics`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use ureq::Agent;

/// What the classify role says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Records read and committed.
    pub(crate) records: u64,
    /// Dead letters by reason.
    pub(crate) dead_letters: BTreeMap<String, u64>,
}

impl Metrics {
    pub(crate) fn read(address: &str) -> Result<Self> {
        get(address, "/metrics").map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            match series.split_once('{').unwrap_or((series, "")) {
                ("bounceflow_classify_records_total", _) => metrics.records += value,
                ("bounceflow_classify_dead_lettered_total", labels) => {
                    *metrics.dead_letters.entry(label(labels, "reason")).or_default() += value;
                }
                _ => {}
            }
        }
        metrics
    }
}

/// Asks for a path; an error unless the answer is 200.
pub(crate) fn get(address: &str, path: &str) -> Result<String> {
    let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).proxy(None).build();
    let answer = Agent::new_with_config(config).get(format!("http://{address}{path}")).call();
    let text = answer.and_then(|mut answer| answer.body_mut().read_to_string());
    text.with_context(|| path.to_owned())
}

fn label(labels: &str, name: &str) -> String {
    let after = labels.split_once(&format!("{name}=\"")).map_or("", |(_, after)| after);
    after.split('"').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_up_and_reasons_kept_apart() {
        let metrics = Metrics::parse(
            "# TYPE bounceflow_classify_records_total counter\n\
             bounceflow_classify_records_total{topic=\"a\"} 3\n\
             bounceflow_classify_records_total{topic=\"b\"} 4\n\n\
             bounceflow_classify_dead_lettered_total{topic=\"a\",reason=\"json\"} 1\n\
             bounceflow_classify_dead_lettered_total{topic=\"b\",reason=\"json\"} 1\n\
             bounceflow_classify_dead_lettered_total{topic=\"a\",reason=\"too_large\"} 5\n\
             bounceflow_classify_commit_seconds_sum{topic=\"a\"} 0.25\n",
        );
        assert_eq!(metrics.records, 7);
        assert_eq!(metrics.dead_letters, BTreeMap::from([("json".to_owned(), 2), ("too_large".to_owned(), 5)]));
    }
}
