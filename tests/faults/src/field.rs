//! Where a cell is played: one pipeline, two processes per role, traffic, and what revives the dead. It knows no fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bounceflow_end_to_end::{Dice, Pipeline, Process, Servers, until};
use bounceflow_stack::{ClickHouseOptions, KafkaOptions};

use crate::cells::{Cell, Servers as Needed};
use crate::proxy::Proxy;

/// The message of a failpoint that strikes.
pub(crate) const STRUCK: &str = "Fault struck";

/// The measure of how many ended by themselves.
pub(crate) const ENDED: &str = "ended_by_themselves";

/// Both roles.
pub(crate) const ROLES: [&str; 2] = ["classify", "sink"];

/// A process of the team.
pub(crate) struct Member {
    /// `classify` or `sink`.
    pub(crate) role: &'static str,
    /// Which of its role.
    pub(crate) ordinal: u32,
    /// The process.
    pub(crate) process: Process,
}

/// What a run of a cell is given.
pub(crate) struct Order {
    /// Events to send.
    pub(crate) events: u64,
    /// Events per second.
    pub(crate) rate: u64,
    /// Makes the names of the round's topics and database its own, and its moments others.
    pub(crate) round: u64,
}

/// Where a cell is played.
pub(crate) struct Field {
    /// The pipeline. Its servers may be killed.
    pub(crate) pipeline: Pipeline,
    /// What stands before ClickHouse, where the cell asked for it.
    pub(crate) proxy: Option<Proxy>,
    /// Those who run.
    pub(crate) team: Vec<Member>,
    /// Chance.
    pub(crate) dice: Dice,
    /// What is to be sent.
    pub(crate) order: Order,
    /// Payloads of failures that ClickHouse was made to refuse.
    pub(crate) refused: Vec<Vec<u8>>,
    /// What was measured besides.
    pub(crate) measured: BTreeMap<String, f64>,
    simulate: Option<Process>,
    supervised: bool,
    traffic_began: Instant,
    cell: &'static str,
    began: Instant,
}

impl Field {
    /// Servers, topics, tables; nothing runs yet.
    pub(crate) fn prepare(cell: &Cell, order: Order) -> Result<Self> {
        let servers = Servers::take()?;
        let servers = match cell.servers {
            Needed::Shared | Needed::BehindProxy => servers,
            Needed::ThreeBrokers => {
                let options = KafkaOptions { brokers: 3, heap: "512m".into(), ..KafkaOptions::default() };
                servers.with_kafka(options)?
            }
            // As little as lets everything else of the cell run.
            Needed::SmallMemory => {
                let memory = (1u64 << 30).to_string();
                servers.with_clickhouse(ClickHouseOptions::default().server_setting("max_server_memory_usage", memory))?
            }
        };
        let proxy = match cell.servers {
            Needed::BehindProxy => Some(Proxy::start(servers.clickhouse.url())?),
            _ => None,
        };
        let name = format!("{}_{}", cell.name.replace('-', "_"), order.round);
        let mut builder = Pipeline::builder(&name)?
            .program("bounceflow-failpoints")
            .inputs(8)
            .set(&["sink", "linger_ms"], 200)?
            .set(&["kafka", "session.timeout.ms"], "6000")?;
        for (path, value) in cell.settings {
            builder = builder.set(path, *value)?;
        }
        if let Some(proxy) = &proxy {
            builder = builder.clickhouse(&[proxy.url()]);
        }
        let pipeline = builder.servers(servers).build()?;
        let dice = Dice::new(order.round.wrapping_mul(31).wrapping_add(cell.name.len() as u64));
        let (team, refused, measured) = (Vec::new(), Vec::new(), BTreeMap::new());
        let began = Instant::now();
        Ok(Self {
            pipeline,
            proxy,
            team,
            dice,
            order,
            refused,
            measured,
            simulate: None,
            supervised: cell.supervised,
            traffic_began: began,
            cell: cell.name,
            began,
        })
    }

    /// Says on standard error what happens.
    #[allow(clippy::print_stderr, reason = "progress")]
    pub(crate) fn say(&self, what: &str) {
        eprintln!("{:>7.1} s  {}: {what}", self.began.elapsed().as_secs_f64(), self.cell);
    }

    /// Two processes of each role.
    pub(crate) fn start_team(&mut self) -> Result<()> {
        ROLES.iter().try_for_each(|role| self.start_role(role))
    }

    /// Two processes of one role.
    pub(crate) fn start_role(&mut self, role: &'static str) -> Result<()> {
        (0..2).try_for_each(|ordinal| self.join(role, ordinal, None))
    }

    /// Starts a process, with failpoints or without. One before it of the same name is gone.
    pub(crate) fn join(&mut self, role: &'static str, ordinal: u32, failpoints: Option<&str>) -> Result<()> {
        let process = match failpoints {
            Some(failpoints) => self.pipeline.run_armed(role, ordinal, failpoints)?,
            None => self.pipeline.run(role, ordinal, &[])?,
        };
        self.team.retain(|member| (member.role, member.ordinal) != (role, ordinal));
        self.team.push(Member { role, ordinal, process });
        Ok(())
    }

    /// A process of the team.
    pub(crate) fn member(&mut self, role: &str, ordinal: u32) -> Result<&mut Process> {
        let member = self.team.iter_mut().find(|member| member.role == role && member.ordinal == ordinal);
        Ok(&mut member.with_context(|| format!("there is no {role} {ordinal}"))?.process)
    }

