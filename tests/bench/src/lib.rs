//! What the benchmarks share: medians, and figures as flat JSON files.
//!
//! They report; they never judge. Ratios of one run are what to quote: machines are noisy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

/// The middle one; of an even number the lower of the two in the middle. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that `share` of the values do not exceed. 0 of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// Writes `target/figures/NAME.json`, flat.
pub fn write_figures(name: &str, figures: &[(&str, f64)]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/figures");
    fs::create_dir_all(&folder)?;
    let rounded = |v: f64| (v * 1000.0).round() / 1000.0;
    let object: Map<String, Value> = figures.iter().map(|(key, value)| ((*key).to_owned(), json!(rounded(*value)))).collect();
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&object)? + "\n")?;
    Ok(())
}

/// What `target/figures/NAME.json` holds; nothing where it was never written.
pub fn read_figures(name: &str) -> Result<BTreeMap<String, f64>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/figures/{name}.json"));
    if !file.is_file() {
        return Ok(BTreeMap::new());
    }
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_values_themselves() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!((median(&values), percentile(&values, 0.99), percentile(&values, 0.2)), (3.0, 5.0, 1.0));
        assert_eq!(median(&[]), 0.0);
    }
}
