//! What is waited for: who holds the volumes, in which state, in words; and how often that is looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tags::TS_USED;
use super::volumes::{Standing, spread, standing};
use crate::aws::ec2::{InstanceState, Volume};

/// Looks while a volume changes, at first: its handover must not wait for us, and mostly takes a few seconds.
const FIRST: (Duration, Duration) = (Duration::from_millis(90), Duration::from_millis(50));
/// How long it is looked at so often.
const FIRST_FOR: Duration = Duration::from_secs(10);
/// The same afterwards.
const QUICK: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(50));
/// How long one change is looked at so often.
const QUICK_FOR: Duration = Duration::from_secs(60);
/// Looks while the holder seems to be on its way out: EC2 takes longer than that to detach, so that it is seen.
const SOON: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(300));
/// How long: the two minutes of an interruption.
const SOON_FOR: Duration = Duration::from_secs(125);
/// Looks while nothing happens: from the first pause to the last.
const QUIET: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How many of many are named.
pub(crate) const NAMED: usize = 5;

/// The states of instances, as far as EC2 told them.
pub(crate) type States = BTreeMap<String, InstanceState>;

/// A volume of this zone that another instance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// `vol-…`.
    pub(crate) volume_id: String,
    /// `i-…`; empty if it is no instance that has it.
    pub(crate) holder: String,
    /// Exactly one instance has it, and nobody manages it: its holder may be detached from where the config says so.
    pub(crate) alone: bool,
    /// When it was used, as its tag says. A holder that will release it writes that when its way out begins.
    pub(crate) used: String,
}

impl Held {
    /// `held by i-…, which is running`.
    pub(crate) fn text(&self, states: &States) -> String {
        match states.get(&self.holder) {
            _ if self.holder.is_empty() => "held by a service".to_owned(),
            Some(state) => format!("held by {}, which is {}", self.holder, state.name()),
            None => format!("held by {}", self.holder),
        }
    }
}

/// Those of `volumes` that other instances have, in the order of their ids. What is on its way from them is not held.
pub(crate) fn held<'v>(volumes: impl Iterator<Item = &'v Volume>, me: &str, zone: &str) -> Vec<Held> {
    let one = |v: &Volume| {
        let a = v.attachments.first()?;
        let is_held = v.zone == zone && matches!(standing(v, me, zone), Standing::Absent(_));
        is_held.then(|| Held {
            volume_id: v.id.clone(),
            holder: a.instance_id.clone(),
            alone: v.attachments.len() == 1 && !v.multi_attach && !v.operator_managed && !a.instance_id.is_empty(),
            used: v.tag(TS_USED).unwrap_or_default().to_owned(),
        })
    };
    let mut all: Vec<Held> = volumes.filter_map(one).collect();
    all.sort_by(|a, b| a.volume_id.cmp(&b.volume_id));
    all
}

/// Some of many, in words: those whose holders do not run first.
pub(crate) fn named(held: &[Held], states: &States) -> String {
    let mut sorted: Vec<&Held> = held.iter().collect();
    sorted.sort_by_key(|h| matches!(states.get(&h.holder), None | Some(InstanceState::Running)));
    let some: Vec<String> = sorted.iter().take(NAMED).map(|h| format!("{} {}", h.volume_id, h.text(states))).collect();
    let more = held.len().saturating_sub(NAMED);
    if more > 0 { format!("{}; and {more} more", some.join("; ")) } else { some.join("; ") }
}

/// The one whose holder may be detached from: a crowd does not want the same one.
pub(crate) fn to_fence<'h>(held: &'h [Held], states: &States, me: &str) -> Option<&'h Held> {
    let over = |h: &&Held| h.alone && states.get(&h.holder).is_some_and(|s| s.is_over());
    held.iter().filter(over).min_by_key(|h| spread(me, &h.volume_id))
}

/// How long until the next look at what nobody changes, after `looks` of them: growing, and not in step with others.
pub(crate) fn quiet_pause(me: &str, looks: u32) -> Duration {
    let growing = QUIET.0.mul_f64(1.5f64.powi(looks.min(10).cast_signed())).min(QUIET.1);
    let jitter = spread(me, &looks.to_string()) % 1000;
    growing.mul_f64(0.8 + jitter as f64 / 2500.0)
}

/// A volume whose holder is the same as `before` and has written its time of use since.
pub(crate) fn used_anew<'h>(before: &[Held], now: &'h [Held]) -> Option<&'h Held> {
    let same = |b: &Held, h: &Held| b.volume_id == h.volume_id && b.holder == h.holder;
    now.iter().find(|h| before.iter().any(|b| same(b, h) && b.used != h.used))
}

/// How long until the next look when the time of use was written so long ago; `None`: that means nothing any more.
pub(crate) fn soon_pause(ago: Duration, random: f64) -> Option<Duration> {
    (ago < SOON_FOR).then(|| SOON.0 + SOON.1.mul_f64(random))
}

