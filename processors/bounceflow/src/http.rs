//! `/healthz`, `/readyz`, `/metrics`, and `/api/v1` where the watch role runs. Reads what the loops say of themselves; decides
//! nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use serde::Serialize;

use crate::board::{self, Board};
use crate::health::Health;
use crate::metrics::Exporter;
use crate::stop::Stop;

/// Takes the address, so that a process whose address is taken ends at once.
pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("http.listen: cannot listen on {listen}; name a free address"))?;
    tracing::info!(listen = %listener.local_addr()?, "Serving /healthz, /readyz and /metrics");
    Ok(listener)
}

/// Serves until told to stop; `/api/v1` where there is a board.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Exporter,
    board: Option<Arc<Board>>,
    stop: Stop,
) -> anyhow::Result<()> {
    let (alive, ready) = (health.clone(), health);
    let mut router = Router::new()
        .route("/healthz", get(move || answer(alive.stuck())))
        .route("/readyz", get(move || answer(ready.not_ready())))
        .route("/metrics", get(move || std::future::ready(metrics.render())));
    if let Some(board) = board {
        let (rates, alerts, status) = (Arc::clone(&board), Arc::clone(&board), board);
        router = router
            .route("/api/v1/rates", get(move |query: Result<Query<board::Query>, QueryRejection>| rates_of(rates, query)))
            .route("/api/v1/alerts", get(move || look(alerts, |board| Ok(board.alerts()))))
            .route("/api/v1/status", get(move || look(status, |board| Ok(board.status()))));
    }
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

async fn rates_of(board: Arc<Board>, query: Result<Query<board::Query>, QueryRejection>) -> Response {
    match query {
        Ok(Query(query)) => look(board, move |board| board.rates(&query)).await,
        Err(e) => refuse(StatusCode::BAD_REQUEST, &e.body_text()),
    }
}

/// Asks the board beside the server's own thread: with many keys an answer takes milliseconds.
async fn look<T: Serialize + Send + 'static>(
    board: Arc<Board>,
    ask: impl FnOnce(&Board) -> Result<T, String> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || ask(&board)).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(wrong)) => refuse(StatusCode::BAD_REQUEST, &wrong),
        Err(e) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}
