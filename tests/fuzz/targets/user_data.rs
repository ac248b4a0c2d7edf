//! User data of any bytes, and the config in them.
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

use config::userdata::{Decoded, decode};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(Decoded::Config(text)) = decode(data)
        && let Err(e) = config::load(&text)
    {
        assert!(e.to_string().len() < 200_000);
    }
});
