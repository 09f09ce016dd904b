//! Asks the HTTP API of a watch role. Every failure becomes words for the reader; nothing is decided here.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::header::{AUTHORIZATION, HeaderValue};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::model::{Answer, Ask, Trouble};
use crate::api::Rates;

const PATIENCE: Duration = Duration::from_secs(5);

/// One server.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    url: String,
    /// As the header says it.
    authorization: Option<HeaderValue>,
}

impl Client {
    /// `http://` may be left out. `token` is what a file of tokens holds, `ca` one of certificates.
    pub(super) fn new(url: &str, token: Option<&[u8]>, ca: Option<&[u8]>) -> anyhow::Result<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let known = url.parse::<ureq::http::Uri>().is_ok_and(|uri| {
            uri.host().is_some() && uri.scheme_str().is_some_and(|scheme| scheme == "http" || scheme == "https")
        });
        ensure!(known, "--url {url} is no address; write it as http://127.0.0.1:9090");
        // Addresses of one's own network need no proxy, and this is never sent to one by mistake.
        let config = Agent::config_builder().timeout_global(Some(PATIENCE)).proxy(None).http_status_as_error(false);
        let config = match ca {
            None => config,
            Some(pem) => config.tls_config(TlsConfig::builder().root_certs(RootCerts::from(authorities(pem)?)).build()),
        };
        let (agent, url) = (Agent::new_with_config(config.build()), url.trim_end_matches('/').to_owned());
        Ok(Self { agent, url, authorization: token.map(bearer).transpose()? })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// All the view needs. What was heard before something failed is kept.
    pub(super) fn ask(&self, ask: &Ask) -> Answer {
        let mut answer = Answer::default();
        answer.trouble = self.fill(ask, &mut answer).err();
        answer
    }

    fn fill(&self, ask: &Ask, answer: &mut Answer) -> Result<(), Trouble> {
        let status = self.get::<crate::api::Status>("/api/v1/status", &[])?;
        let windows = status.windows.clone();
        answer.status = Some(status);
        answer.alerts = Some(self.get("/api/v1/alerts", &[])?);
        let mut query = vec![
            ("scope", ask.scope.as_str().to_owned()),
            ("sort", ask.sort.as_str().to_owned()),
            ("order", if ask.ascending { "asc" } else { "desc" }.to_owned()),
            ("limit", ask.limit.to_string()),
        ];
        query.extend(ask.window(&windows)?.map(|window| ("window", window.to_string())));
        query.extend(ask.isp.clone().map(|glob| ("isp", glob)));
        query.extend(ask.identity.clone().map(|glob| ("identity", glob)));
        if !ask.filter.is_empty() {
            query.push(("contains", ask.filter.clone()));
        }
        answer.rates = Some((ask.clone(), self.get::<Rates>("/api/v1/rates", &query)?));
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Trouble> {
        let url = &self.url;
        let query = query.iter().map(|(name, value)| (*name, value.as_str()));
        let no_answer = |error: ureq::Error| Trouble {
            said: format!("no answer from {url}: {}", in_words(&error)),
            advice: "Does the watch role run, and listen there (http.listen)? --url names another address; kubectl \
                     port-forward brings one here."
                .to_owned(),
        };
        let mut request = self.agent.get(format!("{url}{path}")).query_pairs(query);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut answer = request.call().map_err(no_answer)?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().map_err(no_answer)?;
        if !status.is_success() {
            let refusal: Refusal = serde_json::from_str(&text).unwrap_or_default();
            let said = refusal.error.trim();
            let advice = match status.as_u16() {
                401 => "--token-file names the file of the token (or BOUNCEFLOW_TOKEN_FILE).",
                404 => "Something else listens there, or this process does not play the watch role.",
                400 => "See bounceflow top --help.",
                _ => "Its log says more.",
            };
            let colon = if said.is_empty() { "" } else { ": " };
            return Err(Trouble {
                said: format!("{url}{path} answers {}{colon}{said}", status.as_u16()),
                advice: advice.to_owned(),
            });
        }
        let reader = &mut serde_json::Deserializer::from_str(&text);
        serde_path_to_error::deserialize(reader).map_err(|error| Trouble {
            said: format!("{url}{path} answers what cannot be read: {error}"),
            advice: "Something else listens there, or it is another version of bounceflow.".to_owned(),
        })
    }
}

fn bearer(token: &[u8]) -> anyhow::Result<HeaderValue> {
    let text = str::from_utf8(token).unwrap_or_default();
    let first = text.lines().map(str::trim).find(|line| !line.is_empty());
    let header = first.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
    let mut header = header.context("--token-file holds no token that can be sent")?;
    header.set_sensitive(true);
    Ok(header)
}

fn authorities(pem: &[u8]) -> anyhow::Result<Vec<Certificate<'static>>> {
    let certificates = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    ensure!(!certificates.is_empty(), "--ca-file holds no certificate in PEM (-----BEGIN CERTIFICATE-----)");
    Ok(certificates)
}

