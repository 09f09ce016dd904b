//! A door in front of the real ClickHouse that breaks real exchanges of inserts: it forwards or not, and answers, cuts or lies.
//! Everything else passes as it is.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result};

/// What becomes of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Break {
    /// It passes.
    Nothing,
    /// Half of the request reaches the server, then both sides are cut off.
    CutRequest,
    /// The client is told that nothing more will come while its request is still being forwarded whole.
    HalfClose,
    /// The server takes it; half of the answer's first line comes back.
    CutAnswer,
    /// A gateway's 500; the server never hears of the insert.
    Error500Before,
    /// The server takes it; a gateway's 500 comes back.
    Error500After,
}

const BREAKS: [Break; 6] =
    [Break::Nothing, Break::CutRequest, Break::HalfClose, Break::CutAnswer, Break::Error500Before, Break::Error500After];

#[derive(Default)]
struct State {
    how: AtomicU8,
    /// One insert of so many is broken.
    every: AtomicU64,
    inserts: AtomicU64,
    /// Broken so far, by kind.
    broken: Mutex<[u64; BREAKS.len()]>,
}

/// The door.
pub(crate) struct Proxy {
    url: String,
    state: Arc<State>,
}

impl Proxy {
    /// Opens it in front of the server at `url`.
    pub(crate) fn start(url: &str) -> Result<Self> {
        let server = url.strip_prefix("http://").context("only http can be broken")?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                // One that breaks off is the client's business.
                thread::spawn(move || drop(serve(client, &server, &state)));
            }
        });
        Ok(Self { url, state })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on, one insert of `every` is broken so.
    pub(crate) fn breaks(&self, how: Break, every: u64) {
        self.state.every.store(every.max(1), Ordering::Relaxed);
        self.state.how.store(how as u8, Ordering::Relaxed);
    }

    /// Inserts broken so.
    pub(crate) fn broken(&self, how: Break) -> u64 {
        self.state.broken.lock().unwrap_or_else(|e| e.into_inner())[how as usize]
    }
}

impl State {
    /// What becomes of the next insert.
    fn next(&self) -> Break {
        let turn = self.inserts.fetch_add(1, Ordering::Relaxed);
        let how = BREAKS[usize::from(self.how.load(Ordering::Relaxed))];
        if turn.is_multiple_of(self.every.load(Ordering::Relaxed).max(1)) { how } else { Break::Nothing }
    }

    fn count(&self, how: Break) {
        self.broken.lock().unwrap_or_else(|e| e.into_inner())[how as usize] += 1;
    }
}

/// The exchanges of one connection.
fn serve(mut client: TcpStream, server: &str, state: &State) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut requests = BufReader::new(client.try_clone()?);
    let mut behind: Option<BufReader<TcpStream>> = None;
    while let Some((head, insert)) = read_head(&mut requests)? {
        let how = if insert { state.next() } else { Break::Nothing };
        if how == Break::HalfClose {
            client.shutdown(Shutdown::Write)?;
        }
        let body = read_body(&mut requests, &head)?;
        if how == Break::Error500Before {
            client.write_all(GATEWAY_ERROR)?;
            state.count(how);
            continue;
        }
        let answers = match &mut behind {
            Some(answers) => answers,
            None => {
                let stream = TcpStream::connect(server)?;
                stream.set_nodelay(true)?;
                behind.insert(BufReader::new(stream))
            }
        };
        let forwarded = if how == Break::CutRequest { &body[..body.len() / 2] } else { &body[..] };
        answers.get_mut().write_all(&head)?;
        answers.get_mut().write_all(forwarded)?;
        if how == Break::CutRequest {
            state.count(how);
            answers.get_mut().shutdown(Shutdown::Both)?;
            return client.shutdown(Shutdown::Both);
        }
        let Some((answer, _)) = read_head(answers)? else { return client.shutdown(Shutdown::Both) };
        let rest = read_body(answers, &answer)?;
        // Counted only where the server said OK: that is the lie.
        let taken = answer.starts_with(b"HTTP/1.1 200");
        match how {
            Break::HalfClose | Break::CutAnswer | Break::Error500After if !taken => {
                client.write_all(&answer)?;
                client.write_all(&rest)?;
            }
            Break::HalfClose => {
                state.count(how);
                return Ok(());
            }
            Break::CutAnswer => {
                client.write_all(&answer[..8])?;
                state.count(how);
                return client.shutdown(Shutdown::Both);
            }
            Break::Error500After => {
                client.write_all(GATEWAY_ERROR)?;
                state.count(how);
            }
            _ => {
                client.write_all(&answer)?;
                client.write_all(&rest)?;
            }
        }
    }
    Ok(())
}

const GATEWAY_ERROR: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html\r\nContent-Length: 26\r\n\r\n<h1>something broke</h1>\r\n";

/// The head of a message, and whether it asks for an insert. None: the connection is over.
fn read_head(from: &mut impl BufRead) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let first = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let insert = first.windows(12).any(|w| w == b"query=INSERT");
    Ok(Some((head, insert)))
}

/// The body that belongs to a head, as it travels.
fn read_body(from: &mut impl BufRead, head: &[u8]) -> io::Result<Vec<u8>> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut body = Vec::new();
    if let Some(length) = value("content-length:") {
        let length = length.parse().map_err(io::Error::other)?;
        from.take(length).read_to_end(&mut body)?;
    } else if value("transfer-encoding:") == Some("chunked") {
        loop {
            let start = body.len();
            from.read_until(b'\n', &mut body)?;
            let line = String::from_utf8_lossy(&body[start..]);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            // The bytes and the line's end behind them; behind the last, of length nothing, the end.
            from.take(size + 2).read_to_end(&mut body)?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(body)
}
