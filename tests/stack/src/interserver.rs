//! Owns the interserver port of a replica: hands its parts to other replicas, as a ClickHouse server does by itself and the library
//! does not. What it sends are the server's own files, and which ones only the server says: one that is dead or frozen hands out
//! nothing. The receiver checks every byte. It must not know anything of tables.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cityhash_rs::cityhash_102_128;

use crate::clickhouse::query;

/// Version of the protocol (`DataPartsExchange`), as of ClickHouse 26.7; no older server asks here.
const PROTOCOL: &str = "10";

/// What a part's folder holds besides the part.
const LEFT_OUT: [&str; 2] = ["txn_version.txt", "delete-on-destroy.txt"];

/// The hash of a stream is taken over blocks of this many bytes, each seeded by the hash of those before it.
const HASHED_BLOCK: usize = 2048;
const K3: u64 = 0xc949_d7c7_509e_6557;

/// The port of one replica. It answers until this is dropped.
#[derive(Debug)]
pub(crate) struct Interserver {
    port: u16,
    listener: TcpListener,
    ended: Arc<AtomicBool>,
}

impl Interserver {
    pub(crate) fn bind() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self { port: listener.local_addr()?.port(), listener, ended: Arc::default() })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Hands out parts of the server at `url`.
    pub(crate) fn serve(&self, url: &str) -> Result<()> {
        let (listener, ended, url) = (self.listener.try_clone()?, self.ended.clone(), url.to_owned());
        thread::Builder::new().name("interserver".into()).spawn(move || {
            for socket in listener.incoming().flatten() {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                let url = url.clone();
                thread::spawn(move || {
                    let _ = answer(&url, socket); // broken off: the other side sees it and asks again
                });
            }
        })?;
        Ok(())
    }
}

impl Drop for Interserver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)); // wakes the thread up, which then ends
    }
}

fn answer(url: &str, socket: TcpStream) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(&socket);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut out = BufWriter::with_capacity(1 << 20, &socket);
    match part(url, &request) {
        Ok(part) => {
            write!(out, "HTTP/1.1 200 OK\r\nSet-Cookie: server_protocol_version={PROTOCOL}\r\nConnection: close\r\n\r\n")?;
            part.send(&mut out)?;
        }
        Err(e) => {
            let text = format!("{e:#}");
            write!(
                out,
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            )?;
        }
    }
    Ok(out.flush()?)
}

/// Asks the server where the part is: `POST /?endpoint=DataPartsExchange:REPLICA&part=NAME&… HTTP/1.1`.
fn part(url: &str, request: &str) -> Result<Part> {
    let (_, parameters) = request.split_whitespace().nth(1).and_then(|target| target.split_once('?')).context("no parameters")?;
    let parameter = |name: &str| {
        let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(n, _)| *n == name).map(|(_, value)| decode(value)).next().context("a parameter is missing")
    };
    let endpoint = parameter("endpoint")?;
    let replica = endpoint.strip_prefix("DataPartsExchange:").context("nothing but parts is handed out here")?;
    let name = parameter("part")?;
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let sql = format!(
        "SELECT p.path, p.part_type FROM system.parts AS p INNER JOIN (SELECT database, table FROM system.replicas \
         WHERE replica_path = '{}') AS r USING (database, table) WHERE p.name = '{}' FORMAT TSVRaw",
        quoted(replica),
        quoted(&name)
    );
    let found = query(url, Duration::from_secs(10), &sql)?;
    let (path, kind) = found.trim().split_once('\t').with_context(|| format!("no part {name} here"))?;
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(entry.file_type()?.is_file(), "{name}: projections are not handed out here");
        if !LEFT_OUT.contains(&name.as_str()) {
            files.push((name, File::open(entry.path())?)); // open now: a part that is removed meanwhile stays whole
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    let expiry = fs::read(Path::new(path).join("ttl.txt")).unwrap_or_else(|_| b"ttl format version: 1\n{}".to_vec());
    Ok(Part { kind: kind.to_owned(), expiry, files })
}

struct Part {
    kind: String,
    expiry: Vec<u8>,
    files: Vec<(String, File)>,
}

impl Part {
    fn send(self, out: &mut impl Write) -> Result<()> {
        let mut total = 0;
        for (_, file) in &self.files {
            total += file.metadata()?.len();
        }
        out.write_all(&total.to_le_bytes())?;
        write_text(out, &self.expiry)?;
        write_text(out, self.kind.as_bytes())?;
        out.write_all(b"00000000-0000-0000-0000-000000000000")?; // parts have no UUID unless a setting asks for it
        out.write_all(&0_u64.to_le_bytes())?; // projections
        out.write_all(&(self.files.len() as u64).to_le_bytes())?;
        for (name, file) in self.files {
            let size = file.metadata()?.len();
            write_text(out, name.as_bytes())?;
            out.write_all(&size.to_le_bytes())?;
            let (low, high) = copy_hashed(&mut file.take(size), out)?;
            out.write_all(&low.to_le_bytes())?;
            out.write_all(&high.to_le_bytes())?;
        }
        Ok(())
    }
}

/// Length in the variable-length encoding, then the bytes.
fn write_text(out: &mut impl Write, text: &[u8]) -> io::Result<()> {
    let mut length = text.len();
    while length >= 0x80 {
        out.write_all(&[(length as u8 & 0x7f) | 0x80])?;
        length >>= 7;
    }
    out.write_all(&[length as u8])?;
    out.write_all(text)
}

fn copy_hashed(from: &mut impl Read, out: &mut impl Write) -> io::Result<(u64, u64)> {
    // The library takes a seed only as its first 16 bytes, the first half of it masked.
    let mut seeded = [0; 16 + HASHED_BLOCK];
    let mut hash = (0_u64, 0_u64);
    loop {
        let mut filled = 0;
        while filled < HASHED_BLOCK {
            match from.read(&mut seeded[16 + filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(hash);
        }
        seeded[..8].copy_from_slice(&(hash.0 ^ K3).to_le_bytes());
        seeded[8..16].copy_from_slice(&hash.1.to_le_bytes());
        let next = cityhash_102_128(&seeded[..16 + filled]);
        hash = ((next >> 64) as u64, next as u64);
        out.write_all(&seeded[16..16 + filled])?;
    }
}

/// Percent-decoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
