//! The application and the configs of a world.

use std::fmt::Write;

use super::draw::{Domains, Kind, Life, Migration, Plan, Server};
use crate::lab::{How, Lab};

/// What the domains' commands run.
const SCRIPT: &str = include_str!("app.sh");

/// The volume of [`Kind::ById`].
pub(crate) const BY_ID: &str = "vol-00000000000000001";

/// Puts the script where the configs name it.
pub(crate) fn install(lab: &Lab) {
    lab.file("app.sh", SCRIPT);
    lab.file("ledger", "");
}

/// The environment of a life.
pub(crate) fn environment(how: How, life: &Life) -> How {
    let migration = match life.migration {
        Migration::Works => "works",
        Migration::Slow => "slow",
        Migration::Fails => "fails",
        Migration::Kills => "kills",
        Migration::Hangs => "hangs",
    };
    let server = match life.server {
        Server::Writes(n) => n.to_string(),
        Server::Fails => "fails".to_owned(),
        Server::KillsFirst => "kills-first".to_owned(),
        Server::KillsThen => "kills-then".to_owned(),
    };
    how.env("LIFE", &life.name).env("MIGRATION", migration).env("SERVER", &server)
}

fn line(lab: &Lab, words: &str) -> String {
    let mut argv = format!(r#""/bin/sh", "{}""#, lab.dir.join("app.sh").display());
    for w in words.split(' ') {
        let _ = write!(argv, r#", "{w}""#);
    }
    format!("{{ argv: [{argv}] }}")
}

fn domain(lab: &Lab, plan: &Plan, name: &str, life: &Life) -> String {
    let first = name != "e";
    let mut v = format!(r#"source: "{}", release: ["interrupted", "stopping"], "#, plan.kind.sources());
    match plan.kind {
        Kind::ById if first => v += &format!(r#""volume-id": "{BY_ID}", "#),
        Kind::ById => v = v.replace(r#""x""#, r#""p""#) + r#""pool-name": "p", "#,
        _ => v += r#""pool-name": "p", "#,
    }
    if plan.device {
        v += &format!(r#"device: "/dev/xvd{}", "#, ["f", "g", "h"][usize::from(!first) + usize::from(name == "z") * 2]);
    }
    if let Some(s) = plan.wait {
        v += &format!("wait: {s}, ");
    }
    if plan.fence {
        v += r#"fence: "terminated", "#;
    }
    if plan.kind.sources().contains(['c', 's', 'm']) {
        v += "create: { Size: 1 }, ";
    }
    if plan.kind == Kind::PoolOrCopy {
        v += r#"snapshot: { on: ["interrupted", "stopping"], every: 60, keep: 2 }, "#;
    }
    let exec = line(lab, "volume {domain} {volume_id} {attach_source} {attach_op} {attached_device}");
    // In a last life no domain stands in another one's way.
    let critical = if plan.critical && !life.is_last() { "" } else { "critical: false, " };
    let mut text = format!(r#"{name}: {{ {critical}"attach-volume": [{{ {v} exec: [{{ lines: [{exec}] }}] }}], "#);
    if plan.record && first {
        let policy = if plan.multivalue { r#"policy: "multivalue", "# } else { "" };
        let good = format!(
            r#"{{ hostedzone: "Z1", name: "d.example.com", ttl: 60, {policy} release: ["interrupted", "stopping"] }}"#
        );
        text += &format!(
            r#""update-route53": [{good}{}], "#,
            if life.domains == Domains::Doomed { format!(", {BAD}") } else { String::new() }
        );
    } else if life.domains == Domains::Doomed {
        text += &format!(r#""update-route53": [{BAD}], "#);
    }
    if plan.address && first {
        text += r#""associate-address": [{ pool: { tags: { of: "fleet" } }, release: ["interrupted", "stopping"] }], "#;
    }
    let on = |events: &str, what: &str| format!("{{ on: [{events}], lines: [{}] }}", line(lab, what));
    text + &format!(
        "exec: [{}, {}, {}] }}",
        on(r#""started""#, "started {domain}"),
        on(r#""stopping", "interrupted""#, "stop {domain}"),
        on(r#""failed""#, "failed {domain}"),
    )
}

/// A record in a hosted zone that does not exist.
const BAD: &str = r#"{ hostedzone: "Z9", name: "bad.example.com", ttl: 60 }"#;

/// The config of a life.
pub(crate) fn config(lab: &Lab, plan: &Plan, life: &Life) -> String {
    let mut domains = match life.domains {
        Domains::Usual | Domains::Doomed => vec![domain(lab, plan, "d", life)],
        Domains::Renamed => vec![domain(lab, plan, "z", life)],
        Domains::None => Vec::new(),
    };
    if plan.second && life.domains != Domains::None {
        domains.push(domain(lab, plan, "e", life));
    }
    format!(
        r#"{{ timeout: {}, "interrupt-detection": {{ detect: "poll", options: {{ interval: 1 }} }}, domains: {{ {} }} }}"#,
        // Nothing goes wrong in a last life, however slow the machine is.
        if life.is_last() { 3000 } else { plan.timeout },
        domains.join(", ")
    )
}
