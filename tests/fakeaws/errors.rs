//! Refusals, in the shape of each service.

use super::http::Response;
use super::text::{element, xml};

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Service {
    Ec2,
    Route53,
    Sns,
    Sqs,
    AutoScaling,
}

impl Service {
    /// The name that permissions and faults use before the colon.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Ec2 => "EC2",
            Service::Route53 => "Route53",
            Service::Sns => "SNS",
            Service::Sqs => "SQS",
            Service::AutoScaling => "AutoScaling",
        }
    }

    /// The name in the scope of a signature, and the prefix of IAM actions.
    pub(crate) fn scope(self) -> &'static str {
        match self {
            Service::Ec2 => "ec2",
            Service::Route53 => "route53",
            Service::Sns => "sns",
            Service::Sqs => "sqs",
            Service::AutoScaling => "autoscaling",
        }
    }
}

/// A refusal: status, code, text.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A refusal with status 400.
pub(crate) fn refuse(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { status: 400, code: code.into(), message: message.into() }
}

/// A refusal with another status.
pub(crate) fn refuse_with(status: u16, code: &str, message: impl Into<String>) -> Refusal {
    Refusal { status, code: code.into(), message: message.into() }
}

/// The service's own throttle.
pub(crate) fn throttled(service: Service) -> Refusal {
    match service {
        Service::Ec2 => refuse_with(503, "RequestLimitExceeded", "Request limit exceeded."),
        Service::Route53 => refuse("Throttling", "Rate exceeded"),
        Service::Sns | Service::AutoScaling => refuse("Throttling", "Rate exceeded"),
        Service::Sqs => refuse_with(403, "RequestThrottled", "Request is throttled."),
    }
}

/// The service's own internal error.
pub(crate) fn internal(service: Service, status: u16) -> Refusal {
    let code = match (service, status) {
        (Service::Ec2, 503) => "Unavailable",
        (_, 503) => "ServiceUnavailable",
        (Service::Ec2, _) => "InternalError",
        (Service::Sns, _) => "InternalError",
        _ => "InternalFailure",
    };
    refuse_with(status, code, "An internal error has occurred")
}

/// How a refusal looks on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// EC2's `<Response><Errors>`.
    Ec2,
    /// `<ErrorResponse>` of Route 53.
    Route53,
    /// Route 53's older `<InvalidChangeBatch><Messages>`.
    BareBatch,
    /// `<ErrorResponse>` of the query services; the text is the namespace.
    Query(&'static str),
    /// JSON; `true` when the caller asked for the query code beside it.
    Json(bool),
}

/// Namespace of SNS.
pub(crate) const SNS_NS: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
/// Namespace of SQS in the query protocol.
pub(crate) const SQS_NS: &str = "http://queue.amazonaws.com/doc/2012-11-05/";
/// Namespace of Route 53.
pub(crate) const R53_NS: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

/// Writes a refusal.
pub(crate) fn render(r: &Refusal, shape: Shape, id: &str) -> Response {
    let (code, message) = (element("Code", &r.code), element("Message", &r.message));
    let kind = if r.status >= 500 { "Receiver" } else { "Sender" };
    match shape {
        Shape::Ec2 => {
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>{code}{message}</Error></Errors><RequestID>{id}</RequestID></Response>"
            );
            Response::new(r.status, "text/xml;charset=UTF-8", body)
        }
        Shape::BareBatch if r.code == "InvalidChangeBatch" => {
            let inner = r.message.trim_start_matches('[').trim_end_matches(']');
            let body = format!(
                "<?xml version=\"1.0\"?>\n<InvalidChangeBatch xmlns=\"{R53_NS}\"><Messages><Message>{}</Message></Messages><RequestId>{id}</RequestId></InvalidChangeBatch>",
                xml(inner)
            );
            Response::new(r.status, "text/xml", body)
        }
        Shape::Route53 | Shape::BareBatch => {
            let body = format!(
                "<?xml version=\"1.0\"?>\n<ErrorResponse xmlns=\"{R53_NS}\"><Error><Type>{kind}</Type>{code}{message}</Error><RequestId>{id}</RequestId></ErrorResponse>"
            );
            Response::new(r.status, "text/xml", body)
        }
        Shape::Query(ns) => {
            let code = element("Code", query_code(&r.code));
            let body = format!(
                "<ErrorResponse xmlns=\"{ns}\">\n  <Error>\n    <Type>{kind}</Type>\n    {code}\n    {message}\n  </Error>\n  <RequestId>{id}</RequestId>\n</ErrorResponse>"
            );
            Response::new(r.status, "text/xml", body)
        }
        Shape::Json(query_mode) => {
            let (kind_name, key) = json_type(&r.code);
            let mut body = serde_json::Map::new();
            body.insert("__type".into(), kind_name.into());
            body.insert(key.into(), r.message.clone().into());
            let body = serde_json::Value::Object(body).to_string();
            let answer = Response::new(r.status, "application/x-amz-json-1.0", body);
            if query_mode {
                answer.with("x-amzn-query-error", format!("{};{kind}", query_code(&r.code)))
            } else {
                answer
            }
        }
    }
}

/// The `__type` of a code in SQS' JSON, and how its text is called there.
fn json_type(code: &str) -> (String, &'static str) {
    match code {
        "AccessDenied" => ("com.amazon.coral.service#AccessDeniedException".into(), "Message"),
        "InvalidClientTokenId" => ("com.amazon.coral.service#UnrecognizedClientException".into(), "message"),
        "SignatureDoesNotMatch" => ("com.amazon.coral.service#InvalidSignatureException".into(), "message"),
        "ExpiredToken" => ("com.amazon.coral.service#ExpiredTokenException".into(), "message"),
        "MissingAuthenticationToken" => {
            ("com.amazon.coral.service#MissingAuthenticationTokenException".into(), "message")
        }
        "InternalFailure" => ("com.amazon.coral.service#InternalFailure".into(), "message"),
        "UnknownOperation" => ("com.amazon.coral.service#UnknownOperationException".into(), "message"),
        "InvalidParameterValue" => ("com.amazon.coral.service#InvalidParameterValueException".into(), "message"),
        "MissingParameter" => ("com.amazon.coral.service#MissingRequiredParameterException".into(), "message"),
        other => (format!("com.amazonaws.sqs#{other}"), "message"),
    }
}

fn query_code(code: &str) -> &str {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue",
        other => other,
    }
}
