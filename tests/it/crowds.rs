//! A fleet that boots at once: who wins is clear, the calls stay few, and the throttle is what it waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Command;

use crate::disks::{config, volume};
use crate::fakeaws::text::Random;
use crate::fakeaws::{Call, Fault, FaultKind, InstanceSpec};
use crate::kit::{on, sh, to_topic};
use crate::lab::{How, Lab, Run, once};

/// The actions that a crowd calls, each with a bucket of its own for the whole account.
const ACTIONS: [&str; 4] = ["EC2:DescribeVolumes", "EC2:AttachVolume", "EC2:CreateTags", "EC2:DeleteTags"];

/// Instances as a fleet is launched: many reservations of one, so that the launch index tells nothing.
fn fleet(lab: &Lab, n: usize) -> Vec<String> {
    (0..n).map(|_| lab.add_instance(InstanceSpec::default())).collect()
}

fn throttle(lab: &Lab, capacity: u32, per_second: f64) {
    let mut w = lab.server.world();
    w.knobs.latency_ms = 30;
    ACTIONS.iter().for_each(|a| w.throttle(a, capacity, per_second));
}

/// `exec` of a domain that waits at a gate: a machine that starts a crowd slowly makes no difference then.
fn gate(lab: &Lab) -> String {
    assert!(Command::new("mkfifo").arg(lab.dir.join("gate")).status().unwrap().success());
    let wait = on(&["starting"], &[sh(": > $LAB/here-$PPID; read go < $LAB/gate; :")]);
    format!("exec: [{wait}], ")
}

/// Lets all go once `n` are there. As long as the file is open, each that comes finds its line.
fn open_gate(lab: &Lab, n: usize) -> std::fs::File {
    let is_here = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("here-");
    lab.until("all to be there", || std::fs::read_dir(&lab.dir).unwrap().flatten().filter(is_here).count() == n);
    let mut gate = std::fs::File::options().read(true).write(true).open(lab.dir.join("gate")).unwrap();
    gate.write_all("go\n".repeat(n).as_bytes()).unwrap();
    gate
}

