//! A configuration is refused with every mistake at once, each with its path.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use bounceflow::config::Config;
use bounceflow_warehouse::Sharding;

const LEAST: &str = "[kafka]\n\"bootstrap.servers\" = \"localhost:9092\"\n";

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text).err().expect("it has mistakes").0
}

#[test]
fn the_brokers_are_all_one_has_to_name() {
    let config = Config::parse(LEAST).unwrap();
    assert_eq!((config.deployment.as_str(), config.inputs[0].topic.as_str()), ("bounceflow", "delivery.events"));
    assert!(config.classify.threads >= 1);
}

#[test]
fn the_readme_shows_a_sound_configuration() {
    let readme = include_str!("../../../README.md");
    let toml = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    Config::parse(toml).unwrap();
    // What stands behind a comment sign is sound as well, but for files that are not here.
    let every: String = toml
        .lines()
        .map(|line| {
            line.strip_prefix("# ").filter(|l| !["_file", "schema", ".toml"].iter().any(|file| l.contains(file))).unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    Config::parse(&every).unwrap();
    let rules = readme.split("```toml\n").nth(2).unwrap().split("```").next().unwrap();
    assert_eq!(bounceflow_window::Rules::parse(rules, "README.md").unwrap().len(), 1);
}

#[test]
fn an_address_of_a_collector_has_no_path() {
    let telemetry = |text: &str| Config::parse(&format!("{LEAST}[telemetry]\n{text}")).unwrap().telemetry;
    assert!(telemetry("").is_none(), "no traces unless asked for");
    let asked = telemetry("otlp_endpoint = 'https://collector:4318/'\nsample_ratio = 0.1").unwrap();
    assert_eq!((asked.endpoint.as_str(), asked.sample_ratio), ("https://collector:4318/v1/traces", 0.1));
    for wrong in [
        "collector:4317",
        "grpc://collector:4317",
        "http://collector:4318/v1/traces",
        "http://",
        "http://c:4318?a=b",
        "http://u:pw@c:4318",
    ] {
        let found = mistakes(&format!("{LEAST}[telemetry]\notlp_endpoint = '{wrong}'"));
        let expect = "telemetry.otlp_endpoint: is no address of a collector; write it as http://host:4318, without a user and without a \
                      path: spans go to its /v1/traces";
        assert_eq!(found, [expect], "{wrong}");
    }
    let found = mistakes(&format!("{LEAST}[telemetry]\nsample_ratio = 1.5\nexport_timeout_ms = 0\ninsecure = true"));
    let expect = [
        "telemetry.insecure: unknown field `insecure`, expected one of `otlp_endpoint`, `sample_ratio`, `export_timeout_ms`",
        "telemetry.sample_ratio: is 1.5, must be from 0 (none) to 1 (all)",
        "telemetry.export_timeout_ms: is 0, must be at least 100",
    ];
    assert_eq!(found, expect);
}

#[test]
fn every_mistake_is_named_at_once_with_its_path() {
    let found = mistakes(
        r#"
        deployment = "a b"
        colour = "red"
        [kafka]
        "group.id" = "mine"
        "isolation.level" = "read_uncommitted"
        [kafka_files]
        "sasl.password" = "/no/such/password"
        [[inputs]]
        topic = "t"
        format = "xml"
        [[inputs]]
        topic = "t"
        schema_ids = { "x" = "builtin", "1" = "/no/such/file" }
        [topics]
        failures = "same"
        rates = "same"
        [classify]
        threads = "many"
        transaction_interval_ms = 60000
        unknown_field = 1
        [identity]
        source = ["nothing_known"]
        [recipient]
        key_file = "/no/such/key"
        [clickhouse]
        url = "localhost"
        [sink]
        max_rows = 1000000
        [http]
        listen = "somewhere"
        "#,
    );
    for (path, what) in [
        ("deployment", "letters"),
        ("colour", "unknown field"),
        ("kafka.\"bootstrap.servers\"", "is missing"),
        ("kafka.\"group.id\"", "made from"),
        ("kafka.\"isolation.level\"", "set by bounceflow"),
        ("kafka_files.\"sasl.password\"", "No such file"),
        ("inputs[0].format", "xml"),
        ("inputs[1].topic", "named twice"),
        ("inputs[1].schema_ids.x", "whole number"),
        ("inputs[1].schema_ids.1", "No such file"),
        ("topics.rates", "used for something else"),
        ("classify.threads", "many"),
        ("classify.transaction_interval_ms", "at most 5000"),
        ("classify.unknown_field", "unknown field"),
        ("identity.source", "nothing_known"),
        ("recipient.key_file", "No such file"),
        ("clickhouse.url", "http://"),
        ("sink.max_rows", "at most 500000"),
        ("http.listen", "0.0.0.0:9090"),
    ] {
        assert!(found.iter().any(|m| m.starts_with(path) && m.contains(what)), "{path}: {what} is not among {found:#?}");
    }
    assert_eq!(found.len(), 19, "{found:#?}");
}

#[test]
fn an_input_that_could_not_be_read_as_it_is_meant_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let schema = |unit: &str| {
        let file = folder.path().join(format!("{unit}.avsc"));
        let time =
            format!("{{\"name\": \"timestamp\", \"type\": [\"null\", {{\"type\": \"long\", \"logicalType\": \"{unit}\"}}]}}");
        std::fs::write(&file, format!("{{\"type\": \"record\", \"name\": \"E\", \"fields\": [{time}]}}")).unwrap();
        file.display().to_string()
    };
    let found = |input: &str| mistakes(&format!("[kafka]\n'bootstrap.servers' = 'k:9092'\n[[inputs]]\ntopic = 't'\n{input}"));
    for input in [
        format!("schemas = ['{}']", schema("timestamp-micros")),
        format!("schema_ids = {{ '8' = '{}' }}", schema("timestamp-nanos")),
    ] {
        let found = found(&input);
        assert!(found.len() == 1 && found[0].contains("field `timestamp` is timestamp-"), "{input}: {found:?}");
    }
    let millis = format!("{LEAST}[[inputs]]\ntopic = 't'\nschemas = ['{}']", schema("timestamp-millis"));
    assert!(Config::parse(&millis).is_ok());
    let found = found("max_record_bytes = 33554433");
    assert!(found.len() == 1 && found[0].contains("at most 33554432"), "{found:?}");
}

#[test]
fn several_clickhouse_addresses_are_replicas() {
    let config = |more: &str| Config::parse(&format!("[kafka]\n'bootstrap.servers' = 'k:9092'\n[clickhouse]\n{more}"));
    let one = config("url = 'http://a:8123'").ok().unwrap().clickhouse;
    assert_eq!((one.url.as_str(), one.further.len(), one.replication), ("http://a:8123", 0, None));
    let two = config("url = ['http://a:8123', 'http://b:8123']").ok().unwrap().clickhouse;
    assert_eq!((two.url.as_str(), two.further), ("http://a:8123", vec!["http://b:8123".to_owned()]));
    let replication = two.replication.unwrap();
    assert_eq!(replication.path, "/clickhouse/tables/{shard}/{database}/{table}");
    assert_eq!(replication.cluster, None);
    let cluster = config("cluster = 'main'\nreplica_path = '/t/{shard}/{table}'").ok().unwrap().clickhouse.replication.unwrap();
    assert_eq!((cluster.path.as_str(), cluster.cluster.as_deref()), ("/t/{shard}/{table}", Some("main")));
    for (text, mistake) in [
        ("url = []", "clickhouse.url: is empty"),
        ("url = ['http://a:8123', 'b:8123']", "clickhouse.url: must begin with http://"),
        ("url = ['http://a:8123', 'http://a:8123']", "clickhouse.url: names http://a:8123 twice"),
        ("url = 7", "clickhouse.url"),
        ("cluster = 'a b'", "clickhouse.cluster: must be made of letters"),
        ("cluster = 'c'\nreplica_path = '/t'", "clickhouse.replica_path: \"/t\" must begin with /"),
    ] {
        let found = config(text).err().unwrap().to_string();
        assert!(found.contains(mistake), "{text}: {found}");
    }
}

#[test]
fn shards_are_named_instead_of_one_url() {
    let config = |more: &str| Config::parse(&format!("[kafka]\n'bootstrap.servers' = 'k:9092'\n[clickhouse]\n{more}"));
    let shard = |urls: &str| format!("[[clickhouse.shards]]\nurl = {urls}\n");
    let (a, b) = (shard("'http://a:8123'"), shard("'http://b:8123'"));
    let two = config(&format!("cluster = 'main'\n{a}{b}")).ok().unwrap().clickhouse;
    let further = vec![vec!["http://b:8123".to_owned()]];
    assert_eq!((two.url.as_str(), two.further.len(), two.replication), ("http://a:8123", 0, None));
    assert_eq!(two.sharding, Some(Sharding { cluster: "main".to_owned(), further }));
    // One shard with replicas: all are replicated, and the cluster is the readers' alone.
    let replicated = shard("['http://b:8123', 'http://c:8123']");
    let replication = config(&format!("cluster = 'main'\n{a}{replicated}")).ok().unwrap().clickhouse.replication.unwrap();
    assert_eq!(replication.cluster, None);
    for (text, mistake) in [
        (format!("{a}{b}"), "clickhouse.cluster: is missing"),
        (format!("cluster = 'a b'\n{a}{b}"), "clickhouse.cluster: must be made of letters"),
        (format!("cluster = 'c'\nurl = 'http://d'\n{a}{b}"), "clickhouse.url: names servers beside clickhouse.shards"),
        (format!("cluster = 'c'\n{a}{a}"), "clickhouse.shards[1].url: names http://a:8123 twice"),
        (format!("cluster = 'c'\n{a}{}", shard("[]")), "clickhouse.shards[1].url: is empty"),
        (format!("cluster = 'c'\n{a}{}", shard("'b:8123'")), "clickhouse.shards[1].url: must begin with http://"),
        (format!("cluster = 'c'\n{a}[[clickhouse.shards]]\n"), "clickhouse.shards[1]: missing field `url`"),
        (
            format!("cluster = 'c'\nreplica_path = '/t/{{table}}'\n{a}{replicated}"),
            "clickhouse.replica_path: \"/t/{table}\" must name {shard}",
        ),
    ] {
        let found = config(&text).err().unwrap().to_string();
        assert!(found.contains(mistake), "{text}: {found}");
    }
}

#[test]
fn rules_are_checked_with_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.toml");
    let rules = "[[rule]]\nname = 'a'\nmetric = 'hard_rate'\nwindow = '5m'\nthreshold = 0.1\nisp = 'gmial'\n\
                 [[rule]]\nname = 'b'\nmetric = 'hard_rate'\nwindow = '5m'\nthreshold = 0.1\nisp = ['nobody', 'gm*']\n";
    std::fs::write(&file, rules).unwrap();
    let config = |more: &str| Config::parse(&format!("[kafka]\n'bootstrap.servers' = 'k:9092'\n[watch]\n{more}"));
    let mistakes = config(&format!("rules = '{}'\nresend_interval_ms = 1\nalertmanagers = ['am:9093']", file.display()));
    let text = mistakes.err().unwrap().to_string();
    for part in ["rule a: its isp fits no provider", "watch.resend_interval_ms: is 1", "watch.alertmanagers[0]: \"am:9093\""] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("rule b"), "{text}");
    std::fs::write(&file, "[[rule]]\nname = 'a'\nmetric = 'hard'\n").unwrap();
    let text = config(&format!("rules = '{}'", file.display())).err().unwrap().to_string();
    assert!(text.contains("rules.toml:3") && text.contains("window"), "{text}");
    assert!(config("rules = '/nowhere'").err().unwrap().to_string().contains("/nowhere"));
    assert!(config("").is_ok());
}

