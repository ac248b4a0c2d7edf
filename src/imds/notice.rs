//! The notice that EC2 takes the capacity back: `spot/instance-action`.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>

use std::sync::atomic::Ordering;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Imds, ImdsError};
use crate::model::Notice;
use crate::scope::Scope;

#[derive(Debug, Deserialize)]
struct Raw {
    action: String,
    time: String,
}

impl Imds {
    /// The notice, if there is one. Whether its time makes sense is for the caller to judge.
    pub(crate) fn notice(&self, scope: &Scope) -> Result<Option<Notice>, ImdsError> {
        let Some(text) = self.get(scope, "spot/instance-action")? else { return Ok(None) };
        let notice = parse(&text);
        if notice.is_none() && !self.notice_warned.swap(true, Ordering::Relaxed) {
            let text: String = text.chars().take(200).collect();
            log::warn!("spot/instance-action holds something that is no interruption notice: {text}");
        }
        Ok(notice)
    }
}

fn parse(text: &str) -> Option<Notice> {
    let raw: Raw = serde_json::from_str(text).ok()?;
    let time = OffsetDateTime::parse(raw.time.trim(), &Rfc3339).ok()?;
    let known = matches!(raw.action.as_str(), "terminate" | "stop" | "hibernate");
    known.then_some(Notice { action: raw.action, time, time_text: raw.time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_an_action_and_a_time() {
        let n = parse(r#"{"action":"stop","time":"2017-09-18T08:22:00Z","more":[1]}"#).unwrap();
        assert_eq!((n.action.as_str(), n.time_text.as_str()), ("stop", "2017-09-18T08:22:00Z"));
        assert_eq!(n.time.unix_timestamp(), 1_505_722_920);
        for other in [
            "",
            "none",
            "{}",
            r#"{"action":"noop","time":"2017-09-18T08:22:00Z"}"#,
            r#"{"action":"stop","time":"soon"}"#,
            r#"{"action":"stop"}"#,
            "[]",
            "<html/>",
        ] {
            assert!(parse(other).is_none(), "{other}");
        }
    }
}

#[cfg(test)]
mod properties;
