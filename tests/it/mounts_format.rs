//! `mount.format` where something goes wrong: a run that is killed while it formats, a `mkfs` that fails, a consent of
//! which nothing came.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use crate::disks::{config, id};
use crate::fakeaws::{Fault, FaultKind};
use crate::lab::{Lab, Running, once};
use crate::loops::{Loop, mounts, run};
use crate::mounts::{FORMAT, blank, data, end_tool, tool, unmount, with_disk, x};

/// The words for a person.
const CREATE_TAGS: &str =
    "aws ec2 create-tags --resources vol-00000000000000001 --tags Key=user:ec2fd.format,Value=if-blank";

fn consent(lab: &Lab) -> String {
    lab.tag(&id(1), "format")
}

fn give_consent(lab: &Lab) {
    let tag = ("user:ec2fd.format".to_owned(), "if-blank".to_owned());
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.extend([tag]);
}

/// A run that is formatting: its `mkfs` has written something, and will never end.
fn in_mkfs(lab: &Lab) -> Running {
    let half = r#"for last; do :; done; printf half | dd of="$last" conv=notrunc 2>/dev/null
        echo $$ > $LAB/tool-pid; touch $LAB/first; exec sleep 600"#;
    let first = lab.start(&config(&x(FORMAT)), tool(lab, "mkfs.ext4", half));
    lab.until_file("first");
    first
}

/// The parent of the tool: the guard.
fn guard(lab: &Lab) -> String {
    let pid = fs::read_to_string(lab.dir.join("tool-pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().to_owned()
}

fn send(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([format!("-{signal}").as_str(), pid]).status().unwrap().success());
}

fn killed(lab: &Lab, first: Running) {
    first.signal("KILL");
    assert_eq!(first.wait(lab).code, 137);
}

fn has_noted(lab: &Lab) -> bool {
    lab.root(&lab.me).join(format!("run/ec2fleetd/domain.{}.mkfs", id(1))).exists()
}

#[test]
fn a_run_killed_while_it_formats_is_finished_by_the_next_if_nobody_wrote_since() {
    for (what, told) in [
        ("nothing", "was being formatted when an earlier run was cut off"),
        // /run is new: the instance was booted anew, or it is another one.
        ("lost", "it holds data of an unknown kind"),
        ("raw use", "somebody has written it since"),
        // Nobody knows.
        ("guard", "somebody has written it since"),
    ] {
        let Some((lab, disk)) = with_disk(blank, true) else { return };
        let first = in_mkfs(&lab);
        let guard = guard(&lab);
        if what == "guard" {
            // Neither outlives the other.
            first.signal("STOP");
            send("KILL", &guard);
        }
        killed(&lab, first);
        if what == "guard" {
            end_tool(&lab);
        } else {
            // It ends the tool itself, at once.
            lab.until("the guard's note", || has_noted(&lab));
        }
        match what {
            "lost" => lab.lose_journal(),
            "raw use" => {
                // Where the old look would have found half a file system.
                let disk = fs::File::options().write(true).open(&disk.device).unwrap();
                disk.write_all_at(b"precious", 1 << 20).unwrap();
            }
            _ => {}
        }
        let before = fs::read(&disk.device).unwrap();
        let run = lab.run(&config(&x(FORMAT)), once());
        if what == "nothing" {
            run.ends(0, &[told, "is mounted at /data"]);
            assert!(!has_noted(&lab), "{run}");
        } else {
            run.ends(1, &[told]);
            assert!(fs::read(&disk.device).unwrap() == before, "{run}");
        }
        unmount(&lab);
    }
}

#[test]
fn a_file_system_that_was_made_before_the_kill_is_not_made_again() {
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    let slow = r#"/usr/sbin/mkfs.ext4 "$@" || /sbin/mkfs.ext4 "$@"; echo $$ > $LAB/tool-pid; touch $LAB/first; exec sleep 600"#;
    let first = lab.start(&config(&x(FORMAT)), tool(&lab, "mkfs.ext4", slow));
    lab.until_file("first");
    killed(&lab, first);
    end_tool(&lab);
    // Somebody goes on by hand, before the next run.
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&disk.device).arg(&point).status().unwrap().success());
    fs::write(point.join("world"), "precious").unwrap();
    unmount(&lab);
    let run = lab.run(&config(&x(FORMAT)), once());
    run.ends(0, &["is mounted at /data"]);
    assert_eq!(fs::read_to_string(data(&lab).join("world")).unwrap_or_default(), "precious", "{run}");
    unmount(&lab);
}

