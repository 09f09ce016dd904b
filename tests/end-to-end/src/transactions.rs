//! What the broker says of a transactional id (DescribeTransactions): the clients at hand cannot ask it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// The state of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// `Empty`, `Ongoing`, `PrepareCommit`, `CompleteCommit`, …
    pub state: String,
    /// When it was begun, by the broker's clock: tells it from the one before.
    pub started: i64,
    /// Topics with records or offsets in it.
    pub topics: Vec<String>,
}

impl Transaction {
    /// Whether it is open and holds records of this topic.
    pub fn is_open_on(&self, topic: &str) -> bool {
        self.state == "Ongoing" && self.topics.iter().any(|t| t == topic)
    }
}

/// Asks the only broker there is, so it is the coordinator.
pub(crate) fn describe(bootstrap: &str, id: &str) -> Result<Transaction> {
    let mut request = vec![0, 65, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0]; // DescribeTransactions 0, correlation 7, no client id, no tags
    request.push(2); // one id
    put(&mut request, id);
    request.push(0);
    let mut broker = TcpStream::connect(bootstrap).context("asking for a transaction")?;
    broker.set_read_timeout(Some(Duration::from_secs(10)))?;
    broker.set_nodelay(true)?;
    let length = u32::try_from(request.len())?.to_be_bytes();
    broker.write_all(&[&length[..], &request[..]].concat())?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer)?;
    let mut answer = Answer(&answer);
    answer.skip(4 + 1 + 4)?; // correlation, tags, throttle time
    ensure!(answer.varint()? == 2, "one transaction was asked for");
    let error = answer.i16()?;
    answer.text()?;
    let state = answer.text()?;
    // What the broker has not loaded yet (14 to 16) or never seen (105) is not open.
    ensure!(matches!(error, 0 | 14..=16 | 105), "DescribeTransactions: error {error}");
    answer.skip(4)?; // timeout
    let started = i64::from_be_bytes(answer.take(8)?.try_into()?);
    answer.skip(8 + 2)?; // producer id and epoch
    let mut topics = Vec::new();
    for _ in 1..answer.varint()?.max(1) {
        topics.push(answer.text()?);
        let partitions = answer.varint()?.max(1) - 1;
        answer.skip(4 * partitions + 1)?;
    }
    Ok(Transaction { state, started, topics })
}

fn put(request: &mut Vec<u8>, text: &str) {
    let mut length = text.len() + 1;
    while length >= 0x80 {
        request.push(length as u8 | 0x80);
        length >>= 7;
    }
    request.push(length as u8);
    request.extend_from_slice(text.as_bytes());
}

struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("the broker's answer ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        self.take(count).map(drop)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn varint(&mut self) -> Result<usize> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    fn text(&mut self) -> Result<String> {
        let length = self.varint()?.max(1) - 1;
        Ok(String::from_utf8(self.take(length)?.to_vec())?)
    }
}
