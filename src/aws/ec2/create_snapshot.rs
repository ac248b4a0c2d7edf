//! Begins a snapshot of a volume.
//!
//! What it will hold is fixed when the answer comes: the volume may be written, unmounted and detached while the snapshot
//! is `pending`. There is no client token: a second request makes a second snapshot, so that after a lost answer one
//! looks first, by a tag that only this request has.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshot.html>

use super::VERSION;
use super::snapshot::{self, Snapshot};
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, xml};
use crate::scope::Scope;

impl Aws {
    /// Begins it; it is `pending` when this returns. [`crate::aws::Class::TooEarly`]: one of this volume was begun a
    /// moment ago, or too many of it are pending.
    pub(crate) fn create_snapshot(
        &self,
        scope: &Scope,
        volume: &str,
        description: &str,
        tags: &[(&str, &str)],
    ) -> Result<Snapshot, ApiError> {
        let call = Call::form(Service::Ec2, "CreateSnapshot", request(volume, description, tags), Repeat::Once);
        self.client.call(scope, &call, parse)
    }
}

fn request(volume: &str, description: &str, tags: &[(&str, &str)]) -> String {
    let mut form = Form::new("CreateSnapshot", VERSION);
    form.add("Description", description).add("VolumeId", volume);
    if !tags.is_empty() {
        form.add("TagSpecification.1.ResourceType", "snapshot");
    }
    for (n, (key, value)) in (1..).zip(tags) {
        form.add(&format!("TagSpecification.1.Tag.{n}.Key"), key);
        form.add(&format!("TagSpecification.1.Tag.{n}.Value"), value);
    }
    form.into_body()
}

/// The snapshot is the root element itself.
fn parse(body: &[u8]) -> Result<Snapshot, String> {
    let document = xml::parse(body)?;
    snapshot::read(document.root_element()).ok_or_else(|| "the answer names no snapshot".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::ec2::SnapshotState;

    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            request("vol-1", "d e", &[("k", "v"), ("l", "")]),
            "Action=CreateSnapshot&Version=2016-11-15&Description=d%20e&VolumeId=vol-1\
             &TagSpecification.1.ResourceType=snapshot&TagSpecification.1.Tag.1.Key=k&TagSpecification.1.Tag.1.Value=v\
             &TagSpecification.1.Tag.2.Key=l&TagSpecification.1.Tag.2.Value="
        );
        assert_eq!(request("vol-1", "d", &[]), "Action=CreateSnapshot&Version=2016-11-15&Description=d&VolumeId=vol-1");
    }

    #[test]
    fn the_answer_is_a_snapshot() {
        let body = "<CreateSnapshotResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                    <requestId>r</requestId><snapshotId>snap-9</snapshotId><volumeId>vol-9</volumeId>\
                    <status>pending</status><startTime>2026-01-02T03:04:05.000Z</startTime><progress/>\
                    <ownerId>111122223333</ownerId><volumeSize>30</volumeSize><description>d</description>\
                    <tagSet><item><key>user:ec2fd.k</key><value>v</value></item></tagSet></CreateSnapshotResponse>";
        let s = parse(body.as_bytes()).unwrap();
        assert_eq!((s.id.as_str(), s.volume_id.as_str(), s.state), ("snap-9", "vol-9", SnapshotState::Pending));
        assert_eq!(
            (s.progress, s.size, s.archived, s.tag("user:ec2fd.k"), s.tag("l")),
            (0, 30, false, Some("v"), None)
        );
        assert_eq!(s.start_time.unwrap().unix_timestamp(), 1_767_323_045);
        assert_eq!(parse(b"<a/>").unwrap_err(), "the answer names no snapshot");
    }
}
