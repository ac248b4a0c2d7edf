//! Disks as the real tools make them: each is recognised, none is ever formatted, whatever else goes wrong.
//!
//! `tests/disks/make.sh` makes them; `tests/vm/case_disks.py` does the same on real NVMe disks, with the kernel's md and
//! device mapper.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::disks::{config, id};
use crate::fakeaws::VolumeSpec;
use crate::lab::{How, Lab, once};
use crate::loops::{Loop, mounts, real_lab, run};
use crate::matrix::all;
use crate::matrix_kills::kill_how;
use crate::mounts::{FORMAT, blank, data, tool, unmount, with_disk, x};

const MAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disks/make.sh");

/// Every kind, and what it is called.
fn kinds() -> Vec<(String, String)> {
    let list = run(MAKE, &["list"]).unwrap();
    list.lines().map(|l| l.split_once(' ').unwrap()).map(|(k, w)| (k.to_owned(), w.to_owned())).collect()
}

/// A disk of this kind; `None`, and a line that says why, where it cannot be made.
fn made(lab: &Lab, kind: &str) -> Option<Loop> {
    let file = lab.dir.join("disk");
    let out = Command::new(MAKE).arg(kind).arg(&file).output().unwrap();
    if out.status.code() == Some(77) {
        print!("skipped: {kind}: {}", String::from_utf8_lossy(&out.stdout));
        return None;
    }
    assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
    Loop::on(lab, file, &[])
}

/// Every `mkfs` that there is notes that it was called, what it saw first, and does its work or not.
fn recorded(lab: &Lab, real: bool) -> How {
    let mut how = once();
    for name in ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "ntfs"] {
        let saw = r#"for last; do :; done
            [ -z "$(tr -d '\0' <"$last" | head -c 1)" ] && echo blank >> $LAB/mkfs || echo data >> $LAB/mkfs"#;
        let then = if real { r#"PATH=/usr/sbin:/sbin exec ${0##*/} "$@""# } else { "exit 9" };
        how = tool(lab, &format!("mkfs.{name}"), &format!("{saw}\n{then}"));
    }
    how
}

fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").arg("-s").args([a, b]).status().unwrap().success()
}

