//! Names, requests, and what is read.

use super::*;

#[test]
fn names() {
    assert_eq!(normalise("My-World.MC"), "my-world.mc.");
    assert_eq!(normalise("*.e.com."), "\\052.e.com.");
    assert_eq!(normalise("\\052.E.com"), "\\052.e.com.");
    assert_eq!(normalise("ü.e"), "\\303\\274.e.");
    assert_eq!(normalise("a\\9.e"), "a\\1349.e.");
    assert_eq!(normalise("a\\056b.e"), "a\\056b.e.", "an escaped dot belongs to its label");
    assert_eq!(normalise(""), ".");
}

#[test]
fn a_list_request_replays_all_three_keys() {
    let r = list("Z1", &("*.e.com.".into(), "A".into(), "i 1".into()));
    assert_eq!(r.path, "/2013-04-01/hostedzone/Z1/rrset?identifier=i%201&name=%2A.e.com.&type=A");
}

pub(super) const LIST: &str = r#"<?xml version="1.0"?><ListResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/">
  <ResourceRecordSets><ResourceRecordSet><Name>a.e.com.</Name><Type>A</Type><SetIdentifier>w</SetIdentifier>
  <Weight>5</Weight><AliasTarget><HostedZoneId>Z2</HostedZoneId><DNSName>lb.e.com.</DNSName>
  <EvaluateTargetHealth>false</EvaluateTargetHealth></AliasTarget></ResourceRecordSet>
  <ResourceRecordSet><Name>a.e.com.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord>
  <Value>"a &amp; b"</Value></ResourceRecord></ResourceRecords><HealthCheckId>h</HealthCheckId></ResourceRecordSet>
  </ResourceRecordSets><IsTruncated>true</IsTruncated><MaxItems>2</MaxItems><NextRecordName>b.e.com.</NextRecordName>
  <NextRecordType>A</NextRecordType></ListResourceRecordSetsResponse>"#;

#[test]
fn what_is_read_is_written_again_exactly() {
    let (sets, next) = parse_list(LIST.as_bytes()).unwrap();
    assert_eq!(next, Some(("b.e.com.".into(), "A".into(), String::new())));
    assert_eq!((sets[0].set_identifier.as_deref(), sets[0].ttl), (Some("w"), None));
    let body = change("Z1", &[Change::delete(sets[0].clone()), Change::create(sets[1].clone())]).body;
    assert!(
        body.contains(
            "<Action>DELETE</Action><ResourceRecordSet><Name>a.e.com.</Name><Type>A</Type><SetIdentifier>w</SetIdentifier>\
             <Weight>5</Weight><AliasTarget><HostedZoneId>Z2</HostedZoneId><DNSName>lb.e.com.</DNSName>\
             <EvaluateTargetHealth>false</EvaluateTargetHealth></AliasTarget></ResourceRecordSet>"
        ),
        "{body}"
    );
    assert!(
        body.contains(
            "<Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>&quot;a &amp; b&quot;</Value>\
             </ResourceRecord></ResourceRecords><HealthCheckId>h</HealthCheckId>"
        ),
        "{body}"
    );
}

#[test]
fn what_is_nested_too_deep_is_refused() {
    let nested = |n: usize| format!("<x>{}{}</x>", "<y>".repeat(n), "</y>".repeat(n));
    let of = |n| parse_list(LIST.replace("<HealthCheckId>h</HealthCheckId>", &nested(n)).as_bytes());
    assert!(of(MAX_DEPTH - 1).is_ok());
    for depth in [MAX_DEPTH, 200_000] {
        assert_eq!(of(depth).unwrap_err(), "a record set is nested more than 16 deep");
    }
}

#[test]
fn upserts_may_be_repeated_and_deletes_not() {
    let set = RecordSet::simple("A.e.com", "A", 60, &["192.0.2.1".to_owned()]);
    assert_eq!(set.name, "a.e.com.");
    assert_eq!(change("Z", &[Change::upsert(set.clone())]).repeat, Repeat::Safe);
    assert_eq!(change("Z", &[Change::delete(set)]).repeat, Repeat::Once);
    let six = |v: &str| RecordSet::simple("a.e", "AAAA", 60, &[v.to_owned()]);
    assert!(six("2001:db8:0::1").same_content(&six("2001:DB8::1")));
    assert!(parse_list(b"<html/>").is_err() && parse_list(b"").is_err());
}

#[test]
fn a_member_of_a_fleet() {
    let member = RecordSet::member("A.e.com", "A", 60, "192.0.2.1", "i-1");
    assert!(member.is_multivalue() && !member.is_plain());
    let body = change("Z", &[Change::upsert(member.clone())]).body;
    let want = "<Name>a.e.com.</Name><Type>A</Type><SetIdentifier>i-1</SetIdentifier>\
                <MultiValueAnswer>true</MultiValueAnswer><TTL>60</TTL>";
    assert!(body.contains(want), "{body}");
    let simple = RecordSet::simple("a.e.com", "A", 60, &["192.0.2.1".to_owned()]);
    assert!(simple.is_plain() && !simple.is_multivalue() && !simple.same_content(&member));
    let read = format!(
        "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet>{want}\
        <ResourceRecords><ResourceRecord><Value>192.0.2.1</Value></ResourceRecord></ResourceRecords>\
        </ResourceRecordSet></ResourceRecordSets></ListResourceRecordSetsResponse>"
    );
    assert!(parse_list(read.as_bytes()).unwrap().0[0].same_content(&member));
    let (sets, _) = parse_list(LIST.as_bytes()).unwrap();
    assert!(sets.iter().all(|s| !s.is_multivalue() && !s.is_plain()));
}

#[test]
fn what_a_listing_tells_of() {
    let set = |name: &str| RecordSet::simple(name, "A", 60, &["192.0.2.1".to_owned()]);
    let listed = ["a.e.com", "c-1.e.com", "c.e.com", "f"].map(set);
    assert!(listing_order("c-1.e.com.") < listing_order("c.e.com."));
    let told = |listed: &[RecordSet], end: Option<&str>, name: &str| tells_of(listed, "a.e.com.", end, name);
    // Also of what is not there, up to where it ends.
    for name in ["b.e.com.", "c.e.com.", "d.e.com."] {
        assert!(told(&listed[..3], Some("e.e.com."), name) && told(&listed[..3], None, name));
    }
    assert!(!told(&listed[..3], Some("d.e.com."), "d.e.com.") && !told(&listed[..3], None, "a.b.com."));
    // Nothing is concluded from an order that is not ours, nor of names with escapes.
    let other = [listed[1].clone(), listed[0].clone()];
    assert!(!told(&other, None, "b.e.com.") && !told(&listed[..1], None, "\\052.e.com."));
}
