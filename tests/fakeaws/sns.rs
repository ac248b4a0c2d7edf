//! SNS Publish.

use std::collections::BTreeMap;

use super::errors::{Refusal, SNS_NS, refuse, refuse_with};
use super::sigv4::Credential;
use super::text::element;
use super::world::{Message, World};

fn invalid(text: impl std::fmt::Display) -> Refusal {
    refuse("InvalidParameter", format!("Invalid parameter: {text}"))
}

const KNOWN: [&str; 10] = [
    "Action",
    "Version",
    "TopicArn",
    "TargetArn",
    "PhoneNumber",
    "Message",
    "Subject",
    "MessageStructure",
    "MessageDeduplicationId",
    "MessageGroupId",
];

impl World {
    /// Carries out Publish; gives the whole body of the answer.
    pub(crate) fn publish(
        &mut self,
        params: &BTreeMap<String, String>,
        key: &Credential,
        region: &str,
    ) -> Result<String, Refusal> {
        if let Some(k) =
            params.keys().find(|k| !KNOWN.contains(&k.as_str()) && !k.starts_with("MessageAttributes.entry."))
        {
            return Err(invalid(format!("{k} is not known")));
        }
        let get = |n: &str| params.get(n).map(String::as_str);
        let arn = get("TopicArn")
            .or(get("TargetArn"))
            .ok_or_else(|| invalid("TopicArn or TargetArn Reason: no value for required parameter"))?;
        let parts: Vec<&str> = arn.split(':').collect();
        if parts.len() != 6 || parts[0] != "arn" || parts[2] != "sns" || parts[3] != region {
            return Err(invalid("TopicArn"));
        }
        let message = get("Message").unwrap_or("");
        if message.is_empty() {
            return Err(invalid("Empty message"));
        }
        let subject = get("Subject");
        if let Some(s) = subject {
            let start = s.chars().next().unwrap_or(' ');
            let bad = s.chars().count() >= 100
                || s.chars().any(char::is_control)
                || !(start.is_alphanumeric() || start.is_ascii_punctuation() || !start.is_ascii())
                || (self.knobs.ascii_subjects && !s.is_ascii());
            if bad {
                return Err(invalid("Subject"));
            }
        }
        let Some(topic) = self.topics.iter().find(|t| t.name == arn).cloned() else {
            return Err(refuse_with(404, "NotFound", "Topic does not exist"));
        };
        if message.len() > topic.limit {
            return Err(invalid("Message too long"));
        }
        let (group, dedup) = (get("MessageGroupId"), get("MessageDeduplicationId"));
        let now = self.now_ms();
        let mut repeated = false;
        if topic.fifo {
            if group.is_none_or(|g| g.is_empty() || g.len() > 128) {
                return Err(invalid("The MessageGroupId parameter is required for FIFO topics"));
            }
            if dedup.is_none() && !topic.content_dedup {
                return Err(invalid(
                    "The topic should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly",
                ));
            }
            let same = |m: &&Message| m.target == arn && m.dedup.as_deref() == dedup && m.at_ms + 300_000 > now;
            repeated = self.sent.iter().find(same).is_some_and(|m| dedup.is_some() || m.body == message);
        } else if dedup.is_some() {
            return Err(invalid(
                "MessageDeduplicationId Reason: The request includes MessageDeduplicationId parameter that is not valid for this topic type",
            ));
        }
        if !repeated {
            self.sent.push(Message {
                target: arn.into(),
                subject: subject.map(String::from),
                body: message.into(),
                group: group.map(String::from),
                dedup: dedup.map(String::from),
                instance: key.instance.clone(),
                at_ms: now,
            });
        }
        let mut result = element("MessageId", self.random.uuid());
        if topic.fifo {
            result += &element("SequenceNumber", format!("1000000000000000{:04}", self.sent.len()));
        }
        Ok(format!(
            "<PublishResponse xmlns=\"{SNS_NS}\">\n  <PublishResult>{result}</PublishResult>\n  <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata>\n</PublishResponse>",
            self.random.uuid()
        ))
    }
}
