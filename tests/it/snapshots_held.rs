//! Snapshots of a volume are made and deleted by the instance that holds it, and by no other.

use crate::disks::id;
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, SnapshotSpec, VolumeSpec};
use crate::lab::{How, Lab};
use crate::snapshots::{started, text, x};

/// A lab whose services' clock runs with the daemon's.
fn fast(hypervisor: &str, rate: u32) -> (Lab, How) {
    let lab = Lab::with(InstanceSpec { hypervisor: hypervisor.into(), ..InstanceSpec::default() });
    lab.volume(VolumeSpec::pool("d", "p").id(&id(1)));
    lab.knobs(|k| (k.clock_rate, k.signature_window_s, k.snapshot_ms) = (rate, 1 << 30, 10));
    lab.knobs(|k| k.snapshot_gap_ms = 0);
    (lab, How::default().rate(rate))
}

#[test]
fn what_another_instance_has_by_now_is_left_to_it() {
    for hypervisor in ["nitro", "xen"] {
        let (lab, how) = fast(hypervisor, 1000);
        let config = text(&x(1, "snapshot: { every: 3600, keep: 1 }")).replace("interval: 0.02", "interval: 60");
        let running = started(&lab, &config, how);
        running.says(&lab, "is begun (at its time)");
        // It goes to another instance, whose snapshots are too many by what this one's config says.
        let neighbour = lab.neighbour();
        lab.set_attachment(&id(1), "detaching", 1);
        lab.until("its end", || lab.server.world().volume(&id(1)).unwrap().state == "available");
        lab.take(&id(1), &neighbour, "/dev/xvdf");
        for age in [100, 200, 300] {
            let theirs = SnapshotSpec::pool("d", "p").of(&id(1)).tag("user:ec2fd.snapshot", "u");
            lab.server.world().add_snapshot(theirs.age(age));
        }
        lab.server.reset_calls();
        lab.until("some looks", || lab.count("DescribeSnapshots") > 4);
        running.signal("TERM");
        let run = running.wait(&lab);
        run.ends(0, &[&format!("no snapshots of {} are made or deleted here: ", id(1))]);
        assert_eq!(run.log.matches("are made or deleted here").count(), 1, "{run}");
        assert_eq!(lab.count("CreateSnapshot") + lab.count("DeleteSnapshot"), 0, "{run}");
    }
}

#[test]
fn what_goes_between_two_tries_gets_no_second_one() {
    let (lab, how) = fast("nitro", 5);
    let refusal = FaultKind::Custom {
        status: 400,
        code: "SnapshotCreationPerVolumeRateExceeded".into(),
        message: "The maximum per volume CreateSnapshot request rate has been exceeded.".into(),
    };
    lab.fault(Fault::first("EC2:CreateSnapshot", 1, refusal));
    let running = started(&lab, &text(&x(1, r#"snapshot: { on: ["stopping"] }"#)), how);
    let neighbour = lab.neighbour();
    running.signal("TERM");
    running.says(&lab, "once more in 15 s");
    lab.set_attachment(&id(1), "detaching", 1);
    lab.until("its end", || lab.server.world().volume(&id(1)).unwrap().state == "available");
    lab.take(&id(1), &neighbour, "/dev/xvdf");
    let run = running.wait(&lab);
    run.ends(0, &[&format!("no snapshot of {} is asked for again: its disk is not here any more", id(1))]);
    assert_eq!(lab.count("CreateSnapshot"), 1, "{run}");
}

#[test]
fn an_old_picture_of_the_volume_keeps_none_from_being_made() {
    let (lab, how) = fast("nitro", 100);
    // For longer than the run takes, DescribeVolumes shows the volume as it was before.
    lab.knobs(|k| k.stale_ms = 60_000);
    let config = text(&x(1, r#"snapshot: { on: ["stopping"] }"#));
    let running = started(&lab, &config, how);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["is begun (stopping)"]);
    assert!(lab.count("DescribeVolumes") > 1, "it asked: {run}");
}
