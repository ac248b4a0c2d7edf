//! The next source is tried only when this one is proven absent: a blank volume in place of the data is the worst
//! outcome of all. Whatever is denied, throttled, timed out or ambiguous ends with exit 1 and no new volume.

use crate::disks::{config, id, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, Run, once};

fn xpc() -> String {
    volume("xpc", "/dev/xvdf", &format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 4 }}"#, id(1)))
}

fn pc() -> String {
    volume("pc", "/dev/xvdf", r#""pool-name": "p", create: { Size: 4 }"#)
}

/// A lab with volume 1, free, of the pool.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab
}

#[track_caller]
fn nothing_made(lab: &Lab, run: &Run) {
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    lab.nothing_left(run);
    assert!(lab.seen().is_empty(), "{run}");
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
}

#[test]
fn a_denied_list_fails_and_names_the_permission() {
    for directive in [xpc(), pc()] {
        let lab = lab();
        lab.server.world().deny("EC2:DescribeVolumes");
        let run = lab.run(&config(&directive), once());
        run.ends(1, &["UnauthorizedOperation", "allow ec2:DescribeVolumes for this instance's role"]);
        nothing_made(&lab, &run);
        assert!(lab.count("DescribeVolumes") <= 2, "{run}");
    }
}

#[test]
fn a_denied_claim_fails_and_names_permission_and_volume() {
    for directive in [xpc(), pc()] {
        let lab = lab();
        lab.server.world().deny("EC2:AttachVolume");
        let run = lab.run(&config(&directive), once());
        run.ends(1, &[&format!("cannot attach {}", id(1)), "allow ec2:AttachVolume for this instance's role"]);
        nothing_made(&lab, &run);
        assert_eq!(lab.count("AttachVolume"), 1, "{run}");
    }
}

#[test]
fn a_list_throttled_for_ever_ends_with_the_timeout() {
    for directive in [xpc(), pc()] {
        let lab = lab();
        lab.fault(Fault::every("DescribeVolumes", FaultKind::Throttle));
        let run = lab.run(&timed(60, &directive), once().rate(60));
        run.ends(1, &["the time for it is over", "RequestLimitExceeded"]);
        nothing_made(&lab, &run);
    }
}

#[test]
fn a_claim_throttled_for_ever_ends_with_the_timeout() {
    for directive in [xpc(), pc()] {
        let lab = lab();
        lab.fault(Fault::every("AttachVolume", FaultKind::Throttle));
        let run = lab.run(&timed(60, &directive), once().rate(60));
        run.ends(1, &[&format!("cannot attach {}", id(1)), "RequestLimitExceeded"]);
        nothing_made(&lab, &run);
    }
}

#[test]
fn a_claim_that_is_never_answered_plainly_ends_with_the_timeout() {
    for kind in [FaultKind::Status500, FaultKind::ResetBefore, FaultKind::Garbage, FaultKind::Hang(20)] {
        for directive in [xpc(), pc()] {
            let lab = lab();
            lab.fault(Fault::every("AttachVolume", kind.clone()));
            let run = lab.run(&timed(60, &directive), once().rate(150));
            run.ends(1, &[&format!("cannot attach {}", id(1)), "the time for it is over"]);
            nothing_made(&lab, &run);
            // It looks before it sends again.
            assert!(lab.count("DescribeVolumes") > lab.count("AttachVolume"), "{run}");
        }
    }
}

#[test]
fn a_claim_that_works_late_on_is_used() {
    for kind in [FaultKind::Status500, FaultKind::ResetBefore, FaultKind::Garbage, FaultKind::Throttle] {
        let lab = lab();
        lab.fault(Fault::first("AttachVolume", 3, kind));
        let run = lab.run(&config(&xpc()), once().rate(10));
        run.ends(0, &[]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        assert_eq!((lab.count("AttachVolume"), lab.count("CreateVolume")), (4, 0), "{run}");
    }
}

#[test]
fn a_list_that_is_refused_for_a_while_is_read_again() {
    for kind in [FaultKind::Status503, FaultKind::ResetAfter, FaultKind::Truncated, FaultKind::HangAfter(20)] {
        let lab = lab();
        lab.fault(Fault::first("DescribeVolumes", 3, kind));
        let run = lab.run(&config(&pc()), once().rate(10));
        run.ends(0, &[]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        assert_eq!(lab.count("CreateVolume"), 0, "{run}");
    }
}

#[test]
fn a_volume_that_never_gets_free_ends_with_the_timeout() {
    let lab = Lab::new();
    let other = lab.neighbour();
    let vol = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.set_attachment(&vol, "detaching", 1 << 40);
    let run = lab.run(&timed(20, &xpc()), once().rate(40));
    run.ends(1, &[&vol, "the time for it is over"]);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

#[test]
fn a_next_source_is_tried_in_the_order_of_the_config() {
    // c comes first: the pool is not even looked at for a claim.
    let lab = Lab::new();
    let free = lab.pool_of(1);
    let run = lab.run(&config(&volume("cp", "/dev/xvdf", r#""pool-name": "p", create: { Size: 4 }"#)), once());
    run.ends(0, &[]);
    let made = lab.created();
    assert_eq!(lab.volumes_of("AttachVolume"), made, "{run}");
    assert_eq!(lab.state(&free[0]), "available");
    assert_eq!(lab.seen(), [format!("{} true c p", made[0])]);
    // The second run finds it, whatever the source.
    lab.server.reset_calls();
    let run = lab.run(&config(&volume("cp", "/dev/xvdf", r#""pool-name": "p", create: { Size: 4 }"#)), once());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
}

#[test]
fn every_source_that_was_tried_is_in_the_error() {
    let lab = Lab::new();
    let run =
        lab.run(&config(&volume("xp", "/dev/xvdf", &format!(r#""volume-id": "{}", "pool-name": "p""#, id(1)))), once());
    let text = format!("x: {} does not exist; p: pool 'p' has no volume in eu-west-1a", id(1));
    run.ends(1, &[&text, "domains.\"d\".attach-volume[0]"]);
}

#[test]
fn pool_then_create_and_id_then_pool_then_create_fall_through_when_absent() {
    for (source, made) in [("pc", true), ("xpc", true), ("xp", false), ("px", false)] {
        let lab = Lab::new();
        let rest = format!(r#""volume-id": "{}", "pool-name": "p", create: {{ Size: 4 }}"#, id(1));
        let run = lab.run(&config(&volume(source, "/dev/xvdf", &rest)), once());
        assert_eq!(run.code, i32::from(!made), "{source}\n{run}");
        assert_eq!(lab.created().len(), usize::from(made), "{source}\n{run}");
        assert_eq!(lab.attached(&lab.me).len(), usize::from(made), "{source}\n{run}");
    }
}
