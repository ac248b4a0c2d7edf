//! Writes and removes tags.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateTags.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteTags.html>

use super::VERSION;
use crate::aws::client::{Call, Repeat};
use crate::aws::endpoint::Service;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, Still};
use crate::scope::Scope;

impl Aws {
    /// Writes these tags to all of these resources, over what is there.
    pub(crate) fn create_tags(
        &self,
        scope: &Scope,
        ids: &[&str],
        tags: &[(&str, &str)],
        still: &Still<'_>,
    ) -> Result<(), ApiError> {
        if ids.is_empty() || tags.is_empty() {
            return Ok(());
        }
        let call = Call::form(Service::Ec2, "CreateTags", create(ids, tags), Repeat::Safe);
        self.client.call_while(scope, &call, still, |body| super::named(body, "CreateTagsResponse"))
    }

    /// Removes these tags from all of these resources; with a value, only where the tag has that value.
    pub(crate) fn delete_tags(
        &self,
        scope: &Scope,
        ids: &[&str],
        tags: &[(&str, Option<&str>)],
        still: &Still<'_>,
    ) -> Result<(), ApiError> {
        // Without a tag, EC2 would remove all tags there are.
        if ids.is_empty() || tags.is_empty() {
            return Ok(());
        }
        let call = Call::form(Service::Ec2, "DeleteTags", delete(ids, tags), Repeat::Safe);
        self.client.call_while(scope, &call, still, |body| super::named(body, "DeleteTagsResponse"))
    }
}

fn create(ids: &[&str], tags: &[(&str, &str)]) -> String {
    let mut form = Form::new("CreateTags", VERSION);
    form.add_all("ResourceId", ids);
    for (n, (key, value)) in (1..).zip(tags) {
        form.add(&format!("Tag.{n}.Key"), key).add(&format!("Tag.{n}.Value"), value);
    }
    form.into_body()
}

fn delete(ids: &[&str], tags: &[(&str, Option<&str>)]) -> String {
    let mut form = Form::new("DeleteTags", VERSION);
    form.add_all("ResourceId", ids);
    for (n, (key, value)) in (1..).zip(tags) {
        form.add(&format!("Tag.{n}.Key"), key);
        // No value and an empty value are different things: any value, and only an empty one.
        if let Some(value) = value {
            form.add(&format!("Tag.{n}.Value"), value);
        }
    }
    form.into_body()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_are_botocores() {
        assert_eq!(
            create(&["vol-1"], &[("k", "v")]),
            "Action=CreateTags&Version=2016-11-15&ResourceId.1=vol-1&Tag.1.Key=k&Tag.1.Value=v"
        );
        assert_eq!(
            delete(&["vol-1", "vol-2"], &[("k", None), ("l", Some("")), ("m", Some("v"))]),
            "Action=DeleteTags&Version=2016-11-15&ResourceId.1=vol-1&ResourceId.2=vol-2&Tag.1.Key=k&Tag.2.Key=l\
             &Tag.2.Value=&Tag.3.Key=m&Tag.3.Value=v"
        );
    }
}
