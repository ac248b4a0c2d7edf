//! Source `p`: which volumes are candidates, and what happens when others are faster.

use time::Duration;

use crate::disks::{NOTE, config, directive, id, pool, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, once};

fn p() -> String {
    volume("p", "/dev/xvdf", r#""pool-name": "p""#)
}

#[test]
fn an_empty_pool_and_one_that_is_taken_say_so() {
    let lab = Lab::new();
    let run = lab.run(&config(&p()), once());
    run.ends(1, &["pool 'p' has no volume in eu-west-1a"]);
    let other = lab.neighbour();
    for n in 1..=3 {
        lab.volume(VolumeSpec::pool("d", "p").attached(&other, &format!("/dev/xvd{}", char::from(b'f' + n))));
    }
    let run = lab.run(&config(&p()), once());
    run.ends(1, &["all 3 volumes of pool 'p' in eu-west-1a are taken"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn what_has_other_tags_is_no_candidate() {
    let lab = Lab::new();
    for spec in [
        VolumeSpec::pool("other", "p"),
        VolumeSpec::pool("d", "other"),
        VolumeSpec::pool("D", "p"),
        VolumeSpec::pool("d", "p*"),
        VolumeSpec::default().tag("user:ec2fd.domain", "d"),
        VolumeSpec::default().tag("user:ec2fd.pool-name", "p"),
        VolumeSpec::default().tag("ec2fd.domain", "d").tag("ec2fd.pool-name", "p"),
        VolumeSpec::pool("d", "p").zone("eu-west-1b"),
        VolumeSpec::pool("d", "p").zone("us-east-1a"),
    ] {
        lab.volume(spec);
    }
    let run = lab.run(&config(&p()), once());
    run.ends(1, &["pool 'p' has no volume in eu-west-1a"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn a_domain_with_wildcards_in_its_name_is_taken_at_its_word() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("daa", "p"));
    let mine = lab.volume(VolumeSpec::pool("d*?\\", "p"));
    let text = config(&p()).replace("d: {", r#""d*?\\": {"#);
    let run = lab.run(&text, once());
    run.ends(0, &[]);
    lab.has(&[(&mine, "/dev/xvdf")], &run);
}

#[test]
fn multi_attach_and_managed_volumes_are_never_candidates() {
    let lab = Lab::new();
    lab.volume(VolumeSpec { multi_attach: true, kind: "io2".into(), ..VolumeSpec::pool("d", "p") });
    lab.volume(VolumeSpec { operator: Some("eks.amazonaws.com".into()), ..VolumeSpec::pool("d", "p") });
    let run = lab.run(&config(&p()), once());
    run.ends(1, &["pool 'p' has no volume"]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

/// A free volume of the pool that another instance is making.
fn in_transit(lab: &Lab, hours: i64, state: &str) -> String {
    let vol = lab.volume(
        VolumeSpec { state: Some(state.into()), ..VolumeSpec::pool("d", "p") }.tag("user:ec2fd.in-transit", "t"),
    );
    lab.server.world().volumes.get_mut(&vol).unwrap().created -= Duration::hours(hours);
    vol
}

#[test]
fn a_volume_in_transit_is_left_to_its_maker() {
    let lab = Lab::new();
    let vol = in_transit(&lab, 0, "available");
    let run = lab.run(&config(&p()), once());
    run.ends(1, &["still being made by another instance"]);
    assert!(lab.server.writes().is_empty(), "{run}");
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once());
    run.ends(0, &[]);
    assert_eq!(lab.tag(&vol, "in-transit"), "t", "{run}");
    assert_eq!(lab.volumes_of("AttachVolume"), lab.created(), "{run}");
}

#[test]
fn a_volume_that_another_instance_is_creating_is_not_waited_for() {
    let lab = Lab::new();
    let vol = in_transit(&lab, 0, "creating");
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once());
    run.ends(0, &[]);
    assert_eq!(lab.state(&vol), "creating");
    assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])], "{run}");
}

#[test]
fn a_volume_in_transit_whose_maker_is_gone_is_taken_and_loses_the_tag_first() {
    let lab = Lab::new();
    let vol = in_transit(&lab, 2, "available");
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"], "{run}");
}

#[test]
fn tags_that_the_original_left_never_block_a_volume() {
    let lab = Lab::new();
    let vol = lab.volume(VolumeSpec::pool("d", "p").tag("user:ec2fd.transc-id", "f00"));
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.tag_keys(&vol), ["domain", "owner", "pool-name", "ts-used"], "{run}");
}

#[test]
fn a_volume_being_freed_is_waited_for_and_not_replaced_by_a_new_one() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let vol = lab.volume(VolumeSpec::pool("d", "p").attached(&other, "/dev/xvdf"));
    lab.set_attachment(&vol, "detaching", 500);
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once().rate(5));
    run.ends(0, &["waiting for 1 volumes"]);
    lab.has(&[(&vol, "/dev/xvdf")], &run);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_thousand_volumes_on_small_and_empty_pages_in_any_order() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let free = {
        let mut w = lab.server.world();
        (w.knobs.page_cap, w.knobs.empty_pages) = (Some(50), true);
        for n in 0..1000 {
            let spec = VolumeSpec::pool("d", "p").id(&id(n));
            w.add_volume(if n == 777 { spec } else { spec.attached(&other, "/dev/xvdf") });
        }
        id(777)
    };
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    lab.has(&[(&free, "/dev/xvdf")], &run);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
    // 20 full pages, and an empty one before each.
    assert!(lab.count("DescribeVolumes") >= 40);
}

