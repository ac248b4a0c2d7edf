//! Messages of any length fit, and `{all_json}` stays JSON.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{SUBJECT_LIMIT, allowed, ascii, body, subject};
use crate::macros::properties::values;
use crate::macros::{Template, Values};
use crate::properties::{in_time, settings, text};

fn long(mut v: Values, log: usize, pad: usize, error: usize) -> Values {
    v.transaction_log.extend((0..log).map(|n| json!({ "n": n, "pad": "é".repeat(pad) })));
    v.error.push("ü\"\\\n".repeat(error));
    v
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_body_fits(
        t in text(),
        v in values(),
        limit in 64..1500usize,
        log in 0..16usize,
        pad in 0..40usize,
        error in 0..300usize,
    ) {
        let literal = t.replace('{', "{{").replace('}', "}}");
        let template = Template::parse(&format!("{literal}{{error}} {{transaction_log}}{literal}{{all_json}}")).unwrap();
        let text = in_time(|| body(&template, &long(v, log, pad, error), limit));
        prop_assert!(!text.is_empty() && text.len() <= limit, "{} of {}", text.len(), limit);
        prop_assert!(!text.contains(|c: char| c < ' ' && !"\t\r\n".contains(c)));
    }

    #[test]
    fn all_json_stays_json(
        v in values(),
        room in 0..1500usize,
        log in 0..16usize,
        pad in 0..40usize,
        error in 0..300usize,
    ) {
        let template = Template::parse("{all_json}").unwrap();
        // What cannot be shortened has room: a path and a few names, by far below the services' limits.
        let bare = Values { error: Vec::new(), transaction_log: Vec::new(), ..v.clone() };
        let limit = body(&template, &bare, usize::MAX).len() + room;
        let text = in_time(|| body(&template, &long(v, log, pad, error), limit));
        prop_assert!(text.len() <= limit);
        let json: Value = serde_json::from_str(&text).unwrap();
        prop_assert!(json["error"].is_array() && json["transaction_log"].is_array());
    }

    #[test]
    fn a_subject_is_one_short_line(t in prop_oneof![text(), "\\PC{0,200}"]) {
        let s = subject(&t);
        prop_assert!(!s.is_empty() && s.chars().count() <= SUBJECT_LIMIT && !s.contains(char::is_control));
        prop_assert!(!s.starts_with(char::is_whitespace));
        let a = ascii(&s);
        prop_assert!(a.is_ascii() && a.len() <= SUBJECT_LIMIT && a.starts_with(|c: char| c.is_ascii_graphic()));
    }

    #[test]
    fn what_is_allowed_stays(t in text()) {
        let kept = allowed(&t);
        prop_assert_eq!(allowed(&kept), kept.clone());
        prop_assert_eq!(kept.chars().count(), t.chars().count());
    }
}
