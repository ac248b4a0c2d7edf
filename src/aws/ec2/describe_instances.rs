//! The states of some instances: whether who holds a volume still lives.
//!
//! By filter, never by id: an instance that EC2 has forgotten would fail the whole request. Of one that is missing in the
//! answer nothing is known. An instance's description is long, and nothing of it is kept but the state.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>

use super::VERSION;
use super::pages::{self, Listing, Page};
use crate::aws::error::ApiError;
use crate::aws::query::Form;
use crate::aws::{Aws, xml};
use crate::scope::Scope;

/// Small: an instance takes several KiB.
const PAGE: usize = 50;
/// As many values as a filter may have.
const MOST: usize = 200;

/// `instanceState` of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceState {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
    /// One that is newer than this program.
    Other,
}

impl InstanceState {
    /// As EC2 writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            InstanceState::Pending => "pending",
            InstanceState::Running => "running",
            InstanceState::ShuttingDown => "shutting-down",
            InstanceState::Terminated => "terminated",
            InstanceState::Stopping => "stopping",
            InstanceState::Stopped => "stopped",
            InstanceState::Other => "in a state that this program does not know",
        }
    }

    /// Whether nothing of it runs any more.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, InstanceState::Terminated | InstanceState::Stopped)
    }

    fn of(text: &str) -> InstanceState {
        match text {
            "pending" => InstanceState::Pending,
            "running" => InstanceState::Running,
            "shutting-down" => InstanceState::ShuttingDown,
            "terminated" => InstanceState::Terminated,
            "stopping" => InstanceState::Stopping,
            "stopped" => InstanceState::Stopped,
            _ => InstanceState::Other,
        }
    }
}

impl Aws {
    /// The states of these instances, of those that EC2 knows.
    pub(crate) fn describe_instances(
        &self,
        scope: &Scope,
        ids: &[&str],
    ) -> Result<Vec<(String, InstanceState)>, ApiError> {
        let mut all = Vec::new();
        for ids in ids.chunks(MOST) {
            let listing = Listing {
                action: "DescribeInstances",
                most: PAGE,
                request: &|size, token| request(ids, size, token),
                parse: &parse,
                id: |(id, _): &(String, InstanceState)| id,
            };
            all.extend(self.list(scope, &listing)?);
        }
        Ok(all)
    }
}

fn request(ids: &[&str], size: usize, token: &str) -> String {
    let mut form = Form::new("DescribeInstances", VERSION);
    form.add("Filter.1.Name", "instance-id").add_all("Filter.1.Value", ids).add("MaxResults", &size.to_string());
    if !token.is_empty() {
        form.add("NextToken", token);
    }
    form.into_body()
}

fn parse(body: &[u8]) -> Result<Page<(String, InstanceState)>, String> {
    pages::parse(body, "DescribeInstancesResponse", "reservationSet", &reservation)
}

fn reservation(node: roxmltree::Node<'_, '_>) -> Vec<(String, InstanceState)> {
    let read = |i| {
        let state = xml::text(xml::child(i, "instanceState")?, "name").unwrap_or_default();
        Some((xml::text(i, "instanceId")?.to_owned(), InstanceState::of(state)))
    };
    xml::items(node, "instancesSet").filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn whole(body: &[u8]) -> Result<Page<(String, InstanceState)>, String> {
        pages::whole(body, "DescribeInstancesResponse", "reservationSet", &reservation)
    }

    #[test]
    fn the_request_is_botocores() {
        assert_eq!(
            request(&["i-1", "i-2"], PAGE, "t"),
            "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=instance-id&Filter.1.Value.1=i-1\
             &Filter.1.Value.2=i-2&MaxResults=50&NextToken=t"
        );
    }

    #[test]
    fn an_answer_becomes_states() {
        let instance = |id: &str, state: &str| {
            format!(
                "<item><instanceId>{id}</instanceId><instanceState><code>0</code><name>{state}</name></instanceState>\
                 <placement><availabilityZone>z</availabilityZone></placement></item>"
            )
        };
        let all = ["pending", "running", "shutting-down", "terminated", "stopping", "stopped", "new"];
        let sets: String = all
            .iter()
            .map(|s| format!("<item><instancesSet>{}</instancesSet></item>", instance(&format!("i-{s}"), s)))
            .collect();
        let page = format!(
            "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet>{sets}\
             </reservationSet><nextToken>n</nextToken></DescribeInstancesResponse>"
        );
        let (states, next) = parse(page.as_bytes()).unwrap();
        assert_eq!((states.len(), next.as_deref()), (7, Some("n")));
        assert!(xml::split(&page, "reservationSet").is_some());
        for (id, state) in &states[..6] {
            assert_eq!(*id, format!("i-{}", state.name()));
        }
        assert_eq!(states[6].1, InstanceState::Other);
        let over: Vec<&str> = states.iter().filter(|(_, s)| s.is_over()).map(|(id, _)| id.as_str()).collect();
        assert_eq!(over, ["i-terminated", "i-stopped"]);
        assert_eq!(parse(page.as_bytes()), whole(page.as_bytes()));
        assert_eq!(parse(b"<html/>").unwrap_err(), "the answer is a html");
        // Without an id or a state there is nothing to know.
        let odd = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item/></instancesSet></item>\
                   </reservationSet></DescribeInstancesResponse>";
        assert_eq!(parse(odd.as_bytes()).unwrap(), (vec![], None));
    }
}

#[cfg(test)]
mod properties;
