//! What is true at every moment of a world: each rule is one function, and its first sentence is the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::draw::{End, Life, Plan};
use super::ledger::{Event, Ledger, What, begins};
use super::life::Lived;
use super::world::Who;
use crate::fakeaws::volumes::Volume;
use crate::lab::Lab;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Broken {
    pub(crate) rule: &'static str,
    pub(crate) text: String,
}

/// What there is: the ledger was read first, so that all that it says is on the disks.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) plan: Plan,
    pub(crate) who: Who,
    pub(crate) ledger: Ledger,
    /// The volumes that are there (also those that are being deleted), without root volumes.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// Those that are gone.
    pub(crate) graves: BTreeMap<String, Volume>,
    /// The history on each disk, and whose migration is half done.
    pub(crate) disks: BTreeMap<String, (Vec<String>, Option<String>)>,
}

/// Where the disks of a lab are.
pub(crate) fn disks(lab: &Lab) -> PathBuf {
    lab.dir.join("fake/disks")
}

/// What is on the disk of a volume.
pub(crate) fn disk(lab: &Lab, volume: &str) -> (Vec<String>, Option<String>) {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(f) = std::fs::File::open(disks(lab).join(format!("{volume}.img"))) {
        let _ = f.take(4000).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\0', "");
    let line = text.lines().next().unwrap_or_default();
    let mut parts = line.split('|');
    let history = parts.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let half = parts.next().filter(|h| *h != "-" && !h.is_empty()).map(str::to_owned);
    (history, half)
}

impl Seen {
    pub(crate) fn of(lab: &Lab, plan: &Plan, who: Who) -> Seen {
        let ledger = Ledger::read(lab);
        let w = lab.server.world();
        let data = |v: &&Volume| v.by_api || !v.attachments.iter().any(|a| a.device == "/dev/xvda");
        let keep =
            |all: &BTreeMap<String, Volume>| all.values().filter(data).map(|v| (v.id.clone(), v.clone())).collect();
        let (volumes, graves): (BTreeMap<String, Volume>, BTreeMap<String, Volume>) =
            (keep(&w.volumes), keep(&w.graves));
        let disks = volumes.keys().chain(graves.keys()).map(|id| (id.clone(), disk(lab, id))).collect();
        Seen { plan: plan.clone(), who, ledger, volumes, graves, disks }
    }

    /// Volumes that are there to stay.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|v| v.state != "deleting")
    }

    pub(crate) fn history(&self, volume: &str) -> &[String] {
        self.disks.get(volume).map_or(&[], |d| &d.0)
    }

    fn instance(&self, life: &str) -> &str {
        self.who.get(life).map_or("?", String::as_str)
    }

    /// A volume, also one that is gone.
    pub(crate) fn volume(&self, id: &str) -> Option<&Volume> {
        self.volumes.get(id).or_else(|| self.graves.get(id))
    }
}

/// Says where it is broken.
type Rule = fn(&Seen) -> Vec<String>;

/// All that holds at every moment.
pub(crate) fn always(seen: &Seen) -> Vec<Broken> {
    let rules: [(&'static str, Rule); 8] = [
        ("lost", no_committed_write_is_lost),
        ("deleted", no_volume_with_a_committed_write_is_deleted),
        ("superseded", what_supersedes_has_all_that_was_committed),
        ("stale", a_start_finds_all_that_was_committed),
        ("half made", nothing_half_made_is_started_on),
        ("diverged", histories_never_diverge),
        ("taken away", no_disk_goes_from_under_an_application),
        ("emptied", no_disk_is_emptied),
    ];
    rules.iter().flat_map(|(rule, f)| f(seen).into_iter().map(|text| Broken { rule, text })).collect()
}

/// What holds of each life: it ends when it is asked to, never by a panic.
pub(crate) fn of_life(lived: &Lived, life: &Life) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut say =
        |rule, text: &str| broken.push(Broken { rule, text: format!("{} on {}: {text}", life.name, lived.instance) });
    if lived.stuck {
        say("stuck", "it did not end");
    }
    if lived.log.contains("panicked") {
        say("panic", "it panicked");
    }
    // A SIGTERM before the daemon listens to it ends it as any other program.
    let early = lived.code == 143 && matches!(life.end, End::EarlyTerm(_));
    if ![0, 1, 3, 137].contains(&lived.code) && !early {
        say("exit code", &lived.code.to_string());
    }
    broken
}

/// Each committed write is on a volume that is there, with all that was written before it.
fn no_committed_write_is_lost(seen: &Seen) -> Vec<String> {
    let mut newest: BTreeMap<&str, (&Event, &[String])> = BTreeMap::new();
    for (e, h) in seen.ledger.done() {
        newest.insert(&e.volume, (e, h));
    }
    let is_lost = |(_, h): &&(&Event, &[String])| !seen.live().any(|v| begins(seen.history(&v.id), h));
    let say = |(e, h): &(&Event, &[String])| {
        format!("{:?}, which {} wrote to {}, is on no volume ({h:?})", h.last(), e.life, e.volume)
    };
    newest.values().filter(is_lost).map(say).collect()
}

