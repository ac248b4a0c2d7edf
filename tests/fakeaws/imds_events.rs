//! What an instance's metadata service tells of beside the interruption notice.

use super::text::iso_seconds;
use super::world::World;

const REBALANCE: &str = "meta-data/events/recommendations/rebalance";
const SCHEDULED: &str = "meta-data/events/maintenance/scheduled";
const TARGET: &str = "meta-data/autoscaling/target-lifecycle-state";

/// A scheduled event, in so many seconds by the server's clock.
#[derive(Debug, Clone)]
pub(crate) struct Scheduled {
    pub(crate) id: String,
    pub(crate) code: String,
    pub(crate) seconds: i64,
    /// `active`, `completed`, `canceled`.
    pub(crate) state: String,
}

impl Scheduled {
    pub(crate) fn new(id: &str, code: &str, seconds: i64) -> Scheduled {
        Scheduled { id: id.into(), code: code.into(), seconds, state: "active".into() }
    }
}

impl World {
    fn content(&mut self, instance: &str, path: &str, content: Option<String>) {
        let overrides = &mut self.imds(instance).overrides;
        match content {
            Some(text) => overrides.insert(path.into(), text),
            None => overrides.remove(path),
        };
    }

    /// EC2 recommends now that the instance be replaced, or no longer does. Gives the time.
    pub(crate) fn rebalance(&mut self, instance: &str, recommended: bool) -> String {
        let time = iso_seconds(self.wall());
        let content = serde_json::json!({ "noticeTime": time }).to_string();
        self.content(instance, REBALANCE, recommended.then_some(content));
        time
    }

    /// What is scheduled for the instance, and nothing else. Gives the times.
    pub(crate) fn schedule(&mut self, instance: &str, events: &[Scheduled]) -> Vec<String> {
        let now = self.wall();
        let date = |seconds: i64| {
            let t = now + time::Duration::seconds(seconds);
            let (date, month) = (t.date(), &t.month().to_string()[..3]);
            // As EC2 writes it: no leading zero of the day is promised.
            let time = format!("{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second());
            format!("{} {month} {} {time} GMT", date.day(), date.year())
        };
        let list: Vec<serde_json::Value> = events
            .iter()
            .map(|e| {
                serde_json::json!({
                    "NotBefore": date(e.seconds), "Code": e.code, "Description": "scheduled", "EventId": e.id,
                    "NotAfter": date(e.seconds + 7200), "State": e.state,
                })
            })
            .collect();
        self.content(instance, SCHEDULED, Some(serde_json::Value::from(list).to_string()));
        events.iter().map(|e| date(e.seconds)).collect()
    }

    /// The state that Auto Scaling wants the instance in; none: it is in no group.
    pub(crate) fn target_state(&mut self, instance: &str, state: Option<&str>) {
        self.content(instance, TARGET, state.map(str::to_owned));
    }
}
