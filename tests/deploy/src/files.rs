//! The files of a pod's volume, as the kubelet would lay them out.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bounceflow_stack::{Authority, Certificate};
use serde_json::Value;
use tempfile::TempDir;

/// What stands in for the content of a Secret: long enough for a key, and easy to find where it must not be.
pub const PLANTED: &str = "planted-secret-0123456789";

/// The folder that the projected volume `files` of a pod makes of `objects`. Paths in its configuration are those of the folder.
pub fn mounted(pod: &Value, objects: &[Value]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let volumes = pod["volumes"].as_array().context("a pod without volumes")?;
    let volume = volumes.iter().find(|volume| volume["name"] == "files").context("no volume `files`")?;
    for source in volume["projected"]["sources"].as_array().context("no sources")? {
        let map = &source["configMap"];
        if let Some(name) = map["name"].as_str() {
            let of = |object: &&Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == name;
            let data = &objects.iter().find(of).with_context(|| format!("no ConfigMap {name}"))?["data"];
            let keys: Vec<&str> = data.as_object().context("a ConfigMap without data")?.keys().map(String::as_str).collect();
            for (key, path) in items(map)?.unwrap_or_else(|| keys.iter().map(|key| (*key, *key)).collect()) {
                let text = data[key].as_str().with_context(|| format!("ConfigMap {name} has no {key}"))?;
                write(folder.path(), path, &text.replace("/etc/bounceflow", &folder.path().display().to_string()))?;
            }
        } else if source["secret"]["name"].is_string() {
            for (_, path) in items(&source["secret"])?.context("a Secret is mounted whole")? {
                write(folder.path(), path, &secret(path)?)?;
            }
        } else {
            bail!("a source that is neither: {source}");
        }
    }
    Ok(folder)
}

/// A certificate and its key where such are read, else what is easy to find.
fn secret(path: &str) -> Result<String> {
    static CERTIFICATE: LazyLock<Result<Certificate, String>> = LazyLock::new(|| {
        let certificate = Authority::new("planted").and_then(|authority| authority.certify("planted"));
        certificate.map_err(|e| format!("{e:#}"))
    });
    let certificate = CERTIFICATE.as_ref().map_err(|e| anyhow!("{e}"))?;
    let text = match path.trim_start_matches("secrets/") {
        "clickhouse/ca" | "clickhouse/certificate" | "http/ca" | "http/certificate" => &certificate.pem,
        "clickhouse/key" | "http/key" => &certificate.key,
        _ => PLANTED,
    };
    Ok(text.to_owned())
}

fn items(source: &Value) -> Result<Option<Vec<(&str, &str)>>> {
    let Some(items) = source["items"].as_array() else { return Ok(None) };
    items
        .iter()
        .map(|item| Some((item["key"].as_str()?, item["path"].as_str()?)))
        .collect::<Option<_>>()
        .context("no item")
        .map(Some)
}

fn write(folder: &Path, path: &str, text: &str) -> Result<()> {
    let file = folder.join(path);
    ensure!(!file.exists(), "{path} is mounted twice");
    fs::create_dir_all(file.parent().context("a file stands in a folder")?)?;
    Ok(fs::write(file, text)?)
}
