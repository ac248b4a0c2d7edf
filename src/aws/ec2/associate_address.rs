//! Associates an elastic address with a network interface: the claim, since re-association is off and EC2 lets exactly one
//! win.
//!
//! The interface, not the instance: with two interfaces EC2 would not know which. An uncertain end is returned as such,
//! and the caller looks.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateAddress.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, xml};
use crate::scope::Scope;

impl Aws {
    /// Associates it; gives the association's id. [`crate::aws::Class::Conflict`]: the address or the place is taken.
    pub(crate) fn associate_address(
        &self,
        scope: &Scope,
        allocation: &str,
        interface: &str,
        private_ip: &str,
    ) -> Result<String, ApiError> {
        let body = request(allocation, interface, private_ip);
        let call = Call::form(Service::Ec2, "AssociateAddress", body, Repeat::Once);
        self.client.call(scope, &call, parse)
    }
}

fn request(allocation: &str, interface: &str, private_ip: &str) -> String {
    let mut form = Form::new("AssociateAddress", VERSION);
    form.add("AllocationId", allocation).add("NetworkInterfaceId", interface).add("PrivateIpAddress", private_ip);
    // In a VPC, what is not said means yes: it would be taken from whoever has it.
    form.add("AllowReassociation", "false");
    form.into_body()
}

fn parse(body: &[u8]) -> Result<String, String> {
    super::named(body, "AssociateAddressResponse")?;
    let document = xml::parse(body)?;
    let id = xml::text(document.root_element(), "associationId").filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or_else(|| "the answer has no associationId".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            request("eipalloc-1", "eni-1", "10.0.0.1"),
            "Action=AssociateAddress&Version=2016-11-15&AllocationId=eipalloc-1&NetworkInterfaceId=eni-1\
             &PrivateIpAddress=10.0.0.1&AllowReassociation=false"
        );
    }

    #[test]
    fn the_association_is_in_the_answer() {
        let answer =
            |inner: &str| format!("<AssociateAddressResponse><return>true</return>{inner}</AssociateAddressResponse>");
        assert_eq!(parse(answer("<associationId>eipassoc-1</associationId>").as_bytes()).unwrap(), "eipassoc-1");
        assert_eq!(parse(answer("<associationId/>").as_bytes()).unwrap_err(), "the answer has no associationId");
        assert_eq!(parse(b"<html/>").unwrap_err(), "the answer is a html");
    }
}
