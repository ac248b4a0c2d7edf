//! Names of disks of any text.

use proptest::prelude::*;

use super::device_letters;
use crate::properties::{settings, text, words};

const WORDS: &[&str] = &["/dev/", "sd", "xvd", "f", "ba", "z", "1", "15", "/", "..", "é"];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn letters_are_a_file_name(t in prop_oneof![text(), words(WORDS, 5)]) {
        if let Some(letters) = device_letters(&t) {
            prop_assert!(!letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{}", letters);
            prop_assert!(t.ends_with(letters));
        }
    }
}
