//! Owns the coordination service of replicated tables: Apache ZooKeeper, since the library has no ClickHouse Keeper in it.
//! It must not know what is kept there.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::ports::Port;
use crate::server::Server;
use crate::{download, ports};

// Sessions of a server that was killed end within seconds, as with ClickHouse's own default they would within thirty.
const PROPERTIES: &str = "\
tickTime=500
minSessionTimeout=1000
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=srvr
clientPortAddress=127.0.0.1
";

/// A ZooKeeper on 127.0.0.1; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Keeper {
    server: Server,
    lib: PathBuf,
    port: Port,
}

impl Keeper {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let lib = download::zookeeper()?;
        ports::with_free(|| {
            let server = Server::prepare("ZooKeeper")?;
            let keeper = Self { server, lib: lib.clone(), port: Port::claim()? };
            let data = keeper.server.folder().join("data").display().to_string();
            let text = format!("{PROPERTIES}clientPort={}\ndataDir={data}\n", keeper.port());
            fs::write(keeper.server.folder().join("zoo.cfg"), text)?;
            keeper.restart()?;
            Ok(keeper)
        })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Freezes the process (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.server.pause()
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.server.resume()
    }

    /// Kills the process (SIGKILL) and returns once it is dead. The data stay for [`Keeper::restart`].
    pub fn kill(&self) -> Result<()> {
        self.server.kill()
    }

    /// Starts it again, on the same port with the same data, killing it first if it runs; returns once it answers.
    pub fn restart(&self) -> Result<()> {
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        java.arg("-cp").arg(self.lib.join("*"));
        java.args(["org.apache.zookeeper.server.ZooKeeperServerMain", "zoo.cfg"]);
        let port = self.port();
        self.server.run(java, |_| answers(port))
    }

    /// Its log. It goes when the service is stopped.
    pub fn log_path(&self) -> &Path {
        self.server.log()
    }
}

/// Whether it serves sessions: it says `imok` before that.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let timeout = Duration::from_secs(2);
        let mut keeper = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)?;
        keeper.set_read_timeout(Some(timeout))?;
        keeper.write_all(b"srvr")?;
        let mut answer = String::new();
        keeper.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("Mode: standalone"))
}
