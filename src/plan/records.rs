//! What to write into a hosted zone for one name, and what was there before.

use std::fmt;

use crate::aws::route53::{Change, RecordSet, address};

/// The changes of one directive, and what undoes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The record's name, normalised.
    pub(crate) name: String,
    /// What is written, only if what was read is there still; none if everything is as it should be.
    pub(crate) changes: Vec<Change>,
    /// The sets that the changes write.
    pub(crate) ours: Vec<RecordSet>,
    /// What those sets were before, exactly; those that were not there are missing.
    pub(crate) before: Vec<RecordSet>,
    /// What was there before an earlier run of this instance wrote over it: it need not be right any more.
    pub(crate) earlier: Vec<RecordSet>,
    /// What stands at the name when the changes are made: `ours`, and what was there as it should be.
    pub(crate) wanted: Vec<RecordSet>,
    /// What somebody should know.
    pub(crate) warnings: Vec<String>,
}

impl Plan {
    /// `name A 1.2.3.4 (ttl 300), AAAA …`.
    pub(crate) fn summary(&self) -> String {
        let sets: Vec<String> = self
            .ours
            .iter()
            .map(|s| format!("{} {} (ttl {})", s.kind, s.values.join(" "), s.ttl.unwrap_or_default()))
            .collect();
        format!("{} is now {}", self.name, sets.join(", "))
    }
}

impl Plan {
    /// The same plan, where what stands there is the `ours` of an earlier write that this one goes on with: what undoes
    /// both is what was there before that one, `before` in this life or in an `earlier` one.
    pub(crate) fn after(self, ours: &[RecordSet], before: &[RecordSet], earlier: &[RecordSet]) -> Plan {
        let merged = |first: &[RecordSet], of: &[RecordSet], second: &[RecordSet]| {
            let rest = second.iter().filter(|s| !of.iter().any(|o| o.kind == s.kind));
            first.iter().chain(rest).cloned().collect::<Vec<_>>()
        };
        let before = merged(before, ours, &self.before);
        let earlier = merged(earlier, ours, &self.earlier);
        Plan { ours: merged(&self.ours, &self.ours, ours), before, earlier, ..self }
    }
}

/// As many sets of a name and type as Route 53 takes.
pub(crate) const MOST: usize = 100;

/// Why a name cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A CNAME stands at the name; nothing else can.
    Cname { name: String, target: String },
    /// Sets with a routing policy stand there; one of this policy cannot be mixed in.
    Routed { name: String, kind: String, identifiers: Vec<String>, policy: &'static str },
    /// A simple set that is not this instance's stands there; one of several cannot be mixed in.
    Simple { name: String, kind: String, values: String },
    /// As many sets as the name can have.
    Full { name: String, kind: String },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Cname { name, target } => write!(
                f,
                "cannot write {name}: it is a CNAME (to {target}), beside which no address can stand: \
                 delete the CNAME, or choose another name"
            ),
            Refusal::Routed { name, kind, identifiers, policy } => write!(
                f,
                "cannot write {name}: its {kind} records have a routing policy (set identifiers {}), with which a \
                 {policy} record cannot be mixed: delete them, or choose another name",
                identifiers.join(", ")
            ),
            Refusal::Simple { name, kind, values } => write!(
                f,
                "cannot write {name}: a simple {kind} record stands there ({values}), with which a multivalue record \
                 cannot be mixed, and it is not this instance's: delete it (once, for the whole fleet), or choose \
                 another name"
            ),
            Refusal::Full { name, kind } => write!(
                f,
                "cannot write {name}: it has {MOST} {kind} records, as many as Route 53 takes: delete those of instances \
                 that are gone (\"sweep\" does, where ec2:DescribeInstances is allowed)"
            ),
        }
    }
}

