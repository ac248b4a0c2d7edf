//! From "attached" to a disk: by serial on Nitro, by name on Xen, and what happens when it does not come.

use std::fs;

use crate::disks::{config, id, timed, volume};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::{Lab, once};

const SEE_DISK: &str = "basename $4 >> $LAB/disk";

fn p(device: &str) -> String {
    crate::disks::directive("p", device, r#""pool-name": "p""#, SEE_DISK)
}

fn xen() -> Lab {
    Lab::with(InstanceSpec { hypervisor: "xen".into(), ..InstanceSpec::default() })
}

#[test]
fn hidden_nodes_of_multipath_are_no_disks() {
    let lab = Lab::with(InstanceSpec { multipath: true, ..InstanceSpec::default() });
    lab.pool_of(1);
    let run = lab.run(&config(&p("/dev/xvdf")), once());
    run.ends(0, &[]);
    assert_eq!(lab.lines("disk"), ["nvme1n1"], "{run}");
}

#[test]
fn the_serial_decides_and_not_the_order_of_the_disks() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    for n in 3..6 {
        lab.volume(
            VolumeSpec::default().id(&id(n)).attached(&lab.me, &format!("/dev/xvd{}", char::from(b'm' + n as u8))),
        );
    }
    // A serial that only begins like ours, and a disk of the requested name: neither is the volume.
    let root = lab.root(&lab.me);
    let sys = root.join("sys/block/nvme9n1");
    fs::create_dir_all(sys.join("device")).unwrap();
    fs::write(sys.join("device/serial"), format!("{}0 \n", all[0].replace('-', ""))).unwrap();
    fs::write(sys.join("device/model"), "Amazon Elastic Block Store\n").unwrap();
    fs::write(root.join("dev/nvme9n1"), "").unwrap();
    fs::write(root.join("dev/xvdf"), "").unwrap();
    let run = lab.run(&config(&p("/dev/xvdf")), once());
    run.ends(0, &[]);
    assert_eq!(lab.lines("disk"), ["nvme4n1"], "{run}");
}

/// What is left of an attachment of before, as long as somebody uses it: it has the serial, and reading it hangs.
#[test]
fn a_dead_disk_with_the_serial_is_not_the_volume() {
    for late in [1, 400] {
        let lab = Lab::new();
        let all = lab.pool_of(1);
        let root = lab.root(&lab.me);
        let sys = root.join("sys/block/nvme1n1/device");
        fs::create_dir_all(&sys).unwrap();
        fs::write(sys.join("serial"), all[0].replace('-', "")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("dev/nvme1n1"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        lab.knobs(|k| k.device_ms = late);
        let run = lab.run(&timed(600, &p("/dev/xvdf")), once().rate(60));
        run.ends(0, &[]);
        assert_eq!(lab.lines("disk"), ["nvme2n1"], "{run}");
    }
}

#[test]
fn a_disk_that_comes_late_is_waited_for() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    lab.knobs(|k| (k.attaching_ms, k.device_ms) = (100, 900));
    let run = lab.run(&config(&p("/dev/xvdf")), once().rate(10));
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
}

#[test]
fn a_disk_that_never_comes_ends_with_the_timeout_and_is_rolled_back() {
    for hypervisor in ["nitro", "xen"] {
        let lab = Lab::with(InstanceSpec { hypervisor: hypervisor.into(), ..InstanceSpec::default() });
        let all = lab.pool_of(1);
        lab.knobs(|k| k.device_never = true);
        let run = lab.run(&timed(60, &volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once().rate(60));
        run.ends(1, &[&format!("{} is attached as /dev/xvdf, but", all[0]), "the time for it is over"]);
        lab.nothing_left(&run);
        assert!(lab.seen().is_empty());
        assert_eq!(lab.tag_keys(&all[0]), ["domain", "pool-name"], "{run}");
    }
}

#[test]
fn an_attachment_that_is_stuck_ends_with_the_timeout_and_is_rolled_back() {
    for hypervisor in ["nitro", "xen"] {
        let lab = Lab::with(InstanceSpec { hypervisor: hypervisor.into(), ..InstanceSpec::default() });
        lab.pool_of(1);
        lab.knobs(|k| k.attaching_stuck = true);
        let run = lab.run(&timed(60, &volume("p", "/dev/xvdf", r#""pool-name": "p""#)), once().rate(60));
        run.ends(1, &[&format!("{} is attached as /dev/xvdf, but", id(1)), "the time for it is over"]);
        lab.nothing_left(&run);
    }
}

#[test]
fn on_xen_the_requested_name_is_the_disk() {
    for device in ["/dev/sdf", "/dev/xvdf", "/dev/xvdba"] {
        let lab = xen();
        let all = lab.pool_of(1);
        let run = lab.run(&config(&p(device)), once());
        run.ends(0, &[]);
        lab.has(&[(&all[0], device)], &run);
        let name = device.trim_start_matches("/dev/").replace("sd", "xvd");
        assert_eq!(lab.lines("disk"), [name], "{run}");
        // And again, where it was attached before.
        lab.server.reset_calls();
        let run = lab.run(&config(&p(device)), once());
        run.ends(0, &[]);
        assert!(lab.server.writes().is_empty(), "{run}");
        assert_eq!(lab.lines("disk").len(), 2);
    }
}

#[test]
fn on_xen_a_node_that_was_there_before_is_not_taken_for_the_volume() {
    let lab = xen();
    let all = lab.pool_of(1);
    fs::write(lab.root(&lab.me).join("dev/xvdf"), "an old disk").unwrap();
    lab.knobs(|k| k.device_never = true);
    let text = timed(30, &volume("p", "/dev/xvdf", r#""pool-name": "p""#));
    let run = lab.run(&text, once().rate(30));
    run.ends(1, &[&format!("{} is attached as /dev/xvdf, but", all[0])]);
    assert!(lab.seen().is_empty(), "{run}");
    lab.nothing_left(&run);
}

#[test]
fn on_xen_the_disk_counts_only_once_ec2_says_attached() {
    let lab = xen();
    lab.pool_of(1);
    lab.knobs(|k| (k.attaching_ms, k.device_ms) = (700, 10));
    let run = lab.run(&config(&p("/dev/xvdf")), once().rate(5));
    run.ends(0, &[]);
    let claimed = lab.server.calls_of("AttachVolume")[0].at_ms;
    let used = lab
        .server
        .calls_of("CreateTags")
        .iter()
        .filter(|c| c.params["Tag.1.Key"].ends_with("ts-used"))
        .map(|c| c.at_ms)
        .next();
    assert!(used.unwrap() >= claimed + 700, "{run}");
}

#[test]
fn an_instance_store_with_the_same_serial_pattern_is_no_volume() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let sys = lab.root(&lab.me).join("sys/block/nvme1n1/device");
    fs::create_dir_all(&sys).unwrap();
    fs::write(sys.join("serial"), "AWS0123456789\n").unwrap();
    fs::write(sys.join("model"), "Amazon EC2 NVMe Instance Storage\n").unwrap();
    fs::write(lab.root(&lab.me).join("dev/nvme1n1"), "").unwrap();
    let run = lab.run(&config(&p("/dev/xvdf")), once());
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdf")], &run);
    assert_eq!(lab.lines("disk"), ["nvme2n1"], "{run}");
}
