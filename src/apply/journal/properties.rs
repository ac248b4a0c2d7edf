//! Whatever a file says, it is read as a journal or set aside; and what was written is read again.

use proptest::prelude::*;

use super::{Unusable, parse};
use crate::apply::hold::{Committed, Done, Hold, Ledger, Origin, RecordHold, VolumeHold};
use crate::aws::route53::RecordSet;
use crate::properties::{bytes, in_time, mutated, settings, text};
use crate::sys::testing::TestDir;

const SEEDS: [&str; 2] = [
    r#"{"version":1,"instance":"i-1","transaction":"t","held":[{"Volume":{"key":"k","volume_id":"vol-1","token":null,"transc_id":null,"origin":"Claimed","seen":false,"attached":"Yes","device":"/dev/xvdf","disk":null,"tags_before":[["a","b",null]],"transit_removed":false}}],"inherited":[],"left":[],"committed":[{"volume_id":"vol-2","created":true,"transc_id":"t"}]}"#,
    r#"{"version":1,"instance":"i-1","transaction":"t","held":[],"inherited":[{"Record":{"key":"k","zone":"Z","name":"a.","ours":[{"name":"a.","kind":"A","ttl":60,"values":["1.2.3.4"],"set_identifier":null,"other":[{"name":"AliasTarget","text":"","children":[]}]}],"before":[],"written":"Maybe"}}],"left":[],"committed":[]}"#,
];
const WORDS: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "1",
    "-1",
    "1e999",
    "\"Yes\"",
    "\"Volume\"",
    "\"children\":[",
    "\\u0000",
    "\"held\":",
];

fn hold() -> impl Strategy<Value = Hold> {
    let done = || prop_oneof![Just(Done::No), Just(Done::Maybe), Just(Done::Yes)];
    let origin = prop_oneof![Just(Origin::Claimed), Just(Origin::Created), Just(Origin::Adopted)];
    let tags = prop::collection::vec((text(), text(), prop::option::of(text())), 0..3);
    let volume = (prop::option::of(text()), prop::option::of(text()), origin, done(), tags, any::<bool>()).prop_map(
        |(volume_id, token, origin, attached, tags_before, seen)| {
            Hold::Volume(VolumeHold {
                sent: None,
                key: String::new(),
                volume_id,
                snapshot: token.clone(),
                deleting: None,
                transc_id: Some(token.clone().unwrap_or_default()),
                token,
                origin,
                seen,
                attached,
                device: "/dev/xvdf".to_owned(),
                disk: None,
                tags_before,
                transit_removed: seen,
                marked: seen,
                formatting: seen,
                unused: seen.then(|| "7 0 0".to_owned()),
                inherited: true,
            })
        },
    );
    let record = (text(), text(), done(), any::<i64>()).prop_map(|(zone, value, written, ttl)| {
        let ours = vec![RecordSet::simple(&zone, "A", ttl, &[value])];
        let key = "domains.\"d\".update-route53[0]".to_owned();
        let (before, earlier) = (ours.clone(), ours.clone());
        Hold::Record(RecordHold {
            key,
            name: zone.clone(),
            zone,
            before,
            earlier,
            ours,
            follows: false,
            written,
            at: None,
        })
    });
    prop_oneof![volume, record]
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_bytes_are_a_journal_or_are_not(bytes in bytes()) {
        let _ = in_time(|| parse(&bytes, "i-1"));
    }

    #[test]
    fn a_mutilated_journal_never_panics(bytes in mutated(&SEEDS, &WORDS)) {
        let _ = in_time(|| parse(&bytes, "i-1"));
    }

    #[test]
    fn what_was_written_is_read_again(held in prop::collection::vec(hold(), 1..4), id in text()) {
        let t = TestDir::new();
        let committed = vec![Committed { volume_id: id.clone(), created: true, marked: false, transc_id: id, moved: None, member: None }];
        let mut ledger = Ledger::open(&t.root(), "d", "i-1", false);
        (ledger.held, ledger.committed) = (held.clone(), committed.clone());
        ledger.write("t");
        let read = Ledger::open(&t.root(), "d", "i-1", false);
        // What was there before a record was written may not be right any more.
        let mut held = held;
        for hold in &mut held {
            if let Hold::Record(r) = hold {
                r.earlier.append(&mut r.before);
            }
        }
        prop_assert_eq!((read.inherited, read.to_tidy, read.held.len()), (held, committed, 0));
    }
}

#[test]
fn the_seeds_are_journals() {
    for seed in SEEDS {
        parse(seed.as_bytes(), "i-1").unwrap();
        let other = parse(seed.as_bytes(), "i-2").unwrap_err();
        assert_eq!(other, Unusable::Foreign("it is of i-1, this instance is i-2".to_owned()));
    }
}

#[test]
fn an_old_page_that_cannot_be_removed_is_removed_when_it_can_be() {
    let t = TestDir::new();
    let mut ledger = Ledger::open(&t.root(), "d", "i-1", false);
    ledger.committed = vec![Committed {
        volume_id: "vol-1".to_owned(),
        created: true,
        marked: false,
        transc_id: "t".to_owned(),
        moved: None,
        member: None,
    }];
    ledger.write("t");
    let path = ledger.journal.file.as_ref().unwrap().path().to_owned();
    let old = path.with_extension("old");
    // Neither written nor removed.
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(&path).unwrap();
    ledger.write("another");
    assert!(path.is_dir() && !path.with_extension("journal.new").exists());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&old, &path).unwrap();
    ledger.committed.clear();
    ledger.write("t");
    assert!(!path.exists());
}

#[test]
fn what_is_not_known_stays_in_it_and_the_rest_is_used() {
    let known = r#"{"Record":{"key":"k","zone":"Z","name":"a.","ours":[],"before":[],"written":"Maybe"}}"#;
    for unknown in [r#"{"Gadget":{"id":1}}"#, r#"{"Volume":{"key":"k"}}"#, "1", "null"] {
        for place in ["held", "inherited", "left"] {
            let lists = ["held", "inherited", "left"].map(|l| {
                let holds = if l == place { format!("{unknown},{known}") } else { String::new() };
                format!("\"{l}\":[{holds}]")
            });
            let text = format!(
                "{{\"version\":1,\"instance\":\"i-1\",\"transaction\":\"t\",{},\"committed\":[]}}",
                lists.join(",")
            );
            let t = TestDir::new();
            let path = t.file("run/ec2fleetd/domain.d.journal", &text);
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            for _ in 0..2 {
                let mut ledger = Ledger::open(&t.root(), "d", "i-1", false);
                assert_eq!((ledger.inherited.len(), ledger.unknown.len()), (1, 1), "{unknown} {place}");
                ledger.write("t");
            }
            let mut ledger = Ledger::open(&t.root(), "d", "i-1", false);
            ledger.inherited.clear();
            ledger.write("t");
            assert!(std::fs::read_to_string(&path).unwrap().contains(unknown), "{unknown} {place}");
        }
    }
}
