//! `lifecycle-hook`: what the Auto Scaling group of this instance waits for.

use super::json5::{Node, Value};
use super::problem::{item_path, quoted};
use super::reader::{Object, Reader};

/// What a lifecycle hook is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// The instance comes into service.
    Launching,
    /// The instance is taken out of service.
    Terminating,
}

/// A lifecycle hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// `name`.
    pub(crate) name: String,
    /// `group`; `None`: the instance's tag says.
    pub(crate) group: Option<String>,
    /// `on`; default `terminating`.
    pub(crate) on: Transition,
}

const ON: [(&str, Transition); 2] = [("terminating", Transition::Terminating), ("launching", Transition::Launching)];

/// One, or an array of them.
pub(super) fn hooks(r: &mut Reader, top: &Object<'_>) -> Vec<Hook> {
    const KEY: &str = "lifecycle-hook";
    let Some(node) = top.get(KEY) else { return Vec::new() };
    let nodes: Vec<(String, &Node)> = match &node.value {
        Value::Array(nodes) => nodes.iter().enumerate().map(|(i, n)| (item_path(KEY, i), n)).collect(),
        _ => vec![(KEY.to_owned(), node)],
    };
    let mut hooks: Vec<Hook> = Vec::new();
    for (path, node) in nodes {
        let Some(o) = r.object(node, &path, &["name", "group", "on"]) else { continue };
        let name = r.required_string(&o, "name").map(str::to_owned);
        let group = r.string(&o, "group").map(str::to_owned);
        let on = r.word(&o, "on", &ON, &[]).unwrap_or(Transition::Terminating);
        // AWS's own rule; a mistake would be seen only when the instance goes.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
        let Some(name) = name else { continue };
        if name.len() > 255 || !name.chars().all(is_plain) {
            r.problem(
                &o.path_of("name"),
                o.get("name").map_or(o.at, |n| n.at),
                format!("{} is no name of a hook: letters, digits, -, _ and / are, 255 at most", quoted(&name)),
            );
        }
        if hooks.iter().any(|h| h.name == name && h.group == group) {
            r.problem(&path, node.at, format!("the hook {} is there twice", quoted(&name)));
        }
        hooks.push(Hook { name, group, on });
    }
    hooks
}
