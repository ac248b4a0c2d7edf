//! Deletes a snapshot.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteSnapshot.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, Still};
use crate::scope::Scope;

impl Aws {
    /// Deletes it. [`crate::aws::Class::Gone`]: it is not there (any more). [`crate::aws::Class::Conflict`]: an image is
    /// made of it.
    pub(crate) fn delete_snapshot(&self, scope: &Scope, snapshot: &str, still: &Still<'_>) -> Result<(), ApiError> {
        // Safe: ids are never used again, so a second one can only find it gone.
        let call = Call::form(Service::Ec2, "DeleteSnapshot", request(snapshot), Repeat::Safe);
        self.client.call_while(scope, &call, still, |body| super::named(body, "DeleteSnapshotResponse"))
    }
}

fn request(snapshot: &str) -> String {
    let mut form = Form::new("DeleteSnapshot", VERSION);
    form.add("SnapshotId", snapshot);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(super::request("snap-1"), "Action=DeleteSnapshot&Version=2016-11-15&SnapshotId=snap-1");
    }
}
