//! SNS Publish, Query API 2010-03-31.
//!
//! <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>

use super::client::{Call, Repeat};
use super::endpoint::Service;
use super::query::Form;
use super::{ApiError, Aws, Fifo, xml};
use crate::scope::Scope;

fn request(topic: &str, subject: &str, message: &str, fifo: Option<&Fifo>) -> String {
    let mut form = Form::new("Publish", "2010-03-31");
    form.add("TopicArn", topic).add("Subject", subject).add("Message", message);
    if let Some(f) = fifo {
        form.add("MessageGroupId", &f.group).add("MessageDeduplicationId", &f.deduplication);
    }
    form.into_body()
}

impl Aws {
    /// Publishes a message. `region` is the topic's; `None`: this program's.
    pub(crate) fn sns_publish(
        &self,
        scope: &Scope,
        topic: &str,
        region: Option<&str>,
        subject: &str,
        message: &str,
        fifo: Option<&Fifo>,
    ) -> Result<(), ApiError> {
        let body = request(topic, subject, message, fifo);
        // A message that comes twice is better than one that does not come.
        let call = Call { region, ..Call::form(Service::Sns, "Publish", body, Repeat::Safe) };
        self.client.call(scope, &call, |body| match xml::parse(body)?.root_element().tag_name().name() {
            "PublishResponse" => Ok(()),
            other => Err(format!("the answer is <{other}>, not <PublishResponse>")),
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
            request("arn:aws:sns:eu-west-1:1:t.fifo", "s", "m", Some(&fifo)),
            "Action=Publish&Version=2010-03-31&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A1%3At.fifo&Subject=s&Message=m\
             &MessageGroupId=g&MessageDeduplicationId=d"
        );
    }
}
