//! Dates of any text.

use proptest::prelude::*;
use time::OffsetDateTime;

use super::parse_date;
use crate::properties::{mutated_text, settings, text};

const WORDS: &[&str] = &["GMT", " ", ", ", ":", "9999", "-", "+", "0000", "Jan", "61", "24", "é"];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_date_can_be_counted_with(
        t in prop_oneof![
            text(),
            mutated_text(&["Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"], WORDS),
        ],
    ) {
        if let Some(date) = parse_date(&t) {
            let midpoint = OffsetDateTime::UNIX_EPOCH;
            let ahead = (date - midpoint).whole_milliseconds();
            // The corrected clock shows this and goes on, in any zone.
            prop_assert!(i64::try_from(ahead).is_ok());
            let corrected = midpoint.checked_add(date - midpoint + time::Duration::days(3650));
            prop_assert!(corrected.is_some(), "{}", date);
        }
    }
}
