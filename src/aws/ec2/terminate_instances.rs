//! Terminates an instance: only ever the one that this runs on, and only where the config says so.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>

use super::VERSION;
use crate::aws::Aws;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::scope::Scope;

impl Aws {
    /// Asks for the end of `instance`; it is `shutting-down` when this returns.
    pub(crate) fn terminate_instance(&self, scope: &Scope, instance: &str) -> Result<(), ApiError> {
        // One that is on its way out already is answered in the same way.
        let call = Call::form(Service::Ec2, "TerminateInstances", request(instance), Repeat::Safe);
        self.client.call(scope, &call, |body| super::named(body, "TerminateInstancesResponse"))
    }
}

fn request(instance: &str) -> String {
    let mut form = Form::new("TerminateInstances", VERSION);
    form.add_all("InstanceId", &[instance]);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(super::request("i-1"), "Action=TerminateInstances&Version=2016-11-15&InstanceId.1=i-1");
    }
}
