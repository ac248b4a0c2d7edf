//! What people read when it does not work: one clear message, the exit code, nothing left.

use crate::fakeaws::{Fault, FaultKind, InstanceSpec};
use crate::kit::{bodies, one, record, to_topic, zone};
use crate::lab::{Lab, Run, once};

fn errors(run: &Run) -> Vec<&str> {
    run.log.lines().filter_map(|l| l.split_once("Z error ")).map(|(_, e)| e).collect()
}

fn records() -> String {
    one(&format!("\"update-route53\": [{}]", record("a.example.com", "")))
}

#[test]
fn an_instance_without_a_role() {
    let lab = Lab::with(InstanceSpec { role: None, ..InstanceSpec::default() });
    let run = lab.run(&records(), once().rate(400));
    run.ends(1, &[]);
    let said = errors(&run);
    assert_eq!(said.len(), 1, "{run}");
    assert!(said[0].contains("the instance has no role (no instance profile is associated)"), "{run}");
}

#[test]
fn a_role_that_cannot_be_assumed() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).credentials_code = Some(("AssumeRoleUnauthorizedAccess".into(), u32::MAX));
    let run = lab.run(&records(), once().rate(400));
    run.ends(1, &["role fleet: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role"]);
    assert_eq!(errors(&run).len(), 1, "{run}");
}

#[test]
fn a_refused_permission_names_action_resource_and_what_to_do() {
    let lab = Lab::new();
    lab.server.world().deny("Route53:ChangeResourceRecordSets");
    let run = lab.run(&records(), once());
    run.ends(
        1,
        &[
            r#"domains."d".update-route53[0]: cannot write a.example.com. in hosted zone Z1: AccessDenied: User: arn:aws:sts::"#,
            "is not authorized to perform: route53:ChangeResourceRecordSets on resource: arn:aws:route53:::hostedzone/Z1",
            "(allow route53:ChangeResourceRecordSets for this instance's role)",
            "(request id ",
        ],
    );
    assert_eq!(errors(&run).len(), 1, "{run}");
    // Not retried: a refusal is a refusal.
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 1, "{run}");
}

#[test]
fn keys_that_nobody_knows() {
    let lab = Lab::new();
    let how = once().env("AWS_ACCESS_KEY_ID", "AKIAWRONG").env("AWS_SECRET_ACCESS_KEY", "wrong");
    let run = lab.run(&records(), how);
    run.ends(1, &["cannot list the records at a.example.com. in hosted zone Z1: InvalidClientTokenId"]);
    assert!(lab.server.calls().len() <= 2, "{run}");
}

#[test]
fn an_error_of_aws_that_nobody_has_heard_of() {
    let lab = Lab::new();
    let kind = FaultKind::Custom { status: 418, code: "Teapot".into(), message: "short & <stout>".into() };
    lab.server.world().fault(Fault::every("ChangeResourceRecordSets", kind));
    lab.run(&records(), once()).ends(1, &["cannot write a.example.com. in hosted zone Z1: Teapot: short & <stout>"]);
}

#[test]
fn a_protected_record_is_final() {
    let lab = Lab::new();
    lab.server.world().zones.get_mut("Z1").unwrap().protected.push("a.example.com.".into());
    let run = lab.run(&records(), once());
    run.ends(1, &["InvalidChangeBatch", "protected"]);
    assert_eq!(lab.server.calls_of("ChangeResourceRecordSets").len(), 1, "{run}");
}

#[test]
fn a_failed_message_names_action_and_resource_and_is_not_fatal() {
    let lab = Lab::new();
    lab.server.world().deny("SNS:Publish");
    let run = lab.run(&one(&format!("notify: [{}]", to_topic(""))), once());
    run.ends(0, &["not authorized to perform: SNS:Publish on resource: arn:aws:sns:eu-west-1:123456789012:fleet"]);
    assert!(bodies(&lab).is_empty(), "{run}");
}

#[test]
fn a_boot_does_not_flood_the_log() {
    let lab = Lab::new();
    for action in ["ListResourceRecordSets", "ChangeResourceRecordSets"] {
        lab.server.world().fault(Fault::first(action, 12, FaultKind::Throttle));
    }
    let run = lab.run(&records(), once().rate(100));
    run.ends(0, &[]);
    let lines = run.log.lines().filter(|l| !l.contains("Z debug ")).count();
    assert!(lines <= 20, "{lines} lines\n{run}");
    assert_eq!(zone(&lab, "Z1").len(), 2);
}
