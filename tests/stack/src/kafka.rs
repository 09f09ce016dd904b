//! Owns the Kafka brokers: KRaft processes that are broker and controller each, usually one. It must not create topics.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, ensure};

use crate::certificates::Certificate;
use crate::ports::{Port, random};
use crate::server::{Server, external};
use crate::{download, ports};

const NAMED: &str = "BOUNCEFLOW_KAFKA";

// Why a line is there where its name does not say it: internal topics small, for a fast start; a group
// forms at once; topics exist only if somebody meant them to. A broker killed and restarted is refused until its old session
// has timed out: with the default, 9 s, each restart would take 12 s.
const PROPERTIES: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes=67108864
replica.fetch.max.bytes=67108864
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
";

/// What may differ from the usual broker.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Lines for `server.properties`; they win over the usual ones.
    pub properties: Vec<(String, String)>,
    /// The JVM's `-Xmx`.
    pub heap: String,
    /// How many. Every topic has a replica on each; a write is acknowledged by all but one of them at least.
    pub brokers: u16,
    /// Two more listeners, which let in only whom they know.
    pub security: Option<KafkaSecurity>,
}

/// What the listeners over TLS show and ask for: one for users with a password (SASL/SCRAM-SHA-512), one for clients with a certificate.
#[derive(Debug, Clone)]
pub struct KafkaSecurity {
    /// The brokers' certificate.
    pub certificate: Certificate,
    /// Certificate of the authority that signs those of clients, PEM.
    pub clients: String,
    /// Users and their passwords.
    pub users: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { properties: Vec::new(), heap: "1g".into(), brokers: 1, security: None }
    }
}

impl KafkaOptions {
    /// Adds a server property.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.properties.push((name.into(), value.to_string()));
        self
    }
}

/// A Kafka broker on 127.0.0.1, or several; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    /// None: external.
    own: Vec<Own>,
}

#[derive(Debug)]
struct Own {
    server: Server,
    lib: PathBuf,
    heap: String,
    broker: Port,
    controller: Port,
    /// SCRAM and mutual TLS.
    secure: Option<(Port, Port)>,
}

impl Kafka {
    /// Starts a broker, or uses the one that `BOUNCEFLOW_KAFKA` (bootstrap servers) names.
    pub fn start() -> Result<Self> {
        Self::start_with(KafkaOptions::default())
    }

    /// Like [`Kafka::start`]; a broker named by the environment gets none of the options.
    pub fn start_with(options: KafkaOptions) -> Result<Self> {
        match env::var(NAMED) {
            Ok(bootstrap) if !bootstrap.is_empty() => Self::external(bootstrap),
            _ => Self::start_own(options),
        }
    }

    /// Starts a broker whatever the environment says, for tests that kill it.
    pub fn start_own(options: KafkaOptions) -> Result<Self> {
        let lib = download::kafka()?;
        let own = ports::with_free(|| Own::start(&lib, &options))?;
        let addresses: Vec<_> = own.iter().map(|own| format!("127.0.0.1:{}", own.broker.number)).collect();
        Ok(Self { bootstrap: addresses.join(","), own })
    }

    /// Uses a broker that runs already. Fails unless it can be reached.
    pub fn external(bootstrap: impl Into<String>) -> Result<Self> {
        let bootstrap = bootstrap.into();
        let reached = bootstrap.split(',').any(|server| TcpStream::connect(server.trim()).is_ok());
        ensure!(reached, "no Kafka broker at {bootstrap} (named by {NAMED})");
        Ok(Self { bootstrap, own: Vec::new() })
    }

    /// `host:port`, as `bootstrap.servers` wants it; several with commas.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Addresses of the listener for users with a password.
    pub fn scram(&self) -> Result<String> {
        self.secure(|(scram, _)| scram)
    }

    /// Addresses of the listener for clients with a certificate.
    pub fn mutual(&self) -> Result<String> {
        self.secure(|(_, mutual)| mutual)
    }

    fn secure(&self, which: impl Fn(&(Port, Port)) -> &Port) -> Result<String> {
        let addresses =
            self.own()?.iter().map(|own| own.secure.as_ref().map(|ports| format!("127.0.0.1:{}", which(ports).number)));
        Ok(addresses.collect::<Option<Vec<_>>>().context("Kafka was started without security")?.join(","))
    }

