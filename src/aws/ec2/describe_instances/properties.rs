//! Pages of instances of any kind.

use proptest::prelude::*;

use super::parse;
use super::tests::whole;
use crate::aws::xml::properties::WORDS;
use crate::properties::{bytes, in_time, mutated, settings};

const SEEDS: &[&str] = &[
    "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceState>\
     <code>48</code><name>terminated</name></instanceState></item></instancesSet></item></reservationSet><nextToken/>\
     </DescribeInstancesResponse>",
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_page_of_anything(body in prop_oneof![bytes(), mutated(SEEDS, WORDS), mutated(SEEDS, WORDS)]) {
        if let Ok((states, _)) = in_time(|| parse(&body)) {
            prop_assert!(states.len() <= body.len() / 6 && states.iter().all(|(id, _)| !id.is_empty()));
            // What is read in pieces is the same where the whole can be read.
            if let Ok((all, _)) = whole(&body) {
                prop_assert_eq!(states, all);
            }
        }
    }
}
