//! Servers that refuse the connection, hang, break off, or answer what ClickHouse never would.

use std::time::{Duration, Instant};

use bounceflow_warehouse::{Answer, Settings, Verdict, Warehouse, WarehouseError, judge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Db, failures, mortal};

fn warehouse(url: String) -> Warehouse {
    let insert_timeout = Duration::from_millis(500);
    Warehouse::new(Settings { url, insert_timeout, query_timeout: insert_timeout, ..Settings::default() }).unwrap()
}

/// A server that reads a little of each request, writes `answer` and closes.
async fn answering(answer: &'static str) -> Warehouse {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            // Everything is read first: closing with bytes unread would reset the connection before the answer is seen.
            let mut buffer = [0; 65536];
            let mut request = Vec::new();
            while !request.ends_with(b"0\r\n\r\n") {
                match socket.read(&mut buffer).await {
                    Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let _ = socket.write_all(answer.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    });
    warehouse(url)
}

async fn check_broken(answer: &'static str) {
    let got = answering(answer).await.insert(&failures(0, 10, 0), "t").await;
    assert!(matches!(got, Answer::Broken { .. }), "{answer:?}: {got:?}");
    assert_eq!(judge(&got), Verdict::Retry);
}

async fn check_refused(answer: &'static str, code: Option<u32>, words: &str) {
    let got = answering(answer).await.insert(&failures(0, 10, 0), "t").await;
    let Answer::Refused { code: found, message } = &got else { panic!("{answer:?}: {got:?}") };
    assert_eq!(*found, code);
    assert!(message.contains(words), "{message}");
    assert_eq!(judge(&got), Verdict::Retry);
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let warehouse = warehouse(format!("http://{address}"));
    let answer = warehouse.insert(&failures(0, 1, 0), "t").await;
    assert!(matches!(&answer, Answer::Broken { message } if message.contains("refused")), "{answer:?}");
    let error = warehouse.ping().await.unwrap_err();
    assert!(matches!(error, WarehouseError::Unreachable { .. }) && error.may_pass(), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn half_an_answer_is_no_answer() {
    check_broken("").await;
    check_broken("HTTP/1.1 200 OK\r\nContent-Le").await;
    check_broken("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    check_broken("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel").await;
    check_broken("not HTTP at all\r\n\r\n").await;
}

#[tokio::test]
async fn an_error_without_a_code_is_sent_again() {
    check_refused("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", None, "500").await;
    check_refused("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 11\r\n\r\nno upstream", None, "no upstream").await;
    check_refused("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 99\r\n\r\nhalf", None, "503").await;
    // An error after the status was sent.
    let late =
        "HTTP/1.1 200 OK\r\nX-ClickHouse-Exception-Code: 241\r\nContent-Length: 32\r\n\r\nCode: 241. DB::Exception: memory";
    check_refused(late, Some(241), "memory").await;
}

#[tokio::test]
async fn a_frozen_server_is_given_up_and_the_block_sent_again() {
    let server = mortal().await;
    let db = Db::on(&server, "frozen").await;
    let patient = db.warehouse.clone();
    let hasty = Warehouse::new(Settings { insert_timeout: Duration::from_millis(700), ..db.settings() }).unwrap();
    let block = failures(0, 1000, 1);

    server.pause().unwrap();
    let begun = Instant::now();
    let answer = hasty.insert(&block, "t").await;
    assert!(matches!(&answer, Answer::Broken { message } if message.contains("no answer within 700ms")), "{answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(judge(&answer), Verdict::Retry);
    server.resume().unwrap();

    // The first request may have been stored meanwhile or not: the same block and token make it one.
    assert_eq!(patient.insert(&block, "t").await, Answer::Written);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(db.rows("failures"), 1000);
}
