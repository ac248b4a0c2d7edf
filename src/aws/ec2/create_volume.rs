//! Creates a volume from parameters in EC2's own names, as they stand in a config's `create`.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVolume.html>

use serde_json::{Map, Value};

use super::VERSION;
use super::volume::{self, Volume};
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, xml};
use crate::scope::Scope;

impl Aws {
    /// Creates it; it is `creating` when this returns. With a `ClientToken` an uncertain end is settled by asking
    /// again, without one it is returned as such.
    pub(crate) fn create_volume(&self, scope: &Scope, params: &Map<String, Value>) -> Result<Volume, ApiError> {
        let repeat = if params.contains_key("ClientToken") { Repeat::Safe } else { Repeat::Once };
        let call = Call::form(Service::Ec2, "CreateVolume", request(params), repeat);
        self.client.call(scope, &call, parse)
    }
}

fn request(params: &Map<String, Value>) -> String {
    let mut form = Form::new("CreateVolume", VERSION);
    for (name, value) in params {
        // On the wire, these two lists are in the singular.
        let name = if name == "TagSpecifications" { "TagSpecification" } else { name };
        flatten(&mut form, name, value);
    }
    form.into_body()
}

fn flatten(form: &mut Form, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(b) => {
            form.add(name, if *b { "true" } else { "false" });
        }
        Value::Number(n) => {
            form.add(name, &n.to_string());
        }
        Value::String(s) => {
            form.add(name, s);
        }
        Value::Array(list) => {
            for (n, value) in (1..).zip(list) {
                flatten(form, &format!("{name}.{n}"), value);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                let key = if key == "Tags" && name.starts_with("TagSpecification.") { "Tag" } else { key };
                flatten(form, &format!("{name}.{key}"), value);
            }
        }
    }
}

/// The volume is the root element itself.
fn parse(body: &[u8]) -> Result<Volume, String> {
    let document = xml::parse(body)?;
    volume::read(document.root_element(), |_| true).ok_or_else(|| "the answer names no volume".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::ec2::VolumeState;

    #[test]
    fn the_request_is_botocores() {
        let params = serde_json::json!({
            "AvailabilityZone": "eu-west-1a", "Size": 10, "VolumeType": "gp3", "Encrypted": true, "ClientToken": "u",
            "TagSpecifications": [{ "ResourceType": "volume", "Tags": [{ "Key": "k", "Value": "v" }] }],
        });
        assert_eq!(
            request(params.as_object().unwrap()),
            "Action=CreateVolume&Version=2016-11-15&AvailabilityZone=eu-west-1a&Size=10&VolumeType=gp3&Encrypted=true\
             &ClientToken=u&TagSpecification.1.ResourceType=volume&TagSpecification.1.Tag.1.Key=k\
             &TagSpecification.1.Tag.1.Value=v"
        );
        let params = serde_json::json!({ "OperatorRequest": { "Principal": "p" }, "New": ["a", null], "No": null });
        assert_eq!(
            request(params.as_object().unwrap()),
            "Action=CreateVolume&Version=2016-11-15&OperatorRequest.Principal=p&New.1=a"
        );
    }

    #[test]
    fn the_answer_is_a_volume() {
        let body = "<CreateVolumeResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>\
                    <volumeId>vol-9</volumeId><size>10</size><availabilityZone>eu-west-1a</availabilityZone>\
                    <status>creating</status><tagSet><item><key>k</key><value>v</value></item></tagSet>\
                    </CreateVolumeResponse>";
        let v = parse(body.as_bytes()).unwrap();
        assert_eq!((v.id.as_str(), v.state, v.tag("k")), ("vol-9", VolumeState::Creating, Some("v")));
        assert_eq!(parse(b"<a/>").unwrap_err(), "the answer names no volume");
    }
}
