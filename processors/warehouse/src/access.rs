//! How a server is convinced of who we are, and we of who it is: password, own CA, client certificate. All of it can be replaced while
//! others use it. Reads no files: whoever does says what they hold.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use clickhouse::Client;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// As the client has it by default: below the three seconds after which the server closes an idle connection.
const IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// An address at which nobody says no either.
const CONNECT: Duration = Duration::from_secs(5);

/// What is shown to a server, and what it has to show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Of [`crate::Settings::user`]; empty: none.
    pub password: String,
    /// Certificates of the authorities that may have signed the server's, PEM; none: the public ones.
    pub ca: Option<Vec<u8>>,
    /// Certificate with its chain, and private key, both PEM; none: the server is shown none.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Never its contents.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("password", &if self.password.is_empty() { "" } else { "***" })
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// The credentials in force. Clones share them: what is replaced holds for the next request of each, whatever is under way ends as it
/// began.
#[derive(Clone)]
pub struct Access(Arc<RwLock<Client>>);

impl Default for Access {
    #[allow(clippy::expect_used, reason = "nothing is read that could be wrong")]
    fn default() -> Self {
        Self::new(&Credentials::default()).expect("no credentials are no mistake")
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(***)")
    }
}

impl Access {
    /// An error says which of `ca_file`, `certificate_file` and `key_file` cannot be used, and why.
    pub fn new(credentials: &Credentials) -> Result<Self, String> {
        Ok(Self(Arc::new(RwLock::new(client(credentials)?))))
    }

    /// A password alone.
    pub fn with_password(password: impl Into<String>) -> Self {
        let access = Self::default();
        access.set(Client::with_password(access.client(), password));
        access
    }

    /// Replaces what is in force. After an error it stays.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), String> {
        self.set(client(credentials)?);
        Ok(())
    }

    /// A client that shows them, of no server yet.
    pub(crate) fn client(&self) -> Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, client: Client) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

fn client(credentials: &Credentials) -> Result<Client, String> {
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_connect_timeout(Some(CONNECT));
    connector.enforce_http(false);
    let tls = tls(credentials)?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
    let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
    let client = Client::with_http_client(http);
    Ok(if credentials.password.is_empty() { client } else { client.with_password(credentials.password.as_str()) })
}

fn tls(credentials: &Credentials) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let builder = match &credentials.ca {
        None => builder.with_webpki_roots(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("ca_file", pem)? {
                roots.add(certificate).map_err(|e| format!("ca_file holds a certificate that cannot be used: {e}"))?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let Some((chain, key)) = &credentials.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates("certificate_file", chain)?;
    // The words of the parser stay out: they might quote what it read.
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "key_file holds no private key in PEM (PKCS#8, PKCS#1 or SEC1)")?;
    builder.with_client_auth_cert(chain, key).map_err(|e| format!("key_file does not belong to certificate_file: {e}"))
}

fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{field} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_and_never_quoted() {
        let check = |credentials: Credentials, field: &str| {
            let error = Access::new(&credentials).unwrap_err();
            assert!(error.starts_with(field) && !error.contains("hunter2"), "{error}");
        };
        let text = || b"hunter2".to_vec();
        check(Credentials { ca: Some(text()), ..Credentials::default() }, "ca_file holds no certificate");
        check(
            Credentials { identity: Some((text(), text())), ..Credentials::default() },
            "certificate_file holds no certificate",
        );
        let secret = Credentials { password: "hunter2".into(), ca: Some(text()), identity: Some((text(), text())) };
        assert!(!format!("{secret:?} {:?}", Access::with_password("hunter2")).contains("hunter2"));
    }
}
