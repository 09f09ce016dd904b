//! Which known word a misspelt one stands for. Owns what counts as near; it only advises, it corrects nothing.

/// What to write instead.
pub(super) fn write_one(near: Option<&str>, all: &[&str]) -> String {
    match near {
        Some(near) => format!("write {near}"),
        None => format!("write one of {}", all.join(", ")),
    }
}

/// The word it is likely to stand for: one letter in four may be wrong, or it is the start of it or the other way round.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let text = text.to_ascii_lowercase();
    let close = |word: &str| match distance(&text, word) {
        far if far * 4 <= word.len() => Some(far),
        _ if text.len() >= 4 && word.len() >= 4 && (word.starts_with(&text) || text.starts_with(word)) => Some(word.len()),
        _ => None,
    };
    words.filter_map(|word| close(word).map(|far| (far, word))).min().map(|(_, word)| word)
}

/// How many letters must be put in, left out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    row[b.len()]
}
