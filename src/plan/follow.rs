//! Records that follow the addresses of the instance: what is to be changed, and how.

use crate::aws::route53::{Change, RecordSet, address};

/// Whether `sets`, which stand for this instance, are to be others with these addresses. A record never comes to nothing:
/// a kind of which there are no addresses stays as it is.
pub(crate) fn has_moved(sets: &[RecordSet], ipv4: &[String], ipv6: &[String]) -> bool {
    let moved = |kind: &str, addresses: &[String]| {
        let set = sets.iter().find(|s| s.kind == kind);
        // A member of a fleet is one answer.
        let wanted = if set.is_some_and(|s| s.set_identifier.is_some()) { &addresses[..1] } else { addresses };
        set.is_none_or(|set| {
            let sorted = |values: &[String]| {
                let mut all: Vec<String> = values.iter().map(|v| address(v)).collect();
                all.sort();
                all
            };
            sorted(&set.values) != sorted(wanted)
        })
    };
    [("A", ipv4), ("AAAA", ipv6)].iter().any(|(kind, addresses)| !addresses.is_empty() && moved(kind, addresses))
}

/// The same changes, each of them refused where something else stands in its place than what is `there`.
pub(crate) fn exact(changes: Vec<Change>, there: &[RecordSet]) -> Vec<Change> {
    let mut out = Vec::new();
    for change in changes {
        if !change.is_upsert() {
            out.push(change);
            continue;
        }
        out.extend(there.iter().find(|s| s.slot() == change.set.slot()).cloned().map(Change::delete));
        out.push(Change::create(change.set));
    }
    out
}

/// Whether all of `sets` are there.
pub(crate) fn all_there(sets: &[RecordSet], there: &[RecordSet]) -> bool {
    sets.iter().all(|s| there.iter().any(|t| t.same_content(s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(s: &[&str]) -> Vec<String> {
        s.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn what_has_moved() {
        let set = |kind: &str, values: &[&str]| RecordSet::simple("a.e.", kind, 60, &ips(values));
        let v4 = [set("A", &["192.0.2.1", "192.0.2.2"])];
        assert!(!has_moved(&v4, &ips(&["192.0.2.2", "192.0.2.1"]), &[]));
        assert!(has_moved(&v4, &ips(&["192.0.2.1"]), &[]));
        // Never to nothing; but another kind may come late.
        assert!(!has_moved(&v4, &[], &[]));
        assert!(has_moved(&v4, &[], &ips(&["2001:db8::1"])) && has_moved(&[], &ips(&["192.0.2.1"]), &[]));
        assert!(!has_moved(&[set("AAAA", &["2001:db8:0::1"])], &[], &ips(&["2001:db8::1"])));
        let member = [RecordSet::member("a.e.", "A", 60, "192.0.2.1", "i-1")];
        assert!(!has_moved(&member, &ips(&["192.0.2.1", "192.0.2.2"]), &[]));
        assert!(has_moved(&member, &ips(&["192.0.2.2", "192.0.2.1"]), &[]));
    }

    #[test]
    fn each_change_says_what_it_replaces() {
        let member = |ip: &str, id: &str| RecordSet::member("a.e.", "A", 60, ip, id);
        let (old, new) = (member("192.0.2.1", "i-1"), member("192.0.2.2", "i-1"));
        let there = [member("192.0.2.9", "i-2"), old.clone()];
        let changes = [Change::delete(old.clone()), Change::create(new.clone())];
        assert_eq!(exact(vec![Change::upsert(new.clone())], &there), changes);
        assert_eq!(exact(vec![Change::upsert(new.clone())], &there[..1]), changes[1..]);
        assert_eq!(exact(changes.to_vec(), &[]), changes);
        assert!(all_there(std::slice::from_ref(&old), &there) && !all_there(&[old, new], &there));
    }
}
