//! The integration tests: the real executable against the strict stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakeaws/mod.rs"]
mod fakeaws;
mod kit;
mod lab;

mod cli;
mod commands;
mod events;
mod happy;
mod interruption;
mod metadata;
mod notifications;
mod records;
mod rollback_records;
mod signals;
