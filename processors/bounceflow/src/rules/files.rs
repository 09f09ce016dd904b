//! Operators' rule files: found in files and folders, read, and compiled together with the built-in rules.
//! Owns what a path may be; what a rule may say is `classify`'s.

use std::fs;
use std::path::{Path, PathBuf};

use bounceflow_classify::{BUILTIN, Rules, RulesError, RulesErrors, is_family};
use bounceflow_enrich::Isps;

/// A larger file is no file of rules.
const MAX_BYTES: u64 = 16 << 20;

/// The built-in rules and those of the files and folders, in this order; or every mistake in them. A rule may name the providers of
/// `isps`.
pub fn load(paths: &[PathBuf], isps: &Isps) -> Result<Rules, RulesErrors> {
    let mut mistakes = Vec::new();
    let mut files: Vec<(String, String)> = Vec::new();
    for file in find(paths, &mut mistakes) {
        match read(&file) {
            Ok(text) => files.push((file.display().to_string(), text)),
            Err(e) => mistakes.push(e),
        }
    }
    let named: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    match Rules::with_files(&named) {
        Ok(rules) => {
            mistakes.extend(unknown_providers(&rules, isps));
            if mistakes.is_empty() { Ok(rules) } else { Err(RulesErrors(mistakes)) }
        }
        Err(RulesErrors(more)) => {
            mistakes.extend(more);
            Err(RulesErrors(mistakes))
        }
    }
}

/// Whether a rule came with the program.
pub fn is_builtin(rule: &bounceflow_classify::Rule) -> bool {
    rule.place().0.starts_with(BUILTIN)
}

/// The files, in the order they are read: a folder's `*.toml` by name. A file that is named twice is read once.
fn find(paths: &[PathBuf], mistakes: &mut Vec<RulesError>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut known: Vec<PathBuf> = Vec::new();
    for path in paths {
        let found = match fs::metadata(path) {
            Ok(what) if what.is_dir() => folder(path),
            Ok(what) if what.is_file() => Ok(vec![path.clone()]),
            Ok(_) => Err(refuse(path, 0, "is neither a file nor a folder")),
            Err(e) => Err(refuse(path, 0, e)),
        };
        match found {
            Ok(found) => {
                for file in found {
                    let whole = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
                    if !known.contains(&whole) {
                        known.push(whole);
                        files.push(file);
                    }
                }
            }
            Err(e) => mistakes.push(e),
        }
    }
    files
}

/// Hidden files are left out: Kubernetes keeps those it swaps in such.
fn folder(path: &Path) -> Result<Vec<PathBuf>, RulesError> {
    let entries =
        fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map_err(|e| refuse(path, 0, e))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| {
        let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        !hidden && file.extension().is_some_and(|e| e == "toml") && file.is_file()
    });
    files.sort();
    if files.is_empty() {
        return Err(refuse(path, 0, "the folder holds no file that ends in .toml; leave an empty one where that is meant"));
    }
    Ok(files)
}

fn read(file: &Path) -> Result<String, RulesError> {
    let bytes = match fs::metadata(file) {
        Ok(what) if what.len() > MAX_BYTES => return Err(refuse(file, 0, "is larger than 16 MiB")),
        _ => fs::read(file).map_err(|e| refuse(file, 0, e))?,
    };
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        refuse(file, 1 + before.iter().filter(|b| **b == b'\n').count(), "is not UTF-8")
    })
}

/// A provider nobody knows is a rule that never matches.
fn unknown_providers(rules: &Rules, isps: &Isps) -> Vec<RulesError> {
    let known = |name: &str| isps.find(name).is_some() || is_family(name);
    let unknown = |rule: &bounceflow_classify::Rule| rule.providers().find(|p| !known(p)).map(str::to_owned);
    let mistake = |rule: &bounceflow_classify::Rule| {
        let (file, line) = rule.place();
        let reason = format!("rule {:?}: provider {:?} is none of the provider table", rule.id(), unknown(rule)?);
        Some(RulesError { file: file.to_owned(), line, reason })
    };
    rules.iter().filter(|rule| !is_builtin(rule)).filter_map(mistake).collect()
}

fn refuse(file: &Path, line: usize, why: impl std::fmt::Display) -> RulesError {
    RulesError { file: file.display().to_string(), line: line.max(1), reason: why.to_string() }
}