/// Plans A and AAAA of `name`, with what `sets` says is there now. Nothing is planned for a type without addresses.
pub(crate) fn plan(
    sets: &[RecordSet],
    name: &str,
    ttl: i64,
    ipv4: &[String],
    ipv6: &[String],
) -> Result<Plan, Refusal> {
    let mut plan = Plan { name: name.to_owned(), ..Plan::default() };
    if ipv4.is_empty() && ipv6.is_empty() {
        return Ok(plan);
    }
    no_cname(sets, name)?;
    for (kind, addresses) in [("A", ipv4), ("AAAA", ipv6)] {
        let there: Vec<&RecordSet> = sets.iter().filter(|s| s.kind == kind).collect();
        if addresses.is_empty() {
            if !there.is_empty() {
                plan.warnings.push(format!(
                    "{name} keeps its {kind} record ({}), which is not this instance's: it has no such address",
                    values_of(&there)
                ));
            }
            continue;
        }
        let identifiers: Vec<String> = there.iter().filter_map(|s| s.set_identifier.clone()).collect();
        if !identifiers.is_empty() {
            return Err(Refusal::Routed {
                name: name.to_owned(),
                kind: kind.to_owned(),
                identifiers,
                policy: "simple",
            });
        }
        let ours = RecordSet::simple(name, kind, ttl, addresses);
        plan.wanted.push(ours.clone());
        if there.iter().any(|s| s.same_content(&ours)) {
            continue;
        }
        // Not an UPSERT: what somebody has written since it was read is not written over unseen.
        plan.changes.extend(there.iter().map(|s| Change::delete((*s).clone())));
        plan.changes.push(Change::create(ours.clone()));
        plan.before.extend(there.into_iter().cloned());
        plan.ours.push(ours);
    }
    Ok(plan)
}

pub(super) fn no_cname(sets: &[RecordSet], name: &str) -> Result<(), Refusal> {
    let Some(c) = sets.iter().find(|s| s.kind == "CNAME") else { return Ok(()) };
    let target = c.values.first().cloned().unwrap_or_else(|| "an alias".to_owned());
    Err(Refusal::Cname { name: name.to_owned(), target })
}

/// The values of sets, for people.
pub(super) fn values_of(sets: &[&RecordSet]) -> String {
    let values = sets.iter().flat_map(|s| s.values.iter().cloned()).collect::<Vec<_>>().join(", ");
    if values.is_empty() { "an alias".to_owned() } else { values }
}

/// What puts `before` back in the place of `ours`: exact DELETEs, which fail if somebody else wrote there meanwhile.
pub(crate) fn undo(ours: &[RecordSet], before: &[RecordSet]) -> Vec<Change> {
    ours.iter().cloned().map(Change::delete).chain(before.iter().cloned().map(Change::create)).collect()
}

/// What undoes those of `ours` that are there `now`, each by itself: what of `before` was in their place comes back, unless
/// something else stands there by now (a simple set cannot come back either once others have joined ours).
pub(crate) fn undo_of(now: &[RecordSet], ours: &[RecordSet], before: &[RecordSet]) -> Vec<Change> {
    let is_ours = |n: &RecordSet| ours.iter().any(|o| o.same_content(n));
    let still: Vec<RecordSet> = now.iter().filter(|n| is_ours(n)).cloned().collect();
    let was_here = |b: &RecordSet| still.iter().any(|s| s.kind == b.kind) && !is_ours(b);
    let in_its_way = |b: &RecordSet, n: &RecordSet| {
        n.kind == b.kind
            && !is_ours(n)
            && (n.slot() == b.slot() || n.set_identifier.is_none() || b.set_identifier.is_none())
    };
    let back = |b: &&RecordSet| was_here(b) && !now.iter().any(|n| in_its_way(b, n));
    let back: Vec<RecordSet> = before.iter().filter(back).cloned().collect();
    undo(&still, &back)
}

/// Of what was there before an earlier run wrote over it, what can still be right, with the addresses that this instance
/// has `now`. An alias leads to a service, which outlives instances. An address of somebody else may be dead by now, or
/// another one's.
pub(crate) fn still_right(earlier: &[RecordSet], now: &[String]) -> (Vec<RecordSet>, Vec<RecordSet>) {
    let has = |v: &String| now.iter().any(|n| address(n) == address(v));
    earlier.iter().cloned().partition(|s| s.values.iter().all(has))
}

