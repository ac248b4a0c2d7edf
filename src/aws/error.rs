//! What an AWS call can fail of, in classes: nothing above this module looks at AWS's code strings.

use std::fmt;

use crate::scope::Halt;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// AWS wants us to slow down. Retried here; callers see it only within [`Class::Halted`].
    Throttled,
    /// It did not happen, for a reason that may pass. Retried here, as [`Class::Throttled`].
    Transient,
    /// Nobody knows whether it happened: look before doing anything else.
    Ambiguous,
    /// Somebody else has it, or it is no longer as it was: look for another one, or leave it.
    Conflict,
    /// It does not exist; for a detach or a delete: it is done already.
    Gone,
    /// It is in another zone than the instance.
    OtherZone,
    /// Not yet: an instance that is not running yet, a volume that is still being let go. Try later.
    TooEarly,
    /// The device name is taken on this instance: take another one.
    NameTaken,
    /// The client token was used before, for something else.
    TokenUsed,
    /// The permission is missing. Never retried.
    Denied,
    /// The credentials, the clock or the signature are not accepted, also after a correction.
    Auth,
    /// It was not sent: what it was to change is no longer the caller's to change (see [`super::Still`]).
    Lapsed,
    /// The page of a listing is longer than the caller allows: ask for smaller ones.
    TooLong,
    /// Will fail again.
    Fatal,
    /// The scope ended while it was being tried.
    Halted(Halt),
}

/// An AWS call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The API's action, such as `AttachVolume`.
    pub(crate) action: &'static str,
    /// What to do about it.
    pub(crate) class: Class,
    /// AWS's code; empty if no answer came.
    pub(crate) code: String,
    /// AWS's message, or what was wrong instead.
    pub(crate) message: String,
    /// For AWS's support.
    pub(crate) request_id: Option<String>,
    /// An earlier try of the same call may have worked, whatever this answer says.
    pub(crate) unsure: bool,
}

impl ApiError {
    /// What to do about it.
    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// Whether the call may have done what it is for: look before taking it for undone.
    pub(crate) fn may_have_worked(&self) -> bool {
        self.unsure || matches!(self.class, Class::Ambiguous | Class::Halted(_))
    }

    /// AWS's code; empty if no answer came.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// The permission that the action needs, as IAM writes it.
    pub(crate) fn permission(&self) -> String {
        let service = match self.action {
            "ListResourceRecordSets" | "ChangeResourceRecordSets" => "route53",
            "Publish" => "sns",
            "SendMessage" => "sqs",
            "SetInstanceHealth" | "CompleteLifecycleAction" | "RecordLifecycleActionHeartbeat" => "autoscaling",
            _ => "ec2",
        };
        format!("{service}:{}", self.action)
    }

    /// Whether the scope ended it.
    pub(crate) fn halt(&self) -> Option<Halt> {
        match self.class {
            Class::Halted(halt) => Some(halt),
            _ => None,
        }
    }

    /// An error of our own making.
    pub(crate) fn ours(action: &'static str, class: Class, message: impl Into<String>) -> ApiError {
        ApiError { action, class, code: String::new(), message: message.into(), request_id: None, unsure: false }
    }

    /// The scope ended; `last` is what the last try came to.
    pub(crate) fn halted(action: &'static str, halt: Halt, last: Option<ApiError>) -> ApiError {
        let message = match &last {
            Some(last) => format!("{halt}; last answer: {last}"),
            None => halt.to_string(),
        };
        ApiError {
            code: last.map(|l| l.code).unwrap_or_default(),
            ..ApiError::ours(action, Class::Halted(halt), message)
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() || self.halt().is_some() {
            f.write_str(&self.message)?;
        } else if self.message.is_empty() {
            f.write_str(&self.code)?;
        } else {
            write!(f, "{}: {}", self.code, self.message)?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request id {id})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_what_aws_said() {
        let e = ApiError {
            action: "AttachVolume",
            class: Class::Conflict,
            code: "VolumeInUse".into(),
            message: "vol-1 is already attached to an instance".into(),
            request_id: Some("r-1".into()),
            unsure: false,
        };
        assert_eq!(e.to_string(), "VolumeInUse: vol-1 is already attached to an instance (request id r-1)");
        assert_eq!(
            ApiError::halted("AttachVolume", Halt::Deadline, Some(e)).to_string(),
            "the time for it is over; last answer: VolumeInUse: vol-1 is already attached to an instance (request id r-1)"
        );
        assert_eq!(ApiError::halted("X", Halt::Deadline, None).to_string(), "the time for it is over");
        assert_eq!(ApiError::ours("X", Class::Ambiguous, "no answer").to_string(), "no answer");
    }
}
