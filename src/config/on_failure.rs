//! `on-failure`: what follows a run that failed.

use std::time::Duration;

use super::json5::{Node, Value};
use super::problem::quoted;
use super::reader::{Object, Reader};

/// What can be done, other than to exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Everything from `starting` on is done again, in this process.
    Retry,
    /// The machine boots anew.
    Reboot,
    /// The machine is switched off.
    PowerOff,
    /// EC2 is asked to terminate the instance.
    Terminate,
    /// The Auto Scaling group is told that the instance is unhealthy.
    SetUnhealthy,
}

impl Action {
    /// Its word in the config.
    pub(crate) fn name(self) -> &'static str {
        WORDS.iter().find(|(_, a)| *a == Some(self)).map_or("", |(word, _)| word)
    }
}

/// One step of `on-failure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OnFailure {
    /// What is done.
    pub(crate) action: Action,
    /// `attempts` of `retry`, the first run included; default 5.
    pub(crate) attempts: u32,
    /// `backoff` of `retry`: the pause before the second attempt; default 10 s.
    pub(crate) backoff: Duration,
    /// `limit` of `reboot`: so many within an hour; default 3.
    pub(crate) limit: u32,
    /// `min-uptime`: the machine has been up for so long; default 300 s for what ends the instance.
    pub(crate) min_uptime: Duration,
}

const WORDS: [(&str, Option<Action>); 6] = [
    ("exit", None),
    ("retry", Some(Action::Retry)),
    ("reboot", Some(Action::Reboot)),
    ("poweroff", Some(Action::PowerOff)),
    ("terminate", Some(Action::Terminate)),
    ("set-unhealthy", Some(Action::SetUnhealthy)),
];
const KEYS: [&str; 6] = ["action", "attempts", "backoff", "limit", "min-uptime", "then"];

/// All of them, `then` and `then` and so on.
pub(super) fn steps(r: &mut Reader, top: &Object<'_>) -> Vec<OnFailure> {
    let mut steps = Vec::new();
    if let Some(node) = top.get("on-failure") {
        step(r, node, "on-failure", &mut steps);
    }
    steps
}

fn step(r: &mut Reader, node: &Node, path: &str, steps: &mut Vec<OnFailure>) {
    match &node.value {
        Value::String(word) => {
            if let Some(action) = action(r, word, path, node.at, steps) {
                steps.push(defaults(action));
            }
        }
        Value::Object(_) => {
            let Some(o) = r.object(node, path, &KEYS) else { return };
            let Some(word) = r.required_string(&o, "action") else { return };
            let at = o.get("action").map_or(node.at, |n| n.at);
            let action = action(r, word, &o.path_of("action"), at, steps);
            fits(r, &o, word, action);
            let Some(action) = action else { return };
            let mut step = defaults(action);
            step.attempts = number(r, &o, "attempts", 2).unwrap_or(step.attempts);
            step.limit = number(r, &o, "limit", 1).unwrap_or(step.limit);
            step.backoff = r.seconds(&o, "backoff").unwrap_or(step.backoff);
            step.min_uptime = match o.get("min-uptime") {
                Some(Node { value: Value::Integer(0), .. }) => Duration::ZERO,
                _ => r.seconds(&o, "min-uptime").unwrap_or(step.min_uptime),
            };
            steps.push(step);
            if let Some(then) = o.get("then") {
                self::step(r, then, &o.path_of("then"), steps);
            }
        }
        _ => r.wrong_type(path, node, "a word or an object with action"),
    }
}

fn defaults(action: Action) -> OnFailure {
    // What ends the instance makes the fleet start another one, which may fail too: not faster than this.
    let ends = matches!(action, Action::PowerOff | Action::Terminate | Action::SetUnhealthy);
    let min_uptime = if ends { Duration::from_secs(300) } else { Duration::ZERO };
    OnFailure { action, attempts: 5, backoff: Duration::from_secs(10), limit: 3, min_uptime }
}

/// The action of a word; `None` for `exit` and for what is none.
fn action(r: &mut Reader, word: &str, path: &str, at: usize, steps: &[OnFailure]) -> Option<Action> {
    let Some((_, action)) = WORDS.iter().find(|(w, _)| *w == word) else {
        r.unknown_word(path, at, word, &WORDS.map(|(w, _)| w));
        return None;
    };
    if steps.iter().any(|s| Some(s.action) == *action) {
        r.problem(path, at, format!("{} is what was tried before", quoted(word)));
        return None;
    }
    *action
}

/// Keys that say nothing of this action are mistakes.
fn fits(r: &mut Reader, o: &Object<'_>, word: &str, action: Option<Action>) {
    let known = WORDS.iter().any(|(w, _)| *w == word);
    for (key, of) in [
        ("attempts", "retry"),
        ("backoff", "retry"),
        ("limit", "reboot"),
        ("min-uptime", "poweroff, terminate and set-unhealthy"),
    ] {
        if let Some(node) = o.get(key).filter(|_| known && !of.split([',', ' ']).any(|w| w == word)) {
            r.problem(&o.path_of(key), node.at, format!("is for {of}, not for {word}"));
        }
    }
    if let Some(node) = o.get("then").filter(|_| known && action.is_none() && word == "exit") {
        r.problem(&o.path_of("then"), node.at, "nothing comes after exit");
    }
}

fn number(r: &mut Reader, o: &Object<'_>, key: &str, least: u32) -> Option<u32> {
    o.get(key)?;
    let number = r.required_integer(o, key)?;
    let found = u32::try_from(number).ok().filter(|n| (least..=100).contains(n));
    if found.is_none() {
        let at = o.get(key).map_or(o.at, |n| n.at);
        r.problem(&o.path_of(key), at, format!("a whole number from {least} to 100 is wanted"));
    }
    found
}
