//! The volumes that fit some filters, all pages of them.
//!
//! Filters, never ids: an unknown id would fail the whole request. The order of the answer means nothing; a page may
//! be empty and not be the last.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVolumes.html>

use super::VERSION;
use super::pages::{self, Listing, Page};
use super::volume::{self, Volume, is_ours};
use crate::aws::Aws;
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::scope::Scope;

/// A filter: a volume fits that has one of the values. `*` and `?` in a value are wildcards; see [`escape_filter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Such as `tag:user:ec2fd.domain`, `availability-zone`, `volume-id`.
    pub(crate) name: String,
    /// At most 200.
    pub(crate) values: Vec<String>,
}

impl Filter {
    /// A filter for values as they are.
    pub(crate) fn exact(name: impl Into<String>, values: &[&str]) -> Filter {
        Filter { name: name.into(), values: values.iter().map(|v| escape_filter(v)).collect() }
    }
}

/// Makes a text mean itself in a filter.
pub(crate) fn escape_filter(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl Aws {
    /// All volumes that fit all filters, with those of their tags that are ours: of a pool's volumes nothing else counts,
    /// and each may have 50.
    pub(crate) fn describe_volumes(&self, scope: &Scope, filters: &[Filter]) -> Result<Vec<Volume>, ApiError> {
        self.volumes(scope, filters, is_ours)
    }

    /// The same with all of their tags: for a few volumes.
    pub(crate) fn describe_volumes_with_tags(
        &self,
        scope: &Scope,
        filters: &[Filter],
    ) -> Result<Vec<Volume>, ApiError> {
        self.volumes(scope, filters, |_| true)
    }

    fn volumes(&self, scope: &Scope, filters: &[Filter], keep: fn(&str) -> bool) -> Result<Vec<Volume>, ApiError> {
        let listing = Listing {
            action: "DescribeVolumes",
            most: usize::MAX,
            request: &|size, token| request(filters, size, token),
            parse: &|body| parse(body, keep),
            id: |v: &Volume| &v.id,
        };
        self.list(scope, &listing)
    }
}

fn request(filters: &[Filter], size: usize, token: &str) -> String {
    let mut form = Form::new("DescribeVolumes", VERSION);
    add_filters(&mut form, filters);
    form.add("MaxResults", &size.to_string());
    if !token.is_empty() {
        form.add("NextToken", token);
    }
    form.into_body()
}

/// Adds filters to a form.
pub(super) fn add_filters(form: &mut Form, filters: &[Filter]) {
    for (n, filter) in (1..).zip(filters) {
        form.add(&format!("Filter.{n}.Name"), &filter.name);
        let values: Vec<&str> = filter.values.iter().map(String::as_str).collect();
        form.add_all(&format!("Filter.{n}.Value"), &values);
    }
}

fn parse(body: &[u8], keep: fn(&str) -> bool) -> Result<Page<Volume>, String> {
    pages::parse(body, "DescribeVolumesResponse", "volumeSet", &|node| volume::read(node, keep).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::super::{AttachmentState, VolumeState};
    use super::*;
    use crate::aws::xml;

    pub(super) fn parse(body: &[u8]) -> Result<Page<Volume>, String> {
        super::parse(body, |_| true)
    }

    pub(super) fn whole(body: &[u8]) -> Result<Page<Volume>, String> {
        let read = |node: roxmltree::Node<'_, '_>| volume::read(node, |_| true).into_iter().collect();
        pages::whole(body, "DescribeVolumesResponse", "volumeSet", &read)
    }

    #[test]
    fn the_request_is_botocores() {
        let f = [Filter { name: "tag:a".into(), values: vec!["x".into(), "y".into()] }];
        assert_eq!(
            request(&f, 500, "t"),
            "Action=DescribeVolumes&Version=2016-11-15&Filter.1.Name=tag%3Aa&Filter.1.Value.1=x&Filter.1.Value.2=y\
             &MaxResults=500&NextToken=t"
        );
        assert_eq!(Filter::exact("n", &["a*b?c\\d"]).values, ["a\\*b\\?c\\\\d"]);
    }

    pub(super) const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>r</requestId>
  <volumeSet>
    <item>
      <volumeId>vol-1</volumeId><size>80</size><snapshotId/><availabilityZone>us-east-1a</availabilityZone>
      <status>in-use</status><createTime>2013-12-18T22:35:00.084Z</createTime>
      <attachmentSet><item><volumeId>vol-1</volumeId><instanceId>i-1</instanceId><device>/dev/sdh</device>
        <status>attaching</status><deleteOnTermination>true</deleteOnTermination></item></attachmentSet>
      <tagSet><item><key>k &amp; l</key><value/></item><item><key>m</key><value> v </value></item></tagSet>
      <volumeType>standard</volumeType><multiAttachEnabled>false</multiAttachEnabled>
      <operator><managed>false</managed></operator>
    </item>
    <item><volumeId>vol-2</volumeId><status>nova</status><multiAttachEnabled>true</multiAttachEnabled>
      <operator><managed>true</managed></operator></item>
    <item><size>1</size></item>
  </volumeSet>
  <nextToken>abc</nextToken>
</DescribeVolumesResponse>"#;

    #[test]
    fn a_page_becomes_volumes() {
        let (volumes, next) = parse(PAGE.as_bytes()).unwrap();
        assert_eq!((volumes.len(), next.as_deref()), (2, Some("abc")));
        let v = &volumes[0];
        assert_eq!((v.id.as_str(), v.size, v.zone.as_str(), v.state), ("vol-1", 80, "us-east-1a", VolumeState::InUse));
        assert_eq!(v.create_time.unwrap().unix_timestamp(), 1_387_406_100);
        assert_eq!((v.snapshot_id.clone(), v.multi_attach, v.operator_managed), (None, false, false));
        assert_eq!((v.tag("k & l"), v.tag("m"), v.tag("x")), (Some(""), Some(" v "), None));
        let a = v.attachments.iter().find(|a| a.instance_id == "i-1").unwrap();
        assert_eq!(
            (a.device.as_str(), a.state, a.delete_on_termination),
            ("/dev/sdh", AttachmentState::Attaching, true)
        );
        let w = &volumes[1];
        assert!(w.multi_attach && w.operator_managed && w.state == VolumeState::Other && w.create_time.is_none());
    }

    #[test]
    fn of_a_listing_only_our_tags_are_kept() {
        let page = PAGE.replace("<key>m</key>", "<key>user:ec2fd.domain</key>");
        let (volumes, _) = super::parse(page.as_bytes(), is_ours).unwrap();
        assert_eq!(volumes[0].tags, [("user:ec2fd.domain".to_owned(), " v ".to_owned())]);
    }

    #[test]
    fn a_page_reads_the_same_whole_or_in_pieces() {
        assert!(xml::split(PAGE, "volumeSet").is_some());
        assert_eq!(parse(PAGE.as_bytes()), whole(PAGE.as_bytes()));
        let commented = PAGE.replace("<volumeSet>", "<volumeSet><!-- c -->");
        assert_eq!(parse(commented.as_bytes()), whole(PAGE.as_bytes()));
    }

    #[test]
    fn an_empty_token_is_the_end_and_garbage_is_named() {
        let end = "<DescribeVolumesResponse><volumeSet/><nextToken/></DescribeVolumesResponse>";
        assert_eq!(parse(end.as_bytes()).unwrap(), (vec![], None));
        assert_eq!(parse(b"<html/>").unwrap_err(), "the answer is a html");
        assert!(parse(b"<a").unwrap_err().starts_with("the answer is not XML: "));
        assert_eq!(parse(b"\xff").unwrap_err(), "the answer is not UTF-8");
    }
}

#[cfg(test)]
mod properties;
