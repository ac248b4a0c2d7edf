//! Notices of any text.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::parse;
use crate::properties::{in_time, mutated_text, settings, text, words};

const SEEDS: &[&str] = &[
    r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#,
    r#"{"action": "stop", "time": "9999-12-31T23:59:59-23:59"}"#,
];
const WORDS: &[&str] = &[
    "{",
    "}",
    "\"",
    ":",
    ",",
    "null",
    "action",
    "time",
    "stop",
    "hibernate",
    "0000-01-01T00:00:00+23:59",
    "-",
    "+",
    "Z",
    ".9",
    "60",
    "9999",
    "\\u0000",
    "é",
    " ",
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_notice_of_anything(
        t in prop_oneof![text(), mutated_text(SEEDS, WORDS), words(WORDS, 20)],
        now in -62_167_219_200i64..253_402_300_799,
    ) {
        if let Some(n) = in_time(|| parse(&t)) {
            let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
            let left: std::time::Duration = (n.time - now).try_into().unwrap_or_default();
            prop_assert!(!crate::poll::valid(&n, now, now) || left.as_secs() < 1 << 40);
            let _ = (now - n.time, n.time < now, format!("{n:?}"));
        }
    }

    #[test]
    fn a_notice_of_any_time(
        action in "(stop|terminate|hibernate)",
        time in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,12})?(Z|[-+][0-2][0-9]:[0-5][0-9])",
    ) {
        if let Some(n) = parse(&format!(r#"{{"action":"{action}","time":"{time}"}}"#)) {
            let now = OffsetDateTime::now_utc();
            let _ = (crate::poll::valid(&n, now, now), now - n.time, n.time - now);
            prop_assert_eq!(n.time_text, time);
        }
    }
}
