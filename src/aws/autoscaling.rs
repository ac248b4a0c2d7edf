//! Auto Scaling, Query API 2011-01-01: the three calls that an instance makes about itself.
//!
//! <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_SetInstanceHealth.html>
//! <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html>
//! <https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RecordLifecycleActionHeartbeat.html>

use super::client::{Call, Repeat};
use super::endpoint::Service;
use super::query::Form;
use super::{ApiError, Aws, xml};
use crate::scope::Scope;

fn form(action: &str, parameters: &[(&str, &str)]) -> String {
    let mut form = Form::new(action, "2011-01-01");
    for (name, value) in parameters {
        form.add(name, value);
    }
    form.into_body()
}

impl Aws {
    /// Tells the group of this instance that it is unhealthy: the group replaces it. [`super::Class::Gone`]: no group
    /// has it.
    pub(crate) fn set_unhealthy(&self, scope: &Scope, instance: &str) -> Result<(), ApiError> {
        // The grace period is for instances that are still starting. This one has ended to.
        let parameters =
            [("InstanceId", instance), ("HealthStatus", "Unhealthy"), ("ShouldRespectGracePeriod", "false")];
        self.autoscaling(scope, "SetInstanceHealth", &parameters)
    }

    /// Ends the lifecycle action of a hook: with CONTINUE, or with ABANDON. [`super::Class::Gone`]: there is none (any
    /// more), which is also the answer to a second one.
    pub(crate) fn complete_lifecycle_action(
        &self,
        scope: &Scope,
        group: &str,
        hook: &str,
        instance: &str,
        well: bool,
    ) -> Result<(), ApiError> {
        let result = if well { "CONTINUE" } else { "ABANDON" };
        let parameters = [
            ("AutoScalingGroupName", group),
            ("LifecycleHookName", hook),
            ("LifecycleActionResult", result),
            ("InstanceId", instance),
        ];
        self.autoscaling(scope, "CompleteLifecycleAction", &parameters)
    }

    /// The lifecycle action of a hook begins its time-out anew. [`super::Class::Gone`]: there is none.
    pub(crate) fn record_heartbeat(
        &self,
        scope: &Scope,
        group: &str,
        hook: &str,
        instance: &str,
    ) -> Result<(), ApiError> {
        let parameters = [("AutoScalingGroupName", group), ("LifecycleHookName", hook), ("InstanceId", instance)];
        self.autoscaling(scope, "RecordLifecycleActionHeartbeat", &parameters)
    }

    /// All of them may come twice.
    fn autoscaling(&self, scope: &Scope, action: &'static str, parameters: &[(&str, &str)]) -> Result<(), ApiError> {
        let call = Call::form(Service::AutoScaling, action, form(action, parameters), Repeat::Safe);
        self.client.call(scope, &call, |body| {
            let document = xml::parse(body)?;
            let name = document.root_element().tag_name().name();
            match name.strip_suffix("Response") {
                Some(of) if of == action => Ok(()),
                _ => Err(format!("the answer is <{name}>, not <{action}Response>")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_request() {
        assert_eq!(
            super::form("SetInstanceHealth", &[("InstanceId", "i-1"), ("HealthStatus", "Unhealthy")]),
            "Action=SetInstanceHealth&Version=2011-01-01&InstanceId=i-1&HealthStatus=Unhealthy"
        );
    }
}
