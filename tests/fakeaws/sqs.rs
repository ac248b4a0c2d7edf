//! SQS SendMessage, in JSON and in the query protocol.

use std::collections::BTreeMap;

use super::errors::{Refusal, SQS_NS, refuse};
use super::http::Request;
use super::sigv4::Credential;
use super::text::{element, md5, pairs};
use super::world::{Message, World};

/// The region that the host of a queue's URL says.
pub(crate) fn region_of_host(host: &str) -> Option<String> {
    let host = host.split(':').next()?;
    let parts: Vec<&str> = host.split('.').collect();
    match parts.as_slice() {
        ["sqs" | "sqs-fips", region, ..] => Some((*region).into()),
        [region, "queue", "amazonaws", ..] => Some((*region).into()),
        ["queue", "amazonaws", "com"] => Some("us-east-1".into()),
        [_, "sqs", region, "vpce", ..] => Some((*region).into()),
        _ => None,
    }
}

/// Account and name at the end of a queue's URL.
fn identity(url: &str) -> Option<(String, String)> {
    let mut parts = url.split("//").last()?.split('/').skip(1).filter(|p| !p.is_empty());
    Some((parts.next()?.into(), parts.next()?.into()))
}

/// The parameters, from JSON or a form; `Err` when the body is neither.
pub(crate) fn params(request: &Request, json: bool) -> Result<BTreeMap<String, String>, Refusal> {
    let body = String::from_utf8(request.body.clone()).unwrap_or_default();
    if !json {
        let mut map: BTreeMap<String, String> = pairs(&body, true).unwrap_or_default().into_iter().collect();
        if !map.contains_key("QueueUrl") && request.path.len() > 1 {
            map.insert("QueueUrl".into(), format!("http://path{}", request.path));
        }
        return Ok(map);
    }
    let bad = || refuse("SerializationException", "Could not read the body as a JSON object");
    let value: serde_json::Value = serde_json::from_str(&body).map_err(|_| bad())?;
    let object = value.as_object().ok_or_else(bad)?;
    let mut map = BTreeMap::new();
    for (k, v) in object {
        let text = match v {
            serde_json::Value::String(s) => s.clone(),
            serde_json::Value::Number(n) if k == "DelaySeconds" => n.to_string(),
            _ if k.starts_with("Message") && v.is_object() => v.to_string(),
            _ => return Err(bad()),
        };
        map.insert(k.clone(), text);
    }
    Ok(map)
}

const KNOWN: [&str; 9] = [
    "Action",
    "Version",
    "QueueUrl",
    "MessageBody",
    "DelaySeconds",
    "MessageGroupId",
    "MessageDeduplicationId",
    "MessageAttributes",
    "MessageSystemAttributes",
];

impl World {
    /// Carries out SendMessage; gives the whole body of the answer.
    pub(crate) fn send_message(
        &mut self,
        params: &BTreeMap<String, String>,
        key: &Credential,
        region: &str,
        json: bool,
    ) -> Result<String, Refusal> {
        if let Some(k) = params.keys().find(|k| !KNOWN.contains(&k.as_str())) {
            return Err(refuse("InvalidParameterValue", format!("The parameter {k} is not known")));
        }
        let get = |n: &str| params.get(n).map(String::as_str);
        let missing = |n: &str| refuse("MissingParameter", format!("The request must contain the parameter {n}."));
        let url = get("QueueUrl").ok_or_else(|| missing("QueueUrl"))?;
        let wanted = identity(url);
        let found = self.queues.iter().find(|q| q.region == region && wanted.is_some() && identity(&q.name) == wanted);
        let Some(queue) = found.cloned() else {
            return Err(refuse("QueueDoesNotExist", "The specified queue does not exist."));
        };
        let body = get("MessageBody").filter(|b| !b.is_empty()).ok_or_else(|| missing("MessageBody"))?;
        let allowed =
            |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
        if !body.chars().all(allowed) {
            return Err(refuse(
                "InvalidMessageContents",
                "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF",
            ));
        }
        if body.len() > queue.limit {
            let text = format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {} bytes.",
                queue.limit
            );
            return Err(refuse("InvalidParameterValue", text));
        }
        let (group, dedup) = (get("MessageGroupId"), get("MessageDeduplicationId"));
        let bad_id = |v: &str| v.is_empty() || v.len() > 128 || !v.chars().all(|c| c.is_ascii_graphic());
        for (name, value) in [("MessageGroupId", group), ("MessageDeduplicationId", dedup)] {
            if value.is_some_and(bad_id) {
                let text = format!(
                    "Value for parameter {name} is invalid. Reason: {name} can only include alphanumeric and punctuation characters. 1 to 128 in length."
                );
                return Err(refuse("InvalidParameterValue", text));
            }
        }
        let now = self.now_ms();
        let mut repeated = false;
        if queue.fifo {
            if group.is_none() {
                return Err(missing("MessageGroupId"));
            }
            if dedup.is_none() && !queue.content_dedup {
                let text = "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly";
                return Err(refuse("InvalidParameterValue", text));
            }
            let same = |m: &&Message| m.target == queue.name && m.dedup.as_deref() == dedup && m.at_ms + 300_000 > now;
            repeated = self.sent.iter().find(same).is_some_and(|m| dedup.is_some() || m.body == body);
        } else if dedup.is_some() {
            let text = "Value for parameter MessageDeduplicationId is invalid. Reason: The request include parameter that is not valid for this queue type.";
            return Err(refuse("InvalidParameterValue", text));
        }
        if !repeated {
            self.sent.push(Message {
                target: queue.name.clone(),
                subject: None,
                body: body.into(),
                group: group.map(String::from),
                dedup: dedup.map(String::from),
                instance: key.instance.clone(),
                at_ms: now,
            });
        }
        let (sum, id) = (md5(body.as_bytes()), self.random.uuid());
        let sequence = queue.fifo.then(|| format!("1000000000000000{:04}", self.sent.len()));
        if json {
            let mut v = serde_json::json!({ "MD5OfMessageBody": sum, "MessageId": id });
            if let Some(s) = sequence {
                v["SequenceNumber"] = s.into();
            }
            return Ok(v.to_string());
        }
        let mut result = element("MessageId", &id) + &element("MD5OfMessageBody", sum);
        if let Some(s) = sequence {
            result += &element("SequenceNumber", s);
        }
        Ok(format!(
            "<?xml version=\"1.0\"?><SendMessageResponse xmlns=\"{SQS_NS}\"><SendMessageResult>{result}</SendMessageResult><ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></SendMessageResponse>"
        ))
    }
}
