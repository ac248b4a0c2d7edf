//! A name that a whole fleet shares: each instance has one multivalue record there, under its id.
//!
//! Nothing is read, changed and written together: each instance writes and deletes only its own set, so that any number
//! of them can come and go at the same time. A set has one address: an instance is one answer.
//! <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html>

use super::records::{MOST, Plan, Refusal, no_cname, values_of};
use crate::aws::route53::{Change, RecordSet, address};

/// Plans the sets of instance `id` at `name`, with what `sets` says is there now: the first address of each kind.
pub(crate) fn plan(
    sets: &[RecordSet],
    name: &str,
    ttl: i64,
    ipv4: &[String],
    ipv6: &[String],
    id: &str,
) -> Result<Plan, Refusal> {
    let mut plan = Plan { name: name.to_owned(), ..Plan::default() };
    if ipv4.is_empty() && ipv6.is_empty() {
        return Ok(plan);
    }
    no_cname(sets, name)?;
    for (kind, addresses) in [("A", ipv4), ("AAAA", ipv6)] {
        let there: Vec<&RecordSet> = sets.iter().filter(|s| s.kind == kind).collect();
        let mine = there.iter().find(|s| s.set_identifier.as_deref() == Some(id));
        let Some(first) = addresses.first() else {
            if let Some(mine) = mine {
                plan.warnings.push(format!(
                    "{name} keeps its {kind} record of {id} ({}): this instance has no such address any more",
                    values_of(&[*mine])
                ));
            }
            continue;
        };
        let ours = RecordSet::member(name, kind, ttl, first, id);
        plan.wanted.push(ours.clone());
        let (name, kind) = (name.to_owned(), kind.to_owned());
        if let Some(simple) = there.iter().find(|s| s.set_identifier.is_none()) {
            // Of this instance's own earlier life with the policy `simple`; another one's would be taken away.
            let own = |v: &String| addresses.iter().any(|a| address(a) == address(v));
            if !simple.is_plain() || !simple.values.iter().all(own) {
                return Err(Refusal::Simple { name, kind, values: values_of(&[*simple]) });
            }
            plan.changes.push(Change::delete((*simple).clone()));
            plan.changes.push(Change::create(ours.clone()));
            plan.before.push((*simple).clone());
            plan.ours.push(ours);
            continue;
        }
        let others: Vec<String> =
            there.iter().filter(|s| !s.is_multivalue()).filter_map(|s| s.set_identifier.clone()).collect();
        if !others.is_empty() {
            return Err(Refusal::Routed { name, kind, identifiers: others, policy: "multivalue" });
        }
        match mine {
            Some(mine) if mine.same_content(&ours) => continue,
            Some(mine) => plan.before.push((*mine).clone()),
            None if there.len() >= MOST => return Err(Refusal::Full { name, kind }),
            None => {}
        }
        plan.changes.push(Change::upsert(ours.clone()));
        plan.ours.push(ours);
    }
    Ok(plan)
}

/// The sets of other instances of the fleet.
pub(crate) fn others(sets: &[RecordSet], me: &str) -> Vec<RecordSet> {
    let is_one = |s: &&RecordSet| {
        let id = s.set_identifier.as_deref().filter(|id| *id != me);
        matches!(s.kind.as_str(), "A" | "AAAA") && s.is_multivalue() && id.is_some_and(is_instance_id)
    };
    sets.iter().filter(is_one).cloned().collect()
}

