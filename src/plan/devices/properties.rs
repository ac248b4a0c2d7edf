//! Device names of any text.

use proptest::prelude::*;

use super::{Worn, free_names, same_device};
use crate::properties::{settings, text, words};

const WORDS: &[&str] = &["/dev/", "sd", "xvd", "f", "ba", "p1", "/", "é", "nvme0n1"];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn same_device_is_an_equality(
        a in prop_oneof![text(), words(WORDS, 4)],
        b in words(WORDS, 4),
        c in words(WORDS, 4),
    ) {
        prop_assert!(same_device(&a, &a));
        prop_assert_eq!(same_device(&a, &b), same_device(&b, &a));
        prop_assert!(!(same_device(&a, &b) && same_device(&b, &c)) || same_device(&a, &c));
    }

    #[test]
    fn a_free_name_is_nobodys_whatever_is_worn(
        used in prop::collection::vec("/dev/(sd|xvd)[a-c]?[a-z]", 0..24),
        worn in prop::collection::vec(("/dev/(sd|xvd)[a-c]?[a-z]", any::<bool>()), 0..24),
    ) {
        let worn: Vec<Worn> = worn.into_iter().map(|(name, bad)| Worn { name, bad }).collect();
        prop_assert_eq!(free_names(&used, &worn).len(), free_names(&used, &[]).len());
        for name in free_names(&used, &worn) {
            prop_assert!(!used.iter().any(|u| same_device(u, &name)), "{}", name);
        }
    }
}
