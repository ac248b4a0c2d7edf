use super::*;
use crate::aws::ec2::{Attachment, AttachmentState};
use time::macros::datetime;

pub(crate) fn directive(sources: &str, device: Option<&str>) -> VolumeDirective {
    VolumeDirective {
        path: "domains.\"d\".attach-volume[0]".into(),
        index: 0,
        critical: true,
        sources: sources
            .chars()
            .map(|c| match c {
                'x' => Source::Existing,
                'p' => Source::Pool,
                's' => Source::Snapshot,
                'm' => Source::Move,
                _ => Source::Create,
            })
            .collect(),
        device: device.map(Into::into),
        volume_id: sources.contains('x').then(|| "vol-x".into()),
        pool_name: Some("pool".into()),
        pool_pref: PoolPref::Index,
        member: None,
        claiming: Default::default(),
        create: Some(serde_json::Map::new()),
        snapshot_tags: Vec::new(),
        initialization_rate: None,
        mount: None,
        release: None,
        snapshot: None,
        exec: Vec::new(),
    }
}

pub(crate) fn volume(id: &str, state: &str) -> Volume {
    Volume {
        id: id.into(),
        state: match state {
            "creating" => VolumeState::Creating,
            "available" => VolumeState::Available,
            "in-use" => VolumeState::InUse,
            "deleting" => VolumeState::Deleting,
            _ => VolumeState::Error,
        },
        zone: "z".into(),
        tags: vec![(tags::DOMAIN.into(), "d".into()), (tags::POOL_NAME.into(), "pool".into())],
        create_time: Some(datetime!(2026-01-01 00:00 UTC)),
        size: 8,
        multi_attach: false,
        operator_managed: false,
        snapshot_id: None,
        source_volume_id: None,
        encrypted: false,
        attachments: Vec::new(),
    }
}

pub(crate) fn attached(id: &str, to: &str, device: &str, state: &str) -> Volume {
    let state = match state {
        "attaching" => AttachmentState::Attaching,
        "attached" => AttachmentState::Attached,
        _ => AttachmentState::Detaching,
    };
    let a = Attachment { instance_id: to.into(), device: device.into(), state, delete_on_termination: false };
    Volume { attachments: vec![a], ..volume(id, "in-use") }
}

static NOBODY: BTreeSet<String> = BTreeSet::new();

pub(crate) fn by() -> Chooser<'static> {
    Chooser {
        me: "i-me",
        zone: "z",
        launch_index: 0,
        now: datetime!(2026-01-01 12:00 UTC),
        token: Some("own"),
        seed: 7,
        member: "",
        gone: &NOBODY,
    }
}

#[test]
fn standings() {
    let of = |v: &Volume| standing(v, "i-me", "z");
    assert_eq!(of(&volume("a", "available")), Standing::Free);
    assert!(matches!(of(&volume("a", "creating")), Standing::Changing(_)));
    assert!(matches!(of(&volume("a", "in-use")), Standing::Changing(_)), "in use by nobody: being freed");
    assert!(matches!(of(&volume("a", "error")), Standing::Broken(_)));
    assert!(matches!(of(&volume("a", "deleting")), Standing::Absent(_)));
    assert!(matches!(of(&attached("a", "i-other", "/dev/sdf", "attached")), Standing::Absent(_)));
    assert!(matches!(of(&attached("a", "i-other", "/dev/sdf", "detaching")), Standing::Changing(_)));
    assert_eq!(of(&attached("a", "i-me", "/dev/sdf", "attaching")), Standing::Here("/dev/sdf".into()));
    assert!(matches!(of(&Volume { zone: "y".into(), ..volume("a", "available") }), Standing::Absent(_)));
}

#[test]
fn first_look_by_id() {
    let d = directive("xpc", Some("/dev/sdf"));
    let look = |v: Volume| first_look(&d, std::slice::from_ref(&d), "d", &[v], "i-me");
    let found = look(attached("vol-x", "i-me", "/dev/xvdf", "attached")).unwrap().unwrap();
    assert_eq!((found.volume_id.as_str(), found.source), ("vol-x", Source::Existing));
    let e = look(attached("vol-x", "i-me", "/dev/sdg", "attached")).unwrap_err().to_string();
    assert!(e.contains("vol-x") && e.contains("/dev/sdg") && e.contains("/dev/sdf"), "{e}");
    assert_eq!(look(attached("vol-x", "i-other", "/dev/sdf", "attached")), Ok(None));
}

