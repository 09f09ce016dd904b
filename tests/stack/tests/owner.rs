//! What is left when the owner of the servers ends, the friendly way and the other: nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use bounceflow_stack::{ClickHouse, ClickHouseOptions, Kafka};

#[test]
fn a_killed_owner_leaves_nothing() {
    let mut owner = Owner::start("killed");
    assert_eq!(owner.servers(), ["bounceflow-clickhouse", "java"]);
    assert_eq!(owner.left().len(), 5, "owner, two servers, two guardians: {:?}", owner.left());
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    owner.assert_nothing_left();
}

#[test]
fn an_owner_killed_while_a_server_is_frozen_leaves_nothing() {
    let mut owner = Owner::start("frozen");
    for pid in owner.left().into_iter().filter(|pid| name(*pid) != "sh" && *pid != owner.process.id()) {
        assert!(Command::new("kill").args(["-s", "STOP", &pid.to_string()]).status().unwrap().success());
    }
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    owner.assert_nothing_left();
}

#[test]
fn an_owner_killed_while_it_starts_leaves_nothing() {
    // At moments spread over the start; whichever it hits, nothing may stay.
    for step in 0..12 {
        let folder = folder(&format!("early-{step}"));
        let mut process = command(&folder).spawn().unwrap();
        thread::sleep(Duration::from_millis(step * 150));
        process.kill().unwrap();
        process.wait().unwrap();
        Owner { input: None, process, folder, addresses: vec![] }.assert_nothing_left();
    }
}

#[test]
fn an_owner_that_ends_leaves_nothing() {
    let mut owner = Owner::start("ended");
    drop(owner.input.take()); // end of its input
    assert!(owner.process.wait().unwrap().success());
    assert_eq!(owner.left(), Vec::<u32>::new(), "an orderly end waits for its servers");
    owner.assert_nothing_left();
}

#[test]
fn servers_named_by_the_environment_are_used_and_left_alone() {
    let clickhouse = ClickHouse::start_own(ClickHouseOptions::default()).unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap(); // anything that can be reached
    let address = broker.local_addr().unwrap().to_string();

    let folder = folder("named");
    let mut named = command(&folder);
    named.env("BOUNCEFLOW_KAFKA", &address).env("BOUNCEFLOW_CLICKHOUSE", format!("{}/", clickhouse.url()));
    let owner = Owner::read(named, folder);
    assert_eq!(owner.addresses, [format!("kafka={address}"), format!("clickhouse={}", clickhouse.url())]);
    assert_eq!(owner.servers(), Vec::<String>::new());
    drop(owner);
    assert_eq!(clickhouse.query("SELECT 1").unwrap(), "1\n");

    let (kafka, named) = (Kafka::external(address).unwrap(), ClickHouse::external(clickhouse.url()).unwrap());
    assert_eq!((kafka.pid(), named.pid(), named.tcp_port()), (None, None, None));
    let refusals = [kafka.pause(), kafka.resume(), kafka.kill(), kafka.restart()];
    let more = [named.pause(), named.resume(), named.kill(), named.restart()];
    for refusal in refusals.into_iter().chain(more) {
        assert!(refusal.unwrap_err().to_string().contains("external"));
    }
    kafka.stop().unwrap();
    named.stop().unwrap();
    assert_eq!(clickhouse.query("SELECT 1").unwrap(), "1\n");
}

#[test]
fn a_named_server_that_is_not_there_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(Kafka::external(free.to_string()).unwrap_err().to_string().contains("BOUNCEFLOW_KAFKA"));
    assert!(ClickHouse::external(format!("http://{free}")).unwrap_err().to_string().contains("BOUNCEFLOW_CLICKHOUSE"));
}

/// The program `stack`, with a folder of its own for temporary files: whatever stands in it is the program's.
struct Owner {
    process: Child,
    input: Option<ChildStdin>,
    folder: PathBuf,
    addresses: Vec<String>,
}

impl Owner {
    fn start(test: &str) -> Self {
        let folder = folder(test);
        let owner = Self::read(command(&folder), folder);
        for address in &owner.addresses {
            TcpStream::connect(address.rsplit(['=', '/']).next().unwrap()).expect(address);
        }
        owner
    }

    fn read(mut command: Command, folder: PathBuf) -> Self {
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take();
        let addresses = BufReader::new(process.stdout.take().unwrap()).lines().take(2).collect::<io::Result<_>>();
        Self { process, input, folder, addresses: addresses.unwrap() }
    }

    /// Processes that stand in the folder or name it, and are not merely waiting to be reaped.
    fn left(&self) -> Vec<u32> {
        let folder = self.folder.to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &u32| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            cwd.starts_with(&self.folder) || String::from_utf8_lossy(&text).contains(folder)
        };
        pids.filter(ours).collect()
    }

    fn servers(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.left().into_iter().filter(|pid| *pid != self.process.id()).map(name).filter(|name| name != "sh").collect();
        names.sort();
        names
    }

    fn assert_nothing_left(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        let answers = |address: &String| TcpStream::connect(address.rsplit(['=', '/']).next().unwrap()).is_ok();
        loop {
            let files: Vec<_> = fs::read_dir(&self.folder).unwrap().flatten().map(|entry| entry.path()).collect();
            // A killed process shows no name any more while its last threads still hold its sockets: ask them too.
            let answering: Vec<_> = self.addresses.iter().filter(|address| answers(address)).collect();
            if self.left().is_empty() && files.is_empty() && answering.is_empty() {
                return;
            }
            assert!(Instant::now() < patience, "left: {:?} {files:?} {answering:?}", self.left());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill(); // of one that has ended: does nothing
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.folder);
    }
}

fn folder(test: &str) -> PathBuf {
    let folder = env::temp_dir().canonicalize().unwrap().join(format!("stack-test-{}-{test}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    folder
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stack"));
    command.env_remove("BOUNCEFLOW_KAFKA").env_remove("BOUNCEFLOW_CLICKHOUSE").env("TMPDIR", folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The program's name, cut by the kernel at 15 letters, put back.
fn name(pid: u32) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let name = exe.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name == "dash" || name == "bash" { "sh".into() } else { name }
}