/// Runs them all at once on a pool of `volumes`. So many win, each a volume of its own; the others say why not.
fn compete(lab: &Lab, instances: &[String], volumes: usize, more: &str, how: &How) -> Vec<Run> {
    let pool = lab.pool_of(volumes as u32);
    let directive = volume("p", "/dev/xvdf", r#""pool-name": "p""#);
    let text = config(&directive).replace("d: {", &format!("d: {{ {more}"));
    let all: Vec<_> = instances.iter().map(|i| lab.start(&text, how.clone().on(i))).collect();
    let _gate = more.contains("gate").then(|| open_gate(lab, instances.len()));
    let runs: Vec<Run> = all.into_iter().map(|r| r.wait(lab)).collect();
    let taken = format!("all {volumes} volumes of pool 'p' in eu-west-1a are taken");
    for (run, instance) in runs.iter().zip(instances) {
        let own: Vec<String> = lab.attached(instance).into_iter().map(|(v, _)| v).collect();
        match run.code {
            0 => assert!(own.len() == 1 && pool.contains(&own[0]), "{own:?} {}", run.log),
            1 => assert!(own.is_empty() && run.log.contains(&taken), "{own:?} {}", run.log),
            other => panic!("exit code {other}: {}", run.log),
        }
    }
    assert_eq!(runs.iter().filter(|r| r.code == 0).count(), volumes);
    let w = lab.server.world();
    for v in pool.iter().map(|v| w.volume(v).unwrap()) {
        assert_eq!(v.attachments.len(), 1, "{v:?}");
        assert_eq!(v.tags["user:ec2fd.owner"], v.attachments[0].instance, "{v:?}");
        assert!(!v.tags.contains_key("user:ec2fd.transc-id"), "{v:?}");
    }
    drop(w);
    runs
}

/// What a crowd cost.
struct Bill {
    median: usize,
    most: usize,
    attach: usize,
    by_action: BTreeMap<String, usize>,
}

fn bill(calls: &[Call]) -> Bill {
    let mut each: BTreeMap<&str, usize> = BTreeMap::new();
    let mut by_action: BTreeMap<String, usize> = BTreeMap::new();
    for c in calls.iter().filter(|c| c.service == "EC2") {
        *each.entry(c.instance.as_deref().unwrap()).or_default() += 1;
        *by_action.entry(format!("{} {}", c.action, c.status)).or_default() += 1;
    }
    let mut counts: Vec<usize> = each.into_values().collect();
    counts.sort_unstable();
    let attach = calls.iter().filter(|c| c.action == "AttachVolume").count();
    Bill { median: counts[counts.len() / 2], most: counts[counts.len() - 1], attach, by_action }
}

/// The buckets of EC2's documentation: 100 tokens, 20 more each second.
#[test]
fn a_hundred_instances_for_sixty_volumes_with_few_calls_each() {
    let lab = Lab::new();
    let instances = fleet(&lab, 100);
    throttle(&lab, 100, 20.0);
    compete(&lab, &instances, 60, "", &once());
    let Bill { median, most, attach, by_action } = bill(&lab.server.calls());
    println!("crowd: 60 winners of 100; calls: median {median}, most {most}; AttachVolume {attach}; {by_action:?}");
    assert!(median <= 8 && most <= 30 && attach <= 240, "median {median}, most {most}, AttachVolume {attach}");
}

/// Buckets so small that the crowd waits for them: 20 tokens, 5 more each second (of the daemons' time).
///
/// What the throttle alone costs is the least that any crowd can wait: each winner needs one DescribeVolumes and one
/// AttachVolume, and a bucket gives 60 tokens when (60 - 20) / 5 = 8 s are over. What losers read comes on top of that
/// and counts against us. The machine's own time to run 100 processes until each made its first call does not.
#[test]
fn the_last_winner_waits_little_longer_than_the_throttle_makes_it() {
    const RATE: u32 = 3;
    const CAPACITY: u32 = 20;
    const REFILL: f64 = 5.0;
    let lab = Lab::new();
    let instances = fleet(&lab, 100);
    throttle(&lab, CAPACITY, REFILL * f64::from(RATE));
    let ready = to_topic(r#"envelope: { body: "{daemon_state}" }"#);
    compete(&lab, &instances, 60, &format!(r#"{}"notify": [{ready}], "#, gate(&lab)), &once().rate(RATE));
    let calls = lab.server.calls();
    let mut firsts: BTreeMap<&str, u64> = BTreeMap::new();
    for c in &calls {
        firsts.entry(c.instance.as_deref().unwrap()).or_insert(c.at_ms);
    }
    let (begin, all_there) = (*firsts.values().min().unwrap(), *firsts.values().max().unwrap());
    let told = lab.server.world().messages();
    let last = told.iter().filter(|m| m.body.trim() == "started").map(|m| m.at_ms).max().unwrap();
    let seconds = |ms: u64| ms as f64 / 1000.0 * f64::from(RATE);
    let (took, starting) = (seconds(last - begin), seconds(all_there - begin));
    let alone = (60.0 - f64::from(CAPACITY)) / REFILL;
    let Bill { median, most, attach, by_action } = bill(&calls);
    println!(
        "crowd, throttled: the last of 60 winners ready after {took:.1} s, {:.2} times the throttle's {alone} s; \
         calls: median {median}, most {most}; AttachVolume {attach}; {by_action:?}",
        took / alone
    );
    assert!(by_action["DescribeVolumes 503"] > 60, "the throttle did not bite: {by_action:?}");
    assert!(took <= 3.0 * alone + starting, "{took} s; the throttle alone: {alone} s, the start of all: {starting} s");
    // A refusal is a call too, so these are more than under EC2's own buckets.
    assert!(median <= 16 && most <= 40 && attach <= 240, "median {median}, most {most}, AttachVolume {attach}");
}

/// Answers get lost at random, also those of claims that won.
#[test]
fn thirty_instances_for_twenty_volumes_over_lost_answers() {
    let kinds = [FaultKind::ErrorAfter500, FaultKind::ResetAfter, FaultKind::Truncated, FaultKind::ResetBefore];
    let mut lost = BTreeSet::new();
    for seed in 1..=3 {
        let lab = Lab::new();
        let instances = fleet(&lab, 30);
        let mut random = Random::new(seed);
        let mut draw = |n: usize| random.next() as usize % n;
        {
            let mut w = lab.server.world();
            w.knobs.latency_ms = 10;
            w.knobs.stale_ms = 100 * (seed % 3);
            for i in &instances {
                // Of each instance two claims and two other calls.
                for action in ["AttachVolume", "AttachVolume", "*", "*"] {
                    let kind = kinds[draw(kinds.len())].clone();
                    w.fault(Fault::nth(action, 1 + draw(4) as u32, kind).of_instance(i));
                }
            }
        }
        let runs = compete(&lab, &instances, 20, "", &once().rate(4));
        let claims = lab.server.calls_of("AttachVolume");
        // What was done and not answered: the hard case.
        let unsaid =
            |c: &&Call| c.fault.as_deref().is_some_and(|f| ["ErrorAfter500", "ResetAfter", "Truncated"].contains(&f));
        let done = claims.iter().filter(unsaid).filter(|c| c.code.as_deref() != Some("VolumeInUse"));
        lost.extend(done.map(|c| format!("{seed} {:?} {:?}", c.instance, c.params)));
        let detached = lab.count("DetachVolume");
        assert_eq!(detached, 0, "a winner gave a volume back: {}", runs[0]);
    }
    println!("crowd, answers lost: 3 of 30 for 20 volumes; {} claims without a true answer", lost.len());
    assert!(lost.len() > 20, "{lost:?}");
}
