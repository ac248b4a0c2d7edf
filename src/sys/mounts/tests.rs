use std::fs;
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::clock::Clock;
use crate::sys::testing::TestDir;

fn scope(seconds: u64) -> Scope {
    Scope::new(&Arc::new(Clock::new(Some("rate=5")).unwrap()), Duration::from_secs(seconds), None)
}

#[test]
fn a_line_of_mountinfo() {
    let line = br"36 35 98:0 /mnt1 /a\040b\134040 rw,noatime master:1 shared:2 - ext3 /dev/ro\011ot rw,errors=continue";
    let expected = Mount {
        id: 36,
        parent: 35,
        number: (98, 0),
        point: PathBuf::from(r"/a b\040"),
        kind: "ext3".to_owned(),
        source: "/dev/ro\tot".to_owned(),
    };
    assert_eq!(Mount::parse(line), Some(expected));
    for bad in ["", "36", "36 35 98 / / rw - a b c", "36 35 98:0 / / rw ext3 x y", "x 35 98:0 / / rw - a b c"] {
        assert_eq!(Mount::parse(bad.as_bytes()), None, "{bad}");
    }
    assert_eq!(unescape(br"\777\04"), br"\777\04");
}

#[test]
fn mounts_are_found_by_number_and_by_source() {
    let t = TestDir::new();
    t.file("sys/block/nvme1n1/dev", "259:4");
    t.file("sys/block/nvme1n1/nvme1n1p1/dev", "259:5");
    let lines = [
        "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw",
        "40 22 259:5 / /data rw - ext4 /dev/nvme1n1p1 rw",
        "41 22 0:44 /sub /btr rw - btrfs /dev/nvme1n1 rw",
        "42 22 259:5 /x /bind rw - ext4 /dev/nvme1n1p1 rw",
    ];
    t.file("proc/self/mountinfo", &lines.join("\n"));
    let node = t.file("dev/nvme1n1", "");
    let points: Vec<PathBuf> = mounts_of(&t.root(), &node).into_iter().map(|m| m.point).collect();
    assert_eq!(points, ["/data", "/btr", "/bind"].map(PathBuf::from));
    assert_eq!(mounts_of(&TestDir::new().root(), &node), []);
}

#[test]
fn what_was_mounted_before_the_run_is_not_touched() {
    let t = TestDir::new();
    t.file("sys/block/xvdf/dev", "202:80");
    t.file("proc/self/mountinfo", "40 22 202:80 / /data rw - ext4 /dev/xvdf rw\n");
    let node = t.file("dev/xvdf", "");
    let held = unmount_all(&t.root(), &node, &MountSet::take(&t.root()), "vol-1", &scope(1)).unwrap_err();
    assert_eq!(held.to_string(), format!("{} is still in use, held by mount: /data", node.display()));
}

/// The mounts' numbers are made up, so that even without the guard nothing of this machine would be unmounted.
#[test]
fn the_root_file_system_is_never_unmounted() {
    let t = TestDir::new();
    t.file("sys/block/xvdf/dev", "202:80");
    let lines =
        ["4000040 1 202:80 / / rw - ext4 /dev/xvdf rw", "4000041 4000040 202:80 /d /no/such rw - ext4 /dev/xvdf rw\n"];
    t.file("proc/self/mountinfo", &lines.join("\n"));
    let node = t.file("dev/xvdf", "");
    let held = unmount_all(&t.root(), &node, &MountSet::default(), "vol-1", &scope(1)).unwrap_err();
    assert_eq!(held.cause, None, "nothing was tried");
    assert!(held.to_string().ends_with("held by mount: /; mount: /no/such"), "{held}");
}

#[test]
fn text_of_still_held() {
    let holder = |n| Holder { pid: Some(n), comm: "sh".to_owned(), what: "works in /data".to_owned() };
    let mut held = StillHeld { device: "/dev/xvdf".into(), cause: None, holders: vec![holder(1), holder(2)] };
    let text = "/dev/xvdf is still in use, held by process 1 (sh): works in /data; process 2 (sh): works in /data";
    assert_eq!(held.to_string(), text);
    held.cause = Some("cannot unmount /data: denied".to_owned());
    held.holders = (0..9).map(holder).collect();
    assert!(held.to_string().starts_with("/dev/xvdf is still in use: cannot unmount /data: denied, held by process 0"));
    assert!(held.to_string().ends_with("; and 3 more"));
}

/// A loop device with a file system; `None` (and a word why) where that cannot be had.
struct Loop(TestDir, PathBuf);

impl Loop {
    fn new() -> Option<Loop> {
        let t = TestDir::new();
        let image = t.file("image", "");
        fs::File::options().write(true).open(&image).unwrap().set_len(8 << 20).unwrap();
        let run = |argv: &[&str]| {
            let out = Command::new(argv[0]).args(&argv[1..]).output().ok()?;
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let device = run(&["losetup", "-f", "--show", image.to_str().unwrap()]).filter(|d| d.starts_with("/dev/"));
        let made = device.and_then(|d| run(&["mkfs.ext4", "-q", &d]).map(|_| d));
        if made.is_none() {
            println!("skipped: no loop devices or no mkfs.ext4 here");
        }
        made.map(|d| Loop(t, PathBuf::from(d)))
    }

    fn mount(&self, name: &str) -> PathBuf {
        let point = self.0.0.join(name);
        fs::create_dir_all(&point).unwrap();
        assert!(Command::new("mount").arg(&self.1).arg(&point).status().unwrap().success());
        point
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for m in mounts_of(&Root::at(Path::new("/")), &self.1).iter().rev() {
            let _ = Command::new("umount").arg(&m.point).status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.1).status();
    }
}

#[test]
fn a_mounted_disk_is_written_out_and_unmounted_unless_it_is_held() {
    let root = Root::at(Path::new("/"));
    let before = MountSet::take(&root);
    let Some(disk) = Loop::new() else { return };
    let point = disk.mount("data with space");
    disk.mount("twice");
    fs::write(point.join("file"), "data").unwrap();
    assert_eq!(mounts_of(&root, &disk.1).len(), 2);

    let open = fs::File::open(point.join("file")).unwrap();
    let held = unmount_all(&root, &disk.1, &before, "vol-1", &scope(5)).unwrap_err().to_string();
    let me = format!("process {} (", std::process::id());
    assert!(held.contains(&me) && held.contains("data with space/file open"), "{held}");
    drop(open);
    unmount_all(&root, &disk.1, &before, "vol-1", &scope(60)).unwrap();
    assert_eq!(mounts_of(&root, &disk.1), []);
    // What was written is there.
    assert_eq!(fs::read(disk.mount("data with space").join("file")).unwrap(), b"data");
    // Something else over it: not ours to unmount.
    assert!(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&point).status().unwrap().success());
    let held = unmount_all(&root, &disk.1, &before, "vol-1", &scope(5)).unwrap_err().to_string();
    assert!(held.contains("tmpfs at"), "{held}");
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    unmount_all(&root, &disk.1, &before, "vol-1", &scope(60)).unwrap();
}
