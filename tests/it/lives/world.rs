//! A world from its begin to its end.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::app::{self, BY_ID};
use super::draw::{After, Domains, End, Kind, Life, Migration, Plan, SEATS, Server};
use super::life::{self, Lived};
use super::rules::{self, Broken, Seen};
use super::rules_end;
use crate::fakeaws::{InstanceSpec, Knobs, VolumeSpec};
use crate::lab::Lab;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) broken: Vec<Broken>,
    /// For people: what happened, if something is broken.
    pub(crate) text: String,
    pub(crate) tally: BTreeMap<String, usize>,
}

/// Which life an instance lived.
pub(crate) type Who = BTreeMap<String, String>;

fn seed(lab: &Lab, plan: &Plan) {
    lab.knobs(|k| {
        for (name, v) in &plan.knobs {
            k.set(name, &(*v).into()).unwrap();
        }
        k.clock_rate = plan.rate;
    });
    let mut domains = vec![("d", plan.volumes)];
    if plan.second {
        domains.push(("e", 1));
    }
    for (domain, n) in domains {
        for i in 1..=n {
            let spec = match plan.kind {
                Kind::ById if domain == "d" => VolumeSpec::default().id(BY_ID),
                _ => VolumeSpec::pool(domain, "p"),
            };
            let id = lab.volume(VolumeSpec { size: 1, ..spec.zone(plan.zones[0]) });
            std::fs::create_dir_all(rules::disks(lab)).unwrap();
            let mut disk = format!("root-{i}-{domain}|-|\n").into_bytes();
            disk.resize(plan.knob("disk_bytes") as usize, 0);
            std::fs::write(rules::disks(lab).join(format!("{id}.img")), disk).unwrap();
        }
    }
    if plan.address {
        let mut w = lab.server.world();
        (1..=SEATS).for_each(|n| drop(w.add_address(&format!("198.51.100.{n}"), &[("of", "fleet")])));
    }
}

