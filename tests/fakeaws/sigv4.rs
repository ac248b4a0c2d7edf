//! Verification of AWS Signature Version 4, by recomputing it. Written from the published algorithm, apart from the
//! signer that the product uses, so that the two check each other.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

use super::errors::{Refusal, Service, refuse, refuse_with};
use super::http::Request;
use super::text::{basic, hex, pairs, parse_basic, percent_encode};

/// A key that may sign.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) access_key: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
    /// When the token ends, by the server's clock.
    pub(crate) expires: Option<OffsetDateTime>,
    /// The instance whose role this is.
    pub(crate) instance: Option<String>,
}

/// The parts of an `Authorization` header.
#[derive(Debug, Clone)]
pub(crate) struct Authorization {
    pub(crate) access_key: String,
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
    pub(crate) signed: Vec<String>,
    pub(crate) signature: String,
}

/// Reads an `Authorization` header.
pub(crate) fn parse(header: &str) -> Option<Authorization> {
    let rest = header.strip_prefix("AWS4-HMAC-SHA256")?;
    let (mut credential, mut signed, mut signature) = (None, None, None);
    for part in rest.split(',') {
        match part.trim().split_once('=')? {
            ("Credential", v) => credential = Some(v),
            ("SignedHeaders", v) => signed = Some(v),
            ("Signature", v) => signature = Some(v),
            _ => return None,
        }
    }
    let mut scope = credential?.split('/');
    let a = Authorization {
        access_key: scope.next()?.into(),
        date: scope.next()?.into(),
        region: scope.next()?.into(),
        service: scope.next()?.into(),
        signed: signed?.split(';').map(String::from).collect(),
        signature: signature?.into(),
    };
    (scope.next() == Some("aws4_request") && scope.next().is_none()).then_some(a)
}

fn hmac(key: &[u8], data: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The path with `.`, `..` and `//` resolved and encoded once more, as all services but S3 want it.
fn canonical_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    let mut out = format!("/{}", parts.join("/"));
    if path.ends_with('/') && out != "/" {
        out.push('/');
    }
    percent_encode(&out, true)
}

fn canonical_query(query: &str) -> Option<String> {
    let mut list: Vec<(String, String)> =
        pairs(query, false)?.into_iter().map(|(k, v)| (percent_encode(&k, false), percent_encode(&v, false))).collect();
    list.sort();
    Some(list.into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&"))
}

/// The signature that this request should carry.
pub(crate) fn signature(request: &Request, a: &Authorization, secret: &str, time: &str) -> Option<String> {
    let body_hash = hex(&Sha256::digest(&request.body));
    let mut headers = String::new();
    for name in &a.signed {
        let values: Vec<String> = request
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, v)| v.split(' ').filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" "))
            .collect();
        if values.is_empty() {
            return None;
        }
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{}\n{body_hash}",
        request.method,
        canonical_path(&request.path),
        canonical_query(&request.query)?,
        a.signed.join(";"),
    );
    let scope = format!("{}/{}/{}/aws4_request", a.date, a.region, a.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), &a.date);
    for part in [a.region.as_str(), a.service.as_str(), "aws4_request"] {
        key = hmac(&key, part);
    }
    Some(hex(&hmac(&key, &to_sign)))
}

/// The refusal of a signature that does not verify, in the words of each service.
fn mismatch(service: Service, detail: Option<String>) -> Refusal {
    match service {
        Service::Ec2 => {
            refuse_with(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
        }
        _ => refuse_with(
            403,
            "SignatureDoesNotMatch",
            detail.unwrap_or_else(|| {
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.".into()
            }),
        ),
    }
}

fn unknown_key(service: Service) -> Refusal {
    match service {
        Service::Ec2 => mismatch(service, None),
        _ => refuse_with(403, "InvalidClientTokenId", "The security token included in the request is invalid."),
    }
}

/// Verifies a request. `regions` are those that this service takes from this caller (the error of a wrong one says
/// the first).
pub(crate) fn verify(
    request: &Request,
    service: Service,
    find: impl Fn(&str) -> Option<Credential>,
    regions: impl Fn(&Credential) -> Vec<String>,
    now: OffsetDateTime,
    window: Duration,
) -> Result<(Credential, String), Refusal> {
    let Some(header) = request.header("authorization") else {
        return Err(refuse_with(
            403,
            "MissingAuthenticationToken",
            if service == Service::Ec2 {
                "Request is missing Authentication Token"
            } else {
                "Missing Authentication Token"
            },
        ));
    };
    let Some(a) = parse(header) else {
        return Err(refuse("IncompleteSignature", "Authorization header is not in the form of AWS4-HMAC-SHA256."));
    };
    let needed = ["host", "x-amz-date", "x-amz-security-token", "content-type", "x-amz-target", "x-amz-content-sha256"];
    for name in needed {
        let must = matches!(name, "host" | "x-amz-date") || request.header(name).is_some();
        if must && !a.signed.iter().any(|s| s == name) {
            return Err(mismatch(
                service,
                Some(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")),
            ));
        }
    }
    if a.signed.windows(2).any(|w| w[0] >= w[1]) {
        return Err(mismatch(service, Some("SignedHeaders is not sorted.".into())));
    }
    for name in ["user-agent", "expect", "connection", "transfer-encoding", "x-amzn-trace-id"] {
        if a.signed.iter().any(|s| s == name) {
            return Err(mismatch(service, Some(format!("'{name}' is changed on the way and must not be signed."))));
        }
    }
    let time = request.header("x-amz-date").unwrap_or("");
    let Some(at) = parse_basic(time) else {
        return Err(refuse("IncompleteSignature", "Date must be in ISO-8601 'basic format'."));
    };
    let Some(credential) = find(&a.access_key) else { return Err(unknown_key(service)) };
    if a.service != service.scope() {
        let text = format!("Credential should be scoped to correct service: '{}'.", service.scope());
        return Err(mismatch(service, Some(text)));
    }
    if !regions(&credential).contains(&a.region) {
        let right = regions(&credential).first().cloned().unwrap_or_default();
        let text = format!("Credential should be scoped to a valid region, not '{}' but '{right}'.", a.region);
        return Err(mismatch(service, Some(text)));
    }
    if !time.starts_with(&a.date) {
        let text = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.";
        return Err(mismatch(service, Some(text.into())));
    }
    if at < now - window {
        let text =
            format!("Signature expired: {time} is now earlier than {} ({} - 5 min.)", basic(now - window), basic(now));
        return Err(mismatch(service, Some(text)));
    }
    if at > now + window {
        let text = format!(
            "Signature not yet current: {time} is still later than {} ({} + 5 min.)",
            basic(now + window),
            basic(now)
        );
        return Err(mismatch(service, Some(text)));
    }
    if request.header("x-amz-security-token") != credential.token.as_deref() {
        return Err(unknown_key(service));
    }
    if request.header("x-amz-content-sha256").is_some_and(|h| h != hex(&Sha256::digest(&request.body))) {
        return Err(mismatch(service, Some("The x-amz-content-sha256 header does not match the payload.".into())));
    }
    if signature(request, &a, &credential.secret, time).as_deref() != Some(a.signature.as_str()) {
        return Err(mismatch(service, None));
    }
    if credential.expires.is_some_and(|e| now >= e) {
        return Err(match service {
            Service::Ec2 => refuse("RequestExpired", "Request has expired."),
            _ => refuse_with(403, "ExpiredToken", "The security token included in the request is expired"),
        });
    }
    Ok((credential, a.region))
}
