//! The calls that change volumes and snapshots: noted for `{transaction_log}`, and made only while the thing still is
//! this run's to change.
//!
//! AttachVolume gives a lock, and DetachVolume names the instance, so that EC2 refuses it where it does not fit. Tags and
//! deletions have no condition of EC2's. For them [`Watch`] is the condition: it looks before each try, unless at the first
//! one what is to hold was known a moment ago. A call that may do harm to others is made from here and from nowhere else (a test holds
//! that).

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::{DomainRun, Shared, lock};
use crate::aws::ec2::{Filter, Volume};
use crate::aws::{ApiError, Lapsed, Still};
use crate::clock::Tick;
use crate::plan::tags;
use crate::plan::unfinished::{Own, Verdict, judge};
use crate::scope::Scope;

/// What was known so long ago is looked at before the first try, too.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// A look that took longer is looked again, if there is time.
const OLD: Duration = Duration::from_secs(2);
/// When it is looked again after an answer that may be older than what was done last.
const LOOKS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Looks whether volumes still are what a call takes them for.
pub(super) struct Watch<'a> {
    shared: &'a Shared,
    ids: &'a [&'a str],
    own: Own<'a>,
    /// When it was known, before the first try.
    known: Mutex<Option<Tick>>,
}

impl Shared {
    /// A watch over volumes of which `own` is to hold, as was known at `known`; `None`: it is looked at each time.
    pub(super) fn watch<'a>(&'a self, ids: &'a [&'a str], own: Own<'a>, known: Option<Tick>) -> Watch<'a> {
        Watch { shared: self, ids, own, known: Mutex::new(known) }
    }

    fn describe_all(&self, ids: &[&str], scope: &Scope) -> Result<Vec<Volume>, Lapsed> {
        self.aws.describe_volumes(scope, &[Filter::exact("volume-id", ids)]).map_err(Lapsed::Unknown)
    }
}

impl Watch<'_> {
    /// Says whether it holds, for all of them.
    pub(super) fn ask(&self, scope: &Scope) -> Result<(), Lapsed> {
        let clock = &self.shared.clock;
        if lock(&self.known).take().is_some_and(|known| clock.now().since(known) < KNOWN_FOR) {
            return Ok(());
        }
        let me = self.shared.facts().instance_id.clone();
        for pause in LOOKS.into_iter().map(Some).chain([None]) {
            let begun = clock.now();
            let read = self.shared.describe_all(self.ids, scope)?;
            // An answer that took so long may be of before somebody came.
            if clock.now().since(begun) > OLD && pause.is_some() {
                continue;
            }
            let of = |id: &&str| judge(self.own, id, read.iter().find(|v| v.id == **id), &me);
            let mut unclear = None;
            for verdict in self.ids.iter().map(of) {
                match verdict {
                    Verdict::Holds => {}
                    Verdict::Unclear(why) => unclear = Some(why),
                    Verdict::Lost(why) => return Err(Lapsed::Changed(why)),
                }
            }
            let Some(why) = unclear else { return Ok(()) };
            if pause.is_none_or(|pause| scope.sleep(pause).is_err()) {
                return Err(Lapsed::Changed(why));
            }
        }
        Ok(())
    }
}

impl DomainRun {
    /// Notes CreateTags on `ids`.
    pub(super) fn note_tags(&self, ids: &[&str], tags: &[(&str, &str)]) {
        let tags: Vec<_> = tags.iter().map(|(k, v)| json!({ "Key": k, "Value": v })).collect();
        self.note_call("create_tags", json!({ "Resources": ids, "Tags": tags }));
    }

    /// Notes DeleteTags on `ids`; a tag without a value goes whatever its value is.
    pub(super) fn note_untag(&self, ids: &[&str], tags: &[(&str, Option<&str>)]) {
        let tag = |(k, v): &(&str, Option<&str>)| match v {
            Some(v) => json!({ "Key": k, "Value": v }),
            None => json!({ "Key": k }),
        };
        let tags: Vec<_> = tags.iter().map(tag).collect();
        self.note_call("delete_tags", json!({ "Resources": ids, "Tags": tags }));
    }

    /// CreateTags: writes over what is there.
    pub(super) fn tag(
        &self,
        id: &str,
        tags: &[(&str, &str)],
        still: &Still<'_>,
        scope: &Scope,
    ) -> Result<(), ApiError> {
        self.tag_all(&[id], tags, still, scope)
    }

    /// CreateTags: all of them, or none.
    pub(super) fn tag_all(
        &self,
        ids: &[&str],
        tags: &[(&str, &str)],
        still: &Still<'_>,
        scope: &Scope,
    ) -> Result<(), ApiError> {
        if tags.is_empty() || ids.is_empty() {
            return Ok(());
        }
        self.note_tags(ids, tags);
        self.shared.aws.create_tags(scope, ids, tags, still)
    }

    /// CreateTags on a volume that is attached here, as was known at `known`.
    pub(super) fn tag_attached(
        &self,
        id: &str,
        tags: &[(&str, &str)],
        known: Tick,
        scope: &Scope,
    ) -> Result<(), ApiError> {
        let ids = [id];
        let watch = self.shared.watch(&ids, Own::Attached, Some(known));
        self.tag(id, tags, &Still::while_(&|s| watch.ask(s)), scope)
    }

    /// DeleteTags. With its value a tag goes only where it still has that one, so that needs no watch.
    pub(super) fn untag(
        &self,
        id: &str,
        tags: &[(&str, Option<&str>)],
        still: &Still<'_>,
        scope: &Scope,
    ) -> Result<(), ApiError> {
        if tags.is_empty() {
            return Ok(());
        }
        self.note_untag(&[id], tags);
        self.shared.aws.delete_tags(scope, &[id], tags, still)
    }

    /// DeleteVolume, each try of it only while `own` holds and nothing has gone over into it (`marked`: others may have
    /// seen it as data).
    pub(super) fn delete_owned(&self, id: &str, own: Own<'_>, marked: bool, scope: &Scope) -> Result<(), ApiError> {
        let ids = [id];
        let watch = self.shared.watch(&ids, own, None);
        let ask = |s: &Scope| {
            watch.ask(s)?;
            if !marked {
                return Ok(());
            }
            let by = [Filter::exact(format!("tag:{}", tags::SUPERSEDED_BY), &[id])];
            let old = self.shared.aws.describe_volumes(s, &by).map_err(Lapsed::Unknown)?;
            old.first().map_or(Ok(()), |old| Err(Lapsed::Changed(format!("{} has become {id}", old.id))))
        };
        self.note_call("delete_volume", json!({ "VolumeId": id }));
        self.shared.aws.delete_volume(scope, id, &Still::while_(&ask))
    }

    /// DeleteSnapshot.
    pub(super) fn delete_owned_snapshot(&self, id: &str, still: &Still<'_>, scope: &Scope) -> Result<(), ApiError> {
        self.note_call("delete_snapshot", json!({ "SnapshotId": id }));
        self.shared.aws.delete_snapshot(scope, id, still)
    }

    /// DetachVolume from `instance`.
    pub(super) fn detach_from(
        &self,
        id: &str,
        instance: &str,
        still: &Still<'_>,
        scope: &Scope,
    ) -> Result<(), ApiError> {
        self.note_call("detach_volume", json!({ "VolumeId": id, "InstanceId": instance }));
        self.shared.aws.detach_volume(scope, id, instance, still)
    }
}
