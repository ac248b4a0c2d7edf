//! `notify`: what is sent, to whom, and that its failure is nobody else's.

use serde_json::Value;

use crate::fakeaws::{Fault, FaultKind};
use crate::kit::{SHORT, bodies, config, nic, on, one, record, sh, to_queue, to_topic, with_nics};
use crate::lab::{How, Lab, QUEUE, TOPIC, once};

fn notify(list: &[String]) -> String {
    format!("notify: [{}]", list.join(", "))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_default_envelope() {
    let lab = Lab::new();
    let text = config(&[&format!(r#""my-world.mc": {{ {} }}"#, notify(&[to_topic(""), to_queue("")]))]);
    lab.run(&text, once()).ends(0, &["told arn:aws:sns:eu-west-1:123456789012:fleet: started"]);
    let sent = lab.server.world().messages();
    assert_eq!(sent.len(), 2);
    let sns = sent.iter().find(|m| m.target == TOPIC).unwrap();
    let sqs = sent.iter().find(|m| m.target == QUEUE).unwrap();
    let subject = format!("Fleetd my-world.mc on {} state changed to [started]", lab.me);
    assert_eq!(sns.subject.as_deref(), Some(subject.as_str()));
    assert_eq!((sqs.subject.as_deref(), sqs.group.as_deref(), sns.group.as_deref()), (None, None, None));
    assert_eq!(json(&sns.body)["domain"], "my-world.mc");
    assert_eq!(json(&sns.body), json(&sqs.body));
}

#[test]
fn all_json_is_for_machines() {
    let lab = with_nics(vec![nic(0, &["203.0.113.1", "203.0.113.2"], &[])]);
    let text = one(&format!(
        r#""update-route53": [{}, {}], {}"#,
        record("A.Example.com.", ""),
        record("outside.example.org", "critical: false"),
        notify(&[to_topic("")])
    ));
    lab.run(&text, once().arg("--transc_id=tx-1")).ends(0, &[]);
    let body = json(&bodies(&lab)[0]);
    assert_eq!(body["instance_id"], lab.me.as_str());
    assert_eq!(body["instance_type"], "c5.large");
    assert_eq!(body["instance_index"], 0);
    assert_eq!(body["placement_region"], "eu-west-1");
    assert_eq!(body["placement_zone"], "eu-west-1a");
    assert_eq!(body["hypervisor"], "nitro");
    assert_eq!(body["primary_public_ipv4"], "203.0.113.1");
    assert_eq!(body["primary_public_ipv6"], Value::Null);
    assert_eq!(body["public_ipv4_list"], serde_json::json!(["203.0.113.1", "203.0.113.2"]));
    assert_eq!(body["public_ipv6_list"], serde_json::json!([]));
    assert_eq!(body["daemon_state"], "started");
    assert_eq!(body["transaction_id"], "tx-1");
    assert!(body["error"].as_array().unwrap()[0].as_str().unwrap().contains("outside.example.org"), "{body}");
    for absent in ["attach_source", "attach_op", "volume_id", "volume_pool", "attached_device", "interrupt_time"] {
        assert_eq!(body[absent], Value::Null, "{absent}");
    }
    assert!(body["pid"].is_u64() && body["cwd"].is_string(), "{body}");
    let ts = body["ts"].as_str().unwrap();
    assert!(time::OffsetDateTime::parse(ts, &time::format_description::well_known::Rfc3339).is_ok(), "{ts}");
    let log = &body["transaction_log"][0];
    assert_eq!((&log["platform"], &log["domain"], &log["dry"]), (&"aws".into(), &"d".into(), &false.into()));
    assert_eq!(log["method"], "change_resource_record_sets");
    let change = &log["param"]["ChangeBatch"]["Changes"][0];
    assert_eq!(change["ResourceRecordSet"]["Name"], "a.example.com.");
    assert_eq!(body.as_object().unwrap().len(), 28);
}

#[test]
fn each_event_has_its_message() {
    let lab = Lab::new();
    let text = one(&notify(&[to_topic(SHORT)]));
    let running = lab.start(&text, How::default());
    running.says(&lab, "watching for interruptions");
    lab.until("a message", || bodies(&lab) == ["d started"]);
    running.signal("TERM");
    running.wait(&lab).ends(0, &["told arn:aws:sns:eu-west-1:123456789012:fleet: stopping"]);
    assert_eq!(bodies(&lab), ["d started", "d stopping"]);

    let lab = Lab::new();
    let text = one(&format!("exec: [{}], {}", on(&["starting"], &[sh("exit 3")]), notify(&[to_topic(SHORT)])));
    lab.run(&text, once()).ends(1, &[]);
    let error = "d failed 'starting' commands: /bin/sh ended with exit code 3, success is 0";
    assert_eq!(bodies(&lab), [error]);
}

#[test]
fn the_matrix_says_which_events() {
    // (matrix, whether `started` is sent)
    let cases = [
        ("matrix: { started: { enabled: true } }", true),
        ("matrix: { started: { enabled: false } }", false),
        ("matrix: { started: {} }", false),
        ("matrix: { stopping: { enabled: false } }", true),
        ("matrix: { starting: { enabled: true } }", true),
        ("matrix: {}", true),
        ("", true),
    ];
    for (matrix, sent) in cases {
        let lab = Lab::new();
        lab.run(
            &one(&notify(&[to_topic(&format!("{matrix} {} {SHORT}", if matrix.is_empty() { "" } else { "," }))])),
            once(),
        )
        .ends(0, &[]);
        let want: &[&str] = if sent { &["d started"] } else { &[] };
        assert_eq!(bodies(&lab), want, "{matrix}");
    }
}

#[test]
fn either_half_of_the_envelope_may_stand_alone() {
    let lab = Lab::new();
    let list = [to_topic(r#"envelope: { subject: "{{x}} {domain}" }"#), to_topic(r#"envelope: { body: "b" }"#)];
    lab.run(&one(&notify(&list)), once()).ends(0, &[]);
    let mut sent = lab.server.world().messages();
    sent.sort_by_key(|m| m.body.len());
    assert_eq!(sent[0].body, "b");
    assert!(sent[0].subject.as_deref().unwrap().starts_with("Fleetd d on i-"));
    assert_eq!(sent[1].subject.as_deref(), Some("{x} d"));
    assert!(json(&sent[1].body).is_object());
}

#[test]
fn a_subject_that_some_regions_refuse_is_sent_in_ascii() {
    let lab = Lab::new();
    let list = [to_topic(r#"envelope: { subject: "Zürich \n läuft", body: "é" }"#)];
    lab.run(&one(&notify(&list)), once()).ends(0, &[]);
    assert_eq!(lab.server.world().messages()[0].subject.as_deref(), Some("Zürich   läuft"));

    let lab = Lab::new();
    lab.server.world().knobs.ascii_subjects = true;
    lab.run(&one(&notify(&list)), once()).ends(0, &[]);
    let sent = lab.server.world().messages();
    assert_eq!((sent[0].subject.as_deref(), sent[0].body.as_str()), (Some("Z?rich   l?uft"), "é"));
}

#[test]
fn a_subject_is_cut_and_an_empty_message_is_none() {
    let lab = Lab::new();
    let long = "x".repeat(150);
    let list = [
        to_topic(&format!(r#"envelope: {{ subject: "{long}", body: "" }}"#)),
        to_queue(r#"envelope: { body: "{error}" }"#),
    ];
    lab.run(&one(&notify(&list)), once()).ends(0, &[]);
    let sent = lab.server.world().messages();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|m| m.body == "d started"), "{sent:?}");
    assert!(sent.iter().any(|m| m.subject.as_deref() == Some(&long[..99])), "{sent:?}");
}

#[test]
fn fifo_targets_get_their_ids() {
    let (topic, queue) =
        ("arn:aws:sns:eu-west-1:123456789012:f.fifo", "https://sqs.eu-west-1.amazonaws.com/123456789012/f.fifo");
    let lab = Lab::new();
    lab.server.world().add_topic(topic);
    lab.server.world().add_queue(queue);
    // The answer to the first try is lost: it is taken once all the same.
    lab.server.world().fault(Fault::nth("SQS:SendMessage", 1, FaultKind::ResetAfter));
    let list = [
        format!(r#"{{ backend: "aws-sns", options: {{ topic: "{topic}" }} }}"#),
        format!(r#"{{ backend: "aws-sqs", options: {{ "queue-url": "{queue}" }} }}"#),
    ];
    let running = lab.start(&one(&notify(&list)), How::default());
    lab.until("two messages", || bodies(&lab).len() == 2);
    running.says(&lab, "watching");
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    let sent = lab.server.world().messages();
    assert_eq!(sent.len(), 4, "{sent:?}");
    let groups: std::collections::BTreeSet<_> = sent.iter().map(|m| m.group.clone().unwrap()).collect();
    assert_eq!(groups.len(), 1);
    for target in [topic, queue] {
        let ids: Vec<_> = sent.iter().filter(|m| m.target == target).map(|m| m.dedup.clone().unwrap()).collect();
        assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_shortened_and_stays_json() {
    let v4: Vec<String> = (1..60).map(|n| format!("203.0.113.{n}")).collect();
    let v4: Vec<&str> = v4.iter().map(String::as_str).collect();
    let lab = with_nics(vec![nic(0, &v4, &[])]);
    lab.server.world().queues[0].limit = 256 << 10;
    let records: Vec<String> = (0..220).map(|n| record(&format!("n{n}.example.com"), "")).collect();
    let text =
        one(&format!(r#""update-route53": [{}], {}"#, records.join(", "), notify(&[to_topic(""), to_queue("")])));
    lab.run(&text, once()).ends(0, &[]);
    let sent = lab.server.world().messages();
    assert_eq!(sent.len(), 2, "both targets");
    for m in sent {
        assert!(m.body.len() <= 256 << 10);
        let log = json(&m.body)["transaction_log"].as_array().unwrap().len();
        assert!((50..220).contains(&log), "{} has {log} entries", m.target);
    }
}

#[test]
fn a_failed_notification_fails_nothing() {
    let kinds = [FaultKind::Denied, FaultKind::Hang(60_000), FaultKind::Status500, FaultKind::Garbage];
    for kind in kinds {
        let lab = Lab::new();
        lab.server.world().fault(Fault::every("Publish", kind.clone()));
        let text = one(&notify(&[to_topic(SHORT), to_queue(SHORT)]));
        let run = lab.run(&text, once().rate(40));
        run.ends(0, &["ready: d started", "cannot tell arn:aws:sns:eu-west-1:123456789012:fleet 'started'"]);
        // The other one is not held up by it.
        assert_eq!(bodies(&lab), ["d started"], "{kind:?} {run}");
    }
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let lab = Lab::new();
    let entry = r#"{ backend: "aws-sns", options: { topic: "arn:aws:sns:eu-west-1:123456789012:nope" } }"#;
    lab.run(&one(&notify(&[entry.into()])), once())
        .ends(0, &["cannot tell arn:aws:sns:eu-west-1:123456789012:nope 'started': NotFound: Topic does not exist"]);
}

#[test]
fn another_region_than_the_instances_is_taken_from_the_arn_or_url() {
    let (topic, queue) =
        ("arn:aws:sns:us-east-1:123456789012:far", "https://sqs.us-east-1.amazonaws.com/123456789012/far");
    let lab = Lab::new();
    lab.server.world().add_topic(topic);
    lab.server.world().add_queue(queue);
    let list = [
        format!(r#"{{ backend: "aws-sns", options: {{ topic: "{topic}" }}, {SHORT} }}"#),
        format!(r#"{{ backend: "ans-sqs", options: {{ "queue-url": "{queue}", region: "us-east-1" }}, {SHORT} }}"#),
    ];
    // The stand-in checks the region in the signature.
    lab.run(&one(&notify(&list)), once()).ends(0, &[]);
    assert_eq!(bodies(&lab), ["d started", "d started"]);
}

#[test]
fn no_more_is_sent_with_notifications_off() {
    let lab = Lab::new();
    let run = lab.run(&one(&notify(&[to_topic("")])), once().arg("--enable-notify=false"));
    run.ends(0, &["ready: d started"]);
    assert!(lab.server.calls().is_empty(), "{run}");
}