#[test]
fn properties_may_be_in_files_which_no_message_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    let config = |property: &str| Config::parse(&format!("{LEAST}[kafka_files]\n\"{property}\" = \"{}\"", file.display()));
    assert_eq!(config("sasl.password").ok().unwrap().kafka["sasl.password"], "s3cret");
    for (property, what) in [
        ("bootstrap.servers", "kafka_files.\"bootstrap.servers\": is under `kafka` as well"),
        ("transactional.id", "kafka_files.\"transactional.id\": is made from"),
    ] {
        let text = config(property).err().unwrap().to_string();
        assert!(text.contains(what) && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn properties_that_no_client_can_be_made_with_are_refused() {
    let config = |properties: &str| Config::parse(&format!("{LEAST}{properties}"));
    for (properties, expect) in [
        // By itself.
        ("'sesion.timeout.ms' = '6000'", "kafka.\"sesion.timeout.ms\": is no property of librdkafka"),
        ("'session.timeout.ms' = '0'", "kafka.\"session.timeout.ms\": is not within 1..3600000"),
        ("'compression.type' = 's3cret'", "kafka.\"compression.type\": has a value that librdkafka does not take"),
        ("'enable.metrics.push' = 's3cret'", "kafka.\"enable.metrics.push\": has a value that librdkafka does not take"),
        // Bounceflow's own.
        (
            "'transaction.timeout.ms' = '60000'",
            "kafka.\"transaction.timeout.ms\": is set by bounceflow: counting exactly once stands on it",
        ),
        (
            "'message.max.bytes' = '1000'",
            "kafka.\"message.max.bytes\": is set by bounceflow: whatever could be read must fit into a dead letter",
        ),
        // Beside others: of a producer, of a consumer, of both.
        (
            "'socket.timeout.ms' = '60000'",
            "kafka.\"socket.timeout.ms\": `socket.timeout.ms` must be set <= `transaction.timeout.ms` (10000) + 100",
        ),
        (
            "'message.timeout.ms' = '30000'",
            "kafka.\"message.timeout.ms\": `message.timeout.ms` must be set <= `transaction.timeout.ms` (10000)",
        ),
        (
            "'session.timeout.ms' = '600000'",
            "kafka.\"session.timeout.ms\": `max.poll.interval.ms`must be >= `session.timeout.ms`",
        ),
        (
            "'security.protocol' = 'SASL_SSL'\n'sasl.mechanism' = 'PLAIN'\n'sasl.username' = 'me'",
            "kafka.\"sasl.username\": sasl.username and sasl.password must be set",
        ),
    ] {
        let found = config(properties).err().unwrap_or_default().0;
        assert_eq!(found, [expect], "{properties}");
    }
    // What is sound stays so, whoever of the clients it is for; certificates are read by who connects.
    for properties in [
        "'session.timeout.ms' = '6000'\n'linger.ms' = '3000'\n'fetch.message.max.bytes' = '1000'\n'socket.timeout.ms' = '10000'",
        "'security.protocol' = 'ssl'\n'ssl.ca.location' = '/no/such/ca'\n'ssl.key.location' = '/no/such/key'",
        "'security.protocol' = 'sasl_ssl'\n'sasl.mechanism' = 'SCRAM-SHA-512'\n'sasl.username' = 'me'\n'sasl.password' = 'you'",
    ] {
        let found = config(properties).err().map(|e| e.to_string());
        assert_eq!(found, None, "{properties}");
    }
    // Not even what stands in the wrong place is repeated.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cret\n").unwrap();
    for property in ["sasl.mechanism", "sasl.pasword", "debug"] {
        let files = format!("'security.protocol' = 'sasl_ssl'\n[kafka_files]\n'{property}' = '{}'", file.display());
        let text = config(&files).err().unwrap().to_string();
        assert!(text.contains("kafka") && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn an_input_has_a_topic() {
    assert_eq!(mistakes(&format!("{LEAST}[[inputs]]\ntopic = ''\n")), ["inputs[0].topic: is empty"]);
}

#[test]
fn a_table_of_providers_may_be_ones_own_and_rules_name_those() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let table = "[sources]\nus = 'ours'\n[[isp]]\nid = 'ours'\nname = 'Ours'\nkind = 'mailbox'\ndomains = ['ours.example']\n\
                 domains_from = ['us']\n";
    let (table, broken) = (write("isps.toml", table), write("broken.toml", "[[isp]]\nid = 'a'\ncolour = 'red'\n"));
    let rule = "[[rule]]\nid = 'own.a'\npriority = 1\nall = ['ours says no']\ncategory = 'dns'\nprovider = ['ours']\nexamples = ['550 ours says no']\n";
    let rules = write("rules.toml", rule);
    let config = |isps: &str| Config::parse(&format!("isps = '{isps}'\n{LEAST}[classify]\nrules = ['{rules}']"));
    let isps = config(&table).unwrap_or_else(|e| panic!("{e}")).isps;
    assert_eq!(isps.id(isps.of("ours.example", "")), "ours");
    assert_eq!(isps.id(isps.of("gmail.com", "")), "other");
    for (file, part) in [(broken.as_str(), "isps: "), ("/no/such/table", "isps: /no/such/table: No such file")] {
        let text = config(file).err().unwrap().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_ordinal_is_a_number_or_the_host_names() {
    use bounceflow::config::Ordinal;
    let config = |ordinal: &str| Config::parse(&format!("{ordinal}\n{LEAST}"));
    assert_eq!(config("").ok().unwrap().ordinal, Ordinal::Number(0));
    assert_eq!(config("ordinal = 3").ok().unwrap().ordinal, Ordinal::Number(3));
    // Only who runs has to have a number: jobs that check and migrate have none.
    assert_eq!(config("ordinal = 'hostname'").ok().unwrap().ordinal, Ordinal::HostName);
    for wrong in ["'mail-0'", "-1", "1.5", "true"] {
        let found = mistakes(&format!("ordinal = {wrong}\n{LEAST}"));
        assert_eq!(found, ["ordinal: must be a whole number from 0, or \"hostname\""], "{wrong}");
    }
}

#[test]
fn what_guards_the_http_side_is_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = |http: &str| Config::parse(&format!("{LEAST}[http]\n{http}\n"));
    let token = |text: &str| config(&format!("token_file = '{}'", file("token", text))).err().map(|e| e.to_string());
    assert_eq!(token("0123456789abcdef\n\n  fedcba9876543210  \n"), None);
    for (text, why) in
        [("\n", "is empty"), ("0123456789abcde", "token 1 must be 16"), ("0123456789abcdef\nwith some space", "token 2")]
    {
        let told = token(text).unwrap_or_default();
        assert!(told.contains("http.token_file: ") && told.contains(why) && !told.contains("abcde"), "{text}: {told}");
    }
    let nothing = file("nothing", "nothing");
    let told = config(&format!("tls = {{ certificate_file = '{nothing}', key_file = '{nothing}' }}")).err().unwrap().to_string();
    assert!(told.contains("http.tls.certificate_file: holds no certificate"), "{told}");
    assert!(config("tls = { certificate_file = 'a' }").err().unwrap().to_string().contains("key_file"));
}
