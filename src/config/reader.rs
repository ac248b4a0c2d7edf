//! Typed access to the tree. Whoever reads a value gets it, or a problem has been noted; reading always goes on.

use std::time::Duration;

use super::json5::{Node, Prop, Value};
use super::problem::{Findings, Found, item_path, key_path, quoted};
use crate::macros::Template;
use crate::suggest::closest;

/// Longer times are mistakes: about 30 years.
const MAX_SECONDS: f64 = 1e9;

/// Collects what is found while reading.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) problems: Findings,
    pub(super) warnings: Findings,
}

/// An object whose keys are known ones.
#[derive(Debug)]
pub(super) struct Object<'n> {
    pub(super) path: String,
    pub(super) at: usize,
    props: &'n [Prop],
}

impl<'n> Object<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        self.props.iter().find(|p| p.key == key).map(|p| &p.value)
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        key_path(&self.path, key)
    }

    /// All keys but those for other programs.
    pub(super) fn props(&self) -> impl Iterator<Item = &'n Prop> {
        self.props.iter().filter(|p| !is_foreign(&p.key))
    }

    /// All keys where keys are names: one may well begin with `x-`, and leaving it out would be a silent loss.
    pub(super) fn names(&self) -> impl Iterator<Item = &'n Prop> {
        self.props.iter().filter(|p| !p.key.starts_with('$'))
    }
}

/// Keys that belong to editors (`$schema`) and to whoever writes them (`x-…`).
pub(super) fn is_foreign(key: &str) -> bool {
    key.starts_with('$') || key.starts_with("x-")
}

impl Reader {
    pub(super) fn problem(&mut self, path: &str, at: usize, text: impl Into<String>) {
        self.problems.push(Found::new(path, at, text));
    }

    pub(super) fn warn(&mut self, path: &str, at: usize, text: impl Into<String>) {
        self.warnings.push(Found::new(path, at, text));
    }

    pub(super) fn wrong_type(&mut self, path: &str, node: &Node, wanted: &str) {
        self.problem(path, node.at, format!("{wanted} is wanted, found {}", node.kind()));
    }

