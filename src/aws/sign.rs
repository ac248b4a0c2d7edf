//! Signatures, version 4, in headers.

use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use time::OffsetDateTime;

use super::credentials::Keys;

/// The headers (`authorization`, `x-amz-date`, `x-amz-security-token`) that sign a request; to be added to `headers`,
/// which are signed with it. The error says what makes the request unfit.
#[allow(clippy::too_many_arguments)]
pub(crate) fn headers(
    keys: &Keys,
    region: &str,
    service: &str,
    now: OffsetDateTime,
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<Vec<(String, String)>, String> {
    let identity = keys.identity();
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let signed = headers.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let request = SignableRequest::new(method, url, signed, SignableBody::Bytes(body)).map_err(|e| e.to_string())?;
    let (instructions, _) = sign(request, &params).map_err(|e| e.to_string())?.into_parts();
    Ok(instructions.headers().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of AWS's published examples.
    fn example(token: Option<&str>) -> Keys {
        Keys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    }

    fn authorization(keys: &Keys, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> String {
        let now = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap(); // 20150830T123600Z
        let headers: Vec<_> = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let signed = super::headers(keys, "us-east-1", "service", now, method, url, &headers, body.as_bytes()).unwrap();
        assert!(signed.contains(&("x-amz-date".to_owned(), "20150830T123600Z".to_owned())));
        signed.into_iter().find(|(k, _)| k == "authorization").unwrap().1
    }

    #[test]
    fn the_published_vectors() {
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, ";
        let url = "https://example.amazonaws.com/";
        assert_eq!(
            authorization(&example(None), "GET", url, &[], ""),
            format!(
                "{scope}SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
            )
        );
        assert_eq!(
            authorization(&example(None), "POST", url, &[], ""),
            format!(
                "{scope}SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
            )
        );
        assert_eq!(
            authorization(
                &example(None),
                "POST",
                url,
                &[("Content-Type", "application/x-www-form-urlencoded")],
                "Param1=value1"
            ),
            format!(
                "{scope}SignedHeaders=content-type;host;x-amz-date, Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
            )
        );
        assert_eq!(
            authorization(&example(None), "GET", "https://example.amazonaws.com/?Param2=value2&Param1=value1", &[], ""),
            format!(
                "{scope}SignedHeaders=host;x-amz-date, Signature=b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
            )
        );
    }

    /// Made with botocore 1.44 at a fixed time: session token, the slash at the end of Route 53's path, encoded query.
    #[test]
    fn signatures_are_botocores() {
        let keys = Keys::new("AKIDEXAMPLE", "SECRET", Some("TOKEN"));
        let now = OffsetDateTime::from_unix_timestamp(1_795_176_000).unwrap(); // 20261120T120000Z
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let json = [
            ("content-type", "application/x-amz-json-1.0"),
            ("x-amz-target", "AmazonSQS.SendMessage"),
            ("x-amzn-query-mode", "true"),
        ];
        let attach = "Action=AttachVolume&Version=2016-11-15&VolumeId=vol-1&InstanceId=i-1&Device=%2Fdev%2Fxvdba";
        let change = "<ChangeResourceRecordSetsRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch>\
            <Comment>c</Comment><Changes><Change><Action>UPSERT</Action><ResourceRecordSet><Name>*.e.com.</Name>\
            <Type>A</Type><SetIdentifier>i-1</SetIdentifier><MultiValueAnswer>true</MultiValueAnswer><TTL>60</TTL>\
            <ResourceRecords><ResourceRecord><Value>1.2.3.4</Value></ResourceRecord></ResourceRecords>\
            </ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>";
        let send = "{\"QueueUrl\": \"https://sqs.us-east-1.amazonaws.com/1/q\", \"MessageBody\": \"m\"}";
        let r53 = "https://route53.amazonaws.com/2013-04-01/hostedzone/Z1/rrset";
        let list = format!("{r53}?name=%2A.e.com.&type=A&maxitems=10");
        let batch = format!("{r53}/");
        let form = [("content-type", kind)];
        type Case<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: [Case<'_>; 4] = [
            (
                "eu-west-1",
                "ec2",
                "POST",
                "https://ec2.eu-west-1.amazonaws.com/",
                &form,
                attach,
                "0a12954d9a74cb083d3c4c605051d5ee33671c813be20779c98c52e11074bb33",
            ),
            (
                "us-east-1",
                "route53",
                "POST",
                &batch,
                &[],
                change,
                "827f3ea761abc6579411b10c747ec8a7a29080476bed9ff88cebd70beddb7214",
            ),
            (
                "us-east-1",
                "route53",
                "GET",
                &list,
                &[],
                "",
                "6535b12503abf7d6a257144b189624402c72d9974c85fa264adce37f891ed83f",
            ),
            (
                "eu-west-1",
                "sqs",
                "POST",
                "https://sqs.eu-west-1.amazonaws.com/",
                &json,
                send,
                "07b0b8a98436e85a58eaa27a10854965ca33c6d35dc5248e0763b74124511646",
            ),
        ];
        for (region, service, method, url, given, body, want) in cases {
            let given: Vec<_> = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let signed = headers(&keys, region, service, now, method, url, &given, body.as_bytes()).unwrap();
            let authorization = &signed.iter().find(|(k, _)| k == "authorization").unwrap().1;
            assert!(authorization.ends_with(&format!("Signature={want}")), "{service} {method}: {authorization}");
            assert!(signed.contains(&("x-amz-security-token".to_owned(), "TOKEN".to_owned())));
        }
    }
}