#[test]
fn first_look_in_the_pool() {
    let d = directive("p", Some("/dev/sdf"));
    let other = VolumeDirective { index: 1, device: Some("/dev/sdg".into()), ..d.clone() };
    let all = [d.clone(), other];
    let look = |v: &[Volume]| first_look(&d, &all, "d", v, "i-me");
    assert_eq!(look(&[attached("a", "i-me", "/dev/sdf", "attached")]).unwrap().unwrap().volume_id, "a");
    assert_eq!(look(&[attached("a", "i-me", "/dev/sdg", "attached")]), Ok(None), "the other directive's");
    let e = look(&[attached("a", "i-me", "/dev/sdz", "attached")]).unwrap_err().to_string();
    assert!(e.contains("/dev/sdz") && e.contains('a'), "{e}");
    assert_eq!(look(&[attached("a", "i-me", "/dev/sdf", "detaching")]), Ok(None));
    let foreign = Volume { tags: vec![], ..attached("a", "i-me", "/dev/sdf", "attached") };
    assert_eq!(look(&[foreign]), Ok(None), "not of the pool");
    // A directive without a device finds the one under a name that nobody requests.
    let free = VolumeDirective { device: None, ..d.clone() };
    let all = [free.clone(), VolumeDirective { index: 1, device: Some("/dev/sdg".into()), ..d.clone() }];
    let v = [attached("a", "i-me", "/dev/sdg", "attached"), attached("b", "i-me", "/dev/xvdba", "attached")];
    assert_eq!(first_look(&free, &all, "d", &v, "i-me").unwrap().unwrap().volume_id, "b");
    assert_eq!(first_look(&all[1], &all, "d", &v, "i-me").unwrap().unwrap().volume_id, "a");
}

#[test]
fn what_is_in_transit_was_created() {
    let d = directive("pc", Some("/dev/sdf"));
    let mut v = attached("a", "i-me", "/dev/sdf", "attached");
    v.tags.push((tags::IN_TRANSIT.into(), "t".into()));
    assert_eq!(first_look(&d, std::slice::from_ref(&d), "d", &[v], "i-me").unwrap().unwrap().source, Source::Create);
}

#[test]
fn the_index_goes_first_and_the_rest_is_spread() {
    let pool: Vec<Volume> = ["c", "a", "b", "d"].iter().map(|i| volume(i, "available")).collect();
    let of = |me: &'static str, i| {
        candidates(&pool, "d", "pool", PoolPref::Index, Chooser { me, launch_index: i, ..by() }).ids
    };
    assert_eq!(of("i-1", 0)[0], "a");
    assert_eq!(of("i-1", 5)[0], "b");
    assert_eq!(of("i-1", 0).len(), 4);
    // Many instances try the others in different orders: no volume is everybody's second.
    let mut seconds = std::collections::BTreeMap::new();
    for n in 0..300 {
        let me: &'static str = Box::leak(format!("i-{n}").into_boxed_str());
        *seconds.entry(of(me, 0)[1].clone()).or_insert(0) += 1;
    }
    assert_eq!(seconds.len(), 3);
    assert!(seconds.values().all(|n| (60..=140).contains(n)), "{seconds:?}");
}

#[test]
fn who_is_no_candidate() {
    let mut multi = volume("multi", "available");
    multi.multi_attach = true;
    let mut managed = volume("managed", "available");
    managed.operator_managed = true;
    let mut elsewhere = volume("elsewhere", "available");
    elsewhere.zone = "y".into();
    let mut young = volume("young", "available");
    young.tags.push((tags::IN_TRANSIT.into(), "theirs".into()));
    young.create_time = Some(by().now - time::Duration::minutes(5));
    let mut old = young.clone();
    old.id = "old".into();
    old.create_time = Some(by().now - time::Duration::hours(2));
    let mut own = young.clone();
    own.id = "own".into();
    own.tags = vec![
        (tags::DOMAIN.into(), "d".into()),
        (tags::POOL_NAME.into(), "pool".into()),
        (tags::IN_TRANSIT.into(), "own".into()),
    ];
    let mut left = volume("left", "available");
    left.tags.push((tags::TRANSC_ID.into(), "somebody's, for ever".into()));
    let taken = attached("taken", "i-other", "/dev/sdf", "attached");
    let mut c =
        candidates(&[multi, managed, elsewhere, young, old, own, left, taken], "d", "pool", PoolPref::Random, by());
    c.ids.sort();
    assert_eq!(c.ids, ["left", "old", "own"]);
    assert_eq!((c.pool_size, c.in_transit), (5, 1));
}

#[test]
fn by_use() {
    let used = |id: &str, ts: &str| {
        let mut v = volume(id, "available");
        v.tags.push((tags::TS_USED.into(), ts.into()));
        v
    };
    let pool = [used("new", "2026-03-01T00:00:00Z"), used("old", "2026-01-01T00:00:00Z"), volume("never", "available")];
    let of = |p| candidates(&pool, "d", "pool", p, by()).ids;
    assert_eq!(of(PoolPref::LeastRecentlyUsed), ["never", "old", "new"]);
    assert_eq!(of(PoolPref::MostRecentlyUsed), ["new", "old", "never"]);
}
