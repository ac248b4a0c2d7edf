//! SQS SendMessage, JSON 1.0.
//!
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>
//! The message goes to the host of the queue's URL, which may be in another region than this instance.

use serde_json::json;

use super::client::{Call, Repeat};
use super::endpoint::Service;
use super::{ApiError, Aws, Class, Fifo};
use crate::scope::Scope;

fn request(queue_url: &str, message: &str, fifo: Option<&Fifo>) -> String {
    let mut body = json!({ "QueueUrl": queue_url, "MessageBody": message });
    if let Some(f) = fifo {
        body["MessageGroupId"] = json!(f.group);
        body["MessageDeduplicationId"] = json!(f.deduplication);
    }
    body.to_string()
}

impl Aws {
    /// Sends a message. `region` is the queue's; `None`: this program's.
    pub(crate) fn sqs_send(
        &self,
        scope: &Scope,
        queue_url: &str,
        region: Option<&str>,
        message: &str,
        fifo: Option<&Fifo>,
    ) -> Result<(), ApiError> {
        const ACTION: &str = "SendMessage";
        let Some(endpoint) = self.client.queue(queue_url, region.unwrap_or(self.region())) else {
            return Err(ApiError::ours(ACTION, Class::Fatal, format!("'{queue_url}' is not the URL of a queue")));
        };
        let call = Call {
            region,
            endpoint: Some(endpoint),
            headers: vec![
                ("content-type".to_owned(), "application/x-amz-json-1.0".to_owned()),
                ("x-amz-target".to_owned(), "AmazonSQS.SendMessage".to_owned()),
            ],
            // A message that comes twice is better than one that does not come.
            ..Call::form(Service::Sqs, ACTION, request(queue_url, message, fifo), Repeat::Safe)
        };
        self.client.call(scope, &call, |body| {
            let answer: serde_json::Value =
                serde_json::from_slice(body).map_err(|e| format!("the answer is not JSON: {e}"))?;
            answer.get("MessageId").map(drop).ok_or_else(|| "the answer has no MessageId".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request() {
        let fifo = Fifo { group: "g".into(), deduplication: "d".into() };
        assert_eq!(
            request("https://q", "m\n", Some(&fifo)),
            r#"{"QueueUrl":"https://q","MessageBody":"m\n","MessageGroupId":"g","MessageDeduplicationId":"d"}"#
        );
    }
}
