//! The elastic addresses that fit some filters. There are no pages.
//!
//! Filters, never ids: an unknown id would fail the whole request.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeAddresses.html>

use super::{Filter, VERSION, add_filters};
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, xml};
use crate::scope::Scope;

/// An elastic address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// `eipalloc-…`.
    pub(crate) allocation_id: String,
    /// The address itself.
    pub(crate) public_ip: String,
    /// `eipassoc-…`, while it is associated.
    pub(crate) association_id: Option<String>,
    /// The instance that has it, if one has.
    pub(crate) instance: Option<String>,
    /// The network interface that has it.
    pub(crate) interface: Option<String>,
    /// The private address that it stands for there.
    pub(crate) private_ip: Option<String>,
    /// An AWS service manages it: it is not for others.
    pub(crate) managed: bool,
}

impl Aws {
    /// All addresses that fit all filters.
    pub(crate) fn describe_addresses(&self, scope: &Scope, filters: &[Filter]) -> Result<Vec<Address>, ApiError> {
        let call = Call::form(Service::Ec2, "DescribeAddresses", request(filters), Repeat::Safe);
        self.client.call(scope, &call, parse)
    }
}

fn request(filters: &[Filter]) -> String {
    let mut form = Form::new("DescribeAddresses", VERSION);
    add_filters(&mut form, filters);
    form.into_body()
}

fn parse(body: &[u8]) -> Result<Vec<Address>, String> {
    super::named(body, "DescribeAddressesResponse")?;
    let document = xml::parse(body)?;
    let read = |item| {
        let text = |name| xml::text(item, name).filter(|t| !t.is_empty()).map(str::to_owned);
        Some(Address {
            allocation_id: text("allocationId")?,
            public_ip: text("publicIp")?,
            association_id: text("associationId"),
            instance: text("instanceId"),
            interface: text("networkInterfaceId"),
            private_ip: text("privateIpAddress"),
            managed: text("serviceManaged").is_some(),
        })
    };
    Ok(xml::items(document.root_element(), "addressesSet").filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            request(&[Filter::exact("tag:a", &["x"])]),
            "Action=DescribeAddresses&Version=2016-11-15&Filter.1.Name=tag%3Aa&Filter.1.Value.1=x"
        );
    }

    #[test]
    fn an_answer_becomes_addresses() {
        let body = r#"<DescribeAddressesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId>
            <addressesSet><item><publicIp>198.51.100.1</publicIp><allocationId>eipalloc-1</allocationId><domain>vpc</domain>
            <instanceId/></item><item><publicIp>198.51.100.2</publicIp><allocationId>eipalloc-2</allocationId>
            <instanceId>i-1</instanceId><associationId>eipassoc-1</associationId><networkInterfaceId>eni-1</networkInterfaceId>
            <privateIpAddress>10.0.0.1</privateIpAddress><serviceManaged>nlb</serviceManaged></item>
            <item><carrierIp>1.2.3.4</carrierIp></item></addressesSet></DescribeAddressesResponse>"#;
        let all = parse(body.as_bytes()).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].association_id.clone(), all[0].instance.clone(), all[0].managed), (None, None, false));
        assert_eq!(
            all[1],
            Address {
                allocation_id: "eipalloc-2".into(),
                public_ip: "198.51.100.2".into(),
                association_id: Some("eipassoc-1".into()),
                instance: Some("i-1".into()),
                interface: Some("eni-1".into()),
                private_ip: Some("10.0.0.1".into()),
                managed: true,
            }
        );
        assert_eq!(parse(b"<html/>").unwrap_err(), "the answer is a html");
    }
}
