//! `exec`: blocks, lines and exit codes.

use std::ops::RangeInclusive;

use super::json5::{Node, Value};
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::{ExecBlock, ExecLine, ExitCodes, OnError};
use crate::model::Event;

const BLOCK_KEYS: [&str; 4] = ["on", "ec", "on-error", "lines"];
const LINE_KEYS: [&str; 3] = ["argv", "ec", "timeout"];

/// Names of events that samples of the original use.
const OLD_EVENTS: [(&str, Event); 4] =
    [("start", Event::Started), ("stop", Event::Stopping), ("fail", Event::Failed), ("interrupt", Event::Interrupted)];

/// Whose `exec` it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A domain's: blocks are bound to events.
    Domain,
    /// A volume's: blocks run when its disk is usable.
    Volume,
}

/// The blocks of `o.exec`.
pub(super) fn blocks(r: &mut Reader, o: &Object<'_>, place: Place) -> Vec<ExecBlock> {
    r.array(o, "exec").into_iter().filter_map(|(path, node)| block(r, node, &path, place)).collect()
}

fn block(r: &mut Reader, node: &Node, path: &str, place: Place) -> Option<ExecBlock> {
    let o = r.object(node, path, &BLOCK_KEYS)?;
    let on = o.get("on").map(|node| (node, events(r, &o)));
    let ec = exit_codes(r, &o).unwrap_or_else(|| ExitCodes::Of(vec![0..=0]));
    let on_error = r.word(&o, "on-error", &[("continue", OnError::Continue), ("stop", OnError::Stop)], &[]);
    r.required(&o, "lines");
    let lines = r.array(&o, "lines").into_iter().filter_map(|(path, node)| line(r, node, &path, &ec)).collect();
    match on {
        Some((node, _)) if place == Place::Volume => {
            r.warn(&o.path_of("on"), node.at, "this block is never run: those of a volume run when its disk is usable");
            None
        }
        Some((node, on)) => {
            if on.is_empty() {
                r.warn(&o.path_of("on"), node.at, "this block is never run: it names no event");
            }
            Some(ExecBlock { on: Some(on), on_error, lines })
        }
        None => Some(ExecBlock { on: None, on_error, lines }),
    }
}

fn events(r: &mut Reader, o: &Object<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for (path, node) in r.array(o, "on") {
        let event = r.text(node, &path).and_then(|word| event(r, word, &path, node.at));
        events.extend(event.filter(|e| !events.contains(e)));
    }
    events
}

/// The event called `word`.
pub(super) fn event(r: &mut Reader, word: &str, path: &str, at: usize) -> Option<Event> {
    if let Some(event) = Event::ALL.into_iter().find(|e| e.name() == word) {
        return Some(event);
    }
    if let Some((_, event)) = OLD_EVENTS.iter().find(|(w, _)| *w == word) {
        r.warn(path, at, format!("{} is taken for {}", quoted(word), event.name()));
        return Some(*event);
    }
    r.unknown_word(path, at, word, &Event::ALL.map(Event::name));
    None
}

fn line(r: &mut Reader, node: &Node, path: &str, inherited: &ExitCodes) -> Option<ExecLine> {
    let o = r.object(node, path, &LINE_KEYS)?;
    let mut argv = Vec::new();
    if let Some(node) = r.required(&o, "argv")
        && node.value == Value::Array(Vec::new())
    {
        r.problem(&o.path_of("argv"), node.at, "is empty: a command is wanted");
    }
    for (i, (path, node)) in r.array(&o, "argv").into_iter().enumerate() {
        let Some(text) = r.text(node, &path) else { continue };
        if i == 0 && text.is_empty() {
            r.problem(&path, node.at, "is empty: a command is wanted");
        }
        if text.contains('\0') {
            r.problem(&path, node.at, "has a NUL character, which no command can be given");
        }
        argv.extend(r.template(text, &path, node.at));
    }
    let ec = exit_codes(r, &o).unwrap_or_else(|| inherited.clone());
    let timeout = r.seconds(&o, "timeout");
    Some(ExecLine { path: within_domain(path).to_owned(), argv, ec, timeout })
}

/// The end of a path that is within the domain.
fn within_domain(path: &str) -> &str {
    let start = path.rfind("attach-volume[").or_else(|| path.rfind("exec["));
    path.get(start.unwrap_or_default()..).unwrap_or(path)
}

fn exit_codes(r: &mut Reader, o: &Object<'_>) -> Option<ExitCodes> {
    const WANTED: &str = "codes such as 0, \"0-1,142\" or null (all) are wanted";
    let node = o.get("ec")?;
    let codes = match &node.value {
        Value::Null => return Some(ExitCodes::Any),
        Value::Integer(i) => u32::try_from(*i).ok().map(|c| vec![c..=c]),
        Value::String(text) => text.split(',').map(range).collect(),
        _ => {
            r.problem(&o.path_of("ec"), node.at, format!("{WANTED}, found {}", node.kind()));
            return None;
        }
    };
    if codes.is_none() {
        let shown = match &node.value {
            Value::String(s) => quoted(s),
            Value::Integer(i) => i.to_string(),
            _ => String::new(),
        };
        r.problem(&o.path_of("ec"), node.at, format!("cannot read {shown}: {WANTED}"));
    }
    codes.map(ExitCodes::Of)
}

/// `5`, `0-127`, `0 - 127`; not backwards.
fn range(text: &str) -> Option<RangeInclusive<u32>> {
    let number = |t: &str| {
        let t = t.trim();
        // `parse` would take a plus sign.
        t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u32>().ok()).flatten()
    };
    match text.split_once('-') {
        None => number(text).map(|c| c..=c),
        Some((from, to)) => number(from).zip(number(to)).filter(|(from, to)| from <= to).map(|(from, to)| from..=to),
    }
}
