//! What the matrices share: scenarios, the calls that a clean run makes, pictures of a world, and many cases at once.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::disks::{id, volume};
use crate::fakeaws::{Call, VolumeSpec};
use crate::kit::{SHORT, add, record, to_queue, to_topic, zone};
use crate::lab::{How, Lab, Run, once};

/// Cases that run beside each other: most of their time they wait.
const WORKERS: usize = 6;

/// A world and a config for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    seed: fn(&Lab),
    content: fn() -> String,
}

pub(crate) const SCENARIOS: [Scenario; 4] = [
    // Of two volumes: a lost answer must not lead to the second one.
    Scenario {
        name: "pool",
        seed: |lab| {
            lab.pool_of(2);
            add(lab, "old.example.com", "A", 300, &["192.0.2.1"]);
        },
        content: || {
            content(
                &volume("p", "/dev/xvdf", r#""pool-name": "p""#),
                &[record("old.example.com", ""), record("new.example.com", "")],
            )
        },
    },
    Scenario {
        name: "create",
        seed: |_| {},
        content: || {
            content(
                &volume("pc", "/dev/xvdf", r#""pool-name": "p", create: { Size: 4 }"#),
                &[record("new.example.com", "")],
            )
        },
    },
    // Without a pool a volume that is left behind is found by its client token alone.
    Scenario {
        name: "create only",
        seed: |_| {},
        content: || content(&volume("c", "/dev/xvdf", "create: { Size: 4 }"), &[]),
    },
    Scenario {
        name: "by id",
        seed: |lab| {
            lab.volume(VolumeSpec::default().id(&id(1)).tag("Name", "world"));
            add(lab, "old.example.com", "A", 300, &["192.0.2.1"]);
        },
        content: || {
            content(
                &volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1))),
                &[record("old.example.com", "")],
            )
        },
    },
];

fn content(volume: &str, records: &[String]) -> String {
    format!(
        r#""attach-volume": [{volume}], "update-route53": [{}], notify: [{}, {}]"#,
        records.join(", "),
        to_topic(SHORT),
        to_queue(SHORT)
    )
}

impl Scenario {
    /// A new world for it.
    pub(crate) fn lab(&self) -> Lab {
        let lab = Lab::new();
        (self.seed)(&lab);
        lab
    }

    /// Its config with this `timeout` in seconds.
    pub(crate) fn config(&self, timeout: u32) -> String {
        format!("{{ timeout: {timeout}, domains: {{ d: {{ {} }} }} }}", (self.content)())
    }

    /// The same with one more record, in a hosted zone that does not exist: when all else stands, it is rolled back.
    pub(crate) fn doomed(&self, timeout: u32) -> String {
        let bad = r#"{ hostedzone: "Z9", name: "bad.example.com", ttl: 60 }"#;
        self.config(timeout).replacen("\"update-route53\": [", &format!("\"update-route53\": [{bad}, "), 1)
    }

    /// The world before, a clean run, and the world after it.
    pub(crate) fn clean(&self) -> Clean {
        let lab = self.lab();
        let before = Picture::of(&lab);
        let run = lab.run(&self.config(LONG), fast());
        run.ends(0, &[]);
        Clean { before, after: Picture::of(&lab), seen: seen(&lab), calls: keyed(&lab.server.calls()) }
    }
}

/// What a clean run gives.
#[derive(Debug)]
pub(crate) struct Clean {
    pub(crate) before: Picture,
    pub(crate) after: Picture,
    pub(crate) seen: Vec<String>,
    pub(crate) calls: Vec<Key>,
}

/// A call of a clean run.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) action: String,
    /// The how manieth of its action, from 1.
    pub(crate) nth: u32,
    /// Nothing but a hint: tags of an owner or a time, and messages. Without it the run succeeds.
    pub(crate) hint: bool,
}

/// The calls, each with its number among those of its action.
pub(crate) fn keyed(calls: &[Call]) -> Vec<Key> {
    let mut numbers = BTreeMap::new();
    let mut key = |c: &Call| {
        let action = format!("{}:{}", c.service, c.action);
        let nth = numbers.entry(action.clone()).or_insert(0);
        *nth += 1;
        // What was made is unfinished by the one, and committed by the other.
        let counts = ["user:ec2fd.in-transit", "user:ec2fd.ts-created"];
        let counts = c.params.values().any(|v| counts.contains(&v.as_str()));
        let tags = ["CreateTags", "DeleteTags"].contains(&c.action.as_str()) && !counts;
        let message = ["SNS", "SQS"].contains(&c.service.as_str());
        Key { nth: *nth, action, hint: tags || message }
    };
    calls.iter().map(&mut key).collect()
}

/// Seconds of a `timeout` that no passing fault uses up.
pub(crate) const LONG: u32 = 600;