/// Lives all of it.
pub(crate) fn live(plan: &Plan) -> Outcome {
    let lab = Lab::new();
    app::install(&lab);
    seed(&lab, plan);
    let seats: Vec<String> = (0..SEATS)
        .map(|n| {
            let spec = InstanceSpec { zone: plan.zones[n].into(), ..InstanceSpec::default() };
            lab.add_instance(spec)
        })
        .collect();
    let who: Mutex<Who> = Mutex::default();
    let broken: Mutex<Vec<Broken>> = Mutex::default();
    let tally: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let story: Mutex<String> = Mutex::default();
    let judge = |lived: &Lived, life: &Life| {
        let outcome = format!(
            "{}{}",
            if life.is_last() { "last, " } else { "" },
            if lived.started { "started" } else { "not started" }
        );
        *tally.lock().unwrap().entry(outcome).or_default() += 1;
        let _ = writeln!(
            story.lock().unwrap(),
            "{:>6} ms {} on {}: {life:?} -> exit code {}, started: {}",
            lab.server.world().now_ms(),
            life.name,
            lived.instance,
            lived.code,
            lived.started
        );
        let who = who.lock().unwrap().clone();
        let mut found = rules::of_life(lived, life);
        found.extend(rules::always(&Seen::of(&lab, plan, who)));
        broken.lock().unwrap().extend(found);
    };
    // Each seat by itself.
    let survivors: Vec<String> = std::thread::scope(|s| {
        let live_on = |(lives, mut instance): (&Vec<Life>, String), zone: &'static str| {
            for life in lives {
                who.lock().unwrap().insert(life.name.clone(), instance.clone());
                let lived = life::live(&lab, plan, life, &instance);
                judge(&lived, life);
                instance = life::aftermath(&lab, life, instance, zone);
            }
            instance
        };
        let threads: Vec<_> = plan
            .seats
            .iter()
            .zip(seats)
            .zip(plan.zones)
            .map(|((lives, instance), zone)| s.spawn(move || live_on((lives, instance), zone)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    // All is over. What is left to others for an hour is left no more, and nothing goes wrong now.
    lab.knobs(|k| {
        let offset = k.clock_offset_s + 2 * 3600;
        *k = Knobs {
            clock_rate: k.clock_rate,
            clock_offset_s: offset,
            disk_bytes: k.disk_bytes,
            snapshot_gap_ms: k.snapshot_gap_ms,
            ..Knobs::default()
        };
    });
    {
        let mut w = lab.server.world();
        w.faults.clear();
        let gone: Vec<String> =
            w.instances.values().filter(|i| i.state == "terminated").map(|i| i.id.clone()).collect();
        gone.iter().for_each(|id| w.terminate(id));
    }
    settle(&lab);
    // In the first round one may still have what another one needs.
    for round in ["first", "last"] {
        for (n, instance) in survivors.iter().enumerate() {
            let life = last(n, round, plan);
            who.lock().unwrap().insert(life.name.clone(), instance.clone());
            let lived = life::live(&lab, plan, &life, instance);
            judge(&lived, &life);
            if round == "last" {
                broken.lock().unwrap().extend(rules_end::of_last_life(&lived, &life));
            }
            life::end_all(&lab.root(instance));
        }
    }
    settle(&lab);
    let seen = Seen::of(&lab, plan, who.into_inner().unwrap());
    let mut broken = broken.into_inner().unwrap();
    broken.extend(rules::always(&seen));
    broken.extend(rules_end::all(&lab, &seen, &survivors));
    broken.sort();
    broken.dedup();
    let mut text = String::new();
    // Of one world that somebody asked for, always.
    if !broken.is_empty() || (super::number("SEED").is_some() && super::number("LIVES").is_none()) {
        text = describe(&lab, plan, &broken, &story.into_inner().unwrap());
        let kept = lab.dir.with_extension(format!("seed-{}", plan.seed));
        let _ = std::fs::remove_dir_all(&kept);
        let _ = std::fs::create_dir(&kept);
        let _ = std::fs::write(kept.join("story"), &text);
        for entry in std::fs::read_dir(&lab.dir).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("log") || name == "ledger" {
                let _ = std::fs::copy(entry.path(), kept.join(name));
            }
        }
        text = format!("SEED={}: see {}\n", plan.seed, kept.display());
    }
    Outcome { broken, text, tally: tally.into_inner().unwrap() }
}

/// A life in which nothing goes wrong, and which gives up all that it has at its end.
fn last(seat: usize, round: &str, plan: &Plan) -> Life {
    Life {
        name: format!("{}.{round}-of-all", seat + 1),
        delay_ms: 0,
        domains: Domains::Usual,
        migration: Migration::Works,
        server: Server::Writes(0),
        faults: Vec::new(),
        pause: None,
        // What is done beside `started` (to the records of others, to old snapshots) is done by then.
        end: End::Term(15_000 / u64::from(plan.rate)),
        patience_ms: 30_000,
        after: After::Same,
    }
}

/// Waits until nothing changes by itself any more.
fn settle(lab: &Lab) {
    let end = Instant::now() + Duration::from_secs(60);
    let at_rest = || {
        let w = lab.server.world();
        w.snapshots.values().all(|s| s.state != "pending")
            && w.volumes.values().all(|v| {
                ["available", "in-use", "error"].contains(&v.state.as_str())
                    && v.attachments.iter().all(|a| a.state == "attached")
            })
    };
    while !at_rest() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What happened, for people: the plan, the lives, the ledger, and the calls that changed something.
fn describe(lab: &Lab, plan: &Plan, broken: &[Broken], story: &str) -> String {
    let mut text = String::new();
    for b in broken {
        let _ = writeln!(text, "{}: {}", b.rule, b.text);
    }
    let head = Plan { seats: Vec::new(), ..plan.clone() };
    let _ = writeln!(text, "\n{head:?}\n\n{story}");
    for c in lab.server.writes() {
        let short: Vec<String> = c
            .params
            .iter()
            .filter(|(k, _)| !["Action", "Version"].contains(&k.as_str()))
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let _ = writeln!(
            text,
            "{:>6} ms +{} {} {} {} {:?} {:?} {}",
            c.at_ms,
            c.ms,
            c.instance.as_deref().unwrap_or_default(),
            c.action,
            c.status,
            c.code,
            c.fault,
            short.join(" ")
        );
    }
    let w = lab.server.world();
    for v in w.volumes.values().chain(w.graves.values()).filter(|v| !v.tags.is_empty()) {
        let _ = writeln!(
            text,
            "{} {} {} {:?} {:?}: {}",
            v.id,
            v.zone,
            v.state,
            v.attachments,
            v.tags,
            rules::disk(lab, &v.id).0.join(" ")
        );
    }
    for s in w.snapshots.values() {
        let _ = writeln!(text, "{} of {} {} {:?}", s.id, s.volume, s.state, s.tags);
    }
    text
}
