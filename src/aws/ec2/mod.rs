//! EC2: volumes, snapshots, addresses, their tags, the states of instances and their end. One file for each action, with
//! its request and the reading of its answer.

mod associate_address;
mod attach_volume;
mod create_snapshot;
mod create_volume;
mod delete_snapshot;
mod delete_volume;
mod describe_addresses;
mod describe_instances;
mod describe_snapshots;
mod describe_volumes;
mod detach_volume;
mod disassociate_address;
mod pages;
mod snapshot;
mod tags;
mod terminate_instances;
mod volume;

use describe_volumes::add_filters;

pub(crate) use describe_addresses::Address;
pub(crate) use describe_instances::InstanceState;
pub(crate) use describe_volumes::Filter;
pub(crate) use snapshot::{Snapshot, SnapshotState};
#[cfg(test)]
pub(crate) use volume::Attachment;
pub(crate) use volume::{AttachmentState, Volume, VolumeState};

const VERSION: &str = "2016-11-15";

/// For answers of which only their coming counts.
fn named(body: &[u8], want: &str) -> Result<(), String> {
    let document = super::xml::parse(body)?;
    match document.root_element().tag_name().name() {
        name if name == want => Ok(()),
        other => Err(format!("the answer is a {other}")),
    }
}
