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
}
