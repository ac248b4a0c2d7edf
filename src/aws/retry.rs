//! Which answers mean what, and how long to wait before trying again.
//!
//! | answer | class | what happens here |
//! |---|---|---|
//! | `RequestLimitExceeded`, `Throttling…`, `PriorRequestNotComplete`, 429, … | throttled | again, from 1 s on |
//! | `InternalError`, `ServiceUnavailable`, `ResourceContention`, 5xx without a code, a broken connection | transient | a read again, from 50 ms on; a write is ambiguous, unless it may be repeated |
//! | no connection at all | transient | again |
//! | `ExpiredToken`, `AuthFailure`, `SignatureDoesNotMatch`, … | auth | the clock or the credentials are corrected, once |
//! | `UnauthorizedOperation`, `AccessDenied`, 403 without a code | denied | nothing |
//! | `…NotFound`, `NoSuchHostedZone`, `QueueDoesNotExist` | gone | nothing |
//! | `ValidationError` of Auto Scaling: no active lifecycle action, no group with this instance | gone | nothing |
//! | `VolumeInUse`, `IncorrectState` of a volume, `InvalidSnapshot.InUse`, `InvalidChangeBatch` | conflict | nothing |
//! | `IncorrectState` "is not 'running'", our own `InvalidInstanceID.NotFound`, `VolumeInUse` of a delete, `IncorrectInstanceState` of a detach, too many snapshots of a volume at once | too early | nothing |
//! | `InvalidVolume.ZoneMismatch` | other zone | nothing |
//! | `InvalidParameterValue` "already in use" of an attach | name taken | nothing |
//! | `IdempotentParameterMismatch` | token used | nothing |
//! | 4xx without an error that can be read | transient | as a broken connection, a few times |
//! | everything else | fatal | nothing |
//!
//! Codes decide, never the status where there is a code: EC2 throttles with 503, Route 53 with 400, SQS with 403, and
//! EC2's answer to a wrong clock is 401.
//!
//! Waits have full jitter: a fleet that boots together must not come back together.
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html>

use std::time::Duration;

use super::error::Class;

const CAP: Duration = Duration::from_secs(20);

/// The class of an answer that is not a success.
pub(crate) fn classify(action: &str, status: u16, code: &str, message: &str) -> Class {
    // `com.amazonaws.sqs#QueueDoesNotExist` and `QueueDoesNotExist` are the same.
    let code = code.rsplit(['#']).next().unwrap_or(code);
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "EC2ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "PriorRequestNotComplete"
        | "KMSThrottlingException"
        | "KMSThrottling"
        | "Throttled" => Class::Throttled,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServiceError"
        | "ResourceContention"
        | "ResourceContentionFault"
        | "Unavailable"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => Class::Transient,
        "AuthFailure"
        | "RequestExpired"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidAccessKeyId"
        | "RequestTimeTooSkewed"
        | "RequestInTheFuture"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "InvalidSecurity"
        | "InvalidToken" => Class::Auth,
        "UnauthorizedOperation"
        | "AccessDenied"
        | "AccessDeniedException"
        | "AuthorizationError"
        | "AuthorizationErrorException"
        | "KMSAccessDenied"
        | "KmsAccessDenied"
        | "KMSAccessDeniedException" => Class::Denied,
        "VolumeInUse" if action == "DeleteVolume" => Class::TooEarly,
        "IncorrectState" if action == "DetachVolume" => Class::Gone,
        "IncorrectState" if message.contains("'running'") => Class::TooEarly,
        "IncorrectInstanceState" if matches!(action, "DetachVolume" | "AssociateAddress") => Class::TooEarly,
        "InvalidInstanceID.NotFound" => Class::TooEarly,
        "VolumeInUse" | "IncorrectState" | "InvalidChangeBatch" | "Resource.AlreadyAssociated" => Class::Conflict,
        "InvalidVolume.ZoneMismatch" => Class::OtherZone,
        "InvalidParameterValue" if action == "AttachVolume" && message.contains("already in use") => Class::NameTaken,
        "SnapshotCreationPerVolumeRateExceeded" | "ConcurrentSnapshotLimitExceeded" => Class::TooEarly,
        "InvalidSnapshot.InUse" => Class::Conflict,
        "InvalidSnapshot.NotFound" if matches!(action, "DeleteSnapshot" | "CreateVolume") => Class::Gone,
        "IdempotentParameterMismatch" => Class::TokenUsed,
        "InvalidVolume.NotFound"
        | "InvalidAttachment.NotFound"
        | "InvalidAllocationID.NotFound"
        | "InvalidAssociationID.NotFound"
        | "NoSuchHostedZone"
        | "NotFound"
        | "NotFoundException"
        | "QueueDoesNotExist"
        | "AWS.SimpleQueueService.NonExistentQueue" => Class::Gone,
        "ValidationError"
            if message.contains("No active Lifecycle Action") || message.contains("No managed instance found") =>
        {
            Class::Gone
        }
        "" => match status {
            429 => Class::Throttled,
            403 | 401 => Class::Denied,
            408 | 500.. => Class::Transient,
            _ => Class::Fatal,
        },
        _ => Class::Fatal,
    }
}

