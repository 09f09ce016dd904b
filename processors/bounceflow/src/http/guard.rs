//! Who is let in by the HTTP side, and over which certificate: read from files, and read anew while the server serves.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::header::HeaderValue;
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::secrets;

/// The shortest token that is taken. Bytes.
const LEAST_TOKEN: usize = 16;

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
    pub(super) tls: Option<RustlsConfig>,
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

    pub(super) fn asks_for_a_token(&self) -> bool {
        !self.tokens.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether a request may pass. The time it takes does not tell how much of a token was right.
    pub(super) fn lets_in(&self, authorization: Option<&HeaderValue>) -> bool {
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
