//! Attaches a volume: the claim of a pool volume, since EC2 lets exactly one instance win.
//!
//! There is no client token: an uncertain end is returned as such, and the caller looks.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AttachVolume.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, Still};
use crate::scope::Scope;

impl Aws {
    /// Asks for the attachment; it is `attaching` when this returns.
    pub(crate) fn attach_volume(
        &self,
        scope: &Scope,
        volume: &str,
        instance: &str,
        device: &str,
        still: &Still<'_>,
    ) -> Result<(), ApiError> {
        let call = Call::form(Service::Ec2, "AttachVolume", request(volume, instance, device), Repeat::Once);
        self.client.call_while(scope, &call, still, |body| super::named(body, "AttachVolumeResponse"))
    }
}

fn request(volume: &str, instance: &str, device: &str) -> String {
    let mut form = Form::new("AttachVolume", VERSION);
    form.add("VolumeId", volume).add("InstanceId", instance).add("Device", device);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            super::request("vol-1", "i-1", "/dev/xvdba"),
            "Action=AttachVolume&Version=2016-11-15&VolumeId=vol-1&InstanceId=i-1&Device=%2Fdev%2Fxvdba"
        );
    }
}
