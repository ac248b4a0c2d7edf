//! What is decided after a pause is decided by what is so then; and calls that EC2 carries out after they were given up.

use std::time::Duration;

use crate::disks::{config, id, pool, volume};
use crate::fakeaws::{Fault, FaultKind, Nth, SnapshotSpec, VolumeSpec};
use crate::lab::{How, Lab, Running, once};

fn fast() -> How {
    once().rate(20)
}

/// Stops the process while `work` goes on, and for so long at least.
fn held_up(run: &Running, ms: u64, work: impl FnOnce()) {
    run.signal("STOP");
    work();
    std::thread::sleep(Duration::from_millis(ms));
    run.signal("CONT");
}

/// While source x waits for its volume, somebody takes the one of the pool out of it.
#[test]
fn a_pool_that_was_read_before_a_long_wait_is_read_again() {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    let was = lab.volume(VolumeSpec::pool("d", "p"));
    let rest = format!(r#""volume-id": "{}", "pool-name": "p", wait: 120"#, id(1));
    let run = lab.start(&config(&volume("xp", "/dev/xvdf", &rest)), once().rate(60));
    run.says(&lab, "; waiting up to 120 s");
    let is = {
        let mut w = lab.server.world();
        w.volumes.get_mut(&was).unwrap().tags.insert("user:ec2fd.pool-name".into(), "q".into());
        w.add_volume(VolumeSpec::pool("d", "p"))
    };
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&is, "/dev/xvdf")], &run);
    assert_eq!(lab.volumes_of("AttachVolume"), [is], "{run}");
}

