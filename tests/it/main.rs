//! The integration tests: the real executable against the strict stand-in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../fakeaws/mod.rs"]
mod fakeaws;
mod lab;

mod happy;

mod disks;
mod volumes_by_id;
mod volumes_certain;
mod volumes_pool;
mod volumes_pool_order;
mod volumes_device;
mod volumes_create;
mod volumes_attach;
mod volumes_disk;
mod volumes_rerun;
mod volumes_suite;
mod volumes_mounted;
mod races;
mod rollback;
mod rollback_stop;