/// A run to its end on a fast clock.
pub(crate) fn fast() -> How {
    once().rate(20)
}

/// What the commands saw, without the ids of volumes that were made.
pub(crate) fn seen(lab: &Lab) -> Vec<String> {
    lab.seen().iter().map(|l| l.split_once(' ').map_or("", |(_, rest)| rest).to_owned()).collect()
}

/// Volumes with attachments and tags, and records, one a line; what differs from run to run is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    /// All of it.
    pub(crate) strict: Vec<String>,
    /// Without the tags that are only hints for people and for the order of a pool.
    pub(crate) loose: Vec<String>,
}

impl Picture {
    /// The world when nothing in it changes by itself any more.
    pub(crate) fn of(lab: &Lab) -> Picture {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && !settled(lab) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let of = |hints: bool| {
            let mut lines = volumes(lab, hints);
            lines.extend(zone(lab, "Z1"));
            lines
        };
        Picture { strict: of(true), loose: of(false) }
    }

    /// The same without records.
    pub(crate) fn without_records(mut self) -> Picture {
        for lines in [&mut self.strict, &mut self.loose] {
            lines.retain(|line| !line.contains(".example.com. "));
        }
        self
    }

    /// The same, where it is not known whether the transaction's tag could be taken off.
    pub(crate) fn without_transaction(mut self, yes: bool) -> Picture {
        for line in self.loose.iter_mut().filter(|_| yes) {
            *line = line.replace("\"transc-id=*\"", "").replace("[, ", "[").replace(", ]", "]").replace(", , ", ", ");
        }
        self
    }
}

fn settled(lab: &Lab) -> bool {
    let w = lab.server.world();
    w.volumes.values().all(|v| {
        ["available", "in-use", "error"].contains(&v.state.as_str())
            && v.attachments.iter().all(|a| ["attached", "busy"].contains(&a.state.as_str()))
    })
}

fn volumes(lab: &Lab, hints: bool) -> Vec<String> {
    let w = lab.server.world();
    let mut lines: Vec<String> = Vec::new();
    for v in w.volumes.values() {
        let name = if v.by_api { "made" } else { &v.id };
        let at: Vec<String> = v
            .attachments
            .iter()
            .map(|a| format!("{}:{}:{}:{}", a.instance, a.device, a.state, a.delete_on_termination))
            .collect();
        let tag = |(k, value): (&String, &String)| {
            let short = k.strip_prefix("user:ec2fd.").unwrap_or("");
            match short {
                "owner" | "ts-used" | "ts-created" if !hints => None,
                "ts-used" | "ts-created" | "transc-id" | "in-transit" => Some(format!("{short}=*")),
                _ => Some(format!("{k}={value}")),
            }
        };
        let tags: Vec<String> = v.tags.iter().filter_map(tag).collect();
        lines.push(format!("{name} {} {} {at:?} {tags:?}", v.size, v.state));
    }
    lines.sort();
    lines
}

/// How alike two worlds are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Likeness {
    /// In all.
    Strict,
    /// But for tags that are hints.
    Loose,
}

/// The pictures are the same.
#[track_caller]
pub(crate) fn same(now: &Picture, wanted: &Picture, how: Likeness, what: &str, run: &Run) {
    let of = |p: &Picture| match how {
        Likeness::Strict => p.strict.clone(),
        Likeness::Loose => p.loose.clone(),
    };
    let (now, wanted) = (of(now), of(wanted));
    assert!(now == wanted, "{what}: the world is\n{}\nand should be\n{}\n{run}", now.join("\n"), wanted.join("\n"));
}

/// Whether one of the calls so far was hit by a fault.
pub(crate) fn struck(lab: &Lab) -> bool {
    lab.server.calls().iter().any(|c| c.fault.is_some())
}

/// Does all cases, some of them beside each other; says all that failed.
pub(crate) fn all<C: Sync + std::fmt::Debug, R: Send>(cases: &[C], work: impl Fn(&C) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for _ in 0..WORKERS {
            s.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match catch_unwind(AssertUnwindSafe(|| work(case))) {
                        Ok(r) => results.lock().unwrap().push(r),
                        Err(_) => failed.lock().unwrap().push(format!("{case:?}")),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
    results.into_inner().unwrap()
}

/// Does `work` for the steps 1, 2, ... until it is `false` for one: there was no such step any more. How many there were.
pub(crate) fn each_step(work: impl Fn(u32) -> bool + Sync) -> u32 {
    for first in (1..200).step_by(WORKERS) {
        let steps: Vec<u32> = (first..).take(WORKERS).collect();
        let beyond = all(&steps, |step| (!work(*step)).then_some(*step));
        if let Some(step) = beyond.into_iter().flatten().min() {
            return step - 1;
        }
    }
    panic!("it writes and writes");
}
