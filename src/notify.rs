//! Notifications: what an event's message says, and getting it to SNS or SQS.
//!
//! A notification is retried within its budget, logged when it fails, and never fails anything else. A message that is
//! too long is shortened where it hurts least, so that `{all_json}` stays JSON; it is never dropped.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::aws::{Aws, Fifo};
use crate::config::{Backend, Notify};
use crate::macros::{Template, Values};
use crate::model::Event;
use crate::scope::Scope;

/// Bytes that SNS takes (a topic may allow more, none less).
const SNS_LIMIT: usize = 256 * 1024;
/// Bytes that SQS takes; queues made before August 2025 may keep the limit of then.
const SQS_LIMIT: usize = 1024 * 1024;
const SQS_OLD_LIMIT: usize = 256 * 1024;
/// Characters of an SNS subject: fewer than 100.
const SUBJECT_LIMIT: usize = 99;

/// Sends `event`'s message of one `notify` entry. `sequence` tells a second message of the same event from the first.
pub(crate) fn send(aws: &Aws, n: &Notify, event: Event, sequence: u32, values: &Values, scope: &Scope) {
    let mut values = values.clone();
    values.daemon_state = Some(event);
    let (what, end) = match &n.backend {
        Backend::Sns { topic, region } => {
            let subject = subject(&n.subject.expand(&values));
            let body = body(&n.body, &values, SNS_LIMIT);
            let fifo = topic.ends_with(".fifo").then(|| fifo(&values, event, sequence));
            let publish = |s: &str| aws.sns_publish(scope, topic, region.as_deref(), s, &body, fifo.as_ref());
            let end = match publish(&subject) {
                // Some partitions still take ASCII only.
                Err(e) if !subject.is_ascii() && e.to_string().contains("Subject") => publish(&ascii(&subject)),
                end => end,
            };
            (topic, end)
        }
        Backend::Sqs { queue_url, region } => {
            let fifo = queue_url.ends_with(".fifo").then(|| fifo(&values, event, sequence));
            let text = body(&n.body, &values, SQS_LIMIT);
            let send = |text: &str| aws.sqs_send(scope, queue_url, region.as_deref(), text, fifo.as_ref());
            let end = match send(&text) {
                Err(e) if text.len() > SQS_OLD_LIMIT && e.class() == crate::aws::Class::Fatal => {
                    send(&body(&n.body, &values, SQS_OLD_LIMIT))
                }
                end => end,
            };
            (queue_url, end)
        }
    };
    match end {
        Ok(()) => log::info!("{}: told {what}: {}", n.path, event.name()),
        Err(e) => log::error!("{}: cannot tell {what} '{}': {e}", n.path, event.name()),
    }
}

/// A domain's messages keep their order; a retried one is taken once.
fn fifo(values: &Values, event: Event, sequence: u32) -> Fifo {
    let digest = |parts: &[&str]| -> String {
        let mut h = Sha256::new();
        for p in parts {
            h.update(p.len().to_le_bytes());
            h.update(p.as_bytes());
        }
        h.finalize().iter().map(|b| format!("{b:02x}")).collect()
    };
    let of = &values.facts.instance_id;
    Fifo {
        group: digest(&["group", &values.domain]),
        deduplication: digest(&[of, &values.domain, &values.transaction_id, event.name(), &sequence.to_string()]),
    }
}

/// A subject that SNS takes: one line, no control characters, beginning with something visible.
fn subject(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean: String = clean.trim().chars().take(SUBJECT_LIMIT).collect();
    if clean.is_empty() { "ec2fleetd".to_owned() } else { clean }
}

fn ascii(subject: &str) -> String {
    let text: String = subject.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    if text.starts_with(|c: char| c.is_ascii_graphic()) {
        text
    } else {
        format!("-{text}").chars().take(SUBJECT_LIMIT).collect()
    }
}

