//! Pages of volumes of any kind.

use proptest::prelude::*;

use super::tests::{parse, whole};
use crate::aws::xml::properties::WORDS;
use crate::properties::{bytes, in_time, mutated, settings, text, words};

const SEEDS: &[&str] =
    &[super::tests::PAGE, "<DescribeVolumesResponse><volumeSet/><nextToken/></DescribeVolumesResponse>"];

fn check(body: &[u8]) {
    if let Ok((volumes, _)) = in_time(|| parse(body)) {
        assert!(volumes.len() <= body.len() / 6 && volumes.iter().all(|v| !v.id.is_empty()));
        // What is read in pieces is the same where the whole can be read.
        if let Ok((all, _)) = whole(body) {
            assert_eq!(volumes, all);
        }
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_page_of_anything(
        b in prop_oneof![
            bytes(),
            mutated(SEEDS, WORDS),
            mutated(SEEDS, WORDS),
            words(WORDS, 30).prop_map(String::into_bytes),
        ],
    ) {
        check(&b);
    }

    #[test]
    fn times_can_be_compared_and_counted_with(
        t in prop_oneof![text(), "[0-9]{4}-(01|12)-(01|31)T(00|23):(00|59):59Z?([-+](00|23):(00|59))?"],
    ) {
        let item = format!("<DescribeVolumesResponse><volumeSet><item><volumeId>v</volumeId><createTime>{t}</createTime></item></volumeSet></DescribeVolumesResponse>");
        if let Ok((volumes, _)) = parse(item.as_bytes()) {
            for time in volumes.iter().filter_map(|v| v.create_time) {
                let now = time::OffsetDateTime::now_utc();
                let _ = (time - now, now - time, time < now, time.unix_timestamp(), format!("{time:?}"));
            }
        }
    }
}

/// Deep nesting is passed over without using up the stack.
#[test]
fn bombs() {
    for inner in ["<a>".repeat(50_000) + &"</a>".repeat(50_000), "<item>".repeat(50_000), "<a/>".repeat(100_000)] {
        for list in ["<volumeSet>", "<volumeSet><item><volumeId>v</volumeId>", "<volumeSet><item><tagSet><item><key>"] {
            check(format!("<DescribeVolumesResponse>{list}{inner}").as_bytes());
            let close: String =
                list.split('<').rev().filter(|t| !t.is_empty() && !t.contains('/')).map(|t| format!("</{t}")).collect();
            check(format!("<DescribeVolumesResponse>{list}{inner}{close}</DescribeVolumesResponse>").as_bytes());
        }
    }
}
