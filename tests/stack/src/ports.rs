//! Owns the choice of loopback ports. It must not keep them bound: the server has to bind them itself.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::{fmt, fs, ops::Range};

use anyhow::{Result, bail};

/// A port no other stack on this host will choose while this lives, even while its server is down for a restart.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    // An abstract socket named after the port: the kernel frees the name when the owner ends, however it ends.
    _claim: UnixListener,
}

impl Port {
    /// Claims a port nobody listens on now. A stranger may still take it first, so a failing bind needs another try.
    pub(crate) fn claim() -> Result<Self> {
        let range = range();
        for _ in 0..1000 {
            let number = range.start + (random() % u64::from(range.end - range.start)) as u16;
            let name = SocketAddr::from_abstract_name(format!("bounceflow-port-{number}"))?;
            let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _claim: claim });
            }
        }
        bail!("no free loopback port between {} and {}", range.start, range.end)
    }
}

/// Why a server did not start: somebody else took its port between the choice and the bind.
#[derive(Debug)]
pub(crate) struct PortTaken;

impl fmt::Display for PortTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port was taken by somebody else")
    }
}

/// Starts something that claims ports, again with others while they turn out to be taken.
pub(crate) fn with_free<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let mut tries = 5;
    loop {
        tries -= 1;
        match start() {
            Err(error) if error.is::<PortTaken>() && tries > 0 => {}
            result => return result,
        }
    }
}

/// Below the ports that outgoing connections get: else a client that keeps reconnecting to a killed server could be given
/// the server's own port, connect to itself, and keep the server from coming back.
fn range() -> Range<u16> {
    let low = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768);
    if low > 11_000 { 10_000..low } else { 20_000..30_000 }
}

/// A number no other process will draw: `RandomState` is seeded by the operating system, once per call.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::Cell;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_taken_port_means_another_try_and_nothing_else_does() {
        let (taken, tries) = (anyhow!("bind").context(PortTaken).context("start"), Cell::new(0));
        assert!(taken.is::<PortTaken>());
        let count = || tries.set(tries.get() + 1);
        let third = with_free(|| {
            count();
            if tries.get() < 3 { Err(anyhow!("bind").context(PortTaken)) } else { Ok(tries.get()) }
        });
        assert_eq!(third.unwrap(), 3);
        tries.set(0);
        with_free::<()>(|| {
            count();
            Err(anyhow!("no memory"))
        })
        .unwrap_err();
        assert_eq!(tries.get(), 1);
        with_free::<()>(|| Err(anyhow!("bind").context(PortTaken))).unwrap_err(); // not for ever
    }

    #[test]
    fn a_claimed_port_is_not_given_twice() {
        let ports: Vec<_> = (0..50).map(|_| Port::claim().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(|port| port.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        assert!(ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).is_ok()), "left unbound");
    }
}