/// How long until the next look at what has been changing for so long.
pub(crate) fn quick_pause(changing: Duration, random: f64) -> Duration {
    let (least, more) = match changing {
        c if c < FIRST_FOR => FIRST,
        c if c < QUICK_FOR => QUICK,
        _ => (QUIET.0, QUIET.0),
    };
    least + more.mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::super::volumes::tests::{attached, volume};
    use super::*;

    fn states(of: &[(&str, InstanceState)]) -> States {
        of.iter().map(|(id, s)| ((*id).to_owned(), *s)).collect()
    }

    #[test]
    fn who_holds_what() {
        let elsewhere = Volume { zone: "y".into(), ..attached("vol-5", "i-2", "/dev/sdf", "attached") };
        let shared = Volume { multi_attach: true, ..attached("vol-6", "i-2", "/dev/sdf", "attached") };
        let all = [
            attached("vol-2", "i-2", "/dev/sdf", "attached"),
            attached("vol-1", "i-1", "/dev/sdf", "attaching"),
            attached("vol-3", "i-me", "/dev/sdf", "attached"),
            attached("vol-4", "i-2", "/dev/sdf", "detaching"),
            elsewhere,
            shared,
            volume("vol-7", "available"),
        ];
        let held = held(all.iter(), "i-me", "z");
        let got: Vec<_> = held.iter().map(|h| (h.volume_id.as_str(), h.holder.as_str(), h.alone)).collect();
        assert_eq!(got, [("vol-1", "i-1", true), ("vol-2", "i-2", true), ("vol-6", "i-2", false)]);
        let known = states(&[("i-2", InstanceState::Stopped)]);
        assert_eq!(
            named(&held, &known),
            "vol-2 held by i-2, which is stopped; vol-6 held by i-2, which is stopped; vol-1 held by i-1"
        );
        // Only the one that is held alone, and only where the state is known.
        assert_eq!(to_fence(&held, &known, "i-me").map(|h| h.volume_id.as_str()), Some("vol-2"));
        for state in [
            InstanceState::Pending,
            InstanceState::Running,
            InstanceState::ShuttingDown,
            InstanceState::Stopping,
            InstanceState::Other,
        ] {
            assert_eq!(to_fence(&held, &states(&[("i-1", state), ("i-2", state)]), "i-me"), None, "{state:?}");
        }
        assert_eq!(to_fence(&held, &States::new(), "i-me"), None);
    }

    #[test]
    fn of_many_some_are_named() {
        let many: Vec<Volume> =
            (0..8).map(|n| attached(&format!("vol-{n}"), &format!("i-{n}"), "/dev/sdf", "attached")).collect();
        let text = named(&held(many.iter(), "i-me", "z"), &states(&[("i-7", InstanceState::ShuttingDown)]));
        assert!(text.starts_with("vol-7 held by i-7, which is shutting-down; vol-0 held by i-0; "), "{text}");
        assert!(text.ends_with("; and 3 more"), "{text}");
    }

    #[test]
    fn a_time_of_use_that_is_new_announces_something() {
        let with = |holder: &str, used: &str| {
            let mut v = attached("vol-1", holder, "/dev/sdf", "attached");
            v.tags.push((TS_USED.into(), used.into()));
            held([attached("vol-0", "i-1", "/dev/sdf", "attached"), v].iter(), "i-me", "z")
        };
        let (old, new) = (with("i-1", "2026-01-01T00:00:00Z"), with("i-1", "2026-01-01T00:00:09Z"));
        assert_eq!(used_anew(&old, &new).map(|h| h.volume_id.as_str()), Some("vol-1"));
        assert_eq!(used_anew(&old, &old), None);
        // Another holder's is that holder's.
        assert_eq!(used_anew(&old, &with("i-2", "2026-01-01T00:00:09Z")), None);
        assert_eq!(used_anew(&[], &new), None);
        assert!(soon_pause(Duration::from_secs(124), 1.0) == Some(Duration::from_millis(800)));
        assert_eq!(soon_pause(Duration::from_secs(125), 0.0), None);
    }

    #[test]
    fn pauses_grow_and_stay_within_bounds() {
        let s = |ms: u64| Duration::from_millis(ms);
        for me in ["i-1", "i-2", "i-3"] {
            assert!((s(800)..=s(1200)).contains(&quiet_pause(me, 0)));
            assert!((s(4000)..=s(6000)).contains(&quiet_pause(me, 50)));
        }
        assert_ne!(quiet_pause("i-1", 50), quiet_pause("i-2", 50));
        assert_eq!(quick_pause(s(0), 0.0), s(90));
        assert!(quick_pause(s(9_999), 0.99) < s(140));
        assert_eq!(quick_pause(s(10_000), 0.0), s(150));
        assert!(quick_pause(s(59_000), 0.99) < s(200));
        assert!(quick_pause(s(60_000), 0.0) >= s(1000));
    }
}
