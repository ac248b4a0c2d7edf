//! From the tree to a [`Config`]: the top level and the domains. All problems are collected.

use std::time::Duration;

use super::json5::{self, Node, Value};
use super::problem::{ConfigError, item_path, key_path};
use super::reader::{Object, Reader, is_foreign};
use super::{Config, Domain, PoolPref, Transition, address, exec, hook, notify, on_failure, record, volume};
use crate::macros::Template;
use crate::model::Event;

const KEYS: [&str; 10] = [
    "hostname",
    "set-hostname",
    "timeout",
    "interrupt-detection",
    "interrupt-margin",
    "maintenance-lead",
    "terminating-timeout",
    "lifecycle-hook",
    "on-failure",
    "domains",
];
const DOMAIN_KEYS: [&str; 6] = ["attach-volume", "associate-address", "update-route53", "exec", "notify", "critical"];

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// A killed command takes 10 s more, and then that is told.
const DEFAULT_MARGIN: Duration = Duration::from_secs(15);
const DEFAULT_LEAD: Duration = Duration::from_secs(600);
/// As long as the notice of an interruption comes before it.
const DEFAULT_TERMINATING: Duration = Duration::from_secs(120);
/// So long before an interruption its notice comes.
const NOTICE: Duration = Duration::from_secs(120);
/// A way out has so much, whatever is left (`plan::way_out`).
const LEAST: Duration = Duration::from_secs(10);
/// Polling faster does nothing but get throttled.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Reads a config. All its problems are in the error.
pub(crate) fn load(text: &str) -> Result<Config, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut r = Reader::default();
    let root = match json5::parse(text, &mut r.problems) {
        Ok(root) => root,
        Err(found) => {
            r.problems.push(found);
            return Err(ConfigError::new(r.problems, text));
        }
    };
    let config = config(&mut r, &root);
    match config {
        Some(mut config) if r.problems.is_empty() => {
            let (shown, more) = r.warnings.shown(text);
            config.warnings = shown.iter().map(ToString::to_string).collect();
            if more > 0 {
                config.warnings.push(format!("and {more} more warnings"));
            }
            Ok(config)
        }
        _ => Err(ConfigError::new(r.problems, text)),
    }
}

fn config(r: &mut Reader, root: &Node) -> Option<Config> {
    let o = r.object(root, "", &KEYS)?;
    let hostname = hostname(r, &o);
    let timeout = r.seconds(&o, "timeout").unwrap_or(DEFAULT_TIMEOUT);
    let poll_interval = interruption(r, &o).unwrap_or(DEFAULT_INTERVAL);
    let hooks = hook::hooks(r, &o);
    let on_failure = on_failure::steps(r, &o);
    let mut domains = match o.get("domains") {
        Some(node) => domains(r, node, timeout),
        None => Vec::new(),
    };
    let all = domains.iter_mut().flat_map(|d| &mut d.volumes);
    all.filter(|v| v.pool_pref == PoolPref::Sticky).for_each(|v| v.member.clone_from(&hostname));
    let config = Config {
        hostname,
        timeout,
        poll_interval,
        hooks,
        on_failure,
        interrupt_margin: r.seconds(&o, "interrupt-margin").unwrap_or(DEFAULT_MARGIN),
        maintenance_lead: r.seconds(&o, "maintenance-lead").unwrap_or(DEFAULT_LEAD),
        terminating_timeout: r.seconds(&o, "terminating-timeout").unwrap_or(DEFAULT_TERMINATING),
        domains,
        warnings: Vec::new(),
    };
    address_of_others(r, &o, &config.domains);
    for (key, event) in [("maintenance-lead", Event::Maintenance), ("terminating-timeout", Event::Terminating)] {
        let hook = event == Event::Terminating && config.has_hook(Transition::Terminating);
        if let Some(node) = o.get(key).filter(|_| !hook && !config.domains.iter().any(|d| d.names(event))) {
            let text = format!("has no effect: no command, message or release is for {}", event.name());
            r.warn(&o.path_of(key), node.at, text);
        }
    }
    for (key, time, before) in [
        ("interrupt-margin", NOTICE, "the two minutes of a notice"),
        ("terminating-timeout", config.terminating_timeout, "terminating-timeout"),
    ] {
        let left = time.saturating_sub(config.interrupt_margin);
        if let Some(node) = o.get(key).filter(|_| left < LEAST) {
            let text = format!(
                "interrupt-margin leaves less than {} s of {before}: that much is taken all the same",
                LEAST.as_secs()
            );
            r.warn(key, node.at, text);
        }
    }
    if let Some(node) = o.get("lifecycle-hook")
        && config.has_hook(Transition::Terminating)
        && !config.domains.iter().any(|d| d.names(Event::Terminating))
    {
        // What is bound to `stopping` does not run then.
        let text = "no command, message or release is for terminating: the group will go on at once";
        r.warn("lifecycle-hook", node.at, text);
    }
    Some(config)
}

