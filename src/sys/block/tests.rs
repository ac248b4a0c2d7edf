use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::sys::testing::TestDir;

const EBS: &str = "Amazon Elastic Block Store";

fn nvme(t: &TestDir, name: &str, model: &str, serial: &str) {
    t.file(&format!("sys/block/{name}/device/model"), &format!("{model:<40}\n"));
    t.file(&format!("sys/block/{name}/device/serial"), &format!("{serial:<20}\n"));
}

#[test]
fn a_volume_is_found_by_its_serial() {
    let t = TestDir::new();
    nvme(&t, "nvme0n1", EBS, "vol0aaaaaaaaaaaaaaaa");
    nvme(&t, "nvme1n1", "Amazon EC2 NVMe Instance Storage", "vol0bbbbbbbbbbbbbbbb");
    nvme(&t, "nvme2c2n1", EBS, "vol0cccccccccccccccc");
    nvme(&t, "nvme3n1", EBS, "vol0dddddddddddddddd");
    t.file("sys/block/nvme3n1/hidden", "1\n");
    nvme(&t, "nvme10n1", EBS, "vol0123");
    let found = |id| find_by_serial(&t.root(), id).map(|p| p.strip_prefix(&t.0).unwrap().display().to_string());
    assert_eq!(found("vol-0aaaaaaaaaaaaaaaa").as_deref(), Some("dev/nvme0n1"));
    assert_eq!(found("vol-0123").as_deref(), Some("dev/nvme10n1"));
    for absent in ["vol-0bbbbbbbbbbbbbbbb", "vol-0cccccccccccccccc", "vol-0dddddddddddddddd", "vol-012", ""] {
        assert_eq!(found(absent), None, "{absent}");
    }
    // Only the serial counts: another hypervisor has its own model.
    nvme(&t, "nvme11n1", "QEMU NVMe Ctrl", "vol0eeeeeeeeeeeeeeee");
    assert_eq!(found("vol-0eeeeeeeeeeeeeeee").as_deref(), Some("dev/nvme11n1"));
    assert!(has_ebs_serials(&t.root()));
    assert!(!has_ebs_serials(&TestDir::new().root()));
}

