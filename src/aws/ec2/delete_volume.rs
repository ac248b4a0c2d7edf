//! Deletes a volume that was created and never used.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteVolume.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, Still};
use crate::scope::Scope;

impl Aws {
    /// Deletes it. [`crate::aws::Class::Gone`]: it is not there (any more).
    pub(crate) fn delete_volume(&self, scope: &Scope, volume: &str, still: &Still<'_>) -> Result<(), ApiError> {
        // Safe: ids are never used again, so a second one can only find it gone.
        let call = Call::form(Service::Ec2, "DeleteVolume", request(volume), Repeat::Safe);
        self.client.call_while(scope, &call, still, |body| super::named(body, "DeleteVolumeResponse"))
    }
}

fn request(volume: &str) -> String {
    let mut form = Form::new("DeleteVolume", VERSION);
    form.add("VolumeId", volume);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(super::request("vol-1"), "Action=DeleteVolume&Version=2016-11-15&VolumeId=vol-1");
    }
}
