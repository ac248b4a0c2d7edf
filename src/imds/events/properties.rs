//! Any answer about events.

use proptest::prelude::*;

use super::*;
use crate::properties::{in_time, mutated_text, settings, text, words};

const WORDS: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "\"NotBefore\":",
    "\"State\":",
    "\"active\"",
    "\"EventId\":",
    "\"noticeTime\":",
    ",",
    "null",
    "\"31 Feb 2019 25:00:43 GMT\"",
    "\"1 Jan 9999 00:00:00 GMT\"",
    "\"9999-12-31T23:59:59Z\"",
    "7",
    " ",
];
const SAMPLES: &[&str] = &[
    r#"[{"NotBefore":"21 Jan 2019 09:00:43 GMT","Code":"system-reboot","EventId":"e","NotAfter":"","State":"active"}]"#,
    r#"{"noticeTime":"2020-10-27T08:22:00Z"}"#,
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_answer_is_read_or_refused(t in prop_oneof![text(), words(WORDS, 30), mutated_text(SAMPLES, WORDS)]) {
        let (rebalance, scheduled) = in_time(|| (parse_rebalance(&t), parse_scheduled(&t)));
        prop_assert!(rebalance.is_none_or(|n| n.action == "rebalance"));
        for e in scheduled.into_iter().flatten() {
            // What is due is reckoned with it.
            let now = OffsetDateTime::UNIX_EPOCH;
            let _ = (now - e.notice.time, e.end.map(|end| end <= now));
        }
    }
}
