//! YAML as JSON values. Only what Kubernetes and Compose files hold: keys are strings.

use anyhow::{Context, Result};
use serde_json::Value;

/// The one document of a text.
pub fn document(text: &str) -> Result<Value> {
    serde_saphyr::from_str(text).context("no sound YAML")
}

/// The documents of a text; empty ones are left out.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("no sound YAML")?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}
