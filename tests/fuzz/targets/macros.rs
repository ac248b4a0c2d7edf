//! Texts with macros.
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../../src/macros.rs"]
mod macros;
#[path = "../../../src/model.rs"]
mod model;
#[path = "../../../src/suggest.rs"]
mod suggest;

use macros::{Template, Values};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Template::parse(text) {
        Ok(template) => drop(template.expand(&Values::default())),
        Err(e) => assert!(e.to_string().len() < 300),
    }
    let values = Values { domain: text.to_owned(), error: vec![text.to_owned()], ..Values::default() };
    assert!(serde_json::from_str::<serde_json::Value>(&values.all_json()).is_ok());
});