    /// `node` as an object of any keys.
    pub(super) fn map<'n>(&mut self, node: &'n Node, path: &str) -> Option<Object<'n>> {
        match &node.value {
            Value::Object(props) => Some(Object { path: path.to_owned(), at: node.at, props }),
            _ => {
                self.wrong_type(path, node, "an object ({ … })");
                None
            }
        }
    }

    /// `node` as an object of `keys`. Others are problems, but for those of other programs.
    pub(super) fn object<'n>(&mut self, node: &'n Node, path: &str, keys: &[&str]) -> Option<Object<'n>> {
        self.object_too(node, path, keys, &[])
    }

    /// As [`Reader::object`]; keys of `hidden` are accepted, but never named in a message.
    pub(super) fn object_too<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        keys: &[&str],
        hidden: &[&str],
    ) -> Option<Object<'n>> {
        let object = self.map(node, path)?;
        let unknown = |p: &&Prop| !keys.contains(&p.key.as_str()) && !hidden.contains(&p.key.as_str());
        for p in object.props().filter(unknown) {
            // Nobody reads more; and a hostile text must not take for ever.
            let near = if self.problems.is_full() { None } else { closest(&p.key, keys) };
            let text = match near {
                Some(k) => format!("unknown key: did you mean {k}?"),
                None => format!("unknown key: valid are {}", keys.join(", ")),
            };
            self.problem(&object.path_of(&p.key), p.at, text);
        }
        Some(object)
    }

    /// The elements of the array at `key` with their paths; none if there is no such key.
    pub(super) fn array<'n>(&mut self, o: &Object<'n>, key: &str) -> Vec<(String, &'n Node)> {
        let Some(node) = o.get(key) else { return Vec::new() };
        let path = o.path_of(key);
        match &node.value {
            Value::Array(nodes) => nodes.iter().enumerate().map(|(i, n)| (item_path(&path, i), n)).collect(),
            _ => {
                self.wrong_type(&path, node, "an array ([ … ])");
                Vec::new()
            }
        }
    }

    /// `node` as a string.
    pub(super) fn text<'n>(&mut self, node: &'n Node, path: &str) -> Option<&'n str> {
        match &node.value {
            Value::String(s) => Some(s),
            _ => {
                self.wrong_type(path, node, "a string");
                None
            }
        }
    }

    /// The string at `key`, not empty.
    pub(super) fn string<'n>(&mut self, o: &Object<'n>, key: &str) -> Option<&'n str> {
        let node = o.get(key)?;
        let path = o.path_of(key);
        let text = self.text(node, &path)?;
        if text.is_empty() {
            self.problem(&path, node.at, "is empty");
            return None;
        }
        Some(text)
    }

    /// The node at `key`; its absence is a problem.
    pub(super) fn required<'n>(&mut self, o: &Object<'n>, key: &str) -> Option<&'n Node> {
        let node = o.get(key);
        if node.is_none() {
            self.problem(&o.path_of(key), o.at, "is missing");
        }
        node
    }

    /// As [`Reader::string`], and absence is a problem.
    pub(super) fn required_string<'n>(&mut self, o: &Object<'n>, key: &str) -> Option<&'n str> {
        self.required(o, key)?;
        self.string(o, key)
    }

    /// `text` with its macros.
    pub(super) fn template(&mut self, text: &str, path: &str, at: usize) -> Option<Template> {
        match Template::parse(text) {
            Ok(t) => Some(t),
            Err(e) => {
                self.problem(path, at, e.to_string());
                None
            }
        }
    }

    /// The boolean at `key`.
    pub(super) fn bool(&mut self, o: &Object<'_>, key: &str, default: bool) -> bool {
        match o.get(key) {
            None => default,
            Some(Node { value: Value::Bool(b), .. }) => *b,
            Some(node) => {
                self.wrong_type(&o.path_of(key), node, "true or false");
                default
            }
        }
    }

    /// The time in seconds at `key`, more than 0.
    pub(super) fn seconds(&mut self, o: &Object<'_>, key: &str) -> Option<Duration> {
        let node = o.get(key)?;
        let path = o.path_of(key);
        let seconds = match node.value {
            Value::Integer(i) => i as f64,
            Value::Float(f) if f.is_finite() => f,
            _ => {
                self.wrong_type(&path, node, "a number of seconds");
                return None;
            }
        };
        let duration = Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && seconds <= MAX_SECONDS);
        if duration.is_none() {
            self.problem(
                &path,
                node.at,
                format!("a number of seconds is wanted, more than 0 and at most {MAX_SECONDS}"),
            );
        }
        duration
    }

    /// The whole number at `key`; its absence is a problem.
    pub(super) fn required_integer(&mut self, o: &Object<'_>, key: &str) -> Option<i64> {
        let node = self.required(o, key)?;
        match node.value {
            Value::Integer(i) => Some(i),
            _ => {
                self.wrong_type(&o.path_of(key), node, "a whole number");
                None
            }
        }
    }

    /// One of the words of `table` (the first ones are named in errors, `hidden` only accepted).
    pub(super) fn word<T: Copy>(
        &mut self,
        o: &Object<'_>,
        key: &str,
        table: &[(&str, T)],
        hidden: &[(&str, T)],
    ) -> Option<T> {
        let node = o.get(key)?;
        let path = o.path_of(key);
        let words = || table.iter().map(|(w, _)| *w).collect::<Vec<&str>>();
        let Value::String(text) = &node.value else {
            self.wrong_type(&path, node, &format!("one of {}", words().join(", ")));
            return None;
        };
        let found = table.iter().chain(hidden).find(|(w, _)| *w == text);
        if found.is_none() {
            self.unknown_word(&path, node.at, text, &words());
        }
        found.map(|(_, t)| *t)
    }

    /// Notes that `word` is none of `valid`.
    pub(super) fn unknown_word(&mut self, path: &str, at: usize, word: &str, valid: &[&str]) {
        let text = match closest(word, valid) {
            Some(w) => format!("unknown word {}: did you mean {w}?", quoted(word)),
            None => format!("unknown word {}: valid are {}", quoted(word), valid.join(", ")),
        };
        self.problem(path, at, text);
    }
}
