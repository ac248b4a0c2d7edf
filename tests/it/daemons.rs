//! Several daemons on one instance, started at once: that is normal use. Names, volumes and domains stay apart.

use std::collections::BTreeSet;

use crate::disks::{HOLD, config, directive, id, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::kit::{record, zone};
use crate::lab::{Lab, once};

const SIX: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

/// A config of `domain` with one volume whose name is left out, and a record in the zone that all share.
fn text(domain: &str) -> String {
    let volume = volume("p", "", r#""pool-name": "p""#);
    let record = record(&format!("{domain}.example.com"), "");
    format!(r#"{{ domains: {{ {domain}: {{ "attach-volume": [{volume}], "update-route53": [{record}] }} }} }}"#)
}

/// Starts all six; `faults` make it hard. Each gets a volume of its own pool under a name of its own.
fn six_at_once(faults: &[Fault], stale_ms: u64) {
    let lab = Lab::new();
    for (n, domain) in SIX.iter().enumerate() {
        for k in 1..=2 {
            lab.volume(VolumeSpec::pool(domain, "p").id(&id(10 * n as u32 + k)));
        }
    }
    // Each call takes a while, and so does each change of the zone: all of it overlaps.
    lab.knobs(|k| {
        k.latency_ms = 30;
        k.change_busy_ms = 60;
        k.stale_ms = stale_ms;
    });
    faults.iter().for_each(|f| lab.fault(f.clone()));
    let runs: Vec<_> = SIX.iter().map(|d| lab.start(&text(d), once().rate(2))).collect();
    for run in runs {
        run.wait(&lab).ends(0, &[]);
    }
    let attached = lab.attached(&lab.me);
    let names: BTreeSet<&str> = attached.iter().map(|(_, device)| device.as_str()).collect();
    let domains: BTreeSet<String> = attached.iter().map(|(v, _)| lab.tag(v, "domain")).collect();
    assert_eq!((attached.len(), names.len(), domains.len()), (6, 6, 6), "{attached:?}");
    assert_eq!(zone(&lab, "Z1").len(), 12, "A and AAAA of each");
    // Nobody's claim was taken for another's, so none was given back.
    assert_eq!(lab.count("DetachVolume"), 0);
}

#[test]
fn six_daemons_choose_six_names_and_six_volumes() {
    six_at_once(&[], 0);
}

#[test]
fn six_daemons_choose_six_names_over_lost_answers() {
    let lost = |n, kind| Fault::nth("AttachVolume", n, kind);
    let faults = [lost(1, FaultKind::ErrorAfter500), lost(3, FaultKind::ResetAfter), lost(6, FaultKind::Truncated)];
    six_at_once(&faults, 0);
    six_at_once(&faults, 200);
}

#[test]
fn of_six_daemons_for_one_domain_five_say_who_has_it() {
    let lab = Lab::new();
    lab.pool_of(6);
    let text = config(&directive("p", "", r#""pool-name": "p""#, HOLD));
    let mut all: Vec<_> = SIX.iter().map(|_| lab.start(&text, once())).collect();
    lab.until("five to end", || all.iter_mut().filter_map(|r| r.child.try_wait().unwrap()).count() == 5);
    // The holder goes on until its command may end.
    let (ended, mut going): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.log().contains("is being run by"));
    assert_eq!((ended.len(), going.len()), (5, 1));
    let holder = going.remove(0);
    for run in ended {
        run.wait(&lab).ends(1, &[&format!("domain 'd' is being run by process {}", holder.child.id())]);
    }
    lab.until_file("first");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    holder.wait(&lab).ends(0, &[]);
    assert_eq!((lab.attached(&lab.me).len(), lab.count("AttachVolume")), (1, 1));
}
