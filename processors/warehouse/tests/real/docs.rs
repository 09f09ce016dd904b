//! The pages for analysts say what the server says: `docs/analysts.md` its answers, `docs/tables.md` its comments.
//!
//! With `UPDATE=1` the pages are written anew; without, a difference is an error that shows the new text.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::support::Db;

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// Compares a page with what it should be, or makes it so.
fn settle(name: &str, new: &str) {
    let old = std::fs::read_to_string(page(name)).unwrap_or_default();
    if old == new {
        return;
    }
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(page(name), new).unwrap();
    }
    let line = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
    panic!(
        "docs/{name} differs from line {} on; UPDATE=1 writes it anew. Now: {:?}. New:\n{new}",
        line + 1,
        old.lines().nth(line).unwrap_or_default()
    );
}

/// The page with every answer as the server gives it: each block of SQL is followed by a block of text.
fn answered(page: &str, ask: impl Fn(&str) -> String) -> (String, usize) {
    let (sql, text, end) = ("```sql\n", "\n```\n\n```text\n", "\n```\n");
    let (mut new, mut rest, mut questions) = (String::new(), page, 0);
    while let Some((before, from)) = rest.split_once(sql) {
        let (query, from) = from.split_once(text).expect("a block of text right behind each block of SQL");
        let (_, after) = from.split_once(end).expect("the end of the block of text");
        new.extend([before, sql, query, text, ask(query).trim_end(), end]);
        rest = after;
        questions += 1;
    }
    new.push_str(rest);
    (new, questions)
}

#[tokio::test]
async fn twenty_questions_have_the_answers_they_show() {
    let db = Db::new("questions").await;
    let data = include_str!("questions.sql").split(";\n").map(str::trim).filter(|statement| !statement.is_empty());
    for statement in data {
        db.query_inside(statement);
    }
    // As the terminal of an analyst shows it.
    let ask = |query: &str| {
        db.query_inside(&format!(
            "{query}\nFORMAT PrettyCompactMonoBlock\nSETTINGS output_format_pretty_color = 0, output_format_pretty_row_numbers = 0"
        ))
    };
    let text = std::fs::read_to_string(page("analysts.md")).unwrap();
    let (new, questions) = answered(&text, ask);
    assert_eq!(questions, 20);
    settle("analysts.md", &new);
}

#[tokio::test]
async fn every_table_view_and_column_is_listed_as_it_is_explained() {
    let db = Db::new("listed").await;
    let rows = db.query(
        "SELECT t.name, t.engine = 'View', replaceAll(t.comment, '\\n', ' '), c.name, c.type, replaceAll(c.comment, '\\n', ' ')
        FROM system.tables AS t INNER JOIN system.columns AS c ON c.database = t.database AND c.table = t.name
        WHERE t.database = 'DB' AND NOT endsWith(t.name, '_mv') AND t.name != 'schema_migrations'
        ORDER BY t.engine != 'View', t.name, c.position FORMAT TSVRaw",
    );
    let mut new = String::from(
        "# Tables, views and columns\n\n\
         Written from the comments in the schema, which ClickHouse shows too (`DESCRIBE isp_profiles`); a test compares. Where to begin, \
         and what to ask: [analysts.md](analysts.md).\n\n\
         All times and days are UTC. Rates are fractions of 1, and `NULL` where there is nothing to divide by.\n",
    );
    let (mut table, mut kind) = ("", "");
    for row in rows.lines() {
        let [name, view, comment, column, r#type, what] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        if kind != view {
            let head = if view == "1" { "Views: for everybody who asks" } else { "Tables: what the views are made of" };
            write!(new, "\n## {head}\n").unwrap();
            kind = view;
        }
        if table != name {
            write!(new, "\n### {name}\n\n{comment}\n\n| column | type | what it is |\n|---|---|---|\n").unwrap();
            table = name;
        }
        writeln!(new, "| `{column}` | `{type}` | {} |", what.replace('|', "\\|")).unwrap();
    }
    settle("tables.md", &new);
}

#[test]
fn an_altered_answer_is_noticed() {
    let text = "a\n```sql\nSELECT 1\n```\n\n```text\n2\n```\nb\n";
    let (new, questions) = answered(text, |query| {
        assert_eq!(query, "SELECT 1");
        "1\n".to_owned()
    });
    assert_eq!((new.as_str(), questions), ("a\n```sql\nSELECT 1\n```\n\n```text\n1\n```\nb\n", 1));
}
