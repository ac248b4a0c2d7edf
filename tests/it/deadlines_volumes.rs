//! A volume that stays `creating`, `attaching`, `detaching` or in use, goes to `error` or vanishes, and a disk that is
//! dead: each ends in an error that names the volume and what it did.

use crate::disks::{directive, id, pool, timed, volume};
use crate::fakeaws::{Fault, FaultKind, VolumeSpec};
use crate::lab::{Lab, Run, Running, once};

const FOR_EVER: u64 = 1 << 40;
const OVER: &str = "the time for it is over";

fn created(lab: &Lab) -> String {
    lab.until("a volume", || !lab.created().is_empty());
    lab.created().remove(0)
}

/// Changes the volume of a run when it has been seen once, and waits for the end.
fn when_seen(lab: &Lab, running: Running, volume: &str, change: impl FnOnce()) -> Run {
    let by_id = |c: &crate::fakeaws::Call| c.status == 200 && c.params.values().any(|v| v == volume);
    lab.until("a look at it", || lab.server.calls_of("DescribeVolumes").iter().any(by_id));
    change();
    running.wait(lab)
}

#[test]
fn a_new_volume_that_stays_creating_is_named_and_what_is_left_of_it() {
    let lab = Lab::new();
    lab.knobs(|k| k.creating_ms = FOR_EVER);
    let run = lab.run(&timed(60, &pool("c", "/dev/xvdf")), once().rate(60));
    let id = created(&lab);
    run.ends(3, &[&format!("the new volume {id} is not available yet: {OVER}")]);
    run.ends(3, &[&format!("d: {id}, which this run created, exists still: "), OVER]);
}

#[test]
fn a_new_volume_that_vanishes_or_goes_to_error_ends_init_at_once() {
    for (error, said) in [(false, "does not exist any more"), (true, "cannot be used: ")] {
        let lab = Lab::new();
        lab.knobs(|k| k.creating_ms = FOR_EVER);
        let running = lab.start(&timed(600, &pool("c", "/dev/xvdf")), once());
        let id = created(&lab);
        let run = when_seen(&lab, running, &id, || {
            let mut world = lab.server.world();
            match error {
                true => world.volumes.get_mut(&id).unwrap().state = "error".into(),
                false => drop(world.volumes.remove(&id)),
            }
        });
        run.ends(1, &[&format!("the new volume {id} {said}"), "KMS key"]);
        assert!(!run.log.contains(OVER), "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn a_volume_that_vanishes_or_goes_to_error_while_it_is_attached_ends_init_at_once() {
    for (error, said) in
        [(false, "vanished while it was being attached"), (true, "was attached as /dev/xvdf and is not")]
    {
        let lab = Lab::new();
        let all = lab.pool_of(1);
        lab.knobs(|k| (k.attaching_stuck, k.device_never) = (true, true));
        let running = lab.start(&timed(600, &volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once().rate(10));
        let run = when_seen(&lab, running, &all[0], || {
            let mut world = lab.server.world();
            match error {
                true => {
                    let v = world.volumes.get_mut(&all[0]).unwrap();
                    v.state = "error".into();
                    v.attachments.clear();
                }
                false => drop(world.volumes.remove(&all[0])),
            }
        });
        run.ends(1, &[&format!("{} {said}", all[0])]);
        assert!(!run.log.contains(OVER), "{run}");
    }
}

#[test]
fn a_volume_by_id_that_stays_creating_is_named() {
    let lab = Lab::new();
    let v = lab.volume(VolumeSpec::default().id(&id(1)));
    lab.server.world().volumes.get_mut(&v).unwrap().state = "creating".into();
    let text = timed(60, &volume("x", "/dev/xvdf", &format!(r#""volume-id": "{v}""#)));
    lab.run(&text, once().rate(60)).ends(1, &[&format!("cannot use {v}: it is still "), OVER]);
}

#[test]
fn a_pool_whose_only_volume_stays_detaching_is_named_and_no_new_one_is_made() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let other = lab.neighbour();
    lab.take(&all[0], &other, "/dev/xvdf");
    lab.set_attachment(&all[0], "detaching", FOR_EVER);
    let run = lab.run(&timed(60, &pool("pc", "/dev/xvdf")), once().rate(60));
    run.ends(1, &[&format!("no volume of pool 'p' became free: {OVER}")]);
    assert_eq!(lab.count("CreateVolume"), 0, "{run}");
}

fn doomed(rest: &str, source: &str) -> String {
    timed(60, &directive(source, "/dev/xvdf", rest, "exit 1"))
}

#[test]
fn a_volume_that_stays_detaching_in_a_roll_back_is_named() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.knobs(|k| k.detaching_ms = FOR_EVER);
    let run = lab.run(&doomed(r#""pool-name": "p""#, "p"), once().rate(60));
    run.ends(3, &[&format!("d: {} stays attached as /dev/xvdf: ", all[0]), OVER]);
}

#[test]
fn a_created_volume_that_stays_in_use_in_a_roll_back_is_named() {
    let lab = Lab::new();
    lab.knobs(|k| k.delete_in_use_ms = FOR_EVER);
    let run = lab.run(&doomed("create: { Size: 4 }", "c"), once().rate(60));
    let id = created(&lab);
    run.ends(3, &[&format!("d: {id}, which this run created, exists still: VolumeInUse"), OVER]);
}

#[test]
fn a_delete_that_hangs_is_named() {
    let lab = Lab::new();
    lab.fault(Fault::every("DeleteVolume", FaultKind::Hang(FOR_EVER)));
    let run = lab.run(&doomed("create: { Size: 4 }", "c"), once().rate(60));
    let id = created(&lab);
    run.ends(3, &[&format!("d: {id}, which this run created, exists still: "), OVER, "no answer in time"]);
}

#[test]
fn a_disk_that_does_not_answer_is_named() {
    let lab = Lab::new();
    let v = lab.volume(VolumeSpec::pool("d", "p").id(&id(1)).attached(&lab.me, "/dev/xvdf"));
    // A pipe to which nobody writes cannot be opened, as a dead disk.
    let node = lab.root(&lab.me).join("dev/nvme1n1");
    lab.until("the disk", || node.exists());
    std::fs::remove_file(&node).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &node, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let run = lab.run(&timed(60, &volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once().rate(60));
    run.ends(1, &[&format!("{v} is attached as /dev/xvdf, but "), "/dev/nvme1n1 cannot be read: ", OVER]);
    assert!(lab.seen().is_empty());
}
