//! Operators' rules: found, refused with every mistake, swapped whole; and what `bounceflow rules` says of them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bounceflow::config::Config;
use bounceflow::process::{Outcome, Position, Scratch, Tables, process};
use bounceflow::rules::files;
use bounceflow_classify::Rules;
use bounceflow_enrich::Isps;
use bounceflow_event::{DeliveryEvent, EventType, Item, Millis};

const OWN: &str = "[[rule]]\nid = 'own.quokka'\npriority = 900\nany = ['quokka says no']\ncategory = 'wildlife'\nseverity = 'soft'\n\
                   root_cause = 'content'\nblocked = true\nexamples = ['550 the quokka says no']\nsource = 'mine'\n";

fn config(path: &Path) -> Result<Config, String> {
    let text = format!("[kafka]\n'bootstrap.servers' = 'k:9092'\n[classify]\nrules = ['{}']\n", path.display());
    Config::parse(&text).map_err(|e| e.to_string())
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    file
}

/// Exit code, standard output and standard error of `bounceflow`.
fn bounceflow(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bounceflow")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Rule, category and rules version of a bounce with this reply.
fn decided(tables: &Tables, scratch: &mut Scratch, diagnostic: &str) -> [String; 3] {
    let mut event = DeliveryEvent::new(EventType::Bounce, Millis(1_790_000_000_000), "kim@example.org");
    event.diagnostic = diagnostic.into();
    let position = Position { topic: "t", partition: 0, offset: 0, timestamp: Some(1_790_000_000_000) };
    match process(tables, scratch, position, 0, &Item::Event(event)) {
        Outcome::Fail(_, failure) => [failure.rule, failure.category, failure.rules_version].map(str::to_owned),
        _ => panic!("it is no failure"),
    }
}

#[test]
fn files_and_folders_are_read_by_name_and_hidden_ones_left_out() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "b.toml", OWN.replace("wildlife", "of_b"));
    write(folder.path(), "a.toml", OWN.replace("wildlife", "of_a"));
    write(folder.path(), ".c.toml", OWN.replace("own.quokka", "own.hidden"));
    write(folder.path(), "notes.txt", "no rules");
    let isps = Isps::builtin().unwrap();
    let category = |paths: &[PathBuf]| {
        let rules = files::load(paths, &isps).unwrap_or_else(|e| panic!("{e}"));
        rules.iter().find(|rule| rule.id() == "own.quokka").map(|rule| rule.category().to_string())
    };
    let all = folder.path().to_path_buf();
    assert_eq!(category(std::slice::from_ref(&all)).as_deref(), Some("of_b"));
    assert_eq!(category(&[all.clone(), folder.path().join("a.toml")]).as_deref(), Some("of_b"), "read twice");
    assert_eq!(category(&[folder.path().join("b.toml"), folder.path().join("a.toml")]).as_deref(), Some("of_a"));
    let rules = files::load(std::slice::from_ref(&all), &isps).unwrap();
    assert!(rules.iter().all(|rule| rule.id() != "own.hidden"), "a hidden file was read");
    assert_eq!(category(&[]), None);
    assert_eq!(files::load(&[], &isps).unwrap().version(), Rules::builtin().unwrap().version());
}

#[test]
fn every_mistake_of_every_file_is_told_at_once_and_the_configuration_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "a.toml",
        "[[rule]]\nid = 'own.a'\npriority = 'high'\ncategory = 'dns'\n[[rule]]\nid = 'nodots'\npriority = 1\ncategory = 'dns'\n",
    );
    write(folder.path(), "b.toml", "[[rule]]\nid = 'own.b\n");
    write(folder.path(), "c.toml", b"# fine\n# \xff\n");
    let told = config(folder.path()).err().unwrap();
    for part in ["a.toml:3: rule \"own.a\": invalid type", "a.toml:6: rule \"nodots\"", "b.toml:2: ", "c.toml:2: is not UTF-8"] {
        assert!(told.lines().any(|line| line.contains("classify.rules: ") && line.contains(part)), "{part}: {told}");
    }
    assert!(told.starts_with("the configuration has 4 mistakes"), "{told}");
    assert!(config(Path::new("/nowhere")).err().unwrap().contains("classify.rules: /nowhere:1: No such file"));
    let empty = tempfile::tempdir().unwrap();
    assert!(config(empty.path()).err().unwrap().contains("holds no file that ends in .toml"));
}

