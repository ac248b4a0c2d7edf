//! Configs of any text. What loads is as bounded as its text, and all its mistakes are told in bounded words.
#![no_main]
#![allow(dead_code, unused_imports, unreachable_pub)]

#[path = "../../../src/config/mod.rs"]
mod config;
#[path = "../../../src/macros.rs"]
mod macros;
#[path = "../../../src/model.rs"]
mod model;
#[path = "../../../src/suggest.rs"]
mod suggest;

libfuzzer_sys::fuzz_target!(|text: &str| {
    match config::load(text) {
        Ok(config) => {
            for domain in &config.domains {
                assert!(domain.name.len() <= text.len());
                let devices = domain.volumes.iter().filter_map(|v| v.device.as_deref());
                assert!(devices.into_iter().all(|d| d.starts_with("/dev/") && !d.contains("..")));
            }
        }
        Err(e) => assert!(e.to_string().len() < 200_000),
    }
});
