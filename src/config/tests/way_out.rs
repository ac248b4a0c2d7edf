//! Keys of the way out: what is released, when, and in how much time.

use super::*;

/// An address of a pool, with more keys.
fn address(top: &str, part: &str) -> String {
    format!("{{{top} domains: {{a: {{'associate-address': [{{'pool-name': 'p', {part}}}]}}}}}}")
}

#[test]
fn an_address_that_is_released_names_its_event() {
    for (word, event) in [("terminating", Event::Terminating), ("maintenance", Event::Maintenance)] {
        let config = ok(&address("'terminating-timeout': 60,", &format!("release: ['{word}']")));
        assert!(config.domains[0].names(event), "{word}");
        assert_eq!(config.warnings.is_empty(), event == Event::Terminating, "{:?}", config.warnings);
    }
    assert!(!ok(&address("", "release: ['interrupted']")).domains[0].names(Event::Terminating));
}

#[test]
fn an_address_that_waits_longer_than_init() {
    let warnings = ok(&address("timeout: 90,", "wait: 90")).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("associate-address[0].wait: "), "{warnings:?}");
    assert!(warnings[0].ends_with("is not shorter than timeout (90 s): init is over before it is"), "{warnings:?}");
    assert!(ok(&address("timeout: 90,", "wait: 89")).warnings.is_empty());
}

#[test]
fn what_is_wanted_is_said() {
    let x = "source: 'x', 'volume-id': 'v'";
    for (part, want) in [
        ("release: 'interrupted'", "release: an array of events, such as [\"interrupted\"], is wanted, found a string"),
        (
            "mount: {path: '/a', mode: 750}",
            "mount.mode: a string of octal digits, such as \"0750\", is wanted, found a whole number",
        ),
        ("mount: {path: '/a', format: true}", "mount.format: one of never, if-blank is wanted, found a boolean"),
    ] {
        let text = volume(&format!("{x}, {part}"));
        assert_eq!(problem(&text), format!("domains.\"a\".attach-volume[0].{want}"), "{part}");
    }
}

#[test]
fn a_margin_that_leaves_nothing() {
    let exec = "domains: {a: {exec: [{on: ['terminating'], lines: []}]}}";
    for (top, want) in [
        ("'interrupt-margin': 110", None),
        ("'interrupt-margin': 111", Some("interrupt-margin: ")),
        ("'terminating-timeout': 25", None),
        ("'terminating-timeout': 24", Some("terminating-timeout: ")),
    ] {
        let warnings = ok(&format!("{{{top}, {exec}}}")).warnings;
        assert_eq!(warnings.len(), usize::from(want.is_some()), "{top} {warnings:?}");
        assert!(want.is_none_or(|w| warnings[0].starts_with(w) && warnings[0].contains("less than 10 s of")), "{top}");
    }
}
