//! Names of any bytes, lists of any kind.

use proptest::prelude::*;

use super::{Change, change, normalise, parse_list, plain};
use crate::aws::xml;
use crate::aws::xml::properties::WORDS;
use crate::properties::{bytes, in_time, mutated, settings, text, words};

const SEEDS: &[&str] = &[super::tests::LIST];

/// What was read can be written; what is then read is written the same.
fn check(body: &[u8]) {
    let Ok((sets, _)) = in_time(|| parse_list(body)) else { return };
    for set in sets {
        let write = |set| in_time(|| change("Z", &[Change::delete(set)]).body);
        let written = write(set.clone());
        let document = xml::parse(written.as_bytes()).unwrap();
        let node = document.descendants().find(|n| n.tag_name().name() == "ResourceRecordSet").unwrap();
        assert_eq!(write(super::record_set(node).unwrap()), written);
        let _ = Change::upsert(set).to_json();
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_name_has_one_normal_form(
        name in prop_oneof![text(), "[a-zA-Z0-9*.\\\\@é-]{0,20}", "(\\\\[0-7]{3}|a|\\.){0,8}"],
    ) {
        let normal = normalise(&name);
        prop_assert_eq!(&normalise(&normal), &normal);
        prop_assert_eq!(&normalise(&plain(&normal)), &normal);
        prop_assert!(normal.ends_with('.') && normal.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
        prop_assert_eq!(normalise(&name.to_ascii_uppercase()), normal);
    }

    #[test]
    fn a_list_of_anything(
        b in prop_oneof![
            bytes(),
            mutated(SEEDS, WORDS),
            mutated(SEEDS, WORDS),
            words(WORDS, 30).prop_map(String::into_bytes),
        ],
    ) {
        check(&b);
    }
}

/// An element that is kept is kept at any depth, or refused: the stack is not used up.
#[test]
fn bombs() {
    for depth in [10, 60, 1_000, 50_000] {
        let inner = format!("{}{}", "<GeoLocation>".repeat(depth), "</GeoLocation>".repeat(depth));
        check(
            format!(
                "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet><Name>a</Name><Type>A</Type>{inner}\
                 </ResourceRecordSet></ResourceRecordSets></ListResourceRecordSetsResponse>"
            )
            .as_bytes(),
        );
    }
}
