//! Reading what is at the names of directives: some at a time, and each answer for all the names that it tells of.

use super::{DomainRun, Failure};
use crate::aws::route53::{RecordSet, listing_order, normalise};
use crate::clock::Tick;
use crate::config::RecordDirective;
use crate::parallel;
use crate::scope::Scope;

/// What was read of a record, and when.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(super) name: String,
    pub(super) sets: Vec<RecordSet>,
    pub(super) at: Tick,
}

/// How many records of a domain are read at the same time.
const READERS: usize = 4;
/// A picture older than this is taken again before it is relied on.
pub(super) const STALE: std::time::Duration = std::time::Duration::from_secs(5);

impl DomainRun {
    /// The records that this domain wants: zone and name.
    pub(crate) fn record_names(&self) -> Vec<(String, String)> {
        let values = self.values_for_names();
        self.config.records.iter().map(|d| (d.hosted_zone.clone(), normalise(&d.name.expand(&values)))).collect()
    }

    /// Reads the record sets at the directive's name.
    pub(super) fn read_record(&self, d: &RecordDirective, scope: &Scope) -> Result<Read, Failure> {
        let name = normalise(&d.name.expand(&self.values_for_names()));
        let (_, sets, at) = self.read_names(&d.hosted_zone, &[&name], scope)?.swap_remove(0);
        Ok(Read { name, sets, at })
    }

    /// Reads what is at the names of all these directives; the results are in their order.
    pub(super) fn read_records(&self, wanted: &[&RecordDirective], scope: &Scope) -> Vec<Result<Read, Failure>> {
        let values = self.values_for_names();
        let of = |d: &RecordDirective| (d.hosted_zone.clone(), normalise(&d.name.expand(&values)));
        let names: Vec<(String, String)> = wanted.iter().map(|d| of(d)).collect();
        let mut all: Vec<(&str, &str)> = names.iter().map(|(z, n)| (z.as_str(), n.as_str())).collect();
        all.sort_by_cached_key(|(zone, name)| (zone.to_owned(), listing_order(name)));
        all.dedup();
        // Neighbours stay together.
        let parts: Vec<&[(&str, &str)]> = all.chunks(all.len().div_ceil(READERS).max(1)).collect();
        let read = parallel::map(parts.len(), |i| self.read_part(parts[i], scope)).concat();
        let find = |(zone, name): &(String, String)| {
            let found = read.iter().find(|(z, n, _)| z == zone && n == name).map(|(.., r)| r.clone());
            found.unwrap_or_else(|| Err(Failure::new(format!("{name} was not read"))))
        };
        names.iter().map(find).collect()
    }

    /// Reads these names, in the order of a listing.
    pub(super) fn read_part(
        &self,
        part: &[(&str, &str)],
        scope: &Scope,
    ) -> Vec<(String, String, Result<Read, Failure>)> {
        let mut out: Vec<(String, String, Result<Read, Failure>)> = Vec::new();
        let mut left = part;
        while let Some(((zone, name), after)) = left.split_first() {
            let neighbours: Vec<&str> = left.iter().take_while(|(z, _)| z == zone).map(|(_, name)| *name).collect();
            match self.read_names(zone, &neighbours, scope) {
                Ok(read) => {
                    left = &left[read.len()..];
                    out.extend(
                        read.into_iter()
                            .map(|(name, sets, at)| (zone.to_string(), name.clone(), Ok(Read { name, sets, at }))),
                    );
                }
                Err(f) => {
                    out.push((zone.to_string(), name.to_string(), Err(f)));
                    left = after;
                }
            }
        }
        out
    }

    /// What is at the first of these names, and at those of the next ones that the same answer tells of.
    fn read_names(
        &self,
        zone: &str,
        names: &[&str],
        scope: &Scope,
    ) -> Result<Vec<(String, Vec<RecordSet>, Tick)>, Failure> {
        let first = names.first().copied().unwrap_or_default();
        let read = self.shared.aws.list_record_sets(scope, zone, names);
        let read = read.map_err(|e| Failure::api(&format!("list the records at {first} in hosted zone {zone}"), &e))?;
        let at = self.shared.clock.now();
        Ok(names.iter().zip(read).map(|(name, sets)| (name.to_string(), sets, at)).collect())
    }

    /// The first macro in the name of a directive's record that has no value.
    pub(super) fn no_name(&self, d: &RecordDirective) -> Option<&'static str> {
        d.name.without_value(&self.values_for_names())
    }

    /// Reads again what is `old` of this, or was read at a name that was made with an address which is another by now; the
    /// rest is as it was.
    pub(super) fn refreshed<'d>(
        &self,
        mut all: Vec<(&'d RecordDirective, Result<Read, Failure>)>,
        scope: &Scope,
    ) -> Vec<(&'d RecordDirective, Result<Read, Failure>)> {
        let now = self.shared.clock.now();
        let values = self.values_for_names();
        let is_renamed =
            |d: &RecordDirective, r: &Read| d.name.has_addresses() && r.name != normalise(&d.name.expand(&values));
        let is_old = |d: &RecordDirective, r: &Result<Read, Failure>| {
            r.as_ref().is_ok_and(|r| now.since(r.at) > STALE || is_renamed(d, r))
        };
        let old: Vec<&RecordDirective> = all.iter().filter(|(d, r)| is_old(d, r)).map(|(d, _)| *d).collect();
        if old.is_empty() {
            return all;
        }
        let mut again = self.read_records(&old, scope).into_iter();
        for (_, read) in all.iter_mut().filter(|(d, r)| is_old(d, r)) {
            if let Some(new) = again.next() {
                *read = new;
            }
        }
        all
    }
}
