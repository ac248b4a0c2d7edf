//! Templates of any text: never a panic, and what goes in comes out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{NAMES, Template, Values};
use crate::model::{Event, Facts};
use crate::properties::{in_time, mutated_text, settings, text, words};

const WORDS: &[&str] = &[
    "{",
    "}",
    "{{",
    "}}",
    "{domain}",
    "{all_json}",
    "{ami-i}",
    "{error",
    "transaction_log}",
    "ts",
    "pid",
    ":>8",
    "!r",
    "[0]",
    ".",
    " ",
    "é",
    "\0",
    "\\",
    "\"",
    "{}",
    "$1",
];

/// Values of any text everywhere.
pub(crate) fn values() -> impl Strategy<Value = Values> {
    let many = || prop::collection::vec(text(), 0..4);
    let log = prop::collection::vec((text(), any::<f64>()), 0..6);
    (text(), many(), many(), log, prop::option::of(text()), prop::option::of(0..Event::ALL.len())).prop_map(
        |(one, names, error, log, maybe, event)| Values {
            domain: one.clone(),
            facts: Facts {
                instance_id: one.clone(),
                hypervisor: maybe.clone(),
                all_ipv4: names.clone(),
                ..Facts::default()
            }
            .into(),
            static_dns_rr: names,
            volume_id: maybe.clone(),
            attached_device: maybe,
            error,
            daemon_state: event.map(|n| Event::ALL[n]),
            transaction_log: log.into_iter().map(|(t, n)| json!({ "action": t, "n": n })).collect(),
            cwd: one,
            ..Values::default()
        },
    )
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn any_text_is_parsed_or_refused(
        t in prop_oneof![text(), words(WORDS, 12), mutated_text(&["node-{ami-i}.{domain}"], WORDS)],
        v in values(),
    ) {
        match in_time(|| Template::parse(&t)) {
            Ok(template) => drop(template.expand(&v)),
            Err(e) => prop_assert!(e.to_string().len() < 300, "{}", e),
        }
    }

    #[test]
    fn text_in_doubled_braces_comes_out_as_it_was(t in text()) {
        let template = Template::parse(&t.replace('{', "{{").replace('}', "}}")).unwrap();
        prop_assert_eq!(template.literal(), Some(t.as_str()));
        prop_assert_eq!(template.expand(&Values::default()), t);
    }

    #[test]
    fn each_macro_stands_for_its_value(before in text(), after in text(), n in 0..NAMES.len(), v in values()) {
        let literal = |t: &str| t.replace('{', "{{").replace('}', "}}");
        let whole = Template::parse(&format!("{}{{{}}}{}", literal(&before), NAMES[n], literal(&after))).unwrap();
        let alone = Template::parse(&format!("{{{}}}", NAMES[n])).unwrap();
        prop_assert_eq!(whole.expand(&v), format!("{before}{}{after}", alone.expand(&v)));
    }

    #[test]
    fn all_json_is_json_with_every_macro(v in values()) {
        let text = v.all_json();
        let Value::Object(object) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        prop_assert!(object.keys().eq(NAMES.iter()), "{}", text);
        prop_assert_eq!(object["error"].clone(), json!(v.error));
        prop_assert!(!text.chars().any(|c| c < ' '), "one line without control characters: {text}");
    }
}