/// Warns of an address that records of other domains lead to, and that its own domain may give back.
fn address_of_others(r: &mut Reader, root: &Object<'_>, domains: &[Domain]) {
    let may_fail = domains.iter().find(|d| !d.critical && d.address.is_some());
    let Some((d, address)) = may_fail.and_then(|d| Some((d, d.address.as_ref()?))) else { return };
    if let Some(other) = domains.iter().find(|o| o.name != d.name && !o.records.is_empty())
        && let Some(node) = root.get("domains")
    {
        let text = format!(
            "the records of domain {} lead to this address, and if domain {} fails, it is given back and they are not: \
             make the domain critical, or put both into one domain",
            other.name, d.name
        );
        r.warn(&address.path, node.at, text);
    }
}

/// `hostname` or `set-hostname`; an empty one is none.
fn hostname(r: &mut Reader, o: &Object<'_>) -> Option<Template> {
    let key = match (o.get("hostname"), o.get("set-hostname")) {
        (Some(_), Some(second)) => {
            r.problem("set-hostname", second.at, "hostname is there too, and both are the same: leave one out");
            return None;
        }
        (None, Some(_)) => "set-hostname",
        _ => "hostname",
    };
    let node = o.get(key)?;
    let text = r.text(node, key)?;
    let template = r.template(text, key, node.at)?;
    (template.literal() != Some("")).then_some(template)
}

fn interruption(r: &mut Reader, o: &Object<'_>) -> Option<Duration> {
    let path = "interrupt-detection";
    let o = r.object(o.get(path)?, path, &["detect", "options"])?;
    r.word(&o, "detect", &[("poll", ())], &[]);
    let options = r.object(o.get("options")?, &o.path_of("options"), &["interval"])?;
    let interval = r.seconds(&options, "interval")?;
    if interval < MIN_INTERVAL {
        r.warn(&options.path_of("interval"), options.at, "0.01 s is the shortest interval, and is used");
    }
    Some(interval.max(MIN_INTERVAL))
}

fn domains(r: &mut Reader, node: &Node, timeout: Duration) -> Vec<Domain> {
    let Some(map) = r.map(node, "domains") else { return Vec::new() };
    let mut domains = Vec::new();
    let mut devices = volume::Devices::default();
    let mut first_address = None;
    devices.init = timeout;
    for p in map.names() {
        let path = key_path("domains", &p.key);
        if p.key.trim().is_empty() {
            r.problem(&path, p.at, "a domain needs a name");
        }
        let Some(o) = r.object(&p.value, &path, &DOMAIN_KEYS) else { continue };
        let critical = r.bool(&o, "critical", true);
        let volumes = volume::directives(r, &o, &mut devices);
        let address = address::directive(r, &o, &mut first_address, timeout);
        let mut records = Vec::new();
        for (path, node) in r.array(&o, "update-route53") {
            let Some(directive) = record::directive(r, node, path, timeout) else { continue };
            devices.shared.record(r, &p.key, &directive, node.at);
            records.push(directive);
        }
        let exec = exec::blocks(r, &o, exec::Place::Domain);
        let notify = r.array(&o, "notify").into_iter().filter_map(|(p, n)| notify::directive(r, n, p)).collect();
        domains.push(Domain { name: p.key.clone(), critical, volumes, address, records, exec, notify });
    }
    devices.nested(r);
    domains
}

/// `node` as plain JSON, for what is handed to AWS as it is.
pub(super) fn to_json(r: &mut Reader, node: &Node, path: &str) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::from(*b),
        Value::Integer(i) => Json::from(*i),
        Value::Float(f) => serde_json::Number::from_f64(*f).map(Json::Number).unwrap_or_else(|| {
            r.problem(path, node.at, "a finite number is wanted");
            Json::Null
        }),
        Value::String(s) => Json::from(s.as_str()),
        Value::Array(nodes) => nodes.iter().enumerate().map(|(i, n)| to_json(r, n, &item_path(path, i))).collect(),
        Value::Object(props) => {
            let ours = props.iter().filter(|p| !is_foreign(&p.key));
            Json::Object(ours.map(|p| (p.key.clone(), to_json(r, &p.value, &key_path(path, &p.key)))).collect())
        }
    }
}
