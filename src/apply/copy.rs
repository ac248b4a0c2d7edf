//! Source `s`: a volume with what the newest completed snapshot of the pool has.
//!
//! Its absence must be proven: there is no snapshot at all, or only some that failed. While one is being made, or is in
//! the archive, there is data; a blank volume in its place would be the worst outcome, so that is a failure. With `wait` a
//! snapshot that is being made is waited for, also where an older one is completed: it has what was written last.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshots.html>

use std::time::Duration;

use super::volume::{Acquired, SourceEnd};
use super::{DomainRun, Failure};
use crate::aws::ec2::{Snapshot, Volume};
use crate::config::{Source, VolumeDirective};
use crate::plan::copies::{self, Newest};
use crate::plan::create::{self, Base};
use crate::scope::Scope;

/// How often a snapshot that is being made is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3);

impl DomainRun {
    /// Source `s`: creates the directive's volume from a snapshot, and claims it. `certain`: no source before it has one.
    pub(super) fn source_snapshot(
        &self,
        d: &VolumeDirective,
        read: &[Volume],
        certain: bool,
        scope: &Scope,
    ) -> Result<Acquired, SourceEnd> {
        let snapshot = self.newest_snapshot(d, certain, scope)?;
        let base = Base { snapshot: snapshot.id, size: snapshot.size, tags: Vec::new() };
        if let Some(size) = create::too_small(d, &base) {
            log::info!(
                "{}: Size {size} is less than the {} GiB of {}: as large as that",
                d.path,
                base.size,
                base.snapshot
            );
        }
        self.source_create(d, Source::Snapshot, Some(&base), read, scope)
    }

    fn newest_snapshot(&self, d: &VolumeDirective, certain: bool, scope: &Scope) -> Result<Snapshot, SourceEnd> {
        let (filters, what) = copies::filters(d, &self.config.name);
        let clock = &self.shared.clock;
        let patience = d.claiming.wait.unwrap_or_default();
        let until = clock.now().after(patience);
        let mut measure = self.shared.measure(&d.path);
        loop {
            let all = self
                .shared
                .aws
                .describe_snapshots(scope, &filters)
                .map_err(|e| Failure::api(&format!("list the snapshots of {what}"), &e))?;
            let newest = copies::newest(&all);
            if !certain && newest != Newest::default() {
                return Err(SourceEnd::Held);
            }
            if let Some(p) = newest.pending.filter(|_| clock.now() < until) {
                let text = format!("waiting up to {} s for {} to be completed", patience.as_secs_f64(), p.id);
                measure.tell(&text, Some(p.progress));
                let left = until.since(clock.now());
                scope.sleep(LOOK_EVERY.min(left)).map_err(|h| Failure::halted(text, h))?;
                continue;
            }
            return match self.judge_snapshots(d, &newest, &what) {
                Err(SourceEnd::Absent(why)) if all.is_empty() => Err(SourceEnd::Missing(why)),
                end => end,
            };
        }
    }

    fn judge_snapshots(&self, d: &VolumeDirective, newest: &Newest<'_>, what: &str) -> Result<Snapshot, SourceEnd> {
        match (newest.completed, newest.pending, newest.unusable) {
            (Some(s), pending, _) => {
                if let Some(p) = pending {
                    log::warn!("{}: {} is newer than {}, and not completed yet ({} %)", d.path, p.id, s.id, p.progress);
                }
                Ok(s.clone())
            }
            (None, Some(p), _) => Err(Failure::new(format!(
                "the only snapshot of {what}, {}, is not completed yet ({} %){}",
                p.id,
                p.progress,
                d.claiming.wait.map_or(String::new(), |w| format!("; waited {} s", w.as_secs_f64()))
            ))
            .into()),
            (None, None, Some(s)) => {
                let why =
                    if s.archived { "is archived: restore it to the standard tier" } else { "cannot be used now" };
                Err(Failure::new(format!("the only snapshot of {what}, {}, {why}", s.id)).into())
            }
            (None, None, None) => Err(SourceEnd::Absent(format!("{what} has no snapshot"))),
        }
    }
}
