//! Detaches a volume. Never by force, and always with the instance: nobody else's attachment is ever ended.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DetachVolume.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, Still};
use crate::scope::Scope;

impl Aws {
    /// Asks for the end of the attachment; it is `detaching` when this returns. [`crate::aws::Class::Gone`]: there is
    /// no such attachment (any more).
    pub(crate) fn detach_volume(
        &self,
        scope: &Scope,
        volume: &str,
        instance: &str,
        still: &Still<'_>,
    ) -> Result<(), ApiError> {
        // Once: an attachment that we did not look at could have been made meanwhile.
        let call = Call::form(Service::Ec2, "DetachVolume", request(volume, instance), Repeat::Once);
        self.client.call_while(scope, &call, still, |body| super::named(body, "DetachVolumeResponse"))
    }
}

fn request(volume: &str, instance: &str) -> String {
    let mut form = Form::new("DetachVolume", VERSION);
    form.add("VolumeId", volume).add("InstanceId", instance);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            super::request("vol-1", "i-1"),
            "Action=DetachVolume&Version=2016-11-15&VolumeId=vol-1&InstanceId=i-1"
        );
    }
}