#[test]
fn of_two_disks_with_one_serial_the_live_one_that_came_last_counts() {
    let id = "vol-0aaaaaaaaaaaaaaaa";
    // What tells them apart: state, size, number, and how the live one is known.
    let state = ("device/state", "dead", "live");
    for (file, dead, live) in [state, ("size", "0", "8"), ("diskseq", "9", "10"), ("device/state", "deleting", "live")]
    {
        for (old, new) in [("nvme1n1", "nvme2n1"), ("nvme2n1", "nvme1n1")] {
            let t = TestDir::new();
            for (name, text) in [(old, dead), (new, live)] {
                nvme(&t, name, EBS, "vol0aaaaaaaaaaaaaaaa");
                t.file(&format!("sys/block/{name}/{file}"), &format!("{text}\n"));
            }
            assert_eq!(find_by_serial(&t.root(), id), Some(t.0.join("dev").join(new)), "{file} {old} {new}");
        }
    }
    // A kernel without numbers: by the time of the nodes.
    let t = TestDir::new();
    for name in ["nvme2n1", "nvme1n1"] {
        nvme(&t, name, EBS, "vol0aaaaaaaaaaaaaaaa");
        t.file(&format!("dev/{name}"), "");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(find_by_serial(&t.root(), id), Some(t.0.join("dev/nvme1n1")));
    // Alone it is what there is, to be unmounted.
    std::fs::remove_dir_all(t.0.join("sys/block/nvme1n1")).unwrap();
    t.file("sys/block/nvme2n1/device/state", "dead\n");
    assert_eq!(find_by_serial(&t.root(), id), Some(t.0.join("dev/nvme2n1")));
}

#[test]
fn names_map_and_the_disk_of_the_root_is_never_found() {
    let t = TestDir::new();
    for name in ["xvda", "xvdf", "xvdbb"] {
        t.file(&format!("dev/{name}"), "");
        t.file(&format!("sys/block/{name}/dev"), if name == "xvda" { "202:0" } else { "202:80" });
    }
    t.file("sys/block/xvda/xvda1/dev", "202:1");
    t.file("proc/self/mountinfo", "22 1 202:1 / / rw - ext4 /dev/xvda1 rw\n");
    let found = |name| find_by_name(&t.root(), name).map(|n| n.path.strip_prefix(&t.0).unwrap().display().to_string());
    for name in ["/dev/sdf", "/dev/xvdf", "sdf"] {
        assert_eq!(found(name).as_deref(), Some("dev/xvdf"));
    }
    assert_eq!(found("/dev/xvdbb").as_deref(), Some("dev/xvdbb"));
    for name in ["/dev/sda", "/dev/xvdg", "/dev/nvme1n1", "/dev/xvd", "/dev/xvd../x", "/dev/sdf123"] {
        assert_eq!(found(name), None, "{name}");
    }
    assert_eq!(names_in_use(&t.root()), ["xvda", "xvdbb", "xvdf"]);
}

#[test]
fn a_kernel_that_shifts_names_is_known_by_its_root() {
    let t = TestDir::new();
    for name in ["xvde", "xvdf", "xvdj"] {
        t.file(&format!("dev/{name}"), "");
        t.file(&format!("sys/block/{name}/size"), "8");
    }
    let found = |name| find_by_name(&t.root(), name).map(|n| n.path.file_name().unwrap().to_owned());
    assert_eq!(found("/dev/sdf").unwrap(), "xvdf");
    t.file("proc/self/mountinfo", "22 1 202:65 / / rw - ext4 /dev/xvde1 rw\n");
    assert_eq!(found("/dev/sdf").unwrap(), "xvdj");
    assert_eq!(found("/dev/xvdf").unwrap(), "xvdf");
}

#[test]
fn a_mapping_that_holds_the_root_and_an_instance_store_are_known() {
    let t = TestDir::new();
    nvme(&t, "nvme0n1", EBS, "vol01");
    t.file("sys/block/nvme0n1/holders/dm-0/x", "");
    t.file("sys/block/dm-0/dev", "253:0");
    nvme(&t, "nvme1n1", "Amazon EC2 NVMe Instance Storage", "AWS01");
    nvme(&t, "nvme2n1", EBS, "vol02");
    t.file("proc/self/mountinfo", "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n");
    let never = |name: &str| is_root_or_instance_store(&t.root(), &t.root().path("/dev").join(name));
    assert_eq!(["nvme0n1", "nvme1n1", "nvme2n1"].map(never), [true, true, false]);
}

#[test]
fn only_a_disk_that_came_after_the_snapshot_has_appeared() {
    let t = TestDir::new();
    t.file("dev/xvdf", "old");
    let before = NameSnapshot::take(&t.root());
    assert_eq!(before.appeared(&t.root(), "/dev/sdf"), None);
    std::fs::write(t.0.join("dev/xvdf"), "written to").unwrap();
    assert_eq!(before.appeared(&t.root(), "/dev/sdf"), None);
    t.file("dev/xvdg", "");
    assert!(before.appeared(&t.root(), "/dev/sdg").is_some());
    // Detached and another one attached under the same name.
    std::fs::remove_file(t.0.join("dev/xvdf")).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    t.file("dev/xvdf", "new");
    assert!(before.appeared(&t.root(), "/dev/sdf").is_some());
}

#[test]
fn a_node_is_ready_when_it_opens() {
    let t = TestDir::new();
    let clock = Arc::new(Clock::new(None).unwrap());
    let scope = |ms| Scope::new(&clock, Duration::from_millis(ms), None);
    assert!(node_ready(&t.0.join("dev/xvdf"), &scope(60_000)).is_err());
    assert!(node_ready(&t.file("dev/xvdf", ""), &scope(60_000)).is_ok());
    // What cannot even be opened, as a disk that is dead: a pipe to which nobody writes.
    let dead = t.0.join("dev/xvdg");
    rustix::fs::mknodat(CWD, &dead, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert_eq!(node_ready(&dead, &scope(20)).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn looks_get_rarer() {
    let steps =
        |heard| [0, 249, 250, 999, 1000, 4999, 5000, 60_000].map(|ms| Pace::step(heard, Duration::from_millis(ms)));
    assert_eq!(steps(false).map(|d| d.as_millis()), [5, 5, 5, 5, 25, 25, 100, 100]);
    assert_eq!(steps(true).map(|d| d.as_millis()), [5, 5, 100, 100, 100, 100, 100, 100]);
    let clock = Arc::new(Clock::new(None).unwrap());
    let scope = Scope::new(&clock, Duration::from_millis(3), None);
    for root in [TestDir::new().root(), Root::at(Path::new("/"))] {
        let mut pace = Pace::start(&root, &scope);
        assert!(root.is_real() || !pace.announced.is_heard());
        let end = std::iter::repeat_with(|| pace.wait(&scope)).find(Result::is_err);
        assert_eq!(end, Some(Err(Halt::Deadline)));
    }
}
