//! Both servers for a developer, by hand. It must not do more than start them and wait.
#![allow(clippy::print_stdout, reason = "the addresses are its output")]

use std::io;

use anyhow::{Result, bail};
use bounceflow_stack::Stack;

const HELP: &str = "\
Starts a Kafka broker and a ClickHouse server on free ports of 127.0.0.1, prints their addresses, and keeps them until
Ctrl-C or the end of its input. Then they and their data are gone. The first start downloads them.

Example:
    $ cargo run -p bounceflow-stack
    kafka=127.0.0.1:14242
    clickhouse=http://127.0.0.1:18123
    # in another terminal:
    $ kcat -b 127.0.0.1:14242 -L
    $ curl http://127.0.0.1:18123 -d 'SELECT version()'

Environment:
    BOUNCEFLOW_KAFKA       use this broker instead (bootstrap servers)
    BOUNCEFLOW_CLICKHOUSE  use this server instead (http://host:port)
    XDG_CACHE_HOME         where downloads are kept (default ~/.cache), in the folder bounceflow
";

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("-h" | "--help") => {
            print!("{HELP}");
            return Ok(());
        }
        Some(other) => bail!("unknown argument {other}; see --help"),
    }
    let stack = Stack::start()?;
    println!("kafka={}\nclickhouse={}", stack.kafka.bootstrap(), stack.clickhouse.url());
    io::copy(&mut io::stdin(), &mut io::sink())?; // Ctrl-C ends this process, and with it the servers
    stack.stop()
}
