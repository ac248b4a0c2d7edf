//! Macros: `{instance_id}` and the like in `hostname`, record names, `argv` and envelopes.
//!
//! A text is parsed into a [`Template`] when the config is checked, so that a wrong macro is a config error and
//! [`Template::expand`] cannot fail. `{{` and `}}` are literal braces. An absent value is empty text.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::model::{Event, Facts};
use crate::suggest::closest;

/// All macros, in the order in which `{all_json}` has them.
pub(crate) const NAMES: [&str; 28] = [
    "domain",
    "instance_id",
    "instance_type",
    "instance_index",
    "placement_region",
    "placement_zone",
    "hypervisor",
    "primary_public_ipv4",
    "primary_public_ipv6",
    "public_ipv4_list",
    "public_ipv6_list",
    "static_dns_rr",
    "attach_source",
    "attach_op",
    "volume_id",
    "volume_pool",
    "attached_device",
    "mount_path",
    "fstype",
    "daemon_state",
    "error",
    "interrupt_time",
    "interrupt_action",
    "transaction_id",
    "transaction_log",
    "cwd",
    "ts",
    "pid",
];

/// The one that holds all the others.
const ALL_JSON: &str = "all_json";

/// Other names of macros.
const ALIASES: [(&str, &str); 1] = [("ami-i", "instance_index")];

/// Everything that macros can say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    /// `{domain}`; empty in `hostname`.
    pub(crate) domain: String,
    /// What the instance is.
    pub(crate) facts: Arc<Facts>,
    /// `{static_dns_rr}`: the names whose records point here.
    pub(crate) static_dns_rr: Vec<String>,
    /// `{attach_source}`: `x`, `p` or `c`.
    pub(crate) attach_source: Option<&'static str>,
    /// `{attach_op}`: whether this run attached the volume.
    pub(crate) attach_op: Option<bool>,
    /// `{volume_id}`.
    pub(crate) volume_id: Option<String>,
    /// `{volume_pool}`.
    pub(crate) volume_pool: Option<String>,
    /// `{attached_device}`: the path of the disk.
    pub(crate) attached_device: Option<String>,
    /// `{mount_path}`.
    pub(crate) mount_path: Option<String>,
    /// `{fstype}`.
    pub(crate) fstype: Option<String>,
    /// `{daemon_state}`.
    pub(crate) daemon_state: Option<Event>,
    /// `{error}`.
    pub(crate) error: Vec<String>,
    /// `{interrupt_time}`, as EC2 wrote it.
    pub(crate) interrupt_time: Option<String>,
    /// `{interrupt_action}`.
    pub(crate) interrupt_action: Option<String>,
    /// `{transaction_id}`.
    pub(crate) transaction_id: String,
    /// `{transaction_log}`: one object per call.
    pub(crate) transaction_log: Vec<Value>,
    /// `{cwd}`.
    pub(crate) cwd: String,
    /// `{ts}`, with the local offset.
    pub(crate) now: Option<OffsetDateTime>,
    /// `{pid}`.
    pub(crate) pid: u32,
}

impl Values {
    /// The value of a macro of [`NAMES`] as `{all_json}` has it.
    fn value(&self, name: &str) -> Value {
        // Absent is null, whatever way it is absent.
        fn text(s: &str) -> Value {
            if s.is_empty() { Value::Null } else { Value::from(s) }
        }
        let facts = &*self.facts;
        match name {
            "domain" => text(&self.domain),
            "instance_id" => text(&facts.instance_id),
            "instance_type" => text(&facts.instance_type),
            "instance_index" => json!(facts.launch_index),
            "placement_region" => text(&facts.region),
            "placement_zone" => text(&facts.zone),
            "hypervisor" => json!(facts.hypervisor),
            "primary_public_ipv4" => json!(facts.primary_ipv4.first()),
            "primary_public_ipv6" => json!(facts.primary_ipv6.first()),
            "public_ipv4_list" => json!(facts.all_ipv4),
            "public_ipv6_list" => json!(facts.all_ipv6),
            "static_dns_rr" => json!(self.static_dns_rr),
            "attach_source" => json!(self.attach_source),
            "attach_op" => json!(self.attach_op.map(|op| if op { "true" } else { "false" })),
            "volume_id" => json!(self.volume_id),
            "volume_pool" => json!(self.volume_pool),
            "attached_device" => json!(self.attached_device),
            "mount_path" => json!(self.mount_path),
            "fstype" => json!(self.fstype),
            "daemon_state" => json!(self.daemon_state.map(Event::name)),
            "error" => json!(self.error),
            "interrupt_time" => json!(self.interrupt_time),
            "interrupt_action" => json!(self.interrupt_action),
            "transaction_id" => text(&self.transaction_id),
            "transaction_log" => Value::Array(self.transaction_log.clone()),
            "cwd" => text(&self.cwd),
            "ts" => json!(self.now.and_then(timestamp)),
            "pid" => json!(self.pid),
            _ => Value::Null,
        }
    }

    /// `{all_json}`: one JSON object of all other macros, for machines.
    pub(crate) fn all_json(&self) -> String {
        Value::Object(NAMES.iter().map(|n| ((*n).to_owned(), self.value(n))).collect::<Map<_, _>>()).to_string()
    }

    fn text(&self, name: &str) -> String {
        match name {
            ALL_JSON => self.all_json(),
            "transaction_log" => self.value(name).to_string(),
            _ => match self.value(name) {
                Value::Null => String::new(),
                Value::String(s) => s,
                Value::Array(list) => {
                    let items: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                    items.join(", ")
                }
                other => other.to_string(),
            },
        }
    }
}

