//! Identity documents and lists of interfaces of any text.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{Document, addresses, is_mac};
use crate::properties::{in_time, mutated_text, settings, text, words};

const SEEDS: &[&str] = &[
    r#"{"accountId":"1","region":"eu-west-1","availabilityZone":"eu-west-1a","instanceId":"i-1","instanceType":"m7g.large","devpayProductCodes":null,"marketplaceProductCodes":["x"]}"#,
];
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "1e999",
    "-1",
    "\\ud800",
    "\\",
    "\"region\"",
    "\"instanceId\"",
    "é",
    "\0",
    " ",
    "02:29:96:8f:6a:2d/",
    "\n",
    "\r\n",
    "/",
    "192.0.2.1",
    "2001:db8::1",
    "..",
    "::",
    "%eth0",
];

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_document_of_anything(t in prop_oneof![text(), mutated_text(SEEDS, WORDS), words(WORDS, 20)]) {
        if let Ok(document) = in_time(|| serde_json::from_str::<Document>(&t)) {
            prop_assert!(document.region.is_none_or(|r| r.len() <= t.len()));
        }
    }

    #[test]
    fn lists_of_anything(t in prop_oneof![text(), words(WORDS, 12)]) {
        for mac in t.lines().filter(|l| is_mac(l)) {
            prop_assert!(!mac.contains(['/', '.', '%', '?', '#']), "part of a path: {}", mac);
        }
        for a in addresses::<Ipv4Addr>(Some(t.clone())) {
            prop_assert!(a.parse::<Ipv4Addr>().is_ok());
        }
        prop_assert!(addresses::<Ipv6Addr>(Some(t)).iter().all(|a| !a.contains('%')));
    }
}

#[test]
fn bombs() {
    for deep in ["[".repeat(60_000), "{\"region\":".repeat(6_000), format!("{{\"x\":{}", "[".repeat(60_000))] {
        assert!(in_time(|| serde_json::from_str::<Document>(&deep)).is_err());
    }
}