/// What is at a name now, as seen from a roll-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Now {
    /// What we wrote.
    Ours,
    /// What was there before us.
    Before,
    /// Something else.
    Foreign,
}

/// Compares what is at the name now with what we wrote and what was there before.
pub(crate) fn compare(now: &[RecordSet], ours: &[RecordSet], before: &[RecordSet]) -> Now {
    let has = |s: &RecordSet| now.iter().any(|n| n.same_content(s));
    // Where ours is one of several, the others are nobody's business.
    let meets = |n: &RecordSet, o: &RecordSet| {
        let routed = n.set_identifier.is_some() && o.set_identifier.is_some();
        n.kind == o.kind && (!routed || n.set_identifier == o.set_identifier)
    };
    let of_our_kinds: Vec<&RecordSet> = now.iter().filter(|n| ours.iter().any(|o| meets(n, o))).collect();
    if ours.iter().all(has) && of_our_kinds.len() == ours.len() {
        Now::Ours
    } else if before.iter().all(has) && of_our_kinds.len() == before.len() {
        Now::Before
    } else {
        Now::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(s: &[&str]) -> Vec<String> {
        s.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn a_plan_that_goes_on_with_another() {
        let set = |kind: &str, value: &str| RecordSet::simple("a.e", kind, 60, &ips(&[value]));
        let old = [set("A", "192.0.2.1")];
        // The first run wrote A; this one has another A, and an AAAA.
        let first = [set("A", "192.0.2.2")];
        let mut sets = first.to_vec();
        sets.push(set("AAAA", "2001:db8::1"));
        let both =
            plan(&sets, "a.e.", 60, &ips(&["192.0.2.3"]), &ips(&["2001:db8::3"])).unwrap().after(&first, &old, &[]);
        assert_eq!(both.before, [set("A", "192.0.2.1"), set("AAAA", "2001:db8::1")]);
        assert_eq!(both.ours, [set("A", "192.0.2.3"), set("AAAA", "2001:db8::3")]);
        // What it does not touch is undone with it all the same.
        let one = plan(&sets, "a.e.", 60, &[], &ips(&["2001:db8::3"])).unwrap().after(&first, &old, &[]);
        assert_eq!(one.ours, [set("AAAA", "2001:db8::3"), set("A", "192.0.2.2")]);
        assert_eq!(one.before, [set("A", "192.0.2.1"), set("AAAA", "2001:db8::1")]);
    }

    #[test]
    fn new_changed_and_equal() {
        let v4 = ips(&["192.0.2.1", "192.0.2.2"]);
        let v6 = ips(&["2001:db8::1"]);
        let p = plan(&[], "a.e.", 60, &v4, &v6).unwrap();
        assert_eq!((p.changes.len(), p.before.len(), p.ours.len()), (2, 0, 2));
        assert_eq!(p.changes[0], Change::create(p.ours[0].clone()));
        let old = RecordSet::simple("a.e.", "A", 300, &ips(&["192.0.2.9"]));
        let txt = RecordSet::simple("a.e.", "TXT", 300, &ips(&["\"x\""]));
        let p = plan(&[old.clone(), txt], "a.e.", 60, &v4, &[]).unwrap();
        assert_eq!(p.before, std::slice::from_ref(&old));
        assert_eq!(p.changes, [Change::delete(old.clone()), Change::create(p.ours[0].clone())]);
        assert_eq!(undo(&p.ours, &p.before), [Change::delete(p.ours[0].clone()), Change::create(old)]);
        // The order of values does not matter.
        let same = RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.2", "192.0.2.1"]));
        assert!(plan(&[same], "a.e.", 60, &v4, &[]).unwrap().changes.is_empty());
    }

    #[test]
    fn refusals_and_warnings() {
        let v4 = ips(&["192.0.2.1"]);
        let cname = RecordSet::simple("a.e.", "CNAME", 300, &ips(&["b.e."]));
        assert_eq!(
            plan(&[cname], "a.e.", 60, &v4, &[]).unwrap_err().to_string(),
            "cannot write a.e.: it is a CNAME (to b.e.), beside which no address can stand: delete the CNAME, or choose \
             another name"
        );
        let mut routed = RecordSet::simple("a.e.", "A", 300, &v4);
        routed.set_identifier = Some("blue".into());
        let e = plan(&[routed], "a.e.", 60, &v4, &[]).unwrap_err().to_string();
        assert!(e.contains("routing policy (set identifiers blue)"), "{e}");
        let aaaa = RecordSet::simple("a.e.", "AAAA", 300, &ips(&["2001:db8::9"]));
        let p = plan(&[aaaa], "a.e.", 60, &v4, &[]).unwrap();
        assert!(p.warnings[0].contains("2001:db8::9"), "{:?}", p.warnings);
        assert_eq!(plan(&[], "a.e.", 60, &[], &[]).unwrap().changes, []);
    }

    #[test]
    fn whose_it_is() {
        let ours = [RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.1"]))];
        let before = [RecordSet::simple("a.e.", "A", 300, &ips(&["192.0.2.9"]))];
        let other = [RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.7"]))];
        assert_eq!(compare(&ours, &ours, &before), Now::Ours);
        assert_eq!(compare(&before, &ours, &before), Now::Before);
        assert_eq!(compare(&other, &ours, &before), Now::Foreign);
        assert_eq!(compare(&[], &ours, &[]), Now::Before);
    }

    #[test]
    fn whose_it_is_among_several() {
        let member = |id: &str, ip: &str| RecordSet::member("a.e.", "A", 60, ip, id);
        let (ours, other) = ([member("i-1", "192.0.2.1")], member("i-2", "192.0.2.2"));
        let simple = [RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.1"]))];
        assert_eq!(compare(&[ours[0].clone(), other.clone()], &ours, &[]), Now::Ours);
        assert_eq!(compare(std::slice::from_ref(&other), &ours, &[]), Now::Before);
        assert_eq!(compare(&[member("i-1", "192.0.2.9"), other.clone()], &ours, &[]), Now::Foreign);
        // What was simple before can be so again only while nobody has joined.
        assert_eq!(compare(&simple, &ours, &simple), Now::Before);
        assert_eq!(undo_of(&ours, &ours, &simple), undo(&ours, &simple));
        assert_eq!(undo_of(&[ours[0].clone(), other], &ours, &simple), undo(&ours, &[]));
        // A simple record has no neighbours.
        assert_eq!(compare(&ours, &simple, &[]), Now::Foreign);
    }

    #[test]
    fn each_set_is_undone_by_itself() {
        let set = |kind: &str, value: &str| RecordSet::simple("a.e.", kind, 60, &ips(&[value]));
        let ours = [set("A", "192.0.2.1"), set("AAAA", "2001:db8::1")];
        let before = [set("A", "192.0.2.9")];
        assert_eq!(undo_of(&ours, &ours, &before), undo(&ours, &before));
        // Somebody has A by now: the AAAA is ours still.
        let now = [set("A", "192.0.2.7"), ours[1].clone()];
        assert_eq!(undo_of(&now, &ours, &before), [Change::delete(ours[1].clone())]);
        // Somebody took A away: that it should be gone is somebody's wish.
        assert_eq!(undo_of(&ours[1..], &ours, &before), [Change::delete(ours[1].clone())]);
        assert_eq!(undo_of(&before, &ours, &before), []);
        // Two domains wrote with two TTLs: whichever stands is ours, and never put back.
        let mut other = [ours[0].clone()];
        other[0].ttl = Some(61);
        let both = [ours[0].clone(), other[0].clone()];
        assert_eq!(undo_of(&other, &both, &[ours[0].clone()]), [Change::delete(other[0].clone())]);
    }

    #[test]
    fn what_may_still_be_right() {
        let (mine, other) = (RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.1"])), "192.0.2.9");
        let theirs = RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.1", other]));
        let mut alias = RecordSet::default();
        alias.kind = "A".into();
        let all = [mine.clone(), theirs.clone(), alias.clone()];
        assert_eq!(still_right(&all, &ips(&["192.0.2.1"])), (vec![mine, alias], vec![theirs]));
    }
}
