//! The integration tests: the real executable against the strict stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakeaws/mod.rs"]
mod fakeaws;
mod kit;
mod lab;

mod cli;
mod commands;
mod configs;
mod errors;
mod events;
mod happy;
mod interruption;
mod layers;
mod metadata;
mod notifications;
mod original;
mod permissions;
mod records;
mod rollback_records;
mod signals;
mod transport;
