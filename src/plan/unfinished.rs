//! What a run made and has not committed, and whether it still is that run's to change.
//!
//! A volume that a run makes is marked from CreateVolume on, by the tags of that very call: its owner, and the client
//! token as `in-transit` and as transaction. `in-transit` comes off before the first command works on it (from then on no
//! clean-up deletes it), the transaction stays. At the commit `ts-created` is written: from then on it is data. A
//! roll-back puts `in-transit` back on before it detaches. So there is no moment between the creation and the commit at
//! which another instance can take it for pool data.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::create::is_token;
use super::tags;
use super::volumes::IN_TRANSIT_GRACE;
use crate::aws::ec2::Volume;

/// When what is in transit was put back by its maker: its roll-back writes both. A wrong clock counts for as long.
fn put_back(v: &Volume) -> Option<OffsetDateTime> {
    let used = v.tag(tags::TS_USED).filter(|_| v.tag(tags::IN_TRANSIT).is_some())?;
    OffsetDateTime::parse(used, &Rfc3339).ok()
}

/// Whether what says that it is in transit came late: with an older time of use than that of the commit.
fn came_late(v: &Volume) -> bool {
    let time = |key| v.tag(key).and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok());
    matches!((time(tags::TS_USED), time(tags::TS_CREATED)), (Some(used), Some(created)) if used < created)
}

/// Whether it was made and is not committed. The marks of the program that this one succeeds count for little (only
/// `in-transit` does): they are left behind by every run of it that fails.
pub(crate) fn is_unfinished(v: &Volume) -> bool {
    let transaction = v.tag(tags::TRANSC_ID).filter(|_| v.tag(tags::TS_CREATED).is_none());
    // Whoever took an uncommitted copy has not committed it either.
    let is_open = |t: &str| is_token(t) || v.tag(tags::LINEAGE).is_some();
    (v.tag(tags::IN_TRANSIT).is_some() && !came_late(v)) || transaction.is_some_and(is_open)
}

/// Whether it is not to be taken by the instance `me`: its maker may still be at work. Of a copy, what it is a copy of is
/// the data, however long ago it was made; anything else counts as finished when its maker must be gone: an hour after it
/// was made, or put back.
pub(crate) fn is_left_to_its_maker(v: &Volume, me: &str, now: OffsetDateTime) -> bool {
    if !is_unfinished(v) || v.tag(tags::IN_TRANSIT).is_none() && v.tag(tags::OWNER) == Some(me) {
        return false;
    }
    // EC2's clock tells when it was made; a member's, which may be wrong, when it was put back.
    v.tag(tags::LINEAGE).is_some()
        || v.create_time.is_none_or(|t| now - t < IN_TRANSIT_GRACE)
        || put_back(v).is_some_and(|t| (now - t).abs() < IN_TRANSIT_GRACE)
}

/// What must hold of a volume for a call that changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own<'a> {
    /// It is attached to this instance, so that nobody else can take it.
    Attached,
    /// `owner` made it with `token`, and nobody has committed or used it since. `used` is the time of use that its
    /// maker's own roll-back wrote.
    Unfinished { owner: &'a str, token: &'a str, used: Option<&'a str> },
}

/// What a look at a volume says about [`Own`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It holds, or there is nothing left that could be harmed.
    Holds,
    /// Not by this answer, which may be older than what was done last. In words.
    Unclear(String),
    /// It does not hold any more. In words.
    Lost(String),
}