/// The body within `limit` bytes: shorter in `transaction_log` first, then in `error`, and only then cut.
fn body(template: &Template, values: &Values, limit: usize) -> String {
    let render = |v: &Values| allowed(&template.expand(v)).into_owned();
    let mut text = render(values);
    if text.is_empty() {
        // Neither service takes an empty message.
        return format!("{} {}", values.domain, values.daemon_state.map_or("", Event::name)).trim().to_owned();
    }
    let mut v: Values;
    if text.len() > limit {
        v = values.clone();
        while text.len() > limit && !v.transaction_log.is_empty() {
            // The newest calls say most about what went wrong.
            let half = v.transaction_log.len().div_ceil(2);
            v.transaction_log.drain(..half);
            text = render(&v);
        }
        let mut chars = v.error.iter().map(|e| e.chars().count()).max().unwrap_or(0);
        while text.len() > limit && chars > 0 {
            chars /= 2;
            for e in &mut v.error {
                if e.chars().count() > chars {
                    *e = e.chars().take(chars).chain(['…']).collect();
                }
            }
            text = render(&v);
        }
        while text.len() > limit && !v.error.is_empty() {
            v.error.pop();
            text = render(&v);
        }
    }
    if text.len() > limit {
        text.truncate((0..=limit).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0));
    }
    text
}

/// SQS (and XML behind SNS) takes no control characters but tab and line ends.
fn allowed(text: &str) -> Cow<'_, str> {
    let bad = |c: char| (c < ' ' && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}');
    if text.contains(bad) { Cow::Owned(text.replace(bad, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn values(log: usize, error: usize) -> Values {
        Values {
            domain: "d".into(),
            transaction_log: (0..log).map(|n| json!({ "n": n, "pad": "x".repeat(90) })).collect(),
            error: vec!["ä".repeat(error)],
            ..Values::default()
        }
    }

    #[test]
    fn a_long_body_is_shortened_and_stays_json() {
        let t = Template::parse("{all_json}").unwrap();
        let short = body(&t, &values(2, 3), SNS_LIMIT);
        assert_eq!(serde_json::from_str::<Value>(&short).unwrap()["transaction_log"].as_array().unwrap().len(), 2);
        // The log goes first, its newest entries last.
        let text = body(&t, &values(5000, 100), SNS_LIMIT);
        let json: Value = serde_json::from_str(&text).unwrap();
        let log = json["transaction_log"].as_array().unwrap();
        assert!(text.len() <= SNS_LIMIT && !log.is_empty() && log.last().unwrap()["n"] == 4999, "{}", text.len());
        assert_eq!(json["error"][0], "ä".repeat(100));
        // Then the error, on a character's boundary.
        let text = body(&t, &values(10, 400_000), SNS_LIMIT);
        let json: Value = serde_json::from_str(&text).unwrap();
        assert!(text.len() <= SNS_LIMIT && json["error"][0].as_str().unwrap().starts_with('ä'));
        // What has no macro in it is cut.
        let t = Template::parse(&"ü".repeat(200_000)).unwrap();
        let text = body(&t, &values(0, 0), SNS_LIMIT);
        assert!(text.len() <= SNS_LIMIT && text.len() > SNS_LIMIT - 4);
    }

    #[test]
    fn subjects_and_characters() {
        assert_eq!(subject("a\nb\u{7}"), "a b");
        assert_eq!(subject(&"é".repeat(150)).chars().count(), 99);
        assert_eq!(subject(" \n"), "ec2fleetd");
        assert_eq!(ascii("é!"), "?!");
        assert_eq!(allowed("a\u{1}b\tc"), "a\u{fffd}b\tc");
        let t = Template::parse("{error}").unwrap();
        assert_eq!(body(&t, &Values { domain: "d".into(), ..Values::default() }, 10), "d");
    }

    #[test]
    fn a_second_message_of_an_event_is_another_one() {
        let v = values(0, 0);
        let (a, b) = (fifo(&v, Event::Interrupted, 0), fifo(&v, Event::Interrupted, 1));
        assert_eq!(a.group, b.group);
        assert_ne!(a.deduplication, b.deduplication);
        assert!(a.group.len() <= 128 && a.deduplication.len() <= 128);
    }
}

#[cfg(test)]
mod properties;
