//! `/healthz`, `/readyz` and `/metrics`. Reads what the loops say of themselves; decides nothing.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::stop::Stop;

/// Takes the address, so that a process whose address is taken ends at once.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("http.listen: cannot listen on {listen}; name a free address"))?;
    tracing::info!(listen = %listener.local_addr()?, "Serving /healthz, /readyz and /metrics");
    Ok(listener)
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, health: Health, metrics: PrometheusHandle, stop: Stop) -> anyhow::Result<()> {
    let (alive, ready) = (health.clone(), health);
    let router = Router::new()
        .route("/healthz", get(move || answer(alive.stuck())))
        .route("/readyz", get(move || answer(ready.not_ready())))
        .route("/metrics", get(move || std::future::ready(metrics.render())));
    let stopped = async move {
        while !stop.is_set() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    axum::serve(listener, router).with_graceful_shutdown(stopped).await.context("serving HTTP")
}

async fn answer(problems: Vec<String>) -> (StatusCode, String) {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
    }
}