/// Codes that a wrong clock brings about.
pub(crate) fn may_be_skew(code: &str) -> bool {
    matches!(
        code.rsplit('#').next().unwrap_or(code),
        "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "AuthFailure"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
            | "RequestInTheFuture"
            | "AccessDeniedException"
    )
}

/// How long to wait before try number `attempt` + 2, for a random number from 0 to 1; AWS's own wish counts, within
/// reason.
pub(crate) fn pause(class: Class, attempt: u32, random: f64, wish: Option<Duration>) -> Duration {
    let base = if class == Class::Throttled { Duration::from_secs(1) } else { Duration::from_millis(50) };
    let most = base.saturating_mul(1 << attempt.min(16)).min(CAP);
    most.mul_f64(random).max(wish.unwrap_or_default().min(CAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(action: &str, status: u16, code: &str, message: &str) -> Class {
        classify(action, status, code, message)
    }

    #[test]
    fn throttled_whatever_the_status() {
        assert_eq!(class("DescribeVolumes", 503, "RequestLimitExceeded", ""), Class::Throttled);
        assert_eq!(class("ChangeResourceRecordSets", 400, "Throttling", ""), Class::Throttled);
        assert_eq!(class("ChangeResourceRecordSets", 400, "PriorRequestNotComplete", ""), Class::Throttled);
        assert_eq!(class("SendMessage", 403, "com.amazonaws.sqs#RequestThrottled", ""), Class::Throttled);
        assert_eq!(class("Publish", 429, "", ""), Class::Throttled);
    }

    #[test]
    fn transient() {
        for code in ["InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "RequestTimeout"] {
            assert_eq!(class("X", 500, code, ""), Class::Transient);
        }
        for status in [500, 502, 503, 504, 408] {
            assert_eq!(class("X", status, "", ""), Class::Transient);
        }
    }

    #[test]
    fn auth() {
        assert_eq!(class("X", 401, "AuthFailure", ""), Class::Auth);
        assert_eq!(class("X", 400, "RequestExpired", ""), Class::Auth);
        assert_eq!(class("X", 403, "SignatureDoesNotMatch", ""), Class::Auth);
        assert_eq!(class("X", 403, "ExpiredToken", ""), Class::Auth);
        assert_eq!(class("X", 403, "InvalidClientTokenId", ""), Class::Auth);
        assert!(
            may_be_skew("AuthFailure") && may_be_skew("a#InvalidSignatureException") && !may_be_skew("VolumeInUse")
        );
    }

    #[test]
    fn denied() {
        assert_eq!(class("AttachVolume", 403, "UnauthorizedOperation", ""), Class::Denied);
        assert_eq!(class("ListResourceRecordSets", 403, "AccessDenied", ""), Class::Denied);
        assert_eq!(class("Publish", 403, "AuthorizationError", ""), Class::Denied);
        assert_eq!(class("SendMessage", 403, "", ""), Class::Denied);
    }

    #[test]
    fn a_lost_race() {
        assert_eq!(class("AttachVolume", 400, "VolumeInUse", "vol-1 is already attached"), Class::Conflict);
        assert_eq!(class("AttachVolume", 400, "IncorrectState", "vol-1 is not 'available'."), Class::Conflict);
        assert_eq!(class("ChangeResourceRecordSets", 400, "InvalidChangeBatch", ""), Class::Conflict);
        assert_eq!(class("AttachVolume", 400, "InvalidVolume.ZoneMismatch", ""), Class::OtherZone);
    }

    #[test]
    fn too_early() {
        assert_eq!(class("AttachVolume", 400, "IncorrectState", "Instance 'i-1' is not 'running'."), Class::TooEarly);
        assert_eq!(class("AttachVolume", 400, "InvalidInstanceID.NotFound", ""), Class::TooEarly);
        assert_eq!(class("DeleteVolume", 400, "VolumeInUse", ""), Class::TooEarly);
        assert_eq!(class("DetachVolume", 400, "IncorrectInstanceState", ""), Class::TooEarly);
        assert_eq!(class("AttachVolume", 400, "IncorrectInstanceState", ""), Class::Fatal);
        for code in ["SnapshotCreationPerVolumeRateExceeded", "ConcurrentSnapshotLimitExceeded"] {
            assert_eq!(class("CreateSnapshot", 400, code, ""), Class::TooEarly);
        }
    }

    #[test]
    fn gone_or_done_already() {
        for code in ["InvalidAttachment.NotFound", "IncorrectState", "InvalidVolume.NotFound"] {
            assert_eq!(class("DetachVolume", 400, code, ""), Class::Gone);
        }
        assert_eq!(class("DeleteVolume", 400, "InvalidVolume.NotFound", ""), Class::Gone);
        assert_eq!(class("ListResourceRecordSets", 404, "NoSuchHostedZone", ""), Class::Gone);
        assert_eq!(class("DeleteSnapshot", 400, "InvalidSnapshot.NotFound", ""), Class::Gone);
        assert_eq!(class("DeleteSnapshot", 400, "InvalidSnapshot.InUse", ""), Class::Conflict);
        assert_eq!(class("SendMessage", 400, "com.amazonaws.sqs#QueueDoesNotExist", ""), Class::Gone);
        let scaling = |message| class("CompleteLifecycleAction", 400, "ValidationError", message);
        assert_eq!(scaling("No active Lifecycle Action found with instance ID i-1"), Class::Gone);
        assert_eq!(scaling("Instance Id not found - No managed instance found for instance ID: i-1"), Class::Gone);
        assert_eq!(scaling("AutoScalingGroup name not found"), Class::Fatal);
        assert_eq!(class("SetInstanceHealth", 500, "ResourceContention", ""), Class::Transient);
    }

    #[test]
    fn a_taken_device_name_and_a_used_token() {
        let message = "Invalid value '/dev/xvdf' for unixDevice. Attachment point /dev/xvdf is already in use";
        assert_eq!(class("AttachVolume", 400, "InvalidParameterValue", message), Class::NameTaken);
        assert_eq!(class("CreateVolume", 400, "InvalidParameterValue", message), Class::Fatal);
        assert_eq!(class("CreateVolume", 400, "IdempotentParameterMismatch", ""), Class::TokenUsed);
    }

    #[test]
    fn fatal() {
        for code in [
            "AttachmentLimitExceeded",
            "VolumeLimitExceeded",
            "InvalidSnapshot.NotFound",
            "OptInRequired",
            "InvalidVolumeID.Malformed",
            "UnknownParameter",
            "MissingParameter",
            "InvalidInput",
            "NeverHeardOf",
        ] {
            assert_eq!(class("AttachVolume", 400, code, ""), Class::Fatal);
        }
        assert_eq!(class("X", 404, "", ""), Class::Fatal);
    }

    #[test]
    fn waits_grow_to_a_cap_and_are_left_to_chance() {
        let ms = |class, attempt, random| pause(class, attempt, random, None).as_millis();
        assert_eq!([0, 1, 2, 20].map(|n| ms(Class::Transient, n, 1.0)), [50, 100, 200, 20_000]);
        assert_eq!([0, 1, 2, 20].map(|n| ms(Class::Throttled, n, 1.0)), [1000, 2000, 4000, 20_000]);
        assert_eq!(ms(Class::Throttled, 5, 0.0), 0);
        assert_eq!(ms(Class::Transient, 3, 0.5), 200);
    }

    #[test]
    fn the_wish_of_aws_counts_within_reason() {
        let wish = |s| Some(Duration::from_secs(s));
        assert_eq!(pause(Class::Throttled, 0, 0.0, wish(7)), Duration::from_secs(7));
        assert_eq!(pause(Class::Throttled, 0, 0.0, wish(7000)), CAP);
    }
}
