//! `/healthz`, `/readyz`, `/metrics`, and `/api/v1` where the watch role runs, over TLS where a certificate is configured. Reads what the
//! loops say of themselves; decides nothing.
//!
//! The two probes need no token: kubelet has none, and they say no more than what waits for whom.

pub mod guard;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsAcceptor;
use hyper_util::rt::TokioTimer;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::board::{self, Board};
use crate::health::Health;
use crate::metrics::Exporter;
use crate::stop::Stop;
use guard::Guard;

/// What is being answered when the process ends has this long.
const FAREWELL: Duration = Duration::from_secs(5);

/// The headers of a request have this long, and so has a connection between two requests.
const HEADERS: Duration = Duration::from_secs(10);

/// Takes the address, so that a process whose address is taken ends at once.
pub async fn bind(listen: SocketAddr, guard: &Guard) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("http.listen: cannot listen on {listen}; name a free address"))?;
    let (tls, token) = (guard.tls.is_some(), guard.asks_for_a_token());
    tracing::info!(listen = %listener.local_addr()?, tls, token, "Serving /healthz, /readyz and /metrics");
    Ok(listener)
}

/// Serves until told to stop; `/api/v1` where there is a board.
pub async fn serve(
    listener: TcpListener,
    guard: Guard,
    health: Health,
    metrics: Exporter,
    board: Option<Arc<Board>>,
    stop: Stop,
) -> anyhow::Result<()> {
    let (alive, ready) = (health.clone(), health);
    let open = Router::new()
        .route("/healthz", get(move || answer(alive.stuck())))
        .route("/readyz", get(move || answer(ready.not_ready())));
    let mut guarded = Router::new().route("/metrics", get(move || std::future::ready(metrics.render())));
    if let Some(board) = board {
        let (rates, alerts, status) = (Arc::clone(&board), Arc::clone(&board), board);
        guarded = guarded
            .route("/api/v1/rates", get(move |query: Result<Query<board::Query>, QueryRejection>| rates_of(rates, query)))
            .route("/api/v1/alerts", get(move || look(alerts, |board| Ok(board.alerts()))))
            .route("/api/v1/status", get(move || look(status, |board| Ok(board.status()))));
    }
    let router = open.merge(guarded.route_layer(middleware::from_fn_with_state(guard.clone(), let_in)));
    let handle = Handle::new();
    let ending = handle.clone();
    tokio::spawn(async move {
        while !stop.is_set() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ending.graceful_shutdown(Some(FAREWELL));
    });
    let (mut server, service) =
        (axum_server::from_tcp(listener.into_std()?)?.handle(handle).http1_only(), router.into_make_service());
    // Without a clock of its own, the server would keep a connection on which nothing comes for ever.
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let served = match guard.tls {
        Some(tls) => server.acceptor(RustlsAcceptor::new(tls)).serve(service).await,
        None => server.serve(service).await,
    };
    served.context("serving HTTP")
}

async fn let_in(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.lets_in(request.headers().get(AUTHORIZATION)) {
        return next.run(request).await;
    }
    let mut refusal = refuse(
        StatusCode::UNAUTHORIZED,
        "send a token of http.token_file: `Authorization: Bearer …`; /healthz and /readyz need none",
    );
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    refusal
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
