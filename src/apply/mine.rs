//! Whether addresses are still this instance's, asked before a record is deleted that has them.
//!
//! Route 53 compares what is deleted with what is there. What it cannot tell is who wrote it: where an elastic address
//! has moved on, whoever has it now has the very same record. So EC2 is asked about addresses that the metadata service
//! does not give (any more), about all where it gives no answer, and about those that are elastic: of a move it tells late.

use super::{Shared, lock};
use crate::aws::ec2::{Address, Filter};
use crate::aws::route53::{RecordSet, address};
use crate::aws::{ApiError, Class};
use crate::scope::{Halt, Scope};

/// How long the metadata service and EC2 may be asked.
const ASK: std::time::Duration = std::time::Duration::from_secs(5);
/// How often EC2 is asked when it does not answer in that time.
const ASKS: u32 = 3;

impl Shared {
    /// The public addresses that this instance has now, as the metadata service says. `None`: it does not say, and what it
    /// said before tells nothing of addresses that may have moved since.
    pub(super) fn own_addresses(&self, scope: &Scope) -> Option<Vec<String>> {
        let mut fresh = (*self.facts()).clone();
        if let Err(e) = self.imds.refresh_public_addresses(&scope.within(ASK), &mut fresh) {
            log::warn!("which public addresses this instance has now cannot be told: {e}");
            return None;
        }
        let given_up = lock(&self.given_up);
        let all = fresh.all_ipv4.iter().chain(&fresh.all_ipv6).map(|a| address(a));
        Some(all.filter(|a| !given_up.contains(a)).collect())
    }

    /// These addresses are elastic, as far as is known: they may go to another instance while this one lives, and the
    /// metadata service tells of that late.
    pub(super) fn may_move(&self, addresses: &[String]) {
        lock(&self.elastic).extend(addresses.iter().map(|a| address(a)));
    }

    /// What is there `now` without those of `ours` that another instance has written alike, or may have; and why each
    /// was left out.
    pub(super) fn without_anothers(
        &self,
        now: Vec<RecordSet>,
        ours: &[RecordSet],
        scope: &Scope,
    ) -> (Vec<RecordSet>, Vec<String>) {
        let in_ours = |s: &&RecordSet| ours.iter().any(|o| o.same_content(s));
        let asked: Vec<&RecordSet> = now.iter().filter(in_ours).collect();
        let (out, why): (Vec<RecordSet>, Vec<String>) = self.anothers(&asked, scope).into_iter().unzip();
        (now.into_iter().filter(|s| !out.contains(s)).collect(), why)
    }

    /// Which of these sets another instance has written alike, or may have, and why that is thought. One question to EC2
    /// for all of them.
    pub(super) fn anothers(&self, sets: &[&RecordSet], scope: &Scope) -> Vec<(RecordSet, String)> {
        // Its own member of a fleet nobody else writes.
        let sets: Vec<&RecordSet> = sets.iter().copied().filter(|s| s.set_identifier.is_none()).collect();
        if sets.is_empty() {
            return Vec::new();
        }
        let own = self.own_addresses(scope);
        let has = |v: &String| own.as_ref().is_some_and(|own| own.contains(&address(v)));
        // One that is not elastic stays until the instance ends.
        let elastic = lock(&self.elastic).clone();
        let may_move = |v: &String| elastic.contains(&address(v));
        let is_asked = |s: &&RecordSet| !s.values.iter().any(has) || s.values.iter().any(may_move);
        let asked: Vec<&RecordSet> = sets.into_iter().filter(is_asked).collect();
        let mut values: Vec<&str> =
            asked.iter().filter(|s| s.kind == "A").flat_map(|s| s.values.iter().map(String::as_str)).collect();
        values.sort_unstable();
        values.dedup();
        let answer = (!values.is_empty()).then(|| self.holders(&values, scope));
        let me = &self.facts().instance_id;
        let mut out = Vec::new();
        for set in asked {
            let shown = set.values.join(" ");
            let unknown = || match own {
                Some(_) => format!("{shown} is no address of this instance any more"),
                None => {
                    format!("the metadata service does not say whether {shown} still is an address of this instance")
                }
            };
            let text = match answer.as_ref().filter(|_| set.kind == "A") {
                Some(Ok(found)) => {
                    let is_anothers = |a: &&Address| {
                        set.values.iter().any(|v| address(v) == address(&a.public_ip))
                            && a.association_id.is_some()
                            && a.instance.as_ref() != Some(me)
                    };
                    found.iter().find(is_anothers).map(|a| {
                        let who = a.instance.clone().or(a.interface.clone()).unwrap_or_else(|| "another".to_owned());
                        format!("{shown} is the address of {who} by now")
                    })
                }
                // The metadata service has said this moment that it is here.
                Some(Err(_)) | None if set.values.iter().any(has) => None,
                Some(Err(e)) => {
                    let advice = match e.class() {
                        Class::Denied => format!(" (allow {} for this instance's role)", e.permission()),
                        _ => String::new(),
                    };
                    Some(format!("{}, and who has it cannot be told: {e}{advice}", unknown()))
                }
                None => Some(unknown()),
            };
            out.extend(text.map(|text| (set.clone(), text)));
        }
        out
    }

    /// What EC2 says of these addresses, as far as they are elastic.
    fn holders(&self, values: &[&str], scope: &Scope) -> Result<Vec<Address>, ApiError> {
        let ask = || self.aws.describe_addresses(&scope.within(ASK), &[Filter::exact("public-ip", values)]);
        let mut answer = ask();
        // One answer that does not come is no reason to leave a record behind.
        for _ in 1..ASKS {
            match &answer {
                Err(e) if e.halt() == Some(Halt::Deadline) && scope.check().is_ok() => answer = ask(),
                _ => break,
            }
        }
        if let Ok(found) = &answer {
            self.may_move(&found.iter().map(|a| a.public_ip.clone()).collect::<Vec<_>>());
        }
        answer
    }
}
