//! The integration tests: the real executable against the strict stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakeaws/mod.rs"]
mod fakeaws;
mod kit;
mod lab;

mod cli;
mod commands;
mod configs;
mod crowds;
mod errors;
mod events;
mod happy;

mod disks;
mod interruption;
mod journal;
mod layers;
mod matrix;
mod matrix_changed;
mod matrix_faults;
mod matrix_kills;
mod metadata;
mod notifications;
mod original;
mod permissions;
mod races;
mod records;
mod recovery;
mod rollback;
mod rollback_records;
mod rollback_stop;
mod rollback_unsure;
mod signals;
mod transport;
mod volumes_attach;
mod volumes_by_id;
mod volumes_certain;
mod volumes_create;
mod volumes_device;
mod volumes_disk;
mod volumes_mounted;
mod volumes_pool;
mod volumes_pool_order;
mod volumes_rerun;
mod volumes_suite;
