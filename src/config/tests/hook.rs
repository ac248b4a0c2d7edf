//! Tests of `lifecycle-hook`.

use super::*;
use crate::config::{Hook, Transition};

fn hooks(value: &str) -> Vec<Hook> {
    ok(&format!("{{'lifecycle-hook': {value}}}")).hooks
}

#[test]
fn one_or_several() {
    assert_eq!(ok("{}").hooks, []);
    let down = |group: Option<&str>| Hook {
        name: "down".into(),
        group: group.map(str::to_owned),
        on: Transition::Terminating,
    };
    assert_eq!(hooks("{name: 'down', group: 'web 1'}"), [down(Some("web 1"))]);
    assert_eq!(hooks("{name: 'down', on: 'terminating'}"), [down(None)]);
    let up = Hook { name: "up/1_a-b".into(), group: None, on: Transition::Launching };
    assert_eq!(hooks("[{name: 'down'}, {name: 'up/1_a-b', on: 'launching'}]"), [down(None), up]);
}

#[test]
fn mistakes() {
    for (value, want) in [
        ("'down'", "lifecycle-hook: an object ({ … }) is wanted, found a string"),
        ("{}", "lifecycle-hook.name: is missing"),
        ("{name: ''}", "lifecycle-hook.name: is empty"),
        ("{name: 'a', gruop: 'b'}", "lifecycle-hook.gruop: unknown key: did you mean group?"),
        ("{name: 'a', on: 'launch'}", "lifecycle-hook.on: unknown word \"launch\": did you mean launching?"),
        ("[{name: 'a'}, {name: 'a', on: 'launching'}]", "lifecycle-hook[1]: the hook \"a\" is there twice"),
        (
            "{name: 'a b'}",
            "lifecycle-hook.name: \"a b\" is no name of a hook: letters, digits, -, _ and / are, 255 at most",
        ),
    ] {
        assert_eq!(problem(&format!("{{'lifecycle-hook': {value}}}")), want, "{value}");
    }
}