/// RFC 3339 with milliseconds. An offset with seconds (as zones had before 1972) cannot be written: UTC then.
fn timestamp(t: OffsetDateTime) -> Option<String> {
    let t = t.replace_millisecond(t.millisecond()).unwrap_or(t);
    t.format(&Rfc3339).or_else(|_| t.to_offset(UtcOffset::UTC).format(&Rfc3339)).ok()
}

/// A text with macros, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Macro(&'static str),
}

impl Template {
    /// Parses `text`. Errors name the macro, never the text around it.
    pub(crate) fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(i) = rest.find(['{', '}']) {
            plain.push_str(&rest[..i]);
            let brace = &rest[i..=i];
            rest = &rest[i + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(TemplateError::Unopened);
            }
            let end = rest.find(['{', '}']).filter(|e| rest[*e..].starts_with('}')).ok_or(TemplateError::Unclosed)?;
            let name = resolve(&rest[..end])?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Macro(name));
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// The text with the values in place of the macros.
    pub(crate) fn expand(&self, values: &Values) -> String {
        let part = |p: &Part| match p {
            Part::Text(t) => t.clone(),
            Part::Macro(name) => values.text(name),
        };
        self.parts.iter().map(part).collect()
    }

    /// The text, if it has no macros.
    pub(crate) fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(t)] => Some(t),
            _ => None,
        }
    }

    /// The first of its macros that has no value.
    pub(crate) fn without_value(&self, values: &Values) -> Option<&'static str> {
        let name = |p: &Part| if let Part::Macro(name) = p { Some(*name) } else { None };
        self.parts.iter().filter_map(name).find(|name| values.text(name).is_empty())
    }

    /// Whether it has macros that the instance's public addresses are in.
    pub(crate) fn has_addresses(&self) -> bool {
        let is_one = |p: &Part| matches!(p, Part::Macro(n) if n.contains("public_ip") || *n == ALL_JSON);
        self.parts.iter().any(is_one)
    }

    /// Whether the macro `name` (of [`NAMES`] or `all_json`) occurs.
    #[cfg(test)]
    pub(crate) fn uses(&self, name: &str) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Macro(n) if *n == name))
    }
}

/// The macro that stands between two braces.
fn resolve(field: &str) -> Result<&'static str, TemplateError> {
    if field.is_empty() {
        return Err(TemplateError::Empty);
    }
    let known = |word: &str| {
        let word = ALIASES.iter().find(|(alias, _)| *alias == word).map_or(word, |(_, name)| name);
        NAMES.into_iter().chain([ALL_JSON]).find(|n| *n == word)
    };
    if let Some(name) = known(field) {
        return Ok(name);
    }
    let (name, spec) = match field.find([':', '!', '[', '.']) {
        Some(i) => (&field[..i], field[i..].chars().next()),
        None => (field, None),
    };
    // What is no word may be anything (a script, JSON with a password): it is not repeated.
    let name = match name.trim() {
        n if (1..=40).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) => n,
        _ => return Err(TemplateError::NotAName),
    };
    let words: Vec<&'static str> =
        NAMES.into_iter().chain([ALL_JSON]).chain(ALIASES.iter().map(|(alias, _)| *alias)).collect();
    let name: Cow<'static, str> = known(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed);
    Err(match spec {
        Some(':') => TemplateError::Format { name },
        Some('!') => TemplateError::Conversion { name },
        Some(_) => TemplateError::Index { name },
        None => {
            let closest = closest(&name, &words);
            TemplateError::Unknown { name, closest }
        }
    })
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplateError {
    /// `{foo}`.
    Unknown {
        /// The word.
        name: Cow<'static, str>,
        /// The macro that was probably meant.
        closest: Option<&'static str>,
    },
    /// `{print $1}`: no word at all.
    NotAName,
    /// `{}`.
    Empty,
    /// `{pid:>8}`.
    Format {
        /// The word before the colon.
        name: Cow<'static, str>,
    },
    /// `{error!r}`.
    Conversion {
        /// The word before the mark.
        name: Cow<'static, str>,
    },
    /// `{error[0]}` and `{error.first}`.
    Index {
        /// The word before the bracket.
        name: Cow<'static, str>,
    },
    /// `{domain`.
    Unclosed,
    /// `domain}`.
    Unopened,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LITERAL: &str = "literal braces are written {{ and }}";
        match self {
            TemplateError::Unknown { name, closest: Some(c) } => {
                write!(f, "unknown macro {{{name}}}: did you mean {{{c}}}? ({LITERAL})")
            }
            TemplateError::Unknown { name, closest: None } => write!(f, "unknown macro {{{name}}} ({LITERAL})"),
            TemplateError::NotAName => write!(f, "what stands between {{ and }} is not a macro ({LITERAL})"),
            TemplateError::Empty => write!(f, "{{}} names no macro ({LITERAL})"),
            TemplateError::Format { name } => {
                write!(f, "{{{name}:…}}: macros take no format: write {{{name}}} ({LITERAL})")
            }
            TemplateError::Conversion { name } => {
                write!(f, "{{{name}!…}}: macros take no conversion: write {{{name}}} ({LITERAL})")
            }
            TemplateError::Index { name } => {
                write!(f, "{{{name}[…]}}: macros take no index: write {{{name}}} ({LITERAL})")
            }
            TemplateError::Unclosed => write!(f, "a {{ is not closed ({LITERAL})"),
            TemplateError::Unopened => write!(f, "a }} was not opened ({LITERAL})"),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
#[path = "macros_tests.rs"]
mod tests;

#[cfg(test)]
pub(crate) mod properties;
