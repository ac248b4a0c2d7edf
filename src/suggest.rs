//! The closest valid spelling of a word that is not valid: for keys of the config, macros and options.
//!
//! Pure and bounded: a word of more than [`LONGEST`] characters has no closest spelling.

/// Longer words are not compared; no key, macro or option of ours is longer.
const LONGEST: usize = 40;

/// The word of `valid` that `word` was probably meant to be, if one is near enough.
///
/// Case and the kind of dash do not count as differences. A word that begins (or continues) exactly one valid word,
/// such as `interval` for `interval-ms`, is near too.
pub(crate) fn closest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let word = fold(word)?;
    let limit = (word.len() / 3).clamp(1, 4);
    let near = valid
        .iter()
        .filter_map(|v| Some((distance(&word, &fold(v)?), *v)))
        .filter(|(d, v)| *d <= limit && *d < v.chars().count())
        .min_by_key(|(d, _)| *d);
    if let Some((_, v)) = near {
        return Some(v);
    }
    if word.len() < 3 {
        return None;
    }
    let mut continued =
        valid.iter().filter(|v| fold(v).is_some_and(|v| v.starts_with(&word) || (v.len() > 2 && word.starts_with(&v))));
    match (continued.next(), continued.next()) {
        (Some(v), None) => Some(v),
        _ => None,
    }
}

fn fold(word: &str) -> Option<Vec<char>> {
    let folded: Vec<char> = word
        .trim()
        .chars()
        .take(LONGEST + 1)
        .map(|c| if c == '_' { '-' } else { c.to_lowercase().next().unwrap_or(c) })
        .collect();
    (1..=LONGEST).contains(&folded.len()).then_some(folded)
}

/// Edit distance in which swapped neighbours count once.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let mut d = (last[j] + usize::from(ca != cb)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                d = d.min(before[j - 1] + 1);
            }
            row.push(d);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let keys = ["source", "device", "volume-id", "pool-name", "pool-pref", "create", "critical", "exec"];
        for (word, want) in [
            ("devise", Some("device")),
            ("Source", Some("source")),
            ("volume_id", Some("volume-id")),
            ("volumeId", Some("volume-id")),
            ("volume", Some("volume-id")),
            ("cretae", Some("create")),
            ("pool-nmae", Some("pool-name")),
            ("pool", None),
            ("x", None),
            ("", None),
            ("banana", None),
            (&"source".repeat(100), None),
        ] {
            assert_eq!(closest(word, &keys), want, "{word}");
        }
    }

    #[test]
    fn distances() {
        let d = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!((d("", "abc"), d("abc", ""), d("abc", "abc")), (3, 3, 0));
        assert_eq!((d("ab", "ba"), d("kitten", "sitting"), d("é", "e")), (1, 3, 1));
    }
}
