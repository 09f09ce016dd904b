//! The ClickHouse server's process: loads the library named by the first argument and hands it the rest, as if that were
//! the program `clickhouse`. It must not know what the arguments mean.
#![allow(clippy::print_stderr, reason = "its output is the server's log")]

#[path = "clickhouse/interserver.rs"]
mod interserver;

use std::error::Error;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::{env, ptr};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

type Main = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut c_void;

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("bounceflow-clickhouse: {error}");
    }
    ExitCode::FAILURE // a server that ends by itself has failed
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let path = arguments.next().ok_or("usage: bounceflow-clickhouse LIBRARY [ARGUMENTS…] (started by bounceflow-stack)")?;
    let mut arguments: Vec<CString> = arguments.map(|argument| CString::new(argument.into_vec())).collect::<Result<_, _>>()?;
    arguments.insert(0, c"clickhouse".into());
    let mut argv: Vec<*mut c_char> = arguments.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
    argv.push(ptr::null_mut());

    // SAFETY: the library's initialisers run on the main thread, before anything else does.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }?;
    if let Some(port) = env::var_os(interserver::PORT) {
        interserver::tell(Path::new(&path), port.to_str().ok_or("a port that is no number")?.parse()?)?;
    }
    // SAFETY: the signature is the one of chdb.h, as of version 26.7.
    let main = unsafe { library.get::<Main>(c"chdb_query_cmdline") }?;
    // SAFETY: `argv` ends with a null pointer; its strings outlive the call.
    unsafe { main(arguments.len() as c_int, argv.as_mut_ptr()) };
    Ok(())
}