    /// Gives a user another password; returns once the brokers know it.
    pub fn set_password(&self, user: &str, password: &str) -> Result<()> {
        let own = self.broker(0)?;
        let mut java = own.java(&["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        java.args(["kafka.admin.ConfigCommand", "--bootstrap-server", self.bootstrap(), "--alter", "--entity-type", "users"]);
        java.args(["--entity-name", user, "--add-config", &format!("SCRAM-SHA-512=[password={password}]")]);
        let output = java.current_dir(own.server.folder()).output()?;
        ensure!(output.status.success(), "the password stays: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Freezes every process (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.own()?.iter().try_for_each(|own| own.server.pause())
    }

    /// Lets paused processes go on.
    pub fn resume(&self) -> Result<()> {
        self.own()?.iter().try_for_each(|own| own.server.resume())
    }

    /// Kills every process (SIGKILL) and returns once they are dead. The data stay for [`Kafka::restart`].
    pub fn kill(&self) -> Result<()> {
        self.own()?.iter().try_for_each(|own| own.server.kill())
    }

    /// Kills one broker of several, counted from 0.
    pub fn kill_broker(&self, number: usize) -> Result<()> {
        self.broker(number)?.server.kill()
    }

    /// Starts it again, on the same port with the same data, killing it first if it runs; returns once it answers.
    pub fn restart(&self) -> Result<()> {
        Own::run_all(self.own()?)
    }

    /// The same for one broker of several, counted from 0.
    pub fn restart_broker(&self, number: usize) -> Result<()> {
        self.broker(number)?.run()
    }

    /// Ends it and removes its data. One that is external is left alone.
    pub fn stop(self) -> Result<()> {
        self.own.iter().try_for_each(|own| own.server.kill())
    }

    /// The (first) broker's log, unless it is external. It goes when the broker is stopped.
    pub fn log_path(&self) -> Option<&Path> {
        self.own.first().map(|own| own.server.log())
    }

    /// The (first) process, unless it is external or killed.
    pub fn pid(&self) -> Option<u32> {
        self.own.first()?.server.pid()
    }

    fn own(&self) -> Result<&[Own]> {
        if self.own.is_empty() { Err(external("Kafka")) } else { Ok(&self.own) }
    }

    fn broker(&self, number: usize) -> Result<&Own> {
        self.own()?.get(number).with_context(|| format!("there is no broker {number}"))
    }
}

impl Own {
    fn start(lib: &Path, options: &KafkaOptions) -> Result<Vec<Self>> {
        let prepare = |_| {
            let (server, broker, controller) = (Server::prepare("Kafka")?, Port::claim()?, Port::claim()?);
            let secure = options.security.as_ref().map(|_| anyhow::Ok((Port::claim()?, Port::claim()?))).transpose()?;
            Ok(Self { server, lib: lib.into(), heap: options.heap.clone(), broker, controller, secure })
        };
        let all: Vec<Self> = (0..options.brokers).map(prepare).collect::<Result<_>>()?;
        let cluster = format!("bounc{:016x}A", random()); // 22 characters: sixteen bytes in base64
        let voters: Vec<_> =
            (1..).zip(&all).map(|(id, own): (u16, _)| format!("{id}@127.0.0.1:{}", own.controller.number)).collect();
        for (id, own) in (1..).zip(&all) {
            own.format(id, &cluster, &voters.join(","), options)?;
        }
        Self::run_all(&all)?;
        Ok(all)
    }

    /// Side by side: none of several is ready before the others run.
    fn run_all(all: &[Self]) -> Result<()> {
        thread::scope(|scope| {
            let running: Vec<_> = all.iter().map(|own| scope.spawn(|| own.run())).collect();
            running.into_iter().try_for_each(|run| run.join().map_err(|_| anyhow!("a thread that starts Kafka panicked"))?)
        })
    }

    fn format(&self, id: u16, cluster: &str, voters: &str, options: &KafkaOptions) -> Result<()> {
        let folder = self.server.folder();
        let (broker, controller) = (self.broker.number, self.controller.number);
        let (replicas, least) = (options.brokers, options.brokers.saturating_sub(1).max(1));
        let mut text = format!(
            "{PROPERTIES}\
             node.id={id}\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={least}\n\
             offsets.topic.replication.factor={replicas}\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={least}\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={least}\n\
             listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=BROKER://127.0.0.1:{broker}\n\
             controller.quorum.voters={voters}\n\
             log.dirs={}\n",
            folder.join("data").display()
        );
        let mut users = Vec::new();
        if let (Some(security), Some((scram, mutual))) = (&options.security, &self.secure) {
            let KafkaSecurity { certificate, clients, users: known } = security;
            let [keys, authorities] = ["broker.pem", "clients.pem"].map(|name| folder.join(name));
            fs::write(&keys, format!("{}{}", certificate.key, certificate.pem))?;
            fs::write(&authorities, clients)?;
            let (scram, mutual) = (scram.number, mutual.number);
            text.push_str(&format!(
                "listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL\n\
                 listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},SCRAM://127.0.0.1:{scram},MUTUAL://127.0.0.1:{mutual}\n\
                 advertised.listeners=BROKER://127.0.0.1:{broker},SCRAM://127.0.0.1:{scram},MUTUAL://127.0.0.1:{mutual}\n\
                 listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
                 listener.name.mutual.ssl.client.auth=required\n\
                 ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n",
                keys.display(),
                authorities.display()
            ));
            for (user, password) in known {
                users.extend(["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name={user},password={password}]")]);
            }
        }
        for (name, value) in &options.properties {
            text.push_str(&format!("{name}={value}\n")); // the last line of a name is the one that counts
        }
        fs::write(folder.join("server.properties"), text)?;
        fs::create_dir(folder.join("tmp"))?;
        let mut java = self.java(&["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        java.args(["kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties"]).args(users);
        self.server.run_to_end(java)
    }

    fn run(&self) -> Result<()> {
        let mut java = self.java(&[&format!("-Xmx{}", self.heap)]);
        java.args(["kafka.Kafka", "server.properties"]);
        let port = self.broker.number;
        self.server.run(java, |log| log.contains("Kafka Server started") && answers(port))
    }

    fn java(&self, flags: &[&str]) -> Command {
        let mut java = Command::new("java");
        // Nothing outside the folder, where a SIGKILL would leave it: no performance file, native libraries unpacked inside.
        java.args(["-XX:-UsePerfData", "-Djava.io.tmpdir=tmp"]).args(flags);
        java.arg("-Dorg.slf4j.simpleLogger.showDateTime=true");
        java.arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS");
        java.arg("-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn"); // 300 lines of settings, twice
        java.arg("-cp").arg(self.lib.join("*"));
        java
    }
}

/// Whether the broker answers a request: ApiVersions, version 0, correlation id 1, no client id.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<[u8; 10]> {
        let timeout = Duration::from_secs(2);
        let mut broker = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)?;
        broker.set_read_timeout(Some(timeout))?;
        broker.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
        let mut head = [0; 10]; // length, correlation id, error code
        broker.read_exact(&mut head)?;
        Ok(head)
    };
    ask().is_ok_and(|head| head[4..] == [0, 0, 0, 1, 0, 0])
}
