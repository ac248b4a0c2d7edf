//! Small pieces that the tests of all subjects build their configs and assertions from.

use crate::fakeaws::{InstanceSpec, Nic, RecordSet};
use crate::lab::Lab;

/// Text in the quotes of JSON5.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A config with these domains (`"a: { … }"`).
pub(crate) fn config(domains: &[&str]) -> String {
    format!("{{ domains: {{ {} }} }}", domains.join(", "))
}

/// A config with one domain `d` that has this content.
pub(crate) fn one(content: &str) -> String {
    config(&[&format!("d: {{ {content} }}")])
}

/// An `update-route53` entry of zone `Z1`.
pub(crate) fn record(name: &str, more: &str) -> String {
    format!(r#"{{ hostedzone: "Z1", name: {}, ttl: 60, {more} }}"#, quoted(name))
}

/// A line that runs a shell script (`{` and `}` in it are macros).
pub(crate) fn sh(script: &str) -> String {
    format!(r#"{{ argv: ["/bin/sh", "-c", {}] }}"#, quoted(script))
}

/// An `exec` block for these events (all if there are none).
pub(crate) fn on(events: &[&str], lines: &[String]) -> String {
    let on = if events.is_empty() { String::new() } else { format!("on: {events:?}, ") };
    format!("{{ {on}lines: [{}] }}", lines.join(", "))
}

/// `exec` of a domain that appends its event to the lab's file `seen`, at every event.
pub(crate) fn note_events() -> String {
    on(&[], &[sh("echo {domain} {daemon_state} >> $LAB/seen")])
}

/// The lines of the lab's file `seen`.
pub(crate) fn seen(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.dir.join("seen")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What is in a hosted zone, one set a text, in the order of a listing: `name type ttl values`.
pub(crate) fn zone(lab: &Lab, id: &str) -> Vec<String> {
    let of = |r: &RecordSet| {
        let mut values = r.values.clone();
        values.sort();
        let alias = r.alias.as_ref().map(|a| format!("alias {} {} {}", a.zone, a.name, a.evaluate));
        let routing: Vec<String> = r.routing.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let parts = [
            r.name.clone(),
            r.kind.clone(),
            r.ttl.map_or("-".to_owned(), |t| t.to_string()),
            values.join(","),
            alias.unwrap_or_default(),
            routing.join(","),
        ];
        parts.join(" ").trim_end().to_owned()
    };
    lab.server.world().records(id).iter().map(of).collect()
}

/// Adds a simple record set to `Z1`.
pub(crate) fn add(lab: &Lab, name: &str, kind: &str, ttl: u32, values: &[&str]) {
    lab.server.world().add_record("Z1", RecordSet::new(name, kind, ttl, values));
}

/// An interface with these addresses.
pub(crate) fn nic(device: u32, ipv4: &[&str], ipv6: &[&str]) -> Nic {
    let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    Nic {
        // The order by MAC is not the one by device.
        mac: format!("02:00:00:00:00:{:02x}", 0x20 - device),
        device_number: device,
        interface_id: format!("eni-0{device}"),
        local_ipv4s: vec![format!("10.0.{device}.1")],
        public_ipv4s: own(ipv4),
        ipv6s: own(ipv6),
        ..Nic::default()
    }
}

/// A lab whose instance has these interfaces.
pub(crate) fn with_nics(nics: Vec<Nic>) -> Lab {
    Lab::with(InstanceSpec { nics: Some(nics), ..InstanceSpec::default() })
}

/// A `notify` entry for the lab's topic, with more keys.
pub(crate) fn to_topic(more: &str) -> String {
    format!(r#"{{ backend: "aws-sns", options: {{ topic: "{}" }}, {more} }}"#, crate::lab::TOPIC)
}

/// A `notify` entry for the lab's queue, with more keys.
pub(crate) fn to_queue(more: &str) -> String {
    format!(r#"{{ backend: "aws-sqs", options: {{ "queue-url": "{}" }}, {more} }}"#, crate::lab::QUEUE)
}

/// An envelope whose body is `domain state error`.
pub(crate) const SHORT: &str = r#"envelope: { body: "{domain} {daemon_state} {error}" }"#;

/// The bodies of all messages, in their order.
pub(crate) fn bodies(lab: &Lab) -> Vec<String> {
    lab.server.world().messages().into_iter().map(|m| m.body.trim_end().to_owned()).collect()
}
