//! AttachVolume: answers that are lost or unclear, instances that are not ready, and what EC2 refuses.

use crate::disks::{config, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, Knobs, VolumeSpec};
use crate::lab::{Lab, once};

fn p() -> String {
    volume("p", "/dev/xvdf", r#""pool-name": "p""#)
}

const UNCLEAR: [FaultKind; 6] = [
    FaultKind::ResetAfter,
    FaultKind::ErrorAfter500,
    FaultKind::HangAfter(30),
    FaultKind::Truncated,
    FaultKind::Garbage,
    FaultKind::ResetBefore,
];

/// The first answer is unclear; the reads are as `knobs` says. One volume is attached, for either kind of directive.
fn one_is_attached(kind: FaultKind, knobs: impl Fn(&mut Knobs)) {
    let x = volume("x", "/dev/xvdf", &format!(r#""volume-id": "{}""#, id(1)));
    let free = volume("p", "", r#""pool-name": "p""#);
    for directive in [p(), x, free] {
        let lab = Lab::new();
        lab.pool_of(3);
        lab.knobs(&knobs);
        lab.fault(Fault::first("AttachVolume", 1, kind.clone()));
        let run = lab.run(&config(&directive), once().rate(4));
        run.ends(0, &[]);
        assert_eq!(lab.attached(&lab.me).len(), 1, "{kind:?} {directive}\n{run}");
        let vol = lab.attached(&lab.me)[0].0.clone();
        assert_eq!(lab.seen().len(), 1);
        assert!(lab.seen()[0].starts_with(&format!("{vol} true ")), "{run}");
        assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"], "{run}");
        // The pool's others were not touched.
        assert!(lab.volumes_of("AttachVolume").iter().all(|v| *v == vol), "{kind:?} {directive}\n{run}");
    }
}

#[test]
fn after_an_unclear_answer_one_volume_is_attached() {
    UNCLEAR.into_iter().for_each(|k| one_is_attached(k, |_| {}));
}

#[test]
fn after_an_unclear_answer_and_reads_that_lag_in_time_one_volume_is_attached() {
    UNCLEAR.into_iter().take(2).for_each(|k| one_is_attached(k, |k| k.stale_ms = 300));
}

#[test]
fn after_an_unclear_answer_and_reads_that_lag_in_writes_one_volume_is_attached() {
    UNCLEAR.into_iter().skip(3).for_each(|k| {
        one_is_attached(k, |k| {
            k.stale_writes = 2;
            k.stale_ms = 500;
        });
    });
}

#[test]
fn an_unclear_answer_about_a_volume_that_another_took_leads_to_the_next() {
    let lab = Lab::new();
    let (all, other) = (lab.pool_of(2), lab.neighbour());
    lab.list_late();
    lab.fault(Fault::first("AttachVolume", 1, FaultKind::ErrorAfter500));
    let run = lab.start(&config(&p()), once());
    lab.listed();
    lab.take(&all[0], &other, "/dev/xvdf");
    let run = run.wait(&lab);
    run.ends(0, &[&format!("it is held by {other}")]);
    lab.has(&[(&all[1], "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&all[0]), ["domain", "pool-name"]);
}

#[test]
fn an_instance_that_is_not_running_yet_is_waited_for() {
    let lab = Lab::with(InstanceSpec { pending_ms: 1500, ..InstanceSpec::default() });
    let all = lab.pool_of(2);
    let run = lab.run(&config(&p()), once().rate(4));
    run.ends(0, &["is not 'running'"]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert!(lab.volumes_of("AttachVolume").iter().all(|v| *v == all[0]), "{run}");
}

#[test]
fn an_instance_that_ec2_does_not_know_yet_is_waited_for() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    let no = FaultKind::Custom { status: 400, code: "InvalidInstanceID.NotFound".into(), message: "no".into() };
    lab.fault(Fault::first("AttachVolume", 3, no));
    let run = lab.run(&config(&p()), once().rate(4));
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.volumes_of("AttachVolume"), [all[0].as_str(); 4], "{run}");
}

#[test]
fn an_instance_that_never_runs_ends_with_the_timeout() {
    let lab = Lab::with(InstanceSpec { pending_ms: 1 << 40, ..InstanceSpec::default() });
    lab.pool_of(1);
    let run = lab.run(&timed(30, &p()), once().rate(30));
    run.ends(1, &["is not 'running'", "the time for it is over"]);
    lab.nothing_left(&run);
}

#[test]
fn the_limit_of_attachments_is_named_and_no_other_volume_is_tried() {
    // One interface and the root volume are counted.
    let lab = Lab::with(InstanceSpec { attach_limit: 2, ..InstanceSpec::default() });
    lab.pool_of(3);
    for directive in [p(), volume("pc", "", r#""pool-name": "p", create: { Size: 1 }"#)] {
        let run = lab.run(&config(&directive), once());
        run.ends(1, &[&format!("cannot attach {}", id(1)), "AttachmentLimitExceeded", "attachment limit exceeded"]);
        lab.nothing_left(&run);
    }
    assert_eq!(lab.count("AttachVolume"), 2);
    assert_eq!(lab.count("CreateVolume"), 0);
}

#[test]
fn a_device_name_that_ec2_refuses_is_an_error_that_names_it() {
    let lab = Lab::new();
    lab.pool_of(3);
    let run = lab.run(&config(&volume("p", "/dev/xvdzz", r#""pool-name": "p""#)), once());
    assert!(run.code == 1 || run.code == 2, "{run}");
    assert!(run.log.contains("/dev/xvdzz"), "{run}");
    lab.nothing_left(&run);
    assert!(lab.count("AttachVolume") <= 1, "{run}");
}

#[test]
fn a_throttled_claim_waits_and_tries_the_same_volume() {
    let lab = Lab::new();
    let all = lab.pool_of(3);
    lab.server.world().throttle("AttachVolume", 1, 2.0);
    lab.fault(Fault::first("AttachVolume", 2, FaultKind::Throttle));
    let run = lab.run(&config(&p()), once().rate(5));
    run.ends(0, &[]);
    assert!(lab.volumes_of("AttachVolume").iter().all(|v| *v == all[0]), "{run}");
}

#[test]
fn a_tag_that_cannot_be_written_takes_no_volume_away() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.server.world().deny("EC2:CreateTags");
    let run = lab.run(&config(&p()), once());
    run.ends(0, &["cannot tag"]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.seen().len(), 1);
}

#[test]
fn the_credentials_of_a_role_that_changes_meanwhile_are_fetched_anew() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.list_late();
    let run = lab.start(&config(&p()), once());
    lab.listed();
    lab.server.world().swap_role(&lab.me, "other");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
}

#[test]
fn a_volume_that_ec2_takes_away_again_is_a_failure() {
    // A KMS key that cannot be used at attach: accepted, then back to available, and the disk never comes.
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.knobs(|k| k.device_never = true);
    let run = lab.start(&timed(60, &p()), once().rate(20));
    lab.until("an attachment", || lab.attached(&lab.me).len() == 1);
    {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&vol).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    }
    let run = run.wait(&lab);
    run.ends(1, &[&vol]);
    lab.nothing_left(&run);
}
