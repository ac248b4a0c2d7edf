//! Whether addresses are still this instance's, asked before a record is deleted that has them.
//!
//! Route 53 compares what is deleted with what is there. What it cannot tell is who wrote it: where an elastic address
//! has moved on, whoever has it now has the very same record. So addresses that the metadata service does not give (any
//! more) are looked up in EC2.

use super::{Shared, lock};
use crate::aws::Class;
use crate::aws::ec2::Filter;
use crate::aws::route53::{RecordSet, address};
use crate::scope::{Halt, Scope};

/// How long the metadata service and EC2 may be asked.
const ASK: std::time::Duration = std::time::Duration::from_secs(5);
/// How often EC2 is asked when it does not answer in that time.
const ASKS: u32 = 3;

impl Shared {
    /// The public addresses that this instance has now, as far as can be told.
    pub(super) fn own_addresses(&self, scope: &Scope) -> Vec<String> {
        let facts = self.facts();
        let mut fresh = (*facts).clone();
        let read = self.imds.refresh_public_addresses(&scope.within(ASK), &mut fresh);
        let all = if read.is_ok() { &fresh } else { &*facts };
        let given_up = lock(&self.given_up);
        all.all_ipv4.iter().chain(&all.all_ipv6).map(|a| address(a)).filter(|a| !given_up.contains(a)).collect()
    }

    /// What is there `now` without those of `ours` that another instance has written alike, or may have; and why each
    /// was left out.
    pub(super) fn without_anothers(
        &self,
        now: Vec<RecordSet>,
        ours: &[RecordSet],
        scope: &Scope,
    ) -> (Vec<RecordSet>, Vec<String>) {
        let in_ours = |s: &RecordSet| ours.iter().any(|o| o.same_content(s));
        // Its own member of a fleet nobody else writes.
        let mut asked: Vec<&RecordSet> = now.iter().filter(|s| in_ours(s) && s.set_identifier.is_none()).collect();
        if asked.is_empty() {
            return (now, Vec::new());
        }
        let own = self.own_addresses(scope);
        asked.retain(|s| !s.values.iter().any(|v| own.contains(&address(v))));
        let asked: Vec<RecordSet> = asked.into_iter().cloned().collect();
        let mut why = Vec::new();
        let mut out: Vec<RecordSet> = Vec::new();
        for set in asked {
            if let Some(text) = self.holder(&set, scope) {
                why.push(text);
                out.push(set);
            }
        }
        (now.into_iter().filter(|s| !out.contains(s)).collect(), why)
    }

    /// Who has the addresses of a set that this instance has no more, if it is or may be somebody else.
    fn holder(&self, set: &RecordSet, scope: &Scope) -> Option<String> {
        let values: Vec<&str> = set.values.iter().map(String::as_str).collect();
        let shown = values.join(" ");
        if set.kind != "A" {
            return Some(format!("{shown} is no address of this instance any more"));
        }
        let ask = || self.aws.describe_addresses(&scope.within(ASK), &[Filter::exact("public-ip", &values)]);
        let mut answer = ask();
        // One answer that does not come is no reason to leave a record behind.
        for _ in 1..ASKS {
            match &answer {
                Err(e) if e.halt() == Some(Halt::Deadline) && scope.check().is_ok() => answer = ask(),
                _ => break,
            }
        }
        match answer {
            Ok(found) => {
                let me = &self.facts().instance_id;
                let holder = found.iter().filter(|a| a.association_id.is_some() && a.instance.as_ref() != Some(me));
                holder
                    .map(|a| a.instance.clone().or(a.interface.clone()).unwrap_or_else(|| "another".to_owned()))
                    .next()
                    .map(|who| format!("{shown} is the address of {who} by now"))
            }
            Err(e) => {
                let advice = match e.class() {
                    Class::Denied => format!(" (allow {} for this instance's role)", e.permission()),
                    _ => String::new(),
                };
                Some(format!(
                    "{shown} is no address of this instance any more, and who has it cannot be told: {e}{advice}"
                ))
            }
        }
    }
}
