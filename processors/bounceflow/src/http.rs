//! `/healthz`, `/readyz`, `/metrics`, and `/api/v1` where the watch role runs, over TLS where a certificate is configured. Reads what the
//! loops say of themselves; decides nothing.
//!
//! The two probes need no token: kubelet has none, and they say no more than what waits for whom.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
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
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::net::TcpListener;

use crate::board::{self, Board};
use crate::health::Health;
use crate::metrics::Exporter;
use crate::secrets;
use crate::stop::Stop;

/// The shortest token that is taken. Bytes.
const LEAST_TOKEN: usize = 16;
/// What is being answered when the process ends has this long.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where the guard's secrets come from.
#[derive(Clone, Default)]
#[allow(missing_docs, reason = "documented in config::RawHttp")]
pub struct Secrets {
    pub token_file: Option<PathBuf>,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// What a request has to show, and what it is shown. Clones share it; it is renewed while the server serves.
#[derive(Clone)]
pub struct Guard {
    /// Digests of the tokens that are accepted; empty: none is needed.
    tokens: Arc<RwLock<Vec<[u8; 32]>>>,
    tls: Option<RustlsConfig>,
}

impl Guard {
    /// An error is a field of `[http]` and what is wrong with it, for every one at once.
    pub fn new(secrets: &Secrets) -> Result<Self, Vec<(&'static str, String)>> {
        match (tokens(secrets), tls(secrets)) {
            (Ok(tokens), Ok(tls)) => {
                Ok(Self { tokens: Arc::new(RwLock::new(tokens)), tls: tls.map(|tls| RustlsConfig::from_config(Arc::new(tls))) })
            }
            (tokens, tls) => Err([tokens.err(), tls.err()].into_iter().flatten().collect()),
        }
    }

    /// Reads the files anew. What cannot be used leaves what is in force; the other is taken all the same.
    pub fn renew(&self, secrets: &Secrets) -> Result<(), Vec<(&'static str, String)>> {
        let mut mistakes = Vec::new();
        match tokens(secrets) {
            Ok(tokens) => *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens,
            Err(e) => mistakes.push(e),
        }
        match (tls(secrets), &self.tls) {
            (Ok(Some(renewed)), Some(tls)) => tls.reload_from_config(Arc::new(renewed)),
            (Ok(_), _) => {}
            (Err(e), _) => mistakes.push(e),
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// Whether a request may pass. The time it takes does not tell how much of a token was right.
    fn lets_in(&self, authorization: Option<&HeaderValue>) -> bool {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let shown = authorization
            .map(HeaderValue::as_bytes)
            .filter(|shown| shown.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME.as_bytes())));
        let shown: [u8; 32] = Sha256::digest(shown.map_or(&[][..], |shown| &shown[SCHEME.len()..])).into();
        let known = tokens.iter().fold(Choice::from(0), |known, token| known | token.ct_eq(&shown));
        tokens.is_empty() || known.into()
    }
}

const SCHEME: &str = "Bearer ";

/// One token a line, so that an old one is accepted until all have the new one.
fn tokens(secrets: &Secrets) -> Result<Vec<[u8; 32]>, (&'static str, String)> {
    let Some(file) = &secrets.token_file else { return Ok(Vec::new()) };
    let text = secrets::read_text(file).map_err(|e| ("token_file", e))?;
    let tokens: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() {
        return Err(("token_file", "is empty; write a token into it, such as `openssl rand -hex 32` makes".to_owned()));
    }
    let sound = |token: &&str| token.len() >= LEAST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(line) = tokens.iter().position(|token| !sound(token)) {
        let what =
            format!("token {} must be {LEAST_TOKEN} letters, digits and signs of ASCII at least, without spaces", line + 1);
        return Err(("token_file", what));
    }
    Ok(tokens.iter().map(|token| Sha256::digest(token).into()).collect())
}

fn tls(secrets: &Secrets) -> Result<Option<ServerConfig>, (&'static str, String)> {
    let Some((certificate, key)) = &secrets.tls else { return Ok(None) };
    let chain = secrets::read(certificate).map_err(|e| ("tls.certificate_file", e))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or(("tls.certificate_file", "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()))?;
    let key = secrets::read(key).map_err(|e| ("tls.key_file", e))?;
    // The words of the parser stay out: they might quote what it read.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| ("tls.key_file", "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)".to_owned()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| ("tls.key_file", format!("does not belong to tls.certificate_file: {e}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(config))
}

/// Takes the address, so that a process whose address is taken ends at once.
pub async fn bind(listen: SocketAddr, guard: &Guard) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("http.listen: cannot listen on {listen}; name a free address"))?;
    let token = !guard.tokens.read().unwrap_or_else(PoisonError::into_inner).is_empty();
    tracing::info!(listen = %listener.local_addr()?, tls = guard.tls.is_some(), token, "Serving /healthz, /readyz and /metrics");
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
    let (server, service) =
        (axum_server::from_tcp(listener.into_std()?)?.handle(handle).http1_only(), router.into_make_service());
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
