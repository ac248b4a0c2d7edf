//! What the application noted, read again.

use std::collections::BTreeMap;

use crate::lab::Lab;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) what: What,
    pub(crate) life: String,
    pub(crate) domain: String,
    pub(crate) volume: String,
}

/// What happened. Histories are the words on the disk, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The volume's command saw the disk for the first time; `half`: the life whose migration it found half done.
    Found {
        source: String,
        half: Option<String>,
        history: Vec<String>,
    },
    /// It begins the migration, and ends it.
    Half,
    Whole,
    /// The `started` command saw the disk.
    Start {
        half: Option<String>,
        history: Vec<String>,
    },
    /// It is about to write a word.
    Intent(String),
    /// It was written: this is committed.
    Done(Vec<String>),
    /// The disk went from under it.
    Gone,
}

/// All lines, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(pub(crate) Vec<Event>);

fn words<'a>(rest: impl Iterator<Item = &'a str>) -> Vec<String> {
    rest.map(str::to_owned).collect()
}

impl Ledger {
    pub(crate) fn read(lab: &Lab) -> Ledger {
        let text = std::fs::read_to_string(lab.dir.join("ledger")).unwrap();
        // A line that is just being written has no end yet.
        let whole = text.rfind('\n').map_or("", |n| &text[..n]);
        Ledger(whole.lines().filter_map(parse).collect())
    }

    /// What is committed: the last word of each history, and the history, with the volume that it was written to.
    pub(crate) fn done(&self) -> Vec<(&Event, &[String])> {
        let mut done = Vec::new();
        for e in &self.0 {
            if let What::Done(history) = &e.what {
                done.push((e, history.as_slice()));
            }
        }
        done
    }

    /// The longest history that was committed to each volume.
    pub(crate) fn by_volume(&self) -> BTreeMap<&str, &[String]> {
        self.done().into_iter().map(|(e, h)| (e.volume.as_str(), h)).collect()
    }
}

fn parse(line: &str) -> Option<Event> {
    let mut w = line.split_whitespace();
    let (what, life, domain, volume) = (w.next()?, w.next()?, w.next()?, w.next()?);
    let half = |text: &str| (text != "-").then(|| text.to_owned());
    let what = match what {
        "found" => {
            let (source, _op, h) = (w.next()?.to_owned(), w.next()?, half(w.next()?));
            What::Found { source, half: h, history: words(w) }
        }
        "half" => What::Half,
        "whole" => What::Whole,
        "start" => {
            let h = half(w.next()?);
            What::Start { half: h, history: words(w) }
        }
        "intent" => What::Intent(w.next()?.to_owned()),
        "done" => What::Done(words(w)),
        "gone" => What::Gone,
        other => panic!("'{other}' in the ledger"),
    };
    Some(Event { what, life: life.into(), domain: domain.into(), volume: volume.into() })
}

/// Whether `all` begins with `first`.
pub(crate) fn begins(all: &[String], first: &[String]) -> bool {
    all.len() >= first.len() && all[..first.len()] == *first
}