/// `i-` and 8 to 17 hex digits: what else calls itself so is nothing that EC2 could be asked about.
fn is_instance_id(text: &str) -> bool {
    let digits = text.strip_prefix("i-").unwrap_or_default();
    (8..=17).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "i-0123456789abcdef0";

    fn ips(s: &[&str]) -> Vec<String> {
        s.iter().map(|s| (*s).to_owned()).collect()
    }

    fn member(id: &str, ip: &str) -> RecordSet {
        RecordSet::member("a.e.", "A", 60, ip, id)
    }

    fn of(sets: &[RecordSet]) -> Result<Plan, Refusal> {
        plan(sets, "a.e.", 60, &ips(&["192.0.2.1", "192.0.2.2"]), &[], ME)
    }

    #[test]
    fn each_writes_its_own_and_only_that() {
        let other = member("i-0ffffffff", "192.0.2.9");
        let mine = member(ME, "192.0.2.1");
        let p = of(std::slice::from_ref(&other)).unwrap();
        assert_eq!((p.changes, p.ours, p.before), (vec![Change::upsert(mine.clone())], vec![mine.clone()], vec![]));
        let p = of(&[other.clone(), mine.clone()]).unwrap();
        assert_eq!((p.changes, p.wanted), (vec![], vec![mine.clone()]));
        let old = member(ME, "192.0.2.8");
        let p = of(&[other, old.clone()]).unwrap();
        assert_eq!((p.changes, p.before), (vec![Change::upsert(mine)], vec![old]));
        let both = plan(&[], "a.e.", 60, &ips(&["192.0.2.1"]), &ips(&["2001:db8::1", "2001:db8::2"]), ME).unwrap();
        assert_eq!(both.ours[1], RecordSet::member("a.e.", "AAAA", 60, "2001:db8::1", ME));
        let p = plan(&[member(ME, "192.0.2.1")], "a.e.", 60, &[], &ips(&["2001:db8::1"]), ME).unwrap();
        assert!(p.warnings[0].contains("keeps its A record of i-0123456789abcdef0 (192.0.2.1)"), "{:?}", p.warnings);
        assert_eq!(plan(&[], "a.e.", 60, &[], &[], ME).unwrap().wanted, []);
    }

    #[test]
    fn a_simple_record_is_taken_over_only_if_it_is_our_own() {
        let simple = |v: &[&str]| RecordSet::simple("a.e.", "A", 300, &ips(v));
        for values in [&["192.0.2.1"][..], &["192.0.2.2", "192.0.2.1"]] {
            let p = of(&[simple(values)]).unwrap();
            let mine = member(ME, "192.0.2.1");
            assert_eq!(p.changes, [Change::delete(simple(values)), Change::create(mine)]);
            assert_eq!(p.before, [simple(values)]);
        }
        for values in [&["192.0.2.7"][..], &["192.0.2.1", "192.0.2.7"]] {
            let text = of(&[simple(values)]).unwrap_err().to_string();
            assert!(text.contains(&format!("a simple A record stands there ({})", values.join(", "))), "{text}");
            assert!(text.contains("delete it (once, for the whole fleet)"), "{text}");
        }
    }

    #[test]
    fn other_policies_and_a_full_name_are_refused() {
        let mut weighted = RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.1"]));
        weighted.set_identifier = Some("blue".into());
        let text = of(&[weighted, member("i-0ffffffff", "192.0.2.9")]).unwrap_err().to_string();
        assert!(text.contains("(set identifiers blue), with which a multivalue record cannot be mixed"), "{text}");
        let mut full: Vec<RecordSet> = (0..100).map(|n| member(&format!("i-{n:08x}"), "192.0.2.9")).collect();
        let text = of(&full).unwrap_err().to_string();
        assert!(text.contains("it has 100 A records, as many as Route 53 takes"), "{text}");
        full[99] = member(ME, "192.0.2.8");
        assert_eq!(of(&full).unwrap().changes.len(), 1);
        let cname = RecordSet::simple("a.e.", "CNAME", 300, &ips(&["b.e."]));
        assert!(matches!(of(&[cname]), Err(Refusal::Cname { .. })));
    }

    #[test]
    fn who_is_one_of_the_fleet() {
        let mut sets = vec![member(ME, "192.0.2.1"), member("i-0fffffff", "192.0.2.2"), member("blue", "192.0.2.3")];
        sets.push(member("i-0FFFFFFFF", "192.0.2.4"));
        sets.push(member("i-1234567", "192.0.2.5"));
        let mut weighted = RecordSet::simple("a.e.", "A", 60, &ips(&["192.0.2.6"]));
        weighted.set_identifier = Some("i-0eeeeeee".into());
        sets.push(weighted);
        assert_eq!(others(&sets, ME), [member("i-0fffffff", "192.0.2.2")]);
    }
}