#[test]
fn a_volume_taken_between_list_and_claim_is_passed_by() {
    let lab = Lab::new();
    let (all, other) = (lab.pool_of(3), lab.neighbour());
    lab.list_late();
    let run = lab.start(&config(&p()), once());
    lab.listed();
    lab.take(&all[0], &other, "/dev/xvdf");
    lab.take(&all[1], &other, "/dev/xvdg");
    let run = run.wait(&lab);
    run.ends(0, &["trying the next one"]);
    lab.has(&[(&all[2], "/dev/xvdf")], &run);
    assert_eq!(lab.volumes_of("AttachVolume")[0], all[0], "{run}");
    assert_eq!(lab.server.calls_of("AttachVolume")[0].code.as_deref(), Some("VolumeInUse"), "{run}");
    // What others have is not tagged.
    assert_eq!(lab.tag_keys(&all[0]), ["domain", "pool-name"]);
}

#[test]
fn after_three_losses_the_list_is_read_again() {
    let lab = Lab::new();
    let (all, other) = (lab.pool_of(5), lab.neighbour());
    lab.list_late();
    let run = lab.start(&config(&p()), once().rate(5));
    lab.listed();
    for (v, d) in all.iter().zip(["f", "g", "h", "i", "j"]) {
        lab.take(v, &other, &format!("/dev/xvd{d}"));
    }
    let late = lab.pool_volume("d", "p");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&late, "/dev/xvdf")], &run);
    let lost = lab.server.calls_of("AttachVolume").iter().filter(|c| c.code.as_deref() == Some("VolumeInUse")).count();
    assert_eq!(lost, 3, "{run}");
}

#[test]
fn a_pool_that_others_empty_meanwhile_leads_to_the_next_source() {
    let lab = Lab::new();
    let (all, other) = (lab.pool_of(1), lab.neighbour());
    lab.list_late();
    let run = lab.start(&config(&pool("pc", "/dev/xvdf")), once().rate(5));
    lab.listed();
    lab.take(&all[0], &other, "/dev/xvdf");
    let run = run.wait(&lab);
    run.ends(0, &["all 1 volumes of pool 'p' in eu-west-1a are taken"]);
    assert_eq!(lab.seen(), [format!("{} true c p", lab.created()[0])], "{run}");
}

#[test]
fn the_refusals_of_a_lost_race_each_lead_to_the_next_volume() {
    for (code, message) in [
        ("InvalidVolume.NotFound", "The volume does not exist."),
        ("InvalidVolume.ZoneMismatch", "The volume is not in the same availability zone as instance"),
    ] {
        let lab = Lab::new();
        let all = lab.pool_of(2);
        let kind = FaultKind::Custom { status: 400, code: code.into(), message: message.into() };
        lab.fault(Fault::every("AttachVolume", kind).with_value(&all[0]));
        let run = lab.run(&config(&p()), once());
        run.ends(0, &[code]);
        lab.has(&[(&all[1], "/dev/xvdf")], &run);
    }
}

#[test]
fn two_directives_of_one_pool_get_two_volumes() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    let of = |device: &str| volume("p", device, r#""pool-name": "p""#);
    let run = lab.run(&config(&format!("{}, {}", of("/dev/xvdf"), of("/dev/xvdg"))), once());
    run.ends(0, &[]);
    let attached = lab.attached(&lab.me);
    assert_eq!(attached.iter().map(|a| &a.0).collect::<Vec<_>>(), all.iter().collect::<Vec<_>>(), "{run}");
    assert_eq!(lab.count("AttachVolume"), 2, "{run}");
    let by_device = |d: &str| attached.iter().find(|a| a.1 == d).unwrap().0.clone();
    let wanted = ["/dev/xvdf", "/dev/xvdg"].map(|d| format!("{} true p p", by_device(d)));
    assert_eq!(lab.seen(), wanted, "{run}");
}

#[test]
fn two_directives_for_one_volume_end_with_one_of_them_failing() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let of = |device: &str| volume("p", device, r#""pool-name": "p""#);
    let run = lab.run(&config(&format!("{}, {}", of("/dev/xvdf"), of("/dev/xvdg"))), once());
    run.ends(1, &["all 1 volumes of pool 'p'"]);
    lab.nothing_left(&run);
    assert_eq!(lab.tag_keys(&all[0]), ["domain", "pool-name"], "{run}");
}

#[test]
fn a_volume_that_another_directive_names_is_no_candidate() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    // The claim of the named one comes late; without care the pool would take it.
    lab.knobs(|k| {
        k.action_latency_ms.insert("EC2:AttachVolume".into(), 50);
    });
    let named = directive("x", "/dev/xvdg", &format!(r#""volume-id": "{}""#, all[0]), NOTE);
    let run = lab.run(&config(&format!("{}, {named}", p())), once());
    run.ends(0, &[]);
    lab.has(&[(&all[1], "/dev/xvdf"), (&all[0], "/dev/xvdg")], &run);
    assert_eq!(lab.count("AttachVolume"), 2, "{run}");
}

#[test]
fn a_pool_volume_here_under_a_name_that_nobody_requests_is_an_error() {
    let lab = Lab::new();
    lab.pool_of(1);
    let stray = lab.volume(VolumeSpec::pool("d", "p").attached(&lab.me, "/dev/xvdk"));
    let run = lab.run(&config(&pool("pc", "/dev/xvdf")), once());
    run.ends(
        1,
        &[&format!("{stray} of this pool is attached to this instance as /dev/xvdk, which no directive requests")],
    );
    assert!(lab.server.writes().is_empty(), "{run}");
}