/// The process stands still while it asks about the holder; meanwhile the volume comes free, and the time to wait for it
/// is over.
#[test]
fn a_wait_that_was_held_up_looks_again_before_it_gives_up() {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.knobs(|k| {
        k.action_latency_ms.insert("EC2:DescribeInstances".into(), 200);
    });
    let rest = format!(r#""volume-id": "{}", wait: 30"#, id(1));
    let run = lab.start(&config(&volume("x", "/dev/xvdf", &rest)), once().rate(10));
    lab.until("a question about the holder", || lab.count("DescribeInstances") == 1);
    held_up(&run, 4000, || {
        let mut w = lab.server.world();
        let v = w.volumes.get_mut(&id(1)).unwrap();
        v.attachments.clear();
        v.state = "available".into();
    });
    let run = run.wait(&lab);
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
}

/// The holder is started again while the process stands still between its look and the detachment.
#[test]
fn a_fence_that_was_held_up_looks_again() {
    let lab = Lab::new();
    let other = lab.neighbour();
    lab.volume(VolumeSpec::default().id(&id(1)).attached(&other, "/dev/xvdf"));
    lab.server.world().set_instance_state(&other, "stopped");
    lab.knobs(|k| {
        k.action_latency_ms.insert("EC2:DescribeInstances".into(), 600);
    });
    let rest = format!(r#""volume-id": "{}", wait: 60, fence: "terminated""#, id(1));
    let run = lab.start(&config(&volume("x", "/dev/xvdf", &rest)), once().rate(5));
    // The one that is asked right before the detachment.
    lab.until("the last look", || lab.count("DescribeInstances") == 2);
    // Its answer is made in the middle of its time.
    std::thread::sleep(Duration::from_millis(400));
    // Longer than a look is good for, and not so long that the answer is not taken any more.
    held_up(&run, 2100, || lab.server.world().set_instance_state(&other, "running"));
    let run = run.wait(&lab);
    run.ends(1, &["is held by"]);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

#[test]
fn a_snapshot_that_is_deleted_before_its_use_is_replaced_by_the_next_one_and_never_by_a_blank_volume() {
    let two = || {
        let lab = Lab::new();
        for (n, age) in [(1, 60), (2, 10)] {
            lab.server.world().add_snapshot(SnapshotSpec::pool("d", "p").id(&snap(n)).age(age));
        }
        lab.fault(Fault::nth("DescribeSnapshots", 1, FaultKind::ThenDeleted(snap(2))));
        lab
    };
    let lab = two();
    let run = lab.run(&config(&pool("sc", "/dev/xvdf")), fast());
    run.ends(0, &["InvalidSnapshot.NotFound", "choosing again"]);
    let made = lab.created();
    assert_eq!(lab.server.world().volume(&made[0]).unwrap().snapshot, Some(snap(1)), "{run}");
    lab.has(&[(&made[0], "/dev/xvdf")], &run);
    // The list is old, and has it still.
    let lab = two();
    lab.server.world().snapshots.remove(&snap(1));
    let run = lab.run(&config(&pool("sc", "/dev/xvdf")), fast());
    run.ends(1, &["pool 'p' has no snapshot any more", &snap(2)]);
    lab.nothing_left(&run);
    assert!(lab.server.calls_of("CreateVolume").iter().all(|c| c.status == 400), "{run}");
}

fn snap(n: u32) -> String {
    format!("snap-{n:017x}")
}

/// What came late is given back to the pool by the run that went on without it.
#[test]
fn a_claim_that_comes_after_it_was_given_up_is_detached_by_the_run_that_goes_on() {
    let lab = Lab::new();
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.fault(Fault::nth("AttachVolume", 1, FaultKind::Late(4000)));
    lab.fault(Fault::new("AttachVolume", Nth::From(2), FaultKind::ResetBefore));
    let text =
        config(&volume("p", "/dev/xvdf", r#""pool-name": "p", critical: false"#)).replacen('{', "{ timeout: 40,", 1);
    let run = lab.start(&text, How::default().rate(20));
    run.says(&lab, "ready: d started");
    assert!(lab.attached(&lab.me).is_empty());
    lab.until("the detachment", || lab.count("DetachVolume") == 1);
    lab.until("the end of it", || lab.attached(&lab.me).is_empty() && lab.state(&id(1)) == "available");
    run.says(&lab, "after its claim had been given up");
    run.signal("TERM");
    let run = run.wait(&lab);
    run.ends(0, &[]);
    assert!(lab.seen().is_empty(), "{run}");
    assert_eq!(lab.tag_keys(&id(1)), ["domain", "pool-name"], "{run}");
}

/// The run has failed and ended; what comes then is the next one's, whatever its config wants.
#[test]
fn a_claim_that_comes_after_its_run_has_ended_is_settled_by_the_next_one() {
    for same in [true, false] {
        let lab = Lab::new();
        lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
        lab.fault(Fault::nth("AttachVolume", 1, FaultKind::Late(3000)));
        lab.fault(Fault::new("AttachVolume", Nth::From(2), FaultKind::ResetBefore));
        let p = volume("p", "/dev/xvdf", r#""pool-name": "p""#);
        let run = lab.run(&config(&p).replacen('{', "{ timeout: 20,", 1), fast());
        run.ends(1, &[]);
        lab.until("what comes late", || !lab.attached(&lab.me).is_empty());
        lab.server.world().faults.clear();
        let other = lab.volume(VolumeSpec::pool("d", "q"));
        let q = volume("p", "/dev/xvdg", r#""pool-name": "q""#);
        let run = lab.run(&config(if same { &p } else { &q }), fast());
        run.ends(0, &[]);
        let (vol, device) = if same { (id(1), "/dev/xvdf") } else { (other, "/dev/xvdg") };
        lab.has(&[(&vol, device)], &run);
    }
}

/// The first look after it finds nothing: the claim is not given up for another volume.
#[test]
fn one_empty_answer_after_an_unclear_claim_does_not_lead_to_a_second_volume() {
    let lab = Lab::new();
    lab.pool_of(2);
    lab.fault(Fault::nth("AttachVolume", 1, FaultKind::ErrorAfter500));
    lab.fault(Fault::nth("DescribeVolumes", 2, FaultKind::Empty));
    let run = lab.run(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), fast());
    run.ends(0, &[]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
}
