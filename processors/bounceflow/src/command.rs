//! What the commands share: the file they are told of, times as people write them, a runtime for those that ask and end.

use std::path::PathBuf;

/// The configuration a command works with.
#[derive(clap::Args)]
pub(crate) struct Configured {
    /// Configuration file
    #[arg(long, short, env = "BOUNCEFLOW_CONFIG", default_value = "bounceflow.toml")]
    pub(crate) config: PathBuf,
}

/// For commands that ask and end.
pub(crate) fn one_thread() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A time as people write it: RFC 3339, or how long ago.
pub(crate) fn since(text: &str) -> Result<i64, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let span: jiff::Span = text.parse().map_err(|_| "write it as 2026-09-21T12:00:00Z, 90m, 24h or 7d")?;
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let then = now.checked_sub(span).map_err(|e| e.to_string())?;
    if then > now {
        return Err("must not be negative".into());
    }
    Ok(then.timestamp().as_millisecond())
}
