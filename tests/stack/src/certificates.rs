//! Certificates of a test: an authority of its own, and what it signs. All PEM.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority that nobody else knows.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its private key (PKCS#8).
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, for those who shall trust it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certifies `name`, which listens on 127.0.0.1, if on anything.
    pub fn certify(&self, name: &str) -> Result<Certificate> {
        self.sign(name, "127.0.0.1", (2020, 4000))
    }

    /// The same for a server that is called something else.
    pub fn certify_elsewhere(&self, name: &str) -> Result<Certificate> {
        self.sign(name, "elsewhere.example", (2020, 4000))
    }

    /// The same, valid in the year 2020 alone.
    pub fn certify_expired(&self, name: &str) -> Result<Certificate> {
        self.sign(name, "127.0.0.1", (2020, 2021))
    }

    fn sign(&self, name: &str, host: &str, (from, to): (i32, i32)) -> Result<Certificate> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate()?;
        Ok(Certificate { pem: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}
