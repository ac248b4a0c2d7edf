//! What is wrong with a config, and where.

use std::fmt;

/// More problems (or warnings) than this are only counted: finding a place takes time.
pub(super) const MAX_SHOWN: usize = 50;

/// More than this are not even kept: a hostile text has hundreds of thousands, each with its path.
const MAX_KEPT: usize = 1000;

/// Paths are not continued beyond this length.
const LONGEST_PATH: usize = 500;

/// Something said about a place, while the text is still at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: String,
    /// Offset in the text.
    pub(super) at: usize,
    pub(super) text: String,
}

impl Found {
    pub(super) fn new(path: &str, at: usize, text: impl Into<String>) -> Found {
        Found { path: path.to_owned(), at, text: text.into() }
    }

    /// With line and column in place of the offset.
    pub(super) fn located(self, config: &str) -> Problem {
        let (line, column) = position(config, self.at);
        Problem { path: self.path, line, column, text: self.text }
    }
}

/// What was found: the first ones in full, the others as a number.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<Found>,
    more: usize,
}

impl Findings {
    pub(super) fn push(&mut self, found: Found) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(found);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether more are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= MAX_KEPT
    }

    /// Those that are shown, in the order of the text, and how many more there are.
    pub(super) fn shown(mut self, config: &str) -> (Vec<Problem>, usize) {
        self.kept.sort_by_key(|f| f.at);
        let more = self.more + self.kept.len().saturating_sub(MAX_SHOWN);
        (self.kept.into_iter().take(MAX_SHOWN).map(|f| f.located(config)).collect(), more)
    }
}

/// The path of `key` in the object at `path`: domains are quoted, and so is what is not a plain word.
pub(super) fn key_path(path: &str, key: &str) -> String {
    if path.len() > LONGEST_PATH {
        return cut(path);
    }
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-$".contains(&b));
    let shown = if plain && path != "domains" && key.len() <= 40 { key.to_owned() } else { quoted(key) };
    if path.is_empty() { shown } else { format!("{path}.{shown}") }
}

/// The path of the element `index` of the array at `path`.
pub(super) fn item_path(path: &str, index: usize) -> String {
    if path.len() > LONGEST_PATH { cut(path) } else { format!("{path}[{index}]") }
}

/// A path that ends with `…`.
fn cut(path: &str) -> String {
    if path.ends_with('…') { path.to_owned() } else { format!("{path}…") }
}

/// A word of the config in quotes, shortened: it may be anything.
pub(super) fn quoted(word: &str) -> String {
    let mut shown: String = word.chars().take(60).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    // Not `escape_debug`, which escapes ' too.
    format!("{shown:?}").replace("\\'", "'")
}

/// Line and column of an offset, both from 1; a column is a character.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Such as `domains."a".attach-volume[1].device`; empty where the text as a whole is meant.
    pub(crate) path: String,
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// What is wrong, and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "line {}, column {}: {}", self.line, self.column, self.text)
    }
}

/// All problems of a config, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError {
    /// The first ones; never empty.
    pub(crate) problems: Vec<Problem>,
    /// How many more there are.
    pub(crate) more: usize,
}

impl ConfigError {
    pub(super) fn new(found: Findings, text: &str) -> ConfigError {
        let (problems, more) = found.shown(text);
        ConfigError { problems, more }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().enumerate() {
            write!(f, "{}{p}", if i == 0 { "" } else { "\n" })?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more problems", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let text = "a\r\nüü\n😀x";
        for (at, want) in [(0, (1, 1)), (3, (2, 1)), (7, (2, 3)), (8, (3, 1)), (12, (3, 2)), (99, (3, 3)), (4, (3, 3))]
        {
            assert_eq!(position(text, at), want, "{at}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(key_path("", "domains"), "domains");
        assert_eq!(key_path("domains", "a"), "domains.\"a\"");
        assert_eq!(key_path("domains.\"a\"", "attach-volume"), "domains.\"a\".attach-volume");
        assert_eq!(key_path("x", "it's \"so\"\n"), "x.\"it's \\\"so\\\"\\n\"");
        assert_eq!(
            (item_path("a", 3), item_path(&item_path(&"a".repeat(501), 3), 4)),
            ("a[3]".into(), "a".repeat(501) + "…")
        );
        assert_eq!(key_path(&key_path(&"a".repeat(501), "b"), "c"), "a".repeat(501) + "…");
        assert_eq!(quoted(&"é".repeat(100)), format!("\"{}…\"", "é".repeat(60)));
    }

    #[test]
    fn many_problems_are_counted() {
        let found = |count: usize| {
            let mut found = Findings::default();
            (0..count).rev().for_each(|i| found.push(Found::new("k", i, "wrong")));
            ConfigError::new(found, &"x".repeat(60)).to_string()
        };
        let shown = found(53);
        assert!(shown.starts_with("k: line 1, column 1: wrong\nk: line 1, column 2: wrong\n"));
        assert!(shown.ends_with("k: line 1, column 50: wrong\nand 3 more problems"));
        assert!(found(5000).ends_with("and 4950 more problems"));
    }
}