#[test]
fn a_provider_nobody_knows_is_a_mistake_and_no_builtin_rule_names_one() {
    let folder = tempfile::tempdir().unwrap();
    let isps = Isps::builtin().unwrap();
    let file = write(folder.path(), "a.toml", OWN.replace("priority", "provider = ['gmial']\npriority"));
    let told = files::load(&[file], &isps).err().unwrap().to_string();
    assert!(told.contains("a.toml:2: rule \"own.quokka\": provider \"gmial\""), "{told}");
    for known in ["gmail", "google", "office365"] {
        let file = write(folder.path(), "b.toml", OWN.replace("priority", &format!("provider = ['{known}']\npriority")));
        assert!(files::load(&[file], &isps).is_ok(), "{known}");
    }
    let unknown: Vec<String> = (Rules::builtin().unwrap().iter())
        .flat_map(|rule| rule.providers().map(|p| format!("{}: {p}", rule.id())).collect::<Vec<_>>())
        .filter(|p| !p.split_once(": ").is_some_and(|(_, p)| isps.find(p).is_some() || bounceflow_classify::is_family(p)))
        .collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn a_reload_is_taken_by_renewing_only_and_a_bad_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "own.toml", OWN);
    let config = config(&file).unwrap();
    let tables = Tables::new(&config).unwrap();
    let mut scratch = Scratch::new(&tables);
    let reply = "550 5.7.1 the quokka says no";
    let first = decided(&tables, &mut scratch, reply);
    assert_eq!(first[..2], ["own.quokka", "wildlife"]);

    write(folder.path(), "own.toml", OWN.replace("own.quokka", "own.second").replace("wildlife", "other_life"));
    assert!(tables.rules.reload(&config.classify.rules, &tables.isps));
    assert_eq!(decided(&tables, &mut scratch, reply), first, "other rules within a transaction");
    scratch.renew(&tables);
    let second = decided(&tables, &mut scratch, reply);
    assert_eq!(second[..2], ["own.second", "other_life"], "a verdict of the old rules was kept");
    assert_ne!(second[2], first[2]);

    write(folder.path(), "own.toml", "[[rule]]\nid = 'own.third'\n");
    assert!(!tables.rules.reload(&config.classify.rules, &tables.isps));
    scratch.renew(&tables);
    assert_eq!(decided(&tables, &mut scratch, reply), second);
    let before = tables.rules.get();
    write(folder.path(), "own.toml", OWN.replace("own.quokka", "own.second").replace("wildlife", "other_life"));
    assert!(tables.rules.reload(&config.classify.rules, &tables.isps));
    assert!(std::sync::Arc::ptr_eq(&before, &tables.rules.get()), "nothing changed, and caches were thrown away");
}

#[test]
fn check_says_what_a_file_changes_and_ends_with_2_on_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(
        folder.path(),
        "own.toml",
        OWN.to_owned() + "[[rule]]\nid = 'fallback.421'\npriority = 110\nreply = ['421']\ncategory = 'dns'\n",
    );
    let file = file.to_str().unwrap();
    let (code, out, err) = bounceflow(&["rules", "check", file]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("own.toml:2: own.quokka → wildlife, priority 900\n"), "{out}");
    assert!(out.contains("fallback.421 → dns, priority 110, replaces built-in:fallback.toml:"), "{out}");
    assert!(out.contains("no mistakes: 2 rules"), "{out}");
    fs::write(file, "[[rule]]\nid = 'own.a'\n[[rules]]\n").unwrap();
    let (code, out, err) = bounceflow(&["rules", "check", file]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.contains("own.toml:1: ") && err.contains("missing field") && err.contains("own.toml:3: unknown field `rules`"),
        "{err}"
    );
    assert_eq!(bounceflow(&["rules", "check"]).0, 2);
    assert_eq!(bounceflow(&["explain", "550 no", "--rules", file]).0, 2);
}

#[test]
fn test_runs_the_examples_of_all_rules() {
    let folder = tempfile::tempdir().unwrap();
    let run = |text: &str, more: &[&str]| {
        let file = write(folder.path(), "own.toml", text);
        let (code, out, err) = bounceflow(&[&["rules", "test", file.to_str().unwrap()], more].concat());
        assert!(code < 2, "{err}");
        (code, out)
    };
    let (code, out) = run(OWN, &[]);
    assert!(code == 0 && out.contains("no failure"), "{out}");
    let (code, out) = run(&OWN.replace("examples = ['550 the quokka says no']", ""), &[]);
    assert!(code == 1 && out.contains("own.toml:2: rule own.quokka: has no example\n"), "{out}");
    // Lost to another rule, in front of which it will never come.
    let below = OWN.replace("own.quokka", "own.below").replace("900", "800");
    let (code, out) = run(&format!("{OWN}{below}"), &[]);
    let lost = "rule own.below: example \"550 the quokka says no\" is decided by own.quokka; it reads \"550 the quokka says no\"";
    assert!(code == 1 && out.contains(lost), "{out}");
    assert!(out.contains("rule own.below: can never win: own.quokka takes every reply it could take"), "{out}");
    assert!(out.contains(": 2 failures"), "{out}");
    // A rule so wide that it takes what built-in rules know better.
    let wide = OWN.replace("any = ['quokka says no']", "any = ['quokka says no', 'user unknown']");
    let (code, out) = run(&wide, &[]);
    assert!(code == 1 && out.contains("is decided by own.quokka"), "{out}");
    let (code, out) = run(&wide, &["--allow-overrides"]);
    assert!(code == 0 && out.contains(": overridden: rule "), "{out}");
    let (code, out) = run(&format!("{wide}{below}"), &["--allow-overrides"]);
    assert!(code == 1 && out.contains(": 2 failures"), "{out}");
}