/// A volume with a committed write is never deleted.
fn no_volume_with_a_committed_write_is_deleted(seen: &Seen) -> Vec<String> {
    let going = seen.volumes.values().filter(|v| v.state == "deleting").chain(seen.graves.values());
    let written = seen.ledger.by_volume();
    going.filter_map(|v| Some(format!("{} was deleted, with {:?}", v.id, written.get(v.id.as_str())?))).collect()
}

/// What supersedes a volume is there and has all that was committed to that one.
fn what_supersedes_has_all_that_was_committed(seen: &Seen) -> Vec<String> {
    let written = seen.ledger.by_volume();
    let mut found = Vec::new();
    for v in seen.live() {
        let Some(by) = v.tags.get("user:ec2fd.superseded-by") else { continue };
        let Some(h) = written.get(v.id.as_str()) else { continue };
        let is_there = seen.live().any(|u| u.id == *by);
        if !is_there || !begins(seen.history(by), h) {
            let what = if is_there { "lacks some of it" } else { "is not there" };
            found.push(format!("{} with {h:?} is superseded by {by}, which {what}: {:?}", v.id, seen.history(by)));
        }
    }
    found
}

/// Who starts on a history finds all that was committed to it before: on this volume, and where histories go on in other
/// volumes, on any.
fn a_start_finds_all_that_was_committed(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    for (at, e) in seen.ledger.0.iter().enumerate() {
        // What a volume's own commands see may still be given up.
        let What::Start { history, .. } = &e.what else { continue };
        let before = Ledger(seen.ledger.0[..at].to_vec());
        let of_this = |(o, h): &(&Event, &[String])| {
            o.volume == e.volume || (!seen.plan.kind.forks() && !history.is_empty() && h.first() == history.first())
        };
        let missing = before.done().into_iter().filter(of_this).find(|(_, h)| !begins(history, h));
        if let Some((o, h)) = missing {
            found.push(format!(
                "{} of {} found {} with {history:?}, and {} had written {h:?} to {} before",
                e.life,
                seen.instance(&e.life),
                e.volume,
                o.life,
                o.volume
            ));
        }
    }
    found
}

/// What a life of another instance left half made is never started on, unless its volume was in use before: that one is
/// the data, whatever a migration did to it. What was made and is no copy is left to its maker for an hour.
fn nothing_half_made_is_started_on(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    for (at, e) in seen.ledger.0.iter().enumerate() {
        match &e.what {
            What::Start { half: Some(of), .. } => {
                found.push(format!("{} starts on {}, where the migration of {of} is half done", e.life, e.volume));
            }
            What::Found { half: Some(of), source, .. } if seen.instance(of) != seen.instance(&e.life) => {
                let began = seen.ledger.0[..at]
                    .iter()
                    .rposition(|o| o.life == *of && o.domain == e.domain && o.what == What::Half);
                let Some(began) = began else { continue };
                let on = &seen.ledger.0[began].volume;
                let v = seen.volume(on);
                // Another life has committed it: its commands had ended, and the volume says so.
                let committed = v.is_some_and(|v| v.tags.contains_key("user:ec2fd.ts-created"));
                let used = seen.ledger.0[..began].iter().filter(|o| o.volume == *on).any(|o| match o.what {
                    What::Done(_) => true,
                    What::Whole => committed && o.life != *of,
                    _ => false,
                });
                let made = v.is_some_and(|v| v.by_api);
                let copy = v.is_some_and(|v| v.tags.contains_key("user:ec2fd.lineage"));
                let later = e.life.ends_with("-of-all");
                if source == "s" || (made && !used && (copy || !later)) {
                    found.push(format!(
                        "{} of {} begins (source {source}) on {}, where {} of {} left its migration half done on {on}",
                        e.life,
                        seen.instance(&e.life),
                        e.volume,
                        of,
                        seen.instance(of)
                    ));
                }
            }
            _ => {}
        }
    }
    found
}

/// Two histories with one root never diverge, unless one began as a copy of a snapshot.
fn histories_never_diverge(seen: &Seen) -> Vec<String> {
    let done = seen.ledger.done();
    let mut found = BTreeSet::new();
    for (i, (a, one)) in done.iter().enumerate() {
        for (b, other) in &done[i + 1..] {
            let same = a.volume == b.volume || (!seen.plan.kind.forks() && one.first() == other.first());
            if same && !begins(one, other) && !begins(other, one) {
                found.insert(format!(
                    "{} on {} and {} on {} diverge: {one:?} {other:?}",
                    a.life, a.volume, b.life, b.volume
                ));
            }
        }
    }
    // The first of them says enough.
    found.into_iter().take(1).collect()
}

/// No disk goes from under an application that runs on it.
fn no_disk_goes_from_under_an_application(seen: &Seen) -> Vec<String> {
    let gone = seen.ledger.0.iter().filter(|e| e.what == What::Gone);
    gone.map(|e| format!("{} of {} lost {}", e.life, seen.instance(&e.life), e.volume)).collect()
}

/// A disk that something was committed to is never found blank.
fn no_disk_is_emptied(seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    for (at, e) in seen.ledger.0.iter().enumerate() {
        let What::Found { history, .. } = &e.what else { continue };
        let written = seen.ledger.0[..at].iter().any(|o| o.volume == e.volume && matches!(o.what, What::Done(_)));
        if history.is_empty() && written {
            found.push(format!("{} found {} blank", e.life, e.volume));
        }
    }
    found
}