#[test]
fn every_kind_is_recognised_and_never_formatted() {
    let seen = all(&kinds(), |(kind, wanted)| {
        let Some((lab, disk)) = with_disk(|lab| made(lab, kind), true) else { return 0 };
        let before = lab.dir.join("before");
        assert!(Command::new("cp").arg("--sparse=always").args([&disk.file, &before]).status().unwrap().success());
        // Even where the config wants another file system than there is.
        let fstype = if wanted.starts_with("ext") { "xfs" } else { "ext4" };
        let run = lab.run(&config(&x(&format!(r#"{FORMAT}, fstype: "{fstype}""#))), recorded(&lab, false));
        run.ends(1, &[&format!("it holds {wanted}")]);
        assert!(lab.lines("mkfs").is_empty() && mounts(&lab.dir).is_empty(), "{kind} {run}");
        assert_eq!(lab.tag(&id(1), "format"), "if-blank", "{kind} {run}");
        assert!(same(&disk.file, &before), "{kind} {run}");
        lab.nothing_left(&run);
        1
    });
    println!("{} kinds on loop devices", seen.iter().sum::<u32>());
}

#[test]
fn every_file_system_that_the_kernel_knows_is_mounted() {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    for kind in ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "ntfs"] {
        let Some((lab, _disk)) = with_disk(|lab| made(lab, kind), true) else { continue };
        // Checked by its own fsck, where it has one that is run before a mount.
        let run = lab.run(&config(&x(FORMAT)), recorded(&lab, false));
        if known.lines().any(|l| l.split('\t').nth(1) == Some(kind)) {
            run.ends(0, &[&format!("is mounted at /data ({kind})")]);
            assert_eq!(fs::read_to_string(data(&lab).join("file")).unwrap(), "saved\n", "{run}");
        } else {
            println!("skipped: {kind}: this kernel does not know it");
            run.ends(1, &["this kernel does not know the file system"]);
        }
        assert!(lab.lines("mkfs").is_empty(), "{run}");
        unmount(&lab);
    }
}

#[test]
fn what_is_copied_or_grown_is_xfs_like_any_other() {
    // Two disks with one UUID at once, as a snapshot and its volume have; the second is larger than its file system.
    let lab = real_lab();
    let Some(disk) = made(&lab, "xfs") else { return };
    if !fs::read_to_string("/proc/filesystems").unwrap().contains("\txfs") {
        println!("skipped: this kernel does not know xfs");
        return;
    }
    let copy = lab.dir.join("copy");
    assert!(Command::new("cp").args([&disk.file, &copy]).status().unwrap().success());
    File::options().write(true).open(&copy).unwrap().set_len(480 << 20).unwrap();
    let Some(copy) = Loop::on(&lab, copy, &[]) else { return };
    lab.volume(VolumeSpec { backing: Some(copy.device.clone()), ..VolumeSpec::default().id(&id(1)) });
    let first = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&disk.device).arg(&first).status().unwrap().success());
    let run = lab.run(&config(&x("")), once());
    run.ends(0, &["is mounted at /data (xfs)", "growing it"]);
    let size = || {
        let out = self::run("stat", &["-f", "-c", "%b %S", data(&lab).to_str().unwrap()]).unwrap();
        let (blocks, block) = out.split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * block.parse::<u64>().unwrap()
    };
    if run.log.contains("cannot grow it") {
        println!("skipped: xfs_growfs may not here");
    } else {
        assert!(size() > 400 << 20, "{} {run}", size());
    }
    unmount(&lab);
}

#[test]
fn a_disk_that_cannot_be_read_or_is_too_short_is_unknown() {
    let Some((lab, disk)) = with_disk(
        |lab| {
            File::create(lab.dir.join("disk")).unwrap().set_len(512 << 10).unwrap();
            Loop::on(lab, lab.dir.join("disk"), &[])
        },
        true,
    ) else {
        return;
    };
    let run = lab.run(&config(&x(FORMAT)), recorded(&lab, false));
    run.ends(1, &["what is on it cannot be told: it has 524288 bytes only"]);
    assert!(disk.is_blank() && lab.lines("mkfs").is_empty(), "{run}");
    // The file behind it ends before the disk does: what is read there is an I/O error, where the loop device reads
    // directly.
    let direct = |lab: &Lab| {
        File::create(lab.dir.join("disk")).unwrap().set_len(32 << 20).unwrap();
        Loop::on(lab, lab.dir.join("disk"), &["--direct-io=on"])
    };
    let Some((lab, disk)) = with_disk(direct, true) else { return };
    File::options().write(true).open(&disk.file).unwrap().set_len(20 << 20).unwrap();
    let mut last = [0; 512];
    if File::open(&disk.device).unwrap().read_exact_at(&mut last, (32 << 20) - 512).is_ok() {
        println!("skipped: no I/O error can be had of a loop device here");
        return;
    }
    let run = lab.run(&config(&x(FORMAT)), recorded(&lab, false));
    run.ends(1, &["what is on it cannot be told: ", "os error 5"]);
    assert!(lab.lines("mkfs").is_empty(), "{run}");
    assert_eq!(lab.tag(&id(1), "format"), "if-blank", "{run}");
}

/// Where a run is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// At a step of writing the journal.
    Step(u32),
    /// At the nth call of an action, before or after it is carried out.
    Call(&'static str, u32, bool),
}

#[test]
fn whenever_a_run_is_killed_mkfs_meets_no_data() {
    let mut cases: Vec<(Kill, bool)> = Vec::new();
    for dirty in [false, true] {
        cases.extend((1..=24).map(|n| (Kill::Step(n), dirty)));
        for after in [false, true] {
            let calls = [("DescribeVolumes", 1), ("AttachVolume", 1), ("CreateTags", 1), ("DescribeVolumes", 2)];
            let calls = calls.into_iter().chain([("DeleteTags", 1)].into_iter().filter(|_| !dirty));
            cases.extend(calls.map(|(action, nth)| (Kill::Call(action, nth, after), dirty)));
        }
    }
    let ends = all(&cases, |(kill, dirty)| {
        let (lab, disk) = with_disk(blank, true)?;
        if *dirty {
            // In the one place where a superblock could be that nobody has thought of.
            File::options().write(true).open(&disk.device).unwrap().write_all_at(b"world", 3 << 20).unwrap();
        }
        let text = config(&x(FORMAT));
        let how = recorded(&lab, true);
        match kill {
            Kill::Step(n) => drop(lab.run(&text, how.clone().env("EC2FLEETD_DIE", &n.to_string()))),
            Kill::Call(action, nth, after) => drop(kill_how(&lab, &text, how.clone(), action, *nth, *after)),
        }
        for point in mounts(&lab.dir) {
            assert!(Command::new("umount").arg(point).status().unwrap().success());
        }
        // A consent that went with the call is in the journal.
        let run = lab.run(&text, how);
        let told = format!("{kill:?} {dirty} {run}");
        let calls = lab.lines("mkfs");
        if *dirty {
            run.ends(1, &["it holds data of an unknown kind"]);
            assert!(calls.is_empty(), "{told}");
        } else {
            run.ends(0, &["is mounted at /data (ext4)"]);
            assert!(calls.first().is_some_and(|c| c == "blank"), "{calls:?} {told}");
            // A second one only where the first was cut off.
            assert!(calls.len() <= 2, "{calls:?} {told}");
        }
        unmount(&lab);
        Some(calls.len())
    });
    println!("{} kills around mkfs", ends.iter().flatten().count());
}
