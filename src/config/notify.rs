//! `notify`: back ends, envelope and matrix.

use super::exec::event;
use super::json5::Node;
use super::problem::quoted;
use super::reader::{Object, Reader};
use super::{Backend, Notify};
use crate::macros::Template;
use crate::model::Event;

const KEYS: [&str; 4] = ["backend", "options", "envelope", "matrix"];
const DEFAULT_SUBJECT: &str = "Fleetd {domain} on {instance_id} state changed to [{daemon_state}]";
const DEFAULT_BODY: &str = "{all_json}";

#[derive(Debug, Clone, Copy)]
enum Kind {
    Sns,
    Sqs,
}

/// One entry of `notify`.
pub(super) fn directive(r: &mut Reader, node: &Node, path: String) -> Option<Notify> {
    let o = r.object(node, &path, &KEYS)?;
    let kind = r.required(&o, "backend").and_then(|_| {
        r.word(&o, "backend", &[("aws-sns", Kind::Sns), ("aws-sqs", Kind::Sqs)], &[("ans-sqs", Kind::Sqs)])
    });
    let options = r.required(&o, "options");
    let backend = kind.zip(options).and_then(|(kind, node)| backend(r, kind, node, &o.path_of("options")));
    let envelope = o.get("envelope").and_then(|n| r.object(n, &o.path_of("envelope"), &["subject", "body"]));
    let subject = envelope_text(r, envelope.as_ref(), "subject", DEFAULT_SUBJECT);
    let body = envelope_text(r, envelope.as_ref(), "body", DEFAULT_BODY);
    let events = matrix(r, &o);
    Some(Notify { path, backend: backend?, subject: subject?, body: body?, events })
}

fn backend(r: &mut Reader, kind: Kind, node: &Node, path: &str) -> Option<Backend> {
    let (key, what) = match kind {
        Kind::Sns => ("topic", "the topic"),
        Kind::Sqs => ("queue-url", "the queue"),
    };
    let o = r.object(node, path, &[key, "region"])?;
    let target = r.required_string(&o, key);
    let given = r.string(&o, "region");
    let target = target?;
    let found = match kind {
        Kind::Sns => region_of_arn(target),
        Kind::Sqs => region_of_url(target),
    };
    if let (Some(given), Some(found)) = (given, found)
        && given != found
    {
        let at = o.get("region").map_or(o.at, |n| n.at);
        r.problem(&o.path_of("region"), at, format!("is {}, but {what} is in {found}", quoted(given)));
    }
    let region = given.or(found).map(str::to_owned);
    Some(match kind {
        Kind::Sns => Backend::Sns { topic: target.to_owned(), region },
        Kind::Sqs => Backend::Sqs { queue_url: target.to_owned(), region },
    })
}

/// `arn:aws:sns:eu-west-1:123456789012:name`.
fn region_of_arn(arn: &str) -> Option<&str> {
    let mut fields = arn.split(':');
    (fields.next() == Some("arn")).then(|| fields.nth(2)).flatten().filter(|r| is_region(r))
}

/// `https://sqs.eu-west-1.amazonaws.com/…` and the older forms; endpoints of a VPC have labels in front.
fn region_of_url(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?.split(':').next()?;
    if host == "queue.amazonaws.com" {
        return Some("us-east-1");
    }
    let labels: Vec<&str> = host.split('.').collect();
    labels.windows(2).find_map(|pair| match *pair {
        ["sqs" | "sqs-fips", region] if is_region(region) => Some(region),
        [region, "queue"] if is_region(region) => Some(region),
        _ => None,
    })
}

/// Whether it has the form of a region, as `eu-west-1` and `us-gov-east-1` have. (`REGION` is nobody's.)
fn is_region(text: &str) -> bool {
    let mut parts = text.rsplit('-');
    let number = parts.next().unwrap_or("");
    let words: Vec<&str> = parts.collect();
    !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
        && words.len() >= 2
        && words.iter().all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
}

fn envelope_text(r: &mut Reader, envelope: Option<&Object<'_>>, key: &str, default: &str) -> Option<Template> {
    let Some((envelope, node)) = envelope.and_then(|e| Some((e, e.get(key)?))) else {
        return Template::parse(default).ok();
    };
    let path = envelope.path_of(key);
    let text = r.text(node, &path)?;
    r.template(text, &path, node.at)
}

/// The events that are on: those that the matrix does not name (and that need not be named), and those whose row says
/// so.
fn matrix(r: &mut Reader, o: &Object<'_>) -> Vec<Event> {
    let mut rows: Vec<(Event, bool)> = Vec::new();
    let map = o.get("matrix").and_then(|n| r.map(n, &o.path_of("matrix")));
    for p in map.iter().flat_map(Object::props) {
        let path = super::problem::key_path(&o.path_of("matrix"), &p.key);
        let event = event(r, &p.key, &path, p.at);
        let on = r.object(&p.value, &path, &["enabled"]).is_some_and(|row| r.bool(&row, "enabled", false));
        let Some(event) = event else { continue };
        if rows.iter().any(|(e, _)| *e == event) {
            r.problem(&path, p.at, format!("{} is there twice", event.name()));
        }
        rows.push((event, on));
    }
    let row = |e: &Event| rows.iter().find(|(row, _)| row == e);
    let is_on = |e: &Event| *e != Event::Starting && row(e).map_or(!e.must_be_named(), |(_, on)| *on);
    Event::ALL.into_iter().filter(is_on).collect()
}
