//! ClickHouse over TLS: the real server behind a listener that ends TLS, for the library has none of its own.

use bounceflow_stack::{Authority, ClickHouse, TlsProxy};
use bounceflow_warehouse::{Access, Answer, Credentials, Settings, Table, TokenRange, Warehouse, WarehouseError};

use crate::support::{Db, failures, mortal};

fn trusting(authority: &Authority) -> Credentials {
    Credentials { ca: Some(authority.pem().into()), ..Credentials::default() }
}

fn over(proxy: &TlsProxy, db: &Db<'_>, credentials: &Credentials) -> Warehouse {
    Warehouse::new(Settings { url: proxy.url(), access: Access::new(credentials).unwrap(), ..db.settings() }).unwrap()
}

/// Where, why and what to do.
async fn refused(warehouse: &Warehouse, words: &[&str]) {
    let error: WarehouseError = warehouse.ping().await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(warehouse.url()) && words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

fn proxy(server: &ClickHouse, authority: &Authority) -> TlsProxy {
    TlsProxy::start(server.url(), &authority.certify("clickhouse").unwrap(), None).unwrap()
}

#[tokio::test]
async fn blocks_go_through_tls() {
    let server = mortal().await;
    let db = Db::on(&server, "tls").await;
    let ours = Authority::new("ours").unwrap();
    let proxy = proxy(&server, &ours);
    let warehouse = over(&proxy, &db, &trusting(&ours));
    warehouse.migrate(&mut |_| {}).await.unwrap();
    warehouse.check().await.unwrap();
    let range = TokenRange { topic: "bounceflow.failures", partition: 1, first: 0, last: 2, first_timestamp: 1 };
    let block = failures(0, 3, 0);
    for _ in 0..2 {
        let answer = warehouse.insert(&block, &warehouse.token(Table::Failures, range)).await;
        assert_eq!(answer, Answer::Written);
    }
    assert_eq!(warehouse.count(Table::Failures, "bounceflow.failures", 1, 0, 2).await.unwrap(), 3);
    assert_eq!(db.rows("failures"), 3);
}

#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_by_why_and_what_to_do() {
    let server = mortal().await;
    let db = Db::on(&server, "not_trusted").await;
    let (ours, theirs) = (Authority::new("ours").unwrap(), Authority::new("theirs").unwrap());
    let good = proxy(&server, &ours);
    let unknown = ["UnknownIssuer", "clickhouse.ca_file"];
    refused(&over(&good, &db, &trusting(&theirs)), &unknown).await;
    refused(&over(&good, &db, &Credentials::default()), &unknown).await;
    let expired = TlsProxy::start(server.url(), &ours.certify_expired("clickhouse").unwrap(), None).unwrap();
    refused(&over(&expired, &db, &trusting(&ours)), &["expired", "give the server a certificate that is valid now"]).await;
    let elsewhere = TlsProxy::start(server.url(), &ours.certify_elsewhere("clickhouse").unwrap(), None).unwrap();
    refused(&over(&elsewhere, &db, &trusting(&ours)), &["elsewhere.example", "name the server as its certificate does"]).await;
    // An insert says as much.
    let warehouse = over(&expired, &db, &trusting(&ours));
    let answer = warehouse.insert(&failures(0, 3, 0), "t").await;
    assert!(matches!(&answer, Answer::Broken { message } if message.contains("expired")), "{answer:?}");
    // The wrong one of the two ports, either way.
    let url = good.url().replace("https", "http");
    refused(&Warehouse::new(Settings { url, ..db.settings() }).unwrap(), &["https:// where that speaks TLS"]).await;
    let url = server.url().replace("http", "https");
    refused(&Warehouse::new(Settings { url, ..db.settings() }).unwrap(), &["does not speak TLS: write http://"]).await;
}

#[tokio::test]
async fn a_server_may_ask_for_our_certificate() {
    let server = mortal().await;
    let db = Db::on(&server, "mutual").await;
    let (ours, theirs) = (Authority::new("ours").unwrap(), Authority::new("theirs").unwrap());
    let proxy = TlsProxy::start(server.url(), &ours.certify("clickhouse").unwrap(), Some(ours.pem())).unwrap();
    let showing = |certificate: bounceflow_stack::Certificate| Credentials {
        identity: Some((certificate.pem.into(), certificate.key.into())),
        ..trusting(&ours)
    };
    over(&proxy, &db, &showing(ours.certify("bounceflow").unwrap())).ping().await.unwrap();
    let words = ["does not accept our certificate", "certificate_file"];
    refused(&over(&proxy, &db, &trusting(&ours)), &words).await;
    refused(&over(&proxy, &db, &showing(ours.certify_expired("bounceflow").unwrap())), &words).await;
    refused(&over(&proxy, &db, &showing(theirs.certify("bounceflow").unwrap())), &words).await;
    let (one, other) = (ours.certify("one").unwrap(), ours.certify("other").unwrap());
    let mixed = Credentials { identity: Some((one.pem.into(), other.key.into())), ..trusting(&ours) };
    let error = Access::new(&mixed).unwrap_err();
    assert!(error.starts_with("key_file does not belong to certificate_file"), "{error}");
}

#[tokio::test]
async fn credentials_are_replaced_while_they_are_used() {
    let server = mortal().await;
    let db = Db::on(&server, "replaced").await;
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    let proxy = proxy(&server, &old);
    let access = Access::new(&Credentials { password: "wrong-word".into(), ..trusting(&old) }).unwrap();
    let user = "reader".to_owned();
    let warehouse = Warehouse::new(Settings { url: proxy.url(), user, access: access.clone(), ..db.settings() }).unwrap();
    refused(&warehouse, &["Authentication failed", "check user and password"]).await;
    let right = |authority| Credentials { password: "secret-word".into(), ..trusting(authority) };
    access.replace(&right(&old)).unwrap();
    warehouse.ping().await.unwrap();
    // What cannot be used replaces nothing.
    access.replace(&Credentials { ca: Some(b"nothing".into()), ..right(&old) }).unwrap_err();
    warehouse.ping().await.unwrap();
    proxy.show(&new.certify("clickhouse").unwrap()).unwrap();
    access.replace(&right(&old)).unwrap(); // ends no connection that is open, but opens a new one
    refused(&warehouse, &["UnknownIssuer"]).await;
    access.replace(&right(&new)).unwrap();
    warehouse.ping().await.unwrap();
}