/// How the API says what is wrong with a question.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
}

fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ureq::Error::Io(error) if error.to_string().contains("UnknownIssuer") => {
            format!("{error}; --ca-file names the certificate of the authority that signed the server's")
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "the host is not known".to_owned(),
        ureq::Error::Timeout(_) => format!("nothing within {} s", PATIENCE.as_secs()),
        error => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::super::model::{Figure, Scope};
    use super::*;

    const STATUS: &str = r#"{"ready":true,"problems":[],"watermark":null,"evaluated_to":null,"log_time":null,"lag_records":0,
        "keys":0,"windows":[60,300],"unjudged_rules":[],"sources":[],"refused":{},"alertmanagers":[]}"#;
    const ALERTS: &str = r#"{"evaluated_to":null,"alerts":[]}"#;

    fn ask() -> Ask {
        Ask {
            scope: Scope::Isp,
            window: None,
            sort: Figure::HardRate,
            ascending: true,
            isp: Some("g*".into()),
            identity: None,
            filter: "a&b".into(),
            limit: 7,
        }
    }

    /// What is heard from a server that gives these answers one after the other, and the paths it was asked for.
    fn asked(answers: &'static [(u16, &'static str)]) -> (Answer, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::new(&listener.local_addr().unwrap().to_string(), None, None).unwrap();
        let server = std::thread::spawn(move || {
            let mut paths = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                paths.push(lines.next().unwrap().unwrap().split(' ').nth(1).unwrap().to_owned());
                lines.find(|line| line.as_ref().unwrap().is_empty());
                let length = body.len();
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
            }
            paths
        });
        (client.ask(&ask()), server.join().unwrap())
    }

    #[test]
    fn everything_is_asked_for() {
        const RATES: &str = r#"{"evaluated_to":1,"window_seconds":300,"scope":"isp","total":0,"rows":[]}"#;
        let (answer, paths) = asked(&[(200, STATUS), (200, ALERTS), (200, RATES)]);
        assert_eq!(answer.trouble, None);
        assert_eq!(answer.rates.unwrap().1.window_seconds, 300);
        let query = "/api/v1/rates?scope=isp&sort=hard_rate&order=asc&limit=7&window=300&isp=g*&contains=a%26b";
        assert_eq!(paths, ["/api/v1/status", "/api/v1/alerts", query]);
        // The server takes these, all of them, under these names.
        axum::extract::Query::<crate::board::Query>::try_from_uri(&query.parse().unwrap()).unwrap();
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_server_and_the_rest_is_kept() {
        let (answer, _) = asked(&[(200, STATUS), (200, ALERTS), (400, r#"{"error":"isp: what a glob"}"#)]);
        assert!(answer.status.is_some() && answer.alerts.is_some() && answer.rates.is_none());
        let said = answer.trouble.unwrap().said;
        assert!(said.ends_with("/api/v1/rates answers 400: isp: what a glob"), "{said}");
    }

    #[test]
    fn something_else_that_listens_is_told_apart() {
        let trouble = asked(&[(404, "no")]).0.trouble.unwrap();
        assert!(trouble.advice.contains("watch role"), "{trouble:?}");
        let trouble = asked(&[(200, r#"{"ready":"perhaps"}"#)]).0.trouble.unwrap();
        assert!(trouble.said.contains("cannot be read: ready:"), "{trouble:?}");
    }

    #[test]
    fn nobody_there() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let trouble = Client::new(&format!("http://{free}/"), None, None).unwrap().ask(&ask()).trouble.unwrap();
        assert_eq!(trouble.said, format!("no answer from http://{free}: connection refused"));
    }

    #[test]
    fn addresses() {
        for wrong in ["ftp://bounceflow", "http://", "not an address"] {
            assert!(Client::new(wrong, None, None).is_err(), "{wrong}");
        }
        for right in ["https://bounceflow/", "bounceflow:9090", "http://127.0.0.1:9090"] {
            assert!(Client::new(right, None, None).is_ok(), "{right}");
        }
    }
}
