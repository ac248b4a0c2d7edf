//! Ends an association of an elastic address. By the association's id: each association has a new one, so nobody else's
//! is ever ended.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DisassociateAddress.html>

use super::VERSION;
use crate::aws::Aws;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::scope::Scope;

impl Aws {
    /// Ends it. [`crate::aws::Class::Gone`]: there is no such association (any more).
    pub(crate) fn disassociate_address(&self, scope: &Scope, association: &str) -> Result<(), ApiError> {
        let call = Call::form(Service::Ec2, "DisassociateAddress", request(association), Repeat::Safe);
        self.client.call(scope, &call, |body| super::named(body, "DisassociateAddressResponse"))
    }
}

fn request(association: &str) -> String {
    let mut form = Form::new("DisassociateAddress", VERSION);
    form.add("AssociationId", association);
    form.into_body()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            super::request("eipassoc-1"),
            "Action=DisassociateAddress&Version=2016-11-15&AssociationId=eipassoc-1"
        );
    }
}
