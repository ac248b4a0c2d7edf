//! Source `x`: the volume that the config names, in every state that it can be in.

use crate::disks::{config, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, once};

/// A directive for volume 1 as /dev/xvdf.
fn x(source: &str) -> String {
    volume(source, "/dev/xvdf", &format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 4 }}"#, id(1)))
}

fn lab_with(spec: VolumeSpec) -> (Lab, String) {
    let lab = Lab::new();
    let vol = lab.volume(spec.id(&id(1)));
    (lab, vol)
}

#[test]
fn a_free_volume_is_attached_and_tagged() {
    let (lab, vol) = lab_with(VolumeSpec::default().tag("Name", "world"));
    let run = lab.run(&config(&x("x")), once());
    run.ends(0, &["attached as /dev/xvdf"]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.seen(), [format!("{vol} true x p")]);
    assert_eq!(lab.tag_keys(&vol), ["owner", "ts-used"], "{run}");
    assert_eq!(lab.tag(&vol, "owner"), lab.me);
    assert_eq!(lab.server.world().volume(&vol).unwrap().tags["Name"], "world");
}

#[test]
fn a_volume_without_a_device_gets_a_free_name() {
    let (lab, vol) = lab_with(VolumeSpec::default());
    let run = lab.run(&config(&volume("x", "", &format!(r#""volume-id": "{vol}""#))), once());
    run.ends(0, &[]);
    lab.has(&[(&vol, "/dev/xvdba")], &run);
}

#[test]
fn a_volume_that_would_end_with_the_instance_is_warned_of() {
    for ends in [true, false] {
        let lab = Lab::new();
        let spec = VolumeSpec { delete_on_termination: ends, ..VolumeSpec::default().id(&id(1)) };
        lab.volume(spec.attached(&lab.me, "/dev/xvdf"));
        let run = lab.run(&config(&x("x")), once());
        run.ends(0, &["is attached already"]);
        let command = format!(
            "aws ec2 modify-instance-attribute --region eu-west-1 --instance-id {} --block-device-mappings \
             '[{{\"DeviceName\":\"/dev/xvdf\",\"Ebs\":{{\"DeleteOnTermination\":false}}}}]'",
            lab.me
        );
        assert_eq!((run.log.contains("EC2 deletes it"), run.log.contains(&command)), (ends, ends), "{run}");
        assert!(lab.server.writes().is_empty(), "{run}");
    }
}

#[test]
fn a_volume_attached_here_is_used_as_it_is() {
    let lab = Lab::new();
    // EC2 keeps the name as it was asked for: sdf and xvdf are one.
    let vol = lab.volume(VolumeSpec::default().id(&id(1)).attached(&lab.me, "/dev/sdf"));
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(0, &["is attached already"]);
    assert_eq!(lab.seen(), [format!("{vol} false x p")], "{run}");
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn a_volume_still_attaching_here_is_waited_for() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)));
    let due = lab.taking(&vol, &lab.me, "/dev/xvdf", 600);
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(0, &["is attached already"]);
    assert!(lab.server.world().now_ms() >= due, "{run}");
    assert_eq!((lab.count("AttachVolume"), lab.count("CreateVolume")), (0, 0), "{run}");
    assert_eq!(lab.seen(), [format!("{vol} false x p")], "{run}");
}

#[test]
fn attached_here_as_another_device_is_an_error_that_names_both() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)).attached(&lab.me, "/dev/xvdk"));
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(1, &[&format!("{vol} is attached to this instance as /dev/xvdk, but the config wants /dev/xvdf")]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn in_another_zone_is_absent() {
    let (lab, vol) = lab_with(VolumeSpec::default().zone("eu-west-1b"));
    let run = lab.run(&config(&x("x")), once());
    run.ends(1, &[&vol, "it is in eu-west-1b, this instance is in eu-west-1a"]);
    assert_eq!(lab.count("AttachVolume"), 0, "{run}");
    let run = lab.run(&config(&x("xc")), once());
    run.ends(0, &["source x: "]);
    assert_eq!(lab.created().len(), 1, "{run}");
}

#[test]
fn held_by_another_instance_is_absent_and_the_next_source_is_tried() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    let run = lab.run(&config(&x("x")), once());
    run.ends(1, &[&format!("{vol}: it is held by {other}")]);
    let spare = lab.pool_volume("d", "p");
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(0, &[&format!("it is held by {other}")]);
    lab.has(&[(&spare, "/dev/xvdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    assert_eq!(lab.seen(), [format!("{spare} true p p")]);
}

#[test]
fn an_id_that_does_not_exist_and_a_placeholder_are_absent() {
    let lab = Lab::new();
    for name in [id(99).as_str(), "vol-xxxxxxxx", "VOLUME_ID", "vol-*"] {
        let rest = format!(r#""volume-id": "{name}""#);
        let run = lab.run(&config(&volume("x", "/dev/xvdf", &rest)), once());
        run.ends(1, &["no volume to be had", &format!("{name} does not exist")]);
    }
    assert!(lab.server.writes().is_empty());
}

#[test]
fn a_volume_being_created_is_waited_for() {
    let (lab, vol) = lab_with(VolumeSpec { state: Some("creating".into()), ..VolumeSpec::default() });
    let due = lab.server.world().now_ms() + 900;
    lab.server.world().volumes.get_mut(&vol).unwrap().due = Some(due);
    let run = lab.run(&config(&x("xpc")), once().rate(5));
    run.ends(0, &["waiting for", "being created"]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!((lab.count("CreateVolume"), lab.count("AttachVolume")), (0, 1), "{run}");
}

#[test]
fn a_volume_being_detached_elsewhere_is_waited_for() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.set_attachment(&vol, "detaching", 900);
    let run = lab.run(&config(&x("xpc")), once().rate(5));
    run.ends(0, &[&format!("being detached from {other}")]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_volume_being_detached_here_and_its_cooling_name_are_waited_for() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::default().id(&id(1)).attached(&lab.me, "/dev/xvdf"));
    lab.knobs(|k| k.cooldown_ms = 700);
    lab.set_attachment(&vol, "detaching", 700);
    let run = lab.run(&config(&x("xpc")), once().rate(5));
    run.ends(0, &["being detached from /dev/xvdf", "waiting for the device name /dev/xvdf"]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.seen(), [format!("{vol} true x p")], "{run}");
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_volume_in_error_fails_the_directive() {
    let (lab, vol) = lab_with(VolumeSpec { state: Some("error".into()), ..VolumeSpec::default() });
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(1, &[&format!("cannot use {vol}: its state is error")]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn a_device_name_held_by_another_volume_is_an_error_that_names_it() {
    let lab = Lab::new();
    let squatter = lab.volume(VolumeSpec::default().attached(&lab.me, "/dev/sdf"));
    let vol = lab.volume(VolumeSpec::default().id(&id(1)));
    let run = lab.run(&config(&x("xpc")), once());
    run.ends(1, &[&format!("cannot attach {vol} as /dev/xvdf: the name is held by {squatter}")]);
    lab.has(&[(&squatter, "/dev/sdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_claim_that_is_refused_as_gone_again_and_again_is_no_hot_loop() {
    let (lab, _) = lab_with(VolumeSpec::default());
    let gone = FaultKind::Custom { status: 400, code: "InvalidVolume.NotFound".into(), message: "no".into() };
    lab.fault(Fault::every("AttachVolume", gone));
    let run = lab.run(&timed(30, &x("x")), once().rate(20));
    run.ends(1, &[]);
    assert!(lab.count("AttachVolume") < 30, "{} calls\n{run}", lab.count("AttachVolume"));
    lab.nothing_left(&run);
}

#[test]
fn two_directives_get_their_own_volumes() {
    let lab = Lab::new();
    let [a, b] = [1, 2].map(|n| lab.volume(VolumeSpec::default().id(&id(n))));
    let one = |v: &str, d: &str| volume("x", d, &format!(r#""volume-id": "{v}""#));
    let run = lab.run(&config(&format!("{}, {}", one(&b, "/dev/xvdf"), one(&a, "/dev/sdg"))), once());
    run.ends(0, &[]);
    lab.has(&[(&b, "/dev/xvdf"), (&a, "/dev/sdg")], &run);
    // The commands run in order of appearance.
    assert_eq!(lab.seen(), [format!("{b} true x"), format!("{a} true x")]);
}
