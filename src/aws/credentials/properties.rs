//! Credentials documents of any text; no secret comes out of them.

use proptest::prelude::*;

use super::{is_role, parse};
use crate::clock::Clock;
use crate::properties::{in_time, mutated_text, settings, text, words};

const SEEDS: &[&str] = &[
    r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIA1","SecretAccessKey":"s3cr3t","Token":"t0k3n","Expiration":"2026-01-01T06:00:00Z"}"#,
    r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#,
];
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "\"",
    ":",
    ",",
    "null",
    "\"Code\"",
    "\"Success\"",
    "\"Expiration\"",
    "9999-12-31T23:59:59-23:59",
    "\\ud800",
    "é",
    "0000-01-01T00:00:00+23:59",
    "-1",
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_document_of_anything(t in prop_oneof![text(), mutated_text(SEEDS, WORDS), words(WORDS, 20)]) {
        match in_time(|| parse(&t)) {
            Ok(keys) => {
                let clock = Clock::new(None).unwrap();
                let _ = (keys.left(&clock), keys.identity());
                prop_assert!(!keys.id.is_empty() && !keys.secret.is_empty());
                // A secret that is also in the id or the time is none.
                let debug = format!("{keys:?}");
                prop_assert!(!debug.contains("s3cr3t") || keys.id.contains("s3cr3t"), "{}", debug);
            }
            // The service's own message is shown, the document is not.
            Err(e) => prop_assert!(e.len() <= t.len() + 60),
        }
    }

    #[test]
    fn a_role_of_anything(t in text()) {
        prop_assert!(!is_role(&t) || !t.contains(['/', '?', '#', '%', ' ', '<']), "part of a path: {}", t);
    }
}
