//! Tells the library where other replicas reach this server. It must not do anything else to it.
//!
//! A replicated table asks the library's `Context` for that address, for its scheme and for the credentials of other replicas. The
//! program `clickhouse-server` sets the three from its configuration at start; `clickhouse-local`, which the library is, never does:
//! its replicated tables stay read-only. So the three functions that are asked are replaced by ones that answer. They are found by
//! their place in the one version these tests use, and left alone unless they are byte for byte what is expected there.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The environment variable that holds the port on 127.0.0.1.
pub(crate) const PORT: &str = "BOUNCEFLOW_INTERSERVER_PORT";

/// A function of version 26.7.3-stable.1.
struct Function {
    place: u64,
    begins: &'static [u8],
}

/// `pair<string, UInt16> getInterserverIOAddress()`
const ADDRESS: Function = Function {
    place: 0x1417_c9c0,
    begins: &[
        0x41, 0x56, 0x53, 0x48, 0x83, 0xec, 0x48, 0x4c, 0x8b, 0x36, 0x49, 0x0f, 0xbe, 0x8e, 0x67, 0x01, 0x00, 0x00, 0x48, 0x85,
        0xc9, 0x49, 0x8b, 0x96, 0x58, 0x01,
    ],
};
/// `string getInterserverScheme()`
const SCHEME: Function = Function {
    place: 0x1417_cac0,
    begins: &[0x48, 0x8b, 0x06, 0x80, 0xb8, 0x87, 0x01, 0x00, 0x00, 0x00, 0x78, 0x1a, 0x48, 0x05, 0x70, 0x01],
};
/// `shared_ptr<InterserverCredentials> getInterserverCredentials()`
const CREDENTIALS: Function = Function {
    place: 0x1417_c940,
    begins: &[0x41, 0x57, 0x41, 0x56, 0x53, 0x4c, 0x8b, 0x3f, 0x49, 0x8d, 0x9f, 0x88, 0x01, 0x00, 0x00, 0x48, 0x89, 0xdf],
};

/// Makes them return (127.0.0.1, `port`), `http`, and no credentials.
pub(crate) fn tell(library: &Path, port: u16) -> Result<(), Box<dyn Error>> {
    let begin = begin_of(library)?;
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    for (function, code) in [(ADDRESS, address(port)), (SCHEME, scheme()), (CREDENTIALS, credentials())] {
        let mut found = vec![0; function.begins.len()];
        memory.read_exact_at(&mut found, begin + function.place)?;
        if found != function.begins {
            return Err(format!("{} is another version: replicated tables need the one named here", library.display()).into());
        }
        memory.write_all_at(&code, begin + function.place)?;
    }
    Ok(())
}

/// Machine code (x86-64, System V) that writes a string of at most 15 characters to where the caller wants it: the characters in the
/// object itself, their number in the last of its 24 bytes.
fn write_string(text: &str) -> Vec<u8> {
    let mut characters = [0; 16];
    characters[..text.len()].copy_from_slice(text.as_bytes());
    let mut code = Vec::new();
    for (place, half) in [(0, &characters[..8]), (8, &characters[8..])] {
        code.extend_from_slice(&[0x48, 0xb8]); // mov rax, half
        code.extend_from_slice(half);
        code.extend_from_slice(&[0x48, 0x89, 0x47, place]); // mov [rdi + place], rax
    }
    code.extend_from_slice(&[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, text.len() as u8]); // mov rax, length << 56
    code.extend_from_slice(&[0x48, 0x89, 0x47, 16]); // mov [rdi + 16], rax
    code
}

const RETURN_IT: [u8; 4] = [0x48, 0x89, 0xf8, 0xc3]; // mov rax, rdi; ret

fn address(port: u16) -> Vec<u8> {
    let mut code = write_string("127.0.0.1");
    code.extend_from_slice(&[0x66, 0xc7, 0x47, 24]); // mov word [rdi + 24], port
    code.extend_from_slice(&port.to_le_bytes());
    code.extend_from_slice(&RETURN_IT);
    code
}

fn scheme() -> Vec<u8> {
    let mut code = write_string("http");
    code.extend_from_slice(&RETURN_IT);
    code
}

/// A pointer to zeros, which are empty strings, owned by nobody.
fn credentials() -> Vec<u8> {
    let nobody: &'static [u64; 64] = Box::leak(Box::new([0; 64]));
    let mut code = vec![0x48, 0xb8]; // mov rax, nobody
    code.extend_from_slice(&(nobody.as_ptr() as u64).to_le_bytes());
    code.extend_from_slice(&[0x31, 0xd2, 0xc3]); // xor edx, edx; ret
    code
}

/// Where the kernel has put the beginning of the file.
fn begin_of(library: &Path) -> Result<u64, Box<dyn Error>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let library = fs::canonicalize(library)?;
    let lines = maps.lines().filter(|line| line.split_whitespace().last().is_some_and(|path| Path::new(path) == library));
    let begins = lines.filter_map(|line| u64::from_str_radix(line.split_once('-')?.0, 16).ok());
    begins.min().ok_or_else(|| "the library is not loaded".into())
}