#[test]
fn list_shows_the_rules_by_rank() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "own.toml", OWN);
    let (code, out, err) = bounceflow(&["rules", "list", "--json", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let listed: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    assert!(listed.is_sorted_by_key(|rule| std::cmp::Reverse(rule["priority"].as_u64().unwrap())));
    let own = listed.iter().find(|rule| rule["id"] == "own.quokka").unwrap();
    assert_eq!((own["category"].as_str(), own["source"].as_str()), (Some("wildlife"), Some("mine")));
    assert!(own["builtin"] == false && listed.iter().filter(|rule| rule["builtin"] == true).count() == listed.len() - 1);
    let (_, out, _) = bounceflow(&["rules", "list"]);
    assert_eq!(out.lines().count(), listed.len() - 1);
    assert!(out.lines().any(|line| line.contains("google.no_such_user") && line.contains("invalid_recipient")), "{out}");
}

#[test]
fn explain_takes_rules_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "own.toml", OWN);
    let (code, out, err) = bounceflow(&["explain", "550 5.1.1 the quokka says no", "--rules", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    for part in [
        "category    wildlife, blocked",
        "own.toml:2, rules ",
        "evidence    mine",
        "1. own.quokka → wildlife, soft; priority 900",
        "phrase \"quokka says no\"",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (_, out, _) = bounceflow(&["explain", "550 5.1.1 the quokka says no"]);
    assert!(!out.contains("wildlife"), "{out}");
}

#[test]
fn the_readme_shows_what_explain_says() {
    let readme = include_str!("../../../README.md");
    let shown = readme.split("$ bounceflow explain \"").nth(1).unwrap().split("```").next().unwrap();
    let (command, said) = shown.split_once('\n').unwrap();
    let (reply, mx) = command.split_once("\" --mx ").unwrap();
    assert_eq!(bounceflow(&["explain", reply, "--mx", mx]).1, said);
}

#[test]
fn the_rule_of_the_readme_passes() {
    let readme = include_str!("../../../README.md");
    let rule = readme.split("```toml\n").nth(3).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "readme.toml", rule);
    let (code, out, err) = bounceflow(&["rules", "test", file.to_str().unwrap()]);
    assert!(code == 0 && rule.contains("own.quokka"), "{out}{err}");
}

#[test]
fn rules_may_name_providers_of_a_table_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let table = write(
        folder.path(),
        "isps.toml",
        "[sources]\nmine = 'mine'\n[[isp]]\nid = 'quokka_mail'\nname = 'Quokka Mail'\nkind = 'mailbox'\n\
         domains = ['quokka.example']\ndomains_from = ['mine']\n",
    );
    let rules = write(folder.path(), "own.toml", OWN.replace("priority", "provider = ['quokka_mail']\npriority"));
    let (table, rules) = (table.to_str().unwrap(), rules.to_str().unwrap());
    let (code, _, told) = bounceflow(&["rules", "check", rules]);
    assert!(code == 2 && told.contains("provider \"quokka_mail\" is none of the provider table"), "{code}: {told}");
    for command in [&["rules", "check"][..], &["rules", "list"]] {
        let (code, _, told) = bounceflow(&[command, &[rules, "--isps", table]].concat());
        assert_eq!(code, 0, "{told}");
    }
    let explain = ["explain", "550 the quokka says no", "--recipient", "kim@quokka.example", "--rules", rules, "--isps", table];
    let (code, told, wrong) = bounceflow(&explain);
    assert!(code == 0 && told.contains("own.quokka") && told.contains("quokka_mail (Quokka Mail)"), "{code}: {told}{wrong}");
    let (code, _, told) = bounceflow(&["rules", "check", rules, "--isps", rules]);
    assert!(code == 2 && told.contains("--isps ") && told.contains("own.toml"), "{code}: {told}");
}
