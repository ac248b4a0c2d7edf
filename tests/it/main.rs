//! The integration tests: the real executable against the strict stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakeaws/mod.rs"]
mod fakeaws;
mod kit;
mod lab;

mod cli;
mod clocks;
mod commands;
mod configs;
mod crowds;
mod daemons;
mod deadlines;
mod deadlines_runs;
mod deadlines_volumes;
mod errors;
mod events;
mod happy;

mod disks;
mod early_clock;
mod early_disk;
mod early_log;
mod early_network;
mod interruption;
mod journal;
mod layers;
mod loops;
mod matrix;
mod matrix_changed;
mod matrix_faults;
mod matrix_kills;
mod metadata;
mod mounts;
mod notifications;
mod original;
mod permissions;
mod races;
mod records;
mod recovery;
mod releases;
mod rollback;
mod rollback_records;
mod rollback_stop;
mod rollback_unsure;
mod secrets;
mod signals;
mod snapshots;
mod snapshots_frozen;
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
