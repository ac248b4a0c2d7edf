//! The permissions of the SPEC suffice, and what is missing is named.

use crate::kit::{SHORT, bodies, one, record, to_queue, to_topic, zone};
use crate::lab::{Lab, Run, once};

/// For the original's features; no more.
const ALL: [&str; 11] = [
    "EC2:DescribeVolumes",
    "EC2:AttachVolume",
    "EC2:DetachVolume",
    "EC2:CreateVolume",
    "EC2:DeleteVolume",
    "EC2:CreateTags",
    "EC2:DeleteTags",
    "Route53:ListResourceRecordSets",
    "Route53:ChangeResourceRecordSets",
    "SNS:Publish",
    "SQS:SendMessage",
];

/// All sources, a record, both back ends.
fn everything(lab: &Lab, end: &str) -> String {
    let x =
        lab.server.world().add_volume(crate::fakeaws::VolumeSpec { zone: "eu-west-1a".into(), ..Default::default() });
    lab.pool_volume("d", "p");
    one(&format!(
        r#""attach-volume": [
                {{ device: "/dev/xvdf", source: "x", "volume-id": "{x}" }},
                {{ device: "/dev/xvdg", source: "p", "pool-name": "p" }},
                {{ device: "/dev/xvdh", source: "pc", "pool-name": "q", create: {{ Size: 1 }},
                    exec: [{{ lines: [{{ argv: ["{end}"] }}] }}] }}],
            "update-route53": [{}], notify: [{}, {}]"#,
        record("a.example.com", ""),
        to_topic(SHORT),
        to_queue(SHORT)
    ))
}

/// Nothing of ours is attached, tagged or created.
fn nothing_left(lab: &Lab, volumes_before: usize, run: &Run) {
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    assert!(zone(lab, "Z1").is_empty(), "{run}");
    // A deleted one is seen for a while.
    lab.until("as many volumes as before", || lab.server.world().volumes.len() <= volumes_before);
    let ids: Vec<String> = lab.server.world().volumes.keys().cloned().collect();
    assert_eq!(ids.len(), volumes_before, "{run}");
    for id in ids {
        let tags: Vec<String> = lab.tag_keys(&id);
        assert!(tags.iter().all(|t| t == "domain" || t == "pool-name"), "{id} has {tags:?}\n{run}");
    }
}

#[test]
fn no_more_than_these_are_needed() {
    let lab = Lab::new();
    let text = everything(&lab, "/bin/true");
    lab.server.world().allow_only(ALL);
    let run = lab.run(&text, once());
    run.ends(0, &["ready: d started"]);
    assert_eq!((lab.attached(&lab.me).len(), zone(&lab, "Z1").len(), bodies(&lab).len()), (3, 2, 2), "{run}");
    assert!(!run.log.contains("AccessDenied") && !run.log.contains("Unauthorized"), "{run}");
    let odd: Vec<_> = lab.server.calls().into_iter().filter(|c| c.status != 200).map(|c| c.action).collect();
    assert!(odd.is_empty(), "{odd:?}\n{run}");
}

#[test]
fn no_more_than_these_are_needed_for_a_roll_back() {
    let lab = Lab::new();
    let text = everything(&lab, "/bin/false");
    let before = lab.server.world().volumes.len();
    lab.server.world().allow_only(ALL);
    let run = lab.run(&text, once());
    run.ends(1, &["/bin/false ended with exit code 1", "failed: d"]);
    // The created one was usable and its command ran: it is data by then, and kept.
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    assert!(lab.server.world().volumes.len() <= before + 1, "{run}");
}

#[test]
fn each_missing_one_is_named_and_nothing_is_left() {
    // What is needed on the way up, and on what it is refused.
    let cases = [
        ("EC2:DescribeVolumes", "ec2:DescribeVolumes"),
        ("EC2:AttachVolume", "ec2:AttachVolume"),
        ("EC2:CreateVolume", "ec2:CreateVolume"),
        ("Route53:ListResourceRecordSets", "route53:ListResourceRecordSets"),
        ("Route53:ChangeResourceRecordSets", "route53:ChangeResourceRecordSets"),
    ];
    for (missing, named) in cases {
        let lab = Lab::new();
        let text = everything(&lab, "/bin/true");
        let before = lab.server.world().volumes.len();
        lab.server.world().allow_only(ALL.into_iter().filter(|a| *a != missing));
        let run = lab.run(&text, once());
        run.ends(1, &[&format!("(allow {named} for this instance's role)"), "failed: d"]);
        if missing.starts_with("Route53") {
            // The created volume was attached and may hold data by then: it is kept, free.
            assert!(lab.attached(&lab.me).is_empty() && zone(&lab, "Z1").is_empty(), "{run}");
        } else {
            nothing_left(&lab, before, &run);
        }
        assert_eq!(bodies(&lab).len(), 2, "{missing}: {run}");
    }
}

#[test]
fn without_create_tags_a_created_volume_is_an_error_that_says_so() {
    let lab = Lab::new();
    let text = everything(&lab, "/bin/true");
    let before = lab.server.world().volumes.len();
    lab.server.world().allow_only(ALL.into_iter().filter(|a| *a != "EC2:CreateTags"));
    let run = lab.run(&text, once());
    run.ends(1, &["ec2:CreateTags"]);
    nothing_left(&lab, before, &run);
}

#[test]
fn without_detach_a_roll_back_is_incomplete_and_names_the_volume() {
    let lab = Lab::new();
    let vol = lab.pool_volume("d", "p");
    let text = one(r#""attach-volume": [{ device: "/dev/xvdf", source: "p", "pool-name": "p",
            exec: [{ lines: [{ argv: ["/bin/false"] }] }] }]"#);
    lab.server.world().allow_only(ALL.into_iter().filter(|a| *a != "EC2:DetachVolume"));
    let run = lab.run(&text, once());
    run.ends(3, &["something could not be rolled back", "ec2:DetachVolume", &vol]);
}

#[test]
fn the_message_permissions_are_never_fatal() {
    for missing in ["SNS:Publish", "SQS:SendMessage"] {
        let lab = Lab::new();
        let text = everything(&lab, "/bin/true");
        lab.server.world().allow_only(ALL.into_iter().filter(|a| *a != missing));
        let run = lab.run(&text, once());
        run.ends(0, &["ready: d started", "cannot tell "]);
        assert_eq!(bodies(&lab).len(), 1, "{missing}: {run}");
    }
}