#[test]
fn what_can_be_found_missing_before_is_and_the_consent_stays() {
    let cases = [
        (r#"fstype: "oddfs""#, "mkfs.oddfs is not on this system"),
        (
            r#"fstype: "xfs", label: "abcdefghijklm""#,
            "\"abcdefghijklm\" has 13 bytes, and a label of xfs has 12 at most",
        ),
        (r#"fstype: "vfat", label: "a*b""#, "'*' cannot be in a label of vfat"),
        (r#"owner: "no-such-user""#, "/etc/passwd"),
        (r#"group: "no-such-group""#, "/etc/group"),
    ];
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    // These are found even where they are not, as far as their names go.
    let mut how = once();
    for name in ["mkfs.xfs", "mkfs.vfat", "fsck.vfat"] {
        how = tool(&lab, name, "touch $LAB/ran; exit 1");
    }
    for (mount, why) in cases {
        let run = lab.run(&config(&x(&format!("{FORMAT}, {mount}"))), how.clone());
        run.ends(1, &["cannot format vol-", why]);
        assert_eq!(consent(&lab), "if-blank", "{run}");
        assert!(disk.is_blank() && !lab.dir.join("ran").exists(), "{run}");
    }
    // As the kernel says it itself.
    let how = tool(&lab, "mkfs.nosuchfs", "touch $LAB/ran; exit 1");
    for (mount, why) in [
        (r#"fstype: "nosuchfs""#, "this kernel does not know the file system"),
        (r#"options: "noatime,nosuchopt""#, "the kernel does not take the option nosuchopt for it"),
        (r#"options: "commit=soon""#, "the kernel does not take the option commit=soon for it"),
    ] {
        let run = lab.run(&config(&x(&format!("{FORMAT}, {mount}"))), how.clone());
        run.ends(1, &["cannot format vol-", why]);
        assert_eq!(consent(&lab), "if-blank", "{run}");
        assert!(disk.is_blank() && !lab.dir.join("ran").exists(), "{run}");
    }
    let first = |argv: &str| config(&x(FORMAT)).replace("\"/bin/sh\"", argv);
    for (argv, why) in [
        ("\"/no/such/program\"", "/no/such/program, the first command, cannot be run"),
        ("\"no-such-program\"", "no-such-program, the first command, cannot be run: not found in PATH"),
        ("\"/etc/passwd\"", "/etc/passwd, the first command, cannot be run"),
        ("\"/data/start\"", "/data/start, the first command, cannot be on a disk that is blank"),
    ] {
        let run = lab.run(&first(argv), once());
        run.ends(1, &["cannot format vol-", why]);
        assert_eq!(consent(&lab), "if-blank", "{run}");
        assert!(disk.is_blank(), "{run}");
    }
}

#[test]
fn a_label_that_is_too_long_is_told_by_check_and_what_has_a_file_system_is_mounted() {
    let Some((lab, _disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 8), false) else { return };
    let long = |fstype: &str, label: &str| config(&x(&format!(r#"{FORMAT}, fstype: "{fstype}", label: "{label}""#)));
    let check = |text: &str| {
        let file = lab.file("checked.json5", text);
        let out = Command::new(env!("CARGO_BIN_EXE_ec2fleetd")).arg("--check").arg("--userdata").arg(file).output();
        let out = out.unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (fstype, label, told) in [
        ("xfs", "abcdefghijklm", "has 13 bytes, and a label of xfs has 12 at most: nothing will be formatted"),
        ("ext4", "abcdefghijklmnopq", "has 17 bytes, and a label of ext4 has 16 at most: it is cut"),
        ("vfat", "abcdefghijkl", "a label of vfat has 11 at most"),
        ("vfat", "w\u{e9}lt", "cannot be in a label of vfat"),
        ("exfat", "\u{1f600}bcdefghijkl", "has 13 characters, and a label of exfat has 11 at most"),
        ("btrfs", &"x".repeat(256), "a label of btrfs has 255 at most"),
        ("ntfs", &"x".repeat(129), "a label of ntfs has 128 at most"),
        ("f2fs", &"x".repeat(513), "a label of f2fs has 512 at most"),
    ] {
        let (code, log) = check(&long(fstype, label));
        assert!(
            code == Some(0) && log.contains(told) && log.contains("].mount.label: line"),
            "{fstype} {code:?} {log}"
        );
    }
    for (fstype, label) in [
        ("xfs", "abcdefghijkl"),
        ("ext4", "abcdefghijklmnop"),
        ("vfat", "my disk"),
        ("odd", "0123456789012345678901234567890"),
    ] {
        let (code, log) = check(&long(fstype, label));
        assert!(code == Some(0) && !log.contains("label"), "{fstype} {log}");
    }
    let run = lab.run(&long("ext4", "abcdefghijklmnopq"), once());
    run.ends(0, &["is mounted at /data (ext4)", "it is cut"]);
    unmount(&lab);
}

#[test]
fn a_mkfs_that_wrote_nothing_uses_up_no_consent_here() {
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    let how = tool(&lab, "mkfs.ext4", "echo no such luck >&2; exit 7");
    for given in ["if-blank", ""] {
        assert_eq!(consent(&lab), given);
        let run = lab.run(&config(&x(FORMAT)), how.clone());
        run.ends(1, &["cannot format", "exit code 7", "no such luck", "it has written nothing", CREATE_TAGS]);
        assert_eq!(consent(&lab), "", "{run}");
        assert!(disk.is_blank(), "{run}");
        lab.nothing_left(&run);
    }
    let run = lab.run(&config(&x(FORMAT)), once());
    run.ends(0, &["is blank: making a file system", "is mounted at /data"]);
    unmount(&lab);
    // It was for one.
    fs::write(&disk.device, vec![0; 32 << 20]).unwrap();
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["give it the tag user:ec2fd.format = if-blank"]);
    assert!(disk.is_blank());
}

#[test]
fn the_consent_is_this_instances_and_this_boots() {
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    let how = tool(&lab, "mkfs.ext4", "exit 7");
    lab.run(&config(&x(FORMAT)), how.clone()).ends(1, &[CREATE_TAGS]);
    lab.lose_journal();
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["give it the tag user:ec2fd.format = if-blank"]);
    // What is on the disk counts all the same.
    give_consent(&lab);
    lab.run(&config(&x(FORMAT)), how).ends(1, &[CREATE_TAGS]);
    fs::File::options().write(true).open(&disk.device).unwrap().write_all_at(b"world", 3 << 20).unwrap();
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["it holds data of an unknown kind"]);
    // Where it wrote something, that is said.
    fs::write(&disk.device, vec![0; 32 << 20]).unwrap();
    let how = tool(&lab, "mkfs.ext4", r#"for last; do :; done; printf half | dd of="$last" conv=notrunc; exit 7"#);
    lab.run(&config(&x(FORMAT)), how).ends(1, &["the disk may be half formatted", CREATE_TAGS]);
}

#[test]
fn a_consent_that_was_refused_to_be_taken_off_can_be_taken_back() {
    let Some((lab, disk)) = with_disk(blank, true) else { return };
    lab.server.world().deny("EC2:DeleteTags");
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["remove user:ec2fd.format"]);
    lab.server.world().permit("EC2:DeleteTags");
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.remove("user:ec2fd.format");
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["give it the tag user:ec2fd.format = if-blank"]);
    assert!(disk.is_blank());
    // One whose answer was lost was given, and is off.
    give_consent(&lab);
    lab.fault(Fault::every("DeleteTags", FaultKind::ErrorAfter500));
    let run = lab.run(&config(&x(FORMAT)).replacen('{', "{ timeout: 20,", 1), once().rate(20));
    run.ends(1, &["remove user:ec2fd.format"]);
    assert_eq!(consent(&lab), "", "{run}");
    lab.server.world().faults.clear();
    lab.run(&config(&x(FORMAT)), once()).ends(0, &["is mounted at /data"]);
    unmount(&lab);
}

#[test]
fn a_tool_that_is_missing_or_fails_is_named() {
    let Some((lab, _disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 8), false) else { return };
    let how = tool(&lab, "fsck.ext4", "echo UNEXPECTED INCONSISTENCY; exit 4");
    let run = lab.run(&config(&x("")), how);
    run.ends(1, &["fsck.ext4 ended with 4: it has errors that a person must look at", "UNEXPECTED INCONSISTENCY"]);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
    // Repaired is well, and skip asks nobody.
    lab.run(&config(&x("")), tool(&lab, "fsck.ext4", "exit 1")).ends(0, &["is mounted at /data"]);
    unmount(&lab);
    lab.run(&config(&x(r#"fsck: "skip""#)), tool(&lab, "fsck.ext4", "exit 8")).ends(0, &["is mounted at /data"]);
    unmount(&lab);
}

#[test]
fn a_check_that_is_too_old_leaves_it_to_the_kernel() {
    let with_features = |which: &str, value: &str| {
        let made = with_disk(|lab| Loop::ext4(lab, "disk", 8), false)?;
        let set = format!("set_super_value {which} {value}");
        let done = run("debugfs", &["-w", "-R", &set, made.1.device.to_str().unwrap()]);
        if done.is_none() {
            println!("skipped: no debugfs");
        }
        done.map(|_| made)
    };
    // One that the kernel need not know, and one that it must.
    let Some((lab, _disk)) = with_features("feature_compat", "0x80000038") else { return };
    let run = lab.run(&config(&x("")), once().env("LC_ALL", "de_DE.UTF-8"));
    run.ends(0, &["fsck.ext4 is too old for it", "unsupported feature(s): FEATURE_C31", "is mounted at /data (ext4)"]);
    unmount(&lab);
    let Some((lab, _disk)) = with_features("feature_incompat", "0x800002c2") else { return };
    let run = lab.run(&config(&x("")), once());
    run.ends(1, &["fsck.ext4 is too old for it", "cannot mount vol-"]);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
    // Its words are looked at, in words that are known; other 4s and 8s are what they are.
    let Some((lab, _disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 8), false) else { return };
    let how = tool(&lab, "fsck.ext4", "echo $LC_ALL > $LAB/locale; echo Bad magic number in super-block; exit 8");
    let run = lab.run(&config(&x("")), how.env("LC_ALL", "de_DE.UTF-8"));
    run.ends(1, &["fsck.ext4 ended with 8: the check could not be done"]);
    assert_eq!(lab.lines("locale"), ["C"], "{run}");
}

#[test]
fn the_file_system_of_a_disk_that_was_partitioned_later_is_left_alone() {
    let made = |lab: &Lab, kind: &str| {
        let make = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disks/make.sh");
        let file = lab.dir.join("disk");
        run(make, &[kind, file.to_str().unwrap()])?;
        Loop::on(lab, file, &[])
    };
    for (kind, wanted) in [("ext4+mbr", "ext4 and MBR"), ("btrfs+gpt", "btrfs and GPT and MBR")] {
        let Some((lab, disk)) = with_disk(|lab| made(lab, kind), true) else { continue };
        let before = fs::read(&disk.device).unwrap();
        let how = tool(&lab, "fsck.ext4", "touch $LAB/checked");
        let run = lab.run(&config(&x(FORMAT)), how);
        run.ends(1, &[&format!("it holds {wanted}: a file system of the whole disk beside a partition table")]);
        assert!(fs::read(&disk.device).unwrap() == before && !lab.dir.join("checked").exists(), "{run}");
        assert!(mounts(&lab.dir).is_empty(), "{run}");
    }
    // Of a table that only the kernel knows there are partitions all the same.
    let Some((lab, _disk)) = with_disk(|lab| Loop::ext4(lab, "disk", 8), false) else { return };
    lab.take(&id(1), &lab.me.clone(), "/dev/xvdf");
    let sys = lab.root(&lab.me).join("sys/block/nvme1n1");
    lab.until("the disk", || sys.exists());
    let partition: PathBuf = sys.join("nvme1n1p1");
    fs::create_dir(&partition).unwrap();
    fs::write(partition.join("dev"), "259:77\n").unwrap();
    let how = tool(&lab, "fsck.ext4", "touch $LAB/checked");
    let run = lab.run(&config(&x("")), how);
    run.ends(1, &["it holds ext4 and partitions"]);
    assert!(mounts(&lab.dir).is_empty() && !lab.dir.join("checked").exists(), "{run}");
    fs::remove_dir_all(&partition).unwrap();
    lab.run(&config(&x("")), once()).ends(0, &["is mounted at /data"]);
    unmount(&lab);
}
