//! This account's snapshots that fit some filters, all pages of them.
//!
//! Always with the owner: without it, EC2 lists what all the world has made public. Filters, never ids, and no order, as
//! with DescribeVolumes.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshots.html>

use super::pages::{self, Listing, Page};
use super::snapshot::{self, Snapshot};
use super::{Filter, VERSION, add_filters};
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::scope::Scope;

impl Aws {
    /// All snapshots of this account that fit all filters.
    pub(crate) fn describe_snapshots(&self, scope: &Scope, filters: &[Filter]) -> Result<Vec<Snapshot>, ApiError> {
        let listing = Listing {
            action: "DescribeSnapshots",
            most: usize::MAX,
            request: &|size, token| request(filters, size, token),
            parse: &parse,
            id: |s: &Snapshot| &s.id,
        };
        self.list(scope, &listing)
    }
}

fn request(filters: &[Filter], size: usize, token: &str) -> String {
    let mut form = Form::new("DescribeSnapshots", VERSION);
    add_filters(&mut form, filters);
    form.add("MaxResults", &size.to_string());
    if !token.is_empty() {
        form.add("NextToken", token);
    }
    form.add("Owner.1", "self");
    form.into_body()
}

fn parse(body: &[u8]) -> Result<Page<Snapshot>, String> {
    pages::parse(body, "DescribeSnapshotsResponse", "snapshotSet", &|node| snapshot::read(node).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::ec2::SnapshotState;

    #[test]
    fn the_request_is_botocores() {
        let f = [Filter::exact("tag:a", &["x"]), Filter::exact("status", &["pending", "completed"])];
        assert_eq!(
            request(&f, 500, "t"),
            "Action=DescribeSnapshots&Version=2016-11-15&Filter.1.Name=tag%3Aa&Filter.1.Value.1=x\
             &Filter.2.Name=status&Filter.2.Value.1=pending&Filter.2.Value.2=completed&MaxResults=500&NextToken=t\
             &Owner.1=self"
        );
    }

    #[test]
    fn a_page_becomes_snapshots() {
        let body = "<DescribeSnapshotsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><snapshotSet>\
            <item><snapshotId>snap-1</snapshotId><volumeId>vol-1</volumeId><status>completed</status>\
            <startTime>2026-01-02T03:04:05.678Z</startTime><progress>100%</progress><volumeSize>8</volumeSize>\
            <storageTier>archive</storageTier><tagSet><item><key>user:ec2fd.k</key><value/></item><item><key>k</key></item></tagSet></item>\
            <item><snapshotId>snap-2</snapshotId><status>pending</status><progress>42%</progress></item>\
            <item><snapshotId>snap-3</snapshotId><status>recovering</status></item><item/>\
            </snapshotSet><nextToken>abc</nextToken></DescribeSnapshotsResponse>";
        let (all, next) = parse(body.as_bytes()).unwrap();
        assert_eq!((all.len(), next.as_deref()), (3, Some("abc")));
        assert_eq!((all[0].state, all[0].progress, all[0].archived), (SnapshotState::Completed, 100, true));
        assert_eq!((all[0].tag("user:ec2fd.k"), all[0].tag("k"), all[0].size), (Some(""), None, 8));
        assert_eq!((all[1].state, all[1].progress, all[1].archived), (SnapshotState::Pending, 42, false));
        assert_eq!((all[1].start_time, all[2].state), (None, SnapshotState::Other));
        let end = "<DescribeSnapshotsResponse><snapshotSet/><nextToken/></DescribeSnapshotsResponse>";
        assert_eq!(parse(end.as_bytes()).unwrap(), (vec![], None));
        assert_eq!(parse(b"<html/>").unwrap_err(), "the answer is a html");
    }
}