    /// All traffic of the cell.
    pub(crate) fn start_traffic(&mut self) -> Result<()> {
        let folder = self.pipeline.folder();
        let (expected, garbage) = (folder.join("expected.json"), folder.join("garbage.hex"));
        let Order { events, rate, round } = self.order;
        self.traffic_began = Instant::now();
        self.simulate = Some(self.pipeline.simulate(&[
            "--format=avro",
            "--failures=0.05",
            "--garbage=0.001",
            &format!("--count={events}"),
            &format!("--rate={rate}"),
            &format!("--seed={}", 20_260_921 + round),
            &format!("--expected={}", expected.display()),
            &format!("--garbage-file={}", garbage.display()),
        ])?);
        Ok(())
    }

    /// Since when, in seconds.
    pub(crate) fn seconds_of_traffic(&self) -> f64 {
        self.traffic_began.elapsed().as_secs_f64()
    }

    /// Whether traffic flows.
    pub(crate) fn flowing(&mut self) -> Result<bool> {
        self.simulate.as_mut().context("there is no traffic")?.runs()
    }

    /// Waits until this many rows are in a table: everybody works.
    pub(crate) fn under_way(&self) -> Result<()> {
        until("the first rows", || {
            let rows = self.pipeline.count("SELECT count() FROM {db}.failures")?;
            ensure!(rows > 0, "none yet");
            Ok(())
        })
    }

    /// How often the sinks said something, in the logs of all that ever ran. `also` must be in the line too.
    pub(crate) fn said(&self, message: &str, also: &str) -> Result<u64> {
        let logs = self.pipeline.all_logs()?;
        Ok(logs.lines().filter(|line| line.contains(message) && line.contains(also)).count() as u64)
    }

    /// Waits until it was said more than `before` times.
    pub(crate) fn wait_for_said(&mut self, message: &str, also: &str, before: u64) -> Result<u64> {
        until(&format!("{message:?} with {also:?}"), || {
            self.all_alive()?;
            let said = self.said(message, also)?;
            ensure!(said > before, "{said} times");
            Ok(said - before)
        })
    }

    /// Records between what a role settled and the stable ends of its topics.
    pub(crate) fn behind(&self, role: &str) -> Result<u64> {
        self.pipeline.group(role)?.behind(&self.pipeline.kafka)
    }

    /// Keeps the largest of what was measured under a name.
    pub(crate) fn measure(&mut self, name: &str, value: f64) {
        let known = self.measured.entry(name.to_owned()).or_insert(value);
        *known = known.max(value);
    }

    /// Nobody may have died; where the cell is supervised, whoever ended by itself is started again, and counted.
    pub(crate) fn all_alive(&mut self) -> Result<()> {
        if self.supervised {
            let mut ended = Vec::new();
            for Member { role, ordinal, process } in &mut self.team {
                if !process.runs()? {
                    let why = process.said("A loop cannot go on; the process ends").pop();
                    ended.push((*role, *ordinal, why.with_context(|| format!("{role} {ordinal} died without a word"))?));
                }
            }
            for (role, ordinal, why) in ended {
                self.say(&format!("{role} {ordinal} ended by itself and is started again: {}", why["error"]));
                *self.measured.entry(ENDED.to_owned()).or_default() += 1.0;
                self.join(role, ordinal, None)?;
            }
            return Ok(());
        }
        for Member { role, ordinal, process } in &mut self.team {
            ensure!(process.runs()?, "{role} {ordinal} died");
        }
        Ok(())
    }

    /// Lets the traffic end and everything be settled, and ends every process in good order.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let mut simulate = self.simulate.take().context("there was no traffic")?;
        let patience = Instant::now() + Duration::from_secs(600);
        while simulate.runs()? {
            ensure!(Instant::now() < patience, "the traffic does not end");
            self.all_alive()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(simulate.end()?.success(), "the simulator failed: {}", simulate.log());
        self.say("traffic over; settling");
        for role in ROLES {
            let group = self.pipeline.group(role)?;
            until(&format!("{role} to settle everything"), || {
                self.all_alive()?;
                let unsettled = group.unsettled(&self.pipeline.kafka)?;
                ensure!(unsettled.is_empty(), "{unsettled:?}");
                Ok(())
            })?;
            for member in self.team.iter_mut().filter(|member| member.role == role) {
                let status = member.process.stop()?;
                if !status.success() {
                    bail!("{role} {} did not end well: {status}", member.ordinal);
                }
            }
            self.team.retain(|member| member.role != role);
        }
        for Member { role, ordinal, mut process } in self.team.drain(..) {
            let status = process.stop()?;
            ensure!(status.success(), "{role} {ordinal} did not end well: {status}");
        }
        Ok(())
    }

    /// Copies every log to where it outlives the cell.
    pub(crate) fn keep_logs(&self) -> Result<PathBuf> {
        let own = std::env::current_exe()?;
        let folder = own.ancestors().nth(2).context("this program has no place")?.join("faults").join(self.pipeline.database());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        for log in self.pipeline.logs() {
            if let Some(name) = log.file_name() {
                fs::copy(&log, folder.join(name))?;
            }
        }
        for log in [self.pipeline.servers.kafka.log_path(), self.pipeline.servers.clickhouse.log_path()].into_iter().flatten() {
            let server = log.parent().and_then(|folder| folder.file_name()).unwrap_or_default();
            fs::copy(log, folder.join(server).with_extension("log"))?;
        }
        Ok(folder)
    }
}
