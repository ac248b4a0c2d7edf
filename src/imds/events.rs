//! Events beside the interruption notice: the rebalance recommendation, scheduled maintenance, the target state that
//! Auto Scaling has for this instance.
//!
//! - <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html>
//! - <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_scheduled_events.html>
//! - <https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html>

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Imds, ImdsError};
use crate::http::parse_gmt;
use crate::model::Notice;
use crate::scope::Scope;

const REBALANCE: &str = "events/recommendations/rebalance";
const SCHEDULED: &str = "events/maintenance/scheduled";
const TARGET: &str = "autoscaling/target-lifecycle-state";
/// More is never scheduled for one instance.
const MOST: usize = 100;

/// One scheduled event that is still to come or going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// `instance-event-…`.
    pub(crate) id: String,
    /// `action` is its code, such as `system-reboot`; `time` its beginning.
    pub(crate) notice: Notice,
    /// Its end, where one is given.
    pub(crate) end: Option<OffsetDateTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRebalance {
    notice_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct RawScheduled {
    event_id: String,
    code: String,
    state: String,
    not_before: String,
    not_after: Option<String>,
}

impl Imds {
    /// The rebalance recommendation, if there is one.
    pub(crate) fn rebalance(&self, scope: &Scope) -> Result<Option<Notice>, ImdsError> {
        let text = self.get(scope, REBALANCE)?;
        text.map(|t| parse_rebalance(&t).ok_or_else(|| odd(REBALANCE))).transpose()
    }

    /// The scheduled events that are active.
    pub(crate) fn scheduled(&self, scope: &Scope) -> Result<Vec<Scheduled>, ImdsError> {
        let text = self.get(scope, SCHEDULED)?;
        text.map_or(Ok(Vec::new()), |t| parse_scheduled(&t).ok_or_else(|| odd(SCHEDULED)))
    }

    /// The state that Auto Scaling wants this instance in: `InService`, `Terminated`, `Warmed:Stopped` and so on.
    pub(crate) fn target_state(&self, scope: &Scope) -> Result<Option<String>, ImdsError> {
        Ok(self.get(scope, TARGET)?.map(|t| t.trim().to_owned()))
    }
}

fn odd(path: &str) -> ImdsError {
    let what = "the answer is not what it should be".to_owned();
    ImdsError::Unexpected { path: format!("/latest/meta-data/{path}"), what }
}

fn parse_rebalance(text: &str) -> Option<Notice> {
    let raw: RawRebalance = serde_json::from_str(text).ok()?;
    let time = OffsetDateTime::parse(raw.notice_time.trim(), &Rfc3339).ok()?;
    Some(Notice { action: "rebalance".to_owned(), time, time_text: raw.notice_time })
}

/// One that cannot be read does not hide the others.
fn parse_scheduled(text: &str) -> Option<Vec<Scheduled>> {
    let raw: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
    let one = |value| {
        let raw: RawScheduled = serde_json::from_value(value).ok()?;
        let time = parse_gmt(raw.not_before.trim())?;
        let end = raw.not_after.and_then(|t| parse_gmt(t.trim()));
        let notice = Notice { action: raw.code, time, time_text: raw.not_before };
        (raw.state == "active").then_some(Scheduled { id: raw.event_id, notice, end })
    };
    Some(raw.into_iter().take(MOST).filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_recommendation_has_a_time() {
        let n = parse_rebalance(r#"{"noticeTime":"2020-10-27T08:22:00Z"}"#).unwrap();
        assert_eq!((n.action.as_str(), n.time), ("rebalance", datetime!(2020-10-27 08:22 UTC)));
        for other in ["", "{}", "[]", r#"{"noticeTime":"soon"}"#] {
            assert!(parse_rebalance(other).is_none(), "{other}");
        }
    }

    #[test]
    fn only_active_events_with_a_date_count() {
        let event = |state: &str, before: &str, after: &str| {
            format!(
                r#"{{"NotBefore":"{before}","Code":"system-reboot","Description":"scheduled reboot",
                    "EventId":"instance-event-1","NotAfter":{after},"State":"{state}"}}"#
            )
        };
        let date = "21 Jan 2019 09:00:43 GMT";
        let list = |events: &[String]| parse_scheduled(&format!("[{}]", events.join(",")));
        let end = r#""21 Jan 2019 09:17:23 GMT""#;
        let mut all =
            [("active", date, end), ("canceled", date, end), ("completed", date, end), ("active", "soon", end)]
                .map(|(state, before, after)| event(state, before, after))
                .to_vec();
        // Retirement has no end.
        all.extend([
            event("active", "1 Feb 2019 00:00:00 GMT", r#""""#),
            event("active", date, "null"),
            "7".to_owned(),
        ]);
        let found = list(&all).unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        let first = &found[0];
        assert_eq!((first.id.as_str(), first.notice.action.as_str()), ("instance-event-1", "system-reboot"));
        assert_eq!(first.notice.time, datetime!(2019-01-21 09:00:43 UTC));
        assert_eq!(first.end, Some(datetime!(2019-01-21 09:17:23 UTC)));
        assert_eq!((found[1].notice.time, found[1].end), (datetime!(2019-02-01 0:00 UTC), None));
        assert_eq!(list(&[]), Some(Vec::new()));
        assert!(parse_scheduled("{}").is_none() && parse_scheduled("<html/>").is_none());
    }
}

#[cfg(test)]
mod properties;
