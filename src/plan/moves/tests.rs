use super::*;
use crate::aws::ec2::{Attachment, AttachmentState};
use crate::plan::volumes::tests::{attached, volume};
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);

fn tagged(mut v: Volume, tags: &[(&str, &str)]) -> Volume {
    v.tags.extend(tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    v
}

fn mark(owner: &str, minutes_ago: i64) -> String {
    Mark { owner: owner.into(), time: NOW - Duration::minutes(minutes_ago), token: "move-1".into() }.text()
}

fn copy(id: &str, of: &str, generation: &str) -> Volume {
    tagged(volume(id, "available"), &[(tags::LINEAGE, of), (tags::GENERATION, generation)])
}

#[test]
fn a_mark_is_read_as_it_is_written() {
    assert_eq!(mark("i-1", 0), "i-1 2026-03-01T12:00:00Z move-1");
    let m = Mark::parse(&mark("i-1", 5)).unwrap();
    assert_eq!((m.owner.as_str(), m.token.as_str(), NOW - m.time), ("i-1", "move-1", Duration::minutes(5)));
    for no in ["", "i-1", "i-1 now move-1", "i-1 2026-03-01T12:00:00Z", "i-1 2026-03-01T12:00:00Z a b"] {
        assert_eq!(Mark::parse(no), None, "{no}");
    }
    for (minutes, stale) in [(0, false), (59, false), (60, true), (-59, false), (-60, true)] {
        assert_eq!(Mark::parse(&mark("i-1", minutes)).unwrap().is_stale(NOW), stale, "{minutes}");
    }
    let of = |volume, seconds| token("i-1", "d", volume, NOW + Duration::seconds(seconds));
    assert_eq!(of("vol-1", 0), of("vol-1", 0));
    assert!(of("vol-1", 0) != of("vol-1", 1) && of("vol-1", 0) != of("vol-2", 0));
}

#[test]
fn of_a_line_only_the_highest_generation_that_stands_counts() {
    let old = volume("vol-1", "available");
    let passed = |all: &[Volume]| {
        let passed: Vec<String> = all.iter().filter(|v| Lines::of(all).has_passed(v)).map(|v| v.id.clone()).collect();
        passed.join(" ")
    };
    assert_eq!(passed(&[old.clone(), volume("vol-2", "available")]), "");
    assert_eq!(passed(&[old.clone(), copy("vol-2", "vol-1", "1")]), "vol-1");
    assert_eq!(passed(&[old.clone(), copy("vol-2", "vol-1", "1"), copy("vol-3", "vol-1", "2")]), "vol-1 vol-2");
    // Ten is more than nine.
    assert_eq!(passed(&[copy("vol-2", "vol-1", "10"), copy("vol-3", "vol-1", "9")]), "vol-3");
    let in_transit = tagged(copy("vol-2", "vol-1", "1"), &[(tags::IN_TRANSIT, "t")]);
    assert_eq!(passed(&[old.clone(), in_transit.clone()]), "");
    assert_eq!(successor(&old, &[in_transit]), None);
    let gone = Volume { state: VolumeState::Deleting, ..copy("vol-2", "vol-1", "1") };
    assert_eq!(passed(&[old.clone(), gone]), "");
    // A copy that was given up does not stand for anything.
    let given_up = tagged(copy("vol-2", "vol-1", "1"), &[(tags::SUPERSEDED_BY, "vol-1")]);
    assert_eq!(passed(&[old.clone(), given_up]), "vol-2");
    assert_eq!(passed(&[tagged(old.clone(), &[(tags::SUPERSEDED_BY, "vol-9")])]), "vol-1");
    let all = [copy("vol-2", "vol-1", "1"), copy("vol-3", "vol-1", "2"), copy("vol-4", "vol-7", "5")];
    assert_eq!(successor(&old, &all).map(|v| v.id.as_str()), Some("vol-3"));
}

#[test]
fn free_volumes_of_the_pool_in_other_zones_can_be_moved() {
    let at = |zone: &str, v: Volume| Volume { zone: zone.into(), ..v };
    let of = |all: &[Volume]| {
        let m = movable(all, "d", "pool", ("i-me", "here"), NOW, &BTreeSet::new());
        (m.free.iter().map(|v| v.id.clone()).collect::<Vec<_>>().join(" "), m.elsewhere, m.changing, m.moving)
    };
    let none = |m: (String, usize, usize, usize), elsewhere| assert_eq!(m, (String::new(), elsewhere, 0, 0));
    let free = volume("vol-2", "available");
    assert_eq!(of(&[at("b", free.clone()), at("a", volume("vol-1", "available"))]), ("vol-1 vol-2".into(), 2, 0, 0));
    none(of(&[at("here", free.clone())]), 0);
    none(of(&[at("a", attached("vol-1", "i-2", "/dev/sdf", "attached"))]), 1);
    none(of(&[Volume { multi_attach: true, ..at("a", free.clone()) }]), 0);
    none(of(&[Volume { operator_managed: true, ..at("a", free.clone()) }]), 0);
    none(of(&[at("a", volume("vol-1", "deleting"))]), 0);
    none(of(&[at("a", tagged(free.clone(), &[(tags::IN_TRANSIT, "t")]))]), 0);
    none(of(&[at("a", tagged(free.clone(), &[(tags::SUPERSEDED_BY, "vol-9")]))]), 0);
    none(of(&[at("a", free.clone()), at("here", copy("vol-3", "vol-2", "1"))]), 0);
    assert_eq!(of(&[at("a", attached("vol-1", "i-2", "/dev/sdf", "detaching"))]), (String::new(), 1, 1, 0));
    let marked = |owner, minutes| at("a", tagged(free.clone(), &[(tags::MOVING, &mark(owner, minutes))]));
    assert_eq!(of(&[marked("i-2", 5)]), (String::new(), 1, 0, 1));
    assert_eq!(of(&[marked("i-2", 90)]).0, "vol-2");
    assert_eq!(of(&[marked("i-me", 5)]).0, "vol-2");
}

#[test]
fn a_move_is_lost_to_whoever_marks_last_or_uses_the_volume() {
    let ours = tagged(volume("vol-1", "available"), &[(tags::MOVING, &mark("i-me", 0)), (tags::TS_USED, "t1")]);
    let why = |v: &Volume, token: &str, used| lost(Some(v), token, used).unwrap_or_default();
    assert_eq!(why(&ours, "move-1", Some("t1")), "");
    assert_eq!(why(&ours, "move-2", Some("t1")), "i-me moves it");
    assert_eq!(why(&ours, "move-1", None), "it was used meanwhile");
    assert_eq!(why(&ours, "move-1", Some("t0")), "it was used meanwhile");
    assert_eq!(lost(None, "move-1", None).as_deref(), Some("it does not exist any more"));
    assert_eq!(why(&volume("vol-1", "available"), "move-1", None), "its mark was taken off");
    let a = |state| Attachment {
        instance_id: "i-2".into(),
        device: "/dev/sdf".into(),
        state,
        delete_on_termination: false,
    };
    let taken = Volume { attachments: vec![a(AttachmentState::Attaching)], ..ours.clone() };
    assert_eq!(why(&taken, "move-1", Some("t1")), "i-2 took it meanwhile");
    let passed = tagged(ours.clone(), &[(tags::SUPERSEDED_BY, "vol-2")]);
    assert_eq!(why(&passed, "move-1", Some("t1")), "it has become vol-2 meanwhile");
    assert_eq!(
        why(&Volume { state: VolumeState::Error, ..ours.clone() }, "move-1", Some("t1")),
        "its state is error by now"
    );
}
