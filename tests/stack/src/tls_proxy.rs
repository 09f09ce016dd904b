//! Owns a TLS listener in front of a server that has none: the library that ClickHouse is here listens without TLS only.
//! It must not look into what it hands on.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::certificates::Certificate;

/// Ends TLS on 127.0.0.1 and hands the rest on; dropping it closes everything.
pub struct TlsProxy {
    port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    /// Dropped, the proxy ends.
    _running: oneshot::Sender<()>,
}

impl TlsProxy {
    /// In front of a server at `to` (`http://127.0.0.1:PORT` will do). `clients`: the authority whose certificates clients must show.
    pub fn start(to: &str, certificate: &Certificate, clients: Option<&str>) -> Result<Self> {
        let to: SocketAddr = to.rsplit('/').next().unwrap_or(to).parse().with_context(|| format!("no address: {to}"))?;
        let config = Arc::new(Mutex::new(Arc::new(config(certificate, clients)?)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Without a runtime: whoever asks may be in one.
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (running, ended) = oneshot::channel::<()>();
        let current = Arc::clone(&config);
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    () = serve(listener, to, &current) => {}
                }
            });
            runtime.shutdown_background();
        });
        Ok(Self { port, config, _running: running })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Shows another certificate from now on.
    pub fn show(&self, certificate: &Certificate) -> Result<()> {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config(certificate, None)?);
        Ok(())
    }
}

async fn serve(listener: std::net::TcpListener, to: SocketAddr, config: &Mutex<Arc<ServerConfig>>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = TlsAcceptor::from(Arc::clone(&config.lock().unwrap_or_else(PoisonError::into_inner)));
        tokio::spawn(async move {
            // Who breaks off here is told so by TLS itself; a test sees it at the other end.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

fn config(certificate: &Certificate, clients: Option<&str>) -> Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| anyhow!("{e}"))?)?;
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
        }
    };
    let chain = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).map_err(|e| anyhow!("{e}"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(|e| anyhow!("{e}"))?;
    Ok(builder.with_single_cert(vec![chain], key)?)
}
