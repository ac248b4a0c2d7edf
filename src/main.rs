#![allow(dead_code)]
mod clock;
mod config;
mod log;
mod macros;
mod model;
mod scope;
fn main() {}