/// Whether `own` holds for the volume `id`, which is `now` as EC2 describes it to the instance `me`.
pub(crate) fn judge(own: Own<'_>, id: &str, now: Option<&Volume>, me: &str) -> Verdict {
    let Some(v) = now.filter(|v| !v.state.is_ending()) else {
        return match own {
            Own::Attached => Verdict::Unclear(format!("{id} does not exist any more")),
            // Nothing to delete; and what is new may not be known yet.
            Own::Unfinished { .. } => Verdict::Holds,
        };
    };
    let other = v.attachments.iter().find(|a| a.instance_id != me);
    if let Some(a) = other {
        return Verdict::Lost(format!("{id} is now attached to {}", a.instance_id));
    }
    match own {
        Own::Attached if v.attachments.iter().any(|a| !a.state.is_ending()) => Verdict::Holds,
        Own::Attached => Verdict::Unclear(format!("{id} is not attached to this instance any more")),
        Own::Unfinished { owner, token, used } => {
            let is = |key| v.tag(key) == Some(token);
            match (v.tag(tags::OWNER), v.tag(tags::TS_USED)) {
                (Some(o), _) if o != owner => Verdict::Lost(format!("{id} now belongs to {o}")),
                (_, Some(t)) if used.is_none_or(|used| t > used) => Verdict::Lost(format!("{id} was used at {t}")),
                (Some(_), _) if is(tags::IN_TRANSIT) || is(tags::TRANSC_ID) => Verdict::Holds,
                _ => Verdict::Unclear(format!("{id} does not have the tags of its creation any more")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::volumes::tests::{attached, volume};

    const TOKEN: &str = "ec2fd-0123456789012345678901234567890123456789";

    fn made(tags: &[(&str, &str)]) -> Volume {
        let mut v = volume("vol-1", "available");
        v.tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        v
    }

    fn attached_to(v: Volume, instance: &str) -> Volume {
        Volume { tags: v.tags, ..attached("vol-1", instance, "/dev/xvdf", "attached") }
    }

    #[test]
    fn from_its_creation_to_its_commit_it_is_unfinished() {
        let new = made(&[(tags::OWNER, "i-1"), (tags::IN_TRANSIT, TOKEN), (tags::TRANSC_ID, TOKEN)]);
        let at_work = made(&[(tags::OWNER, "i-1"), (tags::TRANSC_ID, TOKEN)]);
        let committed = made(&[(tags::OWNER, "i-1"), (tags::TRANSC_ID, TOKEN), (tags::TS_CREATED, "t")]);
        let rolled_back = made(&[(tags::IN_TRANSIT, TOKEN), (tags::TRANSC_ID, TOKEN), (tags::TS_CREATED, "t")]);
        assert!([&new, &at_work, &rolled_back].into_iter().all(is_unfinished) && !is_unfinished(&committed));
        // Of a volume that was only claimed, or of the original's runs.
        assert!(!is_unfinished(&made(&[(tags::TRANSC_ID, "boot-7")])) && !is_unfinished(&made(&[])));
        // Whoever has an uncommitted copy has not committed it.
        assert!(is_unfinished(&made(&[(tags::TRANSC_ID, "boot-7"), (tags::LINEAGE, "vol-0")])));
        assert!(!is_unfinished(&made(&[(tags::LINEAGE, "vol-0")])));
    }

    #[test]
    fn a_copy_is_its_makers_for_good_and_others_for_an_hour() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(1);
        let aged = |v: Volume, minutes| Volume { create_time: Some(now - time::Duration::minutes(minutes)), ..v };
        let at_work = || made(&[(tags::OWNER, "i-1"), (tags::TRANSC_ID, TOKEN)]);
        let copy = || made(&[(tags::OWNER, "i-1"), (tags::TRANSC_ID, TOKEN), (tags::LINEAGE, "vol-0")]);
        assert!(is_left_to_its_maker(&aged(at_work(), 59), "i-2", now));
        assert!(!is_left_to_its_maker(&aged(at_work(), 61), "i-2", now));
        assert!(is_left_to_its_maker(&aged(copy(), 9999), "i-2", now));
        assert!(!is_left_to_its_maker(&aged(at_work(), 1), "i-1", now));
        assert!(is_left_to_its_maker(&at_work(), "i-2", now), "of unknown age");
    }

    #[test]
    fn what_was_put_back_is_left_alone_for_an_hour_from_then_on_and_what_came_late_is_not() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(1);
        let old = |tags: &[(&str, &str)]| Volume { create_time: Some(now - time::Duration::hours(5)), ..made(tags) };
        let put_back = |used| old(&[(tags::OWNER, "i-1"), (tags::IN_TRANSIT, TOKEN), (tags::TS_USED, used)]);
        assert!(is_left_to_its_maker(&put_back("1970-01-01T23:30:00Z"), "i-2", now));
        assert!(!is_left_to_its_maker(&put_back("1970-01-01T22:30:00Z"), "i-2", now));
        assert!(!is_left_to_its_maker(&put_back("1970-01-02T02:30:00Z"), "i-2", now), "a wrong clock");
        // A mark of a roll-back that is carried out after the next run has committed the volume.
        let late = |used| {
            let times = [(tags::TS_USED, used), (tags::TS_CREATED, "1970-01-01T12:00:00Z")];
            old(&[&[(tags::IN_TRANSIT, TOKEN)][..], &times].concat())
        };
        assert!(!is_unfinished(&late("1970-01-01T11:59:00Z")) && is_unfinished(&late("1970-01-01T12:01:00Z")));
    }

    #[test]
    fn it_is_deleted_only_as_its_maker_left_it() {
        let own = Own::Unfinished { owner: "i-1", token: TOKEN, used: Some("2026-01-01T00:00:00Z") };
        let left = |used| made(&[(tags::OWNER, "i-1"), (tags::IN_TRANSIT, TOKEN), (tags::TS_USED, used)]);
        let judged = |v: &Volume| judge(own, "vol-1", Some(v), "i-1");
        assert_eq!(judged(&left("2026-01-01T00:00:00Z")), Verdict::Holds);
        assert_eq!(judge(own, "vol-1", None, "i-1"), Verdict::Holds);
        assert_eq!(
            judged(&left("2026-01-01T00:00:01Z")),
            Verdict::Lost("vol-1 was used at 2026-01-01T00:00:01Z".into())
        );
        let others = made(&[(tags::OWNER, "i-2"), (tags::IN_TRANSIT, TOKEN)]);
        assert_eq!(judged(&others), Verdict::Lost("vol-1 now belongs to i-2".into()));
        let held = attached_to(left("2026-01-01T00:00:00Z"), "i-2");
        assert_eq!(judged(&held), Verdict::Lost("vol-1 is now attached to i-2".into()));
        for v in [made(&[]), made(&[(tags::OWNER, "i-1")])] {
            assert!(matches!(judged(&v), Verdict::Unclear(_)), "{v:?}");
        }
        // One that was never attached has no time of use.
        let new = Own::Unfinished { owner: "i-1", token: TOKEN, used: None };
        assert!(matches!(judge(new, "vol-1", Some(&left("t")), "i-1"), Verdict::Lost(_)));
    }

    #[test]
    fn what_is_attached_here_is_ours_to_tag() {
        let judged = |v: &Volume| judge(Own::Attached, "vol-1", Some(v), "i-1");
        assert_eq!(judged(&attached_to(made(&[]), "i-1")), Verdict::Holds);
        assert!(matches!(judged(&attached_to(made(&[]), "i-2")), Verdict::Lost(_)));
        assert!(matches!(judged(&made(&[])), Verdict::Unclear(_)));
        assert!(matches!(judge(Own::Attached, "vol-1", None, "i-1"), Verdict::Unclear(_)));
    }
}
