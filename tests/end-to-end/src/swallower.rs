//! A connection to ClickHouse on which answers to inserts get lost: what was stored, nobody hears of.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use bounceflow_stack::ClickHouse;

/// In front of a server: passes everything on, but of as many answers to inserts as it is told, nothing comes back.
pub struct Swallower {
    address: String,
    answers: Arc<AtomicUsize>,
}

impl Swallower {
    /// Listens on a port of its own.
    pub fn start(server: &ClickHouse) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let answers = Arc::<AtomicUsize>::default();
        let target = server.url().trim_start_matches("http://").to_owned();
        let shared = Arc::clone(&answers);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let swallow = Arc::clone(&shared);
                thread::spawn(move || pass(&client, &server, &swallow));
            }
        });
        Ok(Self { address, answers })
    }

    /// Its HTTP address.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// So many answers to inserts are lost from now on.
    pub fn swallow(&self, answers: usize) {
        self.answers.store(answers, Ordering::SeqCst);
    }

    /// How many of them are still to come.
    pub fn left(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }
}

/// One connection, until either side ends it.
fn pass(client: &TcpStream, server: &TcpStream, swallow: &AtomicUsize) {
    let inserting = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (client, server);
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if buffer[..n].windows(26).any(|w| w == b"insert_deduplication_token") {
                    inserting.store(1, Ordering::SeqCst);
                }
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = server.shutdown(Shutdown::Both);
        });
        let (mut from, mut to) = (server, client);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let insert = inserting.swap(0, Ordering::SeqCst) == 1;
            let take = |left: usize| left.checked_sub(1);
            if insert && swallow.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                break;
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}
