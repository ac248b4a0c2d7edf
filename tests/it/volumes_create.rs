//! Source `c`: what is asked for, how long it is in transit, and that there is never a second volume.

use crate::disks::{HOLD, NOTE, config, directive, pool, timed, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, SnapshotSpec, VolumeSpec};
use crate::lab::{Lab, Run, once};

fn c(create: &str) -> String {
    volume("c", "/dev/xvdf", &format!(r#""pool-name": "p", create: {create}"#))
}

/// The only call of CreateVolume.
fn asked(lab: &Lab, run: &Run) -> Vec<(String, String)> {
    let calls = lab.server.calls_of("CreateVolume");
    assert_eq!(calls.len(), 1, "{run}");
    calls[0].params.clone().into_iter().collect()
}

#[test]
fn a_plain_volume_is_gp3_in_this_zone_with_all_tags_in_one_call() {
    let lab = Lab::new();
    let run = lab.run(&config(&c("{ Size: 8 }")), once());
    run.ends(0, &[]);
    let made = lab.created();
    assert_eq!(lab.attached(&lab.me), [(made[0].clone(), "/dev/xvdf".to_owned())], "{run}");
    assert_eq!(lab.seen(), [format!("{} true c p", made[0])]);
    assert_eq!(lab.tag_keys(&made[0]), ["domain", "owner", "pool-name", "ts-created", "ts-used"], "{run}");
    let p: std::collections::BTreeMap<_, _> = asked(&lab, &run).into_iter().collect();
    assert_eq!((p["VolumeType"].as_str(), p["Size"].as_str()), ("gp3", "8"));
    assert_eq!(p["AvailabilityZone"], "eu-west-1a");
    assert!((1..=64).contains(&p["ClientToken"].len()));
    assert_eq!(p["TagSpecification.1.ResourceType"], "volume");
    let keys: Vec<_> = (1..=5).map(|n| p[&format!("TagSpecification.1.Tag.{n}.Key")].clone()).collect();
    for k in ["domain", "pool-name", "owner", "in-transit", "transc-id"] {
        assert!(keys.contains(&format!("user:ec2fd.{k}")), "{k} {keys:?}");
    }
    let w = lab.server.world();
    assert!(!w.volume(&made[0]).unwrap().attachments[0].delete_on_termination);
}

#[test]
fn parameters_and_tags_of_the_config_are_merged_with_ours() {
    let lab = Lab::with(InstanceSpec { zone: "eu-west-1b".into(), ..InstanceSpec::default() });
    lab.server.world().add_snapshot(SnapshotSpec::new(5).id("snap-0123456789abcdef0"));
    let create = r#"{ SnapshotId: "snap-0123456789abcdef0", Size: 10, VolumeType: "io2", Iops: 500, Encrypted: true,
        VolumeInitializationRate: 100, AvailabilityZone: "us-east-1a", AvailabilityZoneId: "use1-az1", ClientToken: "mine",
        TagSpecifications: [{ ResourceType: "volume", Tags: [{ Key: "Name", Value: "world" },
            { Key: "user:ec2fd.domain", Value: "evil" }] }] }"#;
    let run = lab.run(&config(&c(create)), once());
    run.ends(0, &["AvailabilityZone", "AvailabilityZoneId", "ClientToken", "is overridden"]);
    let made = lab.created();
    let p: std::collections::BTreeMap<_, _> = asked(&lab, &run).into_iter().collect();
    assert_eq!(p["AvailabilityZone"], "eu-west-1b");
    assert!(!p.contains_key("AvailabilityZoneId") && p["ClientToken"] != "mine", "{run}");
    assert_eq!((p["Iops"].as_str(), p["Encrypted"].as_str(), p["VolumeType"].as_str()), ("500", "true", "io2"));
    let w = lab.server.world();
    let tags = &w.volume(&made[0]).unwrap().tags;
    assert_eq!((tags["Name"].as_str(), tags["user:ec2fd.domain"].as_str()), ("world", "d"));
}

#[test]
fn without_a_pool_name_there_is_no_pool_tag_and_the_second_run_finds_it() {
    let lab = Lab::new();
    let text = config(&volume("c", "", "create: { Size: 1 }"));
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert_eq!(lab.tag_keys(&lab.created()[0]), ["domain", "owner", "ts-created", "ts-used"], "{run}");
    lab.server.reset_calls();
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn it_is_out_of_transit_before_the_first_command() {
    let lab = Lab::new();
    lab.knobs(|k| {
        k.action_latency_ms.insert("EC2:DeleteTags".into(), 300);
    });
    let run = lab.start(&config(&directive("c", "/dev/xvdf", "create: { Size: 1 }", HOLD)), once());
    lab.until_file("first");
    let made = lab.created();
    assert_eq!(lab.tag(&made[0], "in-transit"), "");
    let actions: Vec<String> = lab.server.writes().into_iter().map(|c| c.action).collect();
    assert_eq!(actions[0], "CreateVolume");
    assert!(actions.contains(&"DeleteTags".to_owned()) && actions.contains(&"AttachVolume".to_owned()), "{actions:?}");
    std::fs::write(lab.dir.join("go"), "").unwrap();
    run.wait(&lab).ends(0, &[]);
}

#[test]
fn a_command_never_runs_on_a_volume_that_stays_in_transit() {
    let lab = Lab::new();
    lab.server.world().deny("EC2:DeleteTags");
    let run = lab.run(&config(&c("{ Size: 1 }")), once());
    run.ends(1, &["cannot remove user:ec2fd.in-transit", "allow ec2:DeleteTags"]);
    assert!(lab.seen().is_empty(), "{run}");
    lab.nothing_left(&run);
}

#[test]
fn what_aws_refuses_is_said_and_nothing_is_left() {
    for (create, text) in [
        ("{ Size: 0 }", "InvalidParameterValue"),
        ("{}", "MissingParameter"),
        (r#"{ Size: 1, VolumeType: "gp9" }"#, "UnknownVolumeType"),
        (r#"{ SnapshotId: "snap-0123456789abcdef0" }"#, "InvalidSnapshot.NotFound"),
        ("{ Size: 1, Sise: 2 }", "UnknownParameter"),
    ] {
        let lab = Lab::new();
        let run = lab.run(&config(&c(create)), once());
        run.ends(1, &["cannot create a volume: ", text]);
        lab.nothing_left(&run);
        assert_eq!(lab.count("CreateVolume"), 1, "{run}");
    }
    let lab = Lab::new();
    lab.knobs(|k| k.volume_limit = 1);
    let run = lab.run(&config(&c("{ Size: 1 }")), once());
    run.ends(1, &["cannot create a volume: VolumeLimitExceeded"]);
    lab.server.world().deny("EC2:CreateVolume");
    let run = lab.run(&config(&c("{ Size: 1 }")), once());
    run.ends(1, &["allow ec2:CreateVolume for this instance's role"]);
}

#[test]
fn a_key_that_cannot_be_used_ends_with_exit_1_and_nothing_left() {
    for (key, ms, text) in [
        ("bad-key", 40, "its state is error"),
        ("bad-key", 600, "its state is error"),
        ("vanish", 40, "does not exist any more"),
        ("vanish", 600, "does not exist any more"),
    ] {
        let lab = Lab::new();
        lab.knobs(|k| k.creating_ms = ms);
        let create = format!(r#"{{ Size: 1, Encrypted: true, KmsKeyId: "{key}" }}"#);
        let run = lab.run(&config(&c(&create)), once().rate(10));
        run.ends(1, &[text, "KMS key"]);
        lab.until("its end", || lab.created().is_empty());
        lab.nothing_left(&run);
        assert!(lab.count("CreateVolume") <= 10, "{run}");
    }
}

#[test]
fn a_new_volume_that_cannot_be_seen_yet_is_waited_for() {
    let lab = Lab::new();
    lab.knobs(|k| k.created_invisible_ms = 700);
    let run = lab.run(&config(&c("{ Size: 1 }")), once().rate(5));
    run.ends(0, &[]);
    assert_eq!((lab.created().len(), lab.attached(&lab.me).len()), (1, 1), "{run}");
}

#[test]
fn a_lost_answer_leads_to_one_volume() {
    for kind in [
        FaultKind::ResetAfter,
        FaultKind::ErrorAfter500,
        FaultKind::HangAfter(30),
        FaultKind::Truncated,
        FaultKind::Garbage,
        FaultKind::Status503,
        FaultKind::Throttle,
    ] {
        let lab = Lab::new();
        lab.fault(Fault::first("CreateVolume", 2, kind.clone()));
        let run = lab.run(&config(&c("{ Size: 1 }")), once().rate(5));
        run.ends(0, &[]);
        assert_eq!((lab.created().len(), lab.attached(&lab.me).len()), (1, 1), "{kind:?}\n{run}");
        assert_eq!(lab.count("CreateVolume"), 3, "{kind:?}\n{run}");
    }
}

#[test]
fn answers_that_are_lost_for_ever_leave_nothing_behind() {
    for kind in [FaultKind::ResetAfter, FaultKind::ErrorAfter500] {
        let lab = Lab::new();
        lab.fault(Fault::every("CreateVolume", kind));
        let run = lab.run(&timed(20, &c("{ Size: 1 }")), once().rate(20));
        run.ends(1, &["cannot create a volume"]);
        lab.until("its end", || lab.created().is_empty());
        lab.nothing_left(&run);
    }
}

#[test]
fn the_limit_of_volumes_reported_for_what_was_made_is_no_failure() {
    let lab = Lab::new();
    lab.fault(Fault::nth("CreateVolume", 1, FaultKind::ErrorAfter500));
    let limit = FaultKind::Custom { status: 400, code: "VolumeLimitExceeded".into(), message: "too many".into() };
    lab.fault(Fault::nth("CreateVolume", 2, limit));
    let run = lab.run(&config(&c("{ Size: 1 }")), once());
    run.ends(0, &[]);
    assert_eq!((lab.created().len(), lab.attached(&lab.me).len()), (1, 1), "{run}");
}

#[test]
fn a_token_that_was_used_for_something_else_is_passed_by() {
    let lab = Lab::new();
    let used = FaultKind::Custom { status: 400, code: "IdempotentParameterMismatch".into(), message: "no".into() };
    lab.fault(Fault::nth("CreateVolume", 1, used));
    let run = lab.run(&config(&c("{ Size: 1 }")), once());
    run.ends(0, &["the client token ec2fd-"]);
    assert_eq!(lab.created().len(), 1, "{run}");
    let calls = lab.server.calls_of("CreateVolume");
    assert_ne!(calls[0].params["ClientToken"], calls[1].params["ClientToken"]);
}

#[test]
fn a_run_killed_while_the_volume_is_being_made_converges_to_one_volume() {
    let lab = Lab::new();
    lab.knobs(|k| k.creating_ms = 1 << 40);
    let text = config(&c("{ Size: 1 }"));
    let run = lab.start(&text, once());
    lab.until("a volume", || lab.created().len() == 1);
    run.signal("KILL");
    assert_eq!(run.wait(&lab).code, 128 + 9);
    let made = lab.created();
    lab.server.world().volumes.get_mut(&made[0]).unwrap().due = Some(0);
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert_eq!(lab.created(), made, "{run}");
    lab.has(&[(&made[0], "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&made[0]), ["domain", "owner", "pool-name", "ts-created", "ts-used"], "{run}");
    assert_eq!(lab.seen(), [format!("{} true c p", made[0])]);
}

#[test]
fn a_run_killed_while_the_volume_is_being_attached_converges_to_one_volume() {
    let lab = Lab::new();
    lab.knobs(|k| k.device_ms = 1 << 40);
    lab.server.world().deny("EC2:DeleteTags");
    let text = config(&pool("pc", "/dev/xvdf"));
    let run = lab.start(&text, once());
    lab.until("an attachment", || lab.attached(&lab.me).len() == 1);
    run.signal("KILL");
    run.wait(&lab);
    lab.lose_journal();
    let made = lab.created();
    assert_ne!(lab.tag(&made[0], "in-transit"), "");
    lab.server.world().volumes.get_mut(&made[0]).unwrap().attachments[0].device_due = Some(0);
    lab.server.world().permit("EC2:DeleteTags");
    let run = lab.run(&text, once());
    run.ends(0, &["finishing"]);
    assert_eq!(lab.created(), made, "{run}");
    assert_eq!(lab.tag_keys(&made[0]), ["domain", "owner", "pool-name", "ts-created", "ts-used"], "{run}");
    // It is new to its application: this run is the first that finishes it.
    assert_eq!(lab.seen(), [format!("{} true c p", made[0])]);
    lab.server.reset_calls();
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn after_a_run_that_failed_and_deleted_its_volume_the_next_one_makes_another() {
    let lab = Lab::new();
    let bad = config(&directive("c", "/dev/xvdf", "create: { Size: 1 }", "exit 7"));
    let run = lab.run(&bad, once());
    run.ends(1, &["exit code 7"]);
    lab.nothing_left(&run);
    // At once, as systemd restarts it; and again, when the deletion is over.
    for _ in 0..2 {
        let run = lab.run(&bad, once().rate(10));
        run.ends(1, &["exit code 7"]);
        lab.nothing_left(&run);
        lab.until("the deletion", || lab.server.world().volumes.values().all(|v| !v.by_api));
    }
    let run = lab.run(&config(&directive("c", "/dev/xvdf", "create: { Size: 1 }", NOTE)), once().rate(10));
    run.ends(0, &[]);
    let made = lab.created();
    assert_eq!(made.len(), 1, "{run}");
    lab.has(&[(&made[0], "/dev/xvdf")], &run);
}

#[test]
fn a_committed_volume_that_another_instance_holds_is_not_taken_for_a_new_one() {
    let lab = Lab::new();
    let text = config(&pool("pc", "/dev/xvdf"));
    lab.run(&text, once()).ends(0, &[]);
    let first = lab.created().remove(0);
    let other = lab.neighbour();
    {
        let mut w = lab.server.world();
        w.volumes.get_mut(&first).unwrap().attachments[0].instance = other;
    }
    std::fs::remove_dir_all(lab.root(&lab.me).join("sys/block/nvme1n1")).unwrap();
    let run = lab.run(&text, once());
    run.ends(0, &["creating another one"]);
    let here = lab.attached(&lab.me);
    assert!(here.len() == 1 && here[0].0 != first, "{run}");
    assert_eq!(lab.created().len(), 2, "{run}");
}

#[test]
fn several_directives_make_one_volume_each() {
    let lab = Lab::new();
    let of = |d: &str| volume("pc", d, r#""pool-name": "p", create: { Size: 1 }"#);
    let run = lab.run(&config(&["/dev/xvdf", "/dev/xvdg", "/dev/xvdh"].map(of).join(", ")), once());
    run.ends(0, &[]);
    assert_eq!((lab.created().len(), lab.attached(&lab.me).len(), lab.count("CreateVolume")), (3, 3, 3), "{run}");
}

#[test]
fn instances_make_their_own_volumes() {
    let lab = Lab::new();
    let text = config(&pool("pc", "/dev/xvdf"));
    let all: Vec<String> = (0..5).map(|_| lab.neighbour()).collect();
    lab.knobs(|k| k.latency_ms = 30);
    let runs: Vec<_> = all.iter().map(|i| lab.start(&text, once().on(i).rate(3))).collect();
    for run in runs {
        run.wait(&lab).ends(0, &[]);
    }
    assert!(all.iter().all(|i| lab.attached(i).len() == 1));
    assert_eq!(lab.created().len(), 5);
}

#[test]
fn a_volume_of_the_pool_is_preferred_to_a_new_one() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::pool("d", "p"));
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once());
    run.ends(0, &[]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_volume_in_error_of_an_earlier_run_is_deleted_and_another_one_made() {
    let lab = Lab::new();
    lab.knobs(|k| k.creating_ms = 1 << 40);
    let text = config(&c("{ Size: 1 }"));
    let run = lab.start(&text, once());
    lab.until("a volume", || lab.created().len() == 1);
    run.signal("KILL");
    run.wait(&lab);
    lab.lose_journal();
    let dead = lab.created().remove(0);
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&dead).unwrap();
        (v.state, v.due) = ("error".into(), None);
        w.knobs.creating_ms = 40;
    }
    let run = lab.run(&text, once());
    run.ends(0, &["its state is error"]);
    lab.until("the deletion", || lab.state(&dead) == "gone");
    assert_eq!(lab.attached(&lab.me).len(), 1, "{run}");
}

#[test]
fn a_new_volume_that_attach_does_not_know_yet_is_tried_again() {
    let lab = Lab::new();
    let late = FaultKind::Custom {
        status: 400,
        code: "InvalidVolume.NotFound".into(),
        message: "The volume does not exist.".into(),
    };
    lab.fault(Fault::first("AttachVolume", 2, late));
    let c = directive("c", "/dev/xvdf", r#""pool-name": "q", create: { Size: 1 }"#, NOTE);
    let run = lab.run(&config(&c), once());
    run.ends(0, &["created vol-"]);
    let made = lab.created();
    assert_eq!(made.len(), 1, "{run}");
    lab.has(&[(&made[0], "/dev/xvdf")], &run);
}
