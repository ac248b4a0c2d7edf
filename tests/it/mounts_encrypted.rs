//! Encrypted volumes: what nobody wrote to them reads as noise, and noise alone is no proof.

use std::fs;

use crate::disks::{config, directive, id};
use crate::fakeaws::{SnapshotSpec, VolumeSpec};
use crate::lab::{Lab, once};
use crate::loops::{Loop, mounts, real_lab};
use crate::matrix::all;
use crate::matrix_kills::kill_how;
use crate::mounts::{FORMAT, NOTE, blank, end_tool, tool, unmount, x};

/// A directive that creates, with a file system at `/data`.
fn creates(create: &str) -> String {
    directive("c", "/dev/xvdf", &format!(r#"create: {{ {create} }}, mount: {{ path: "/data", {FORMAT} }}"#), NOTE)
}

/// A lab whose next new volume is on a disk of this machine.
fn with_spare() -> Option<(Lab, Loop)> {
    let lab = real_lab();
    let disk = blank(&lab)?;
    lab.server.world().spare_disks.push(disk.device.clone());
    Some((lab, disk))
}

/// Volume 1 on a disk of this machine, encrypted and with consent.
fn encrypted(spec: impl FnOnce(VolumeSpec) -> VolumeSpec) -> Option<(Lab, Loop)> {
    let lab = real_lab();
    let disk = blank(&lab)?;
    let plain = VolumeSpec { encrypted: true, backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) };
    lab.volume(spec(plain.tag("user:ec2fd.format", "if-blank")));
    Some((lab, disk))
}

#[test]
fn a_new_encrypted_volume_gets_its_file_system() {
    for by_default in [false, true] {
        let Some((lab, disk)) = with_spare() else { return };
        lab.knobs(|k| k.encrypt_by_default = by_default);
        let text = config(&creates(if by_default { "Size: 1" } else { "Size: 1, Encrypted: true" }));
        let run = lab.run(&text, once());
        run.ends(0, &["making a file system (ext4) on it", "is mounted at /data"]);
        assert!(!disk.is_blank(), "{run}");
        assert_eq!(lab.count("CreateVolume"), 1, "{run}");
        unmount(&lab);
        lab.run(&text, once()).ends(0, &["is mounted at /data"]);
        assert_eq!(lab.lines("files"), ["lost+found", "file", "lost+found"], "{run}");
        unmount(&lab);
    }
}

#[test]
fn each_kind_of_file_system_can_be_made_on_noise() {
    for (fstype, size) in [("xfs", 320), ("btrfs", 128)] {
        let lab = real_lab();
        let Some(disk) = Loop::blank(&lab, "disk", size) else { return };
        if crate::loops::run(&format!("mkfs.{fstype}"), &["-V"]).is_none() {
            println!("skipped: no mkfs.{fstype}");
            continue;
        }
        lab.server.world().spare_disks.push(disk.device.clone());
        let text =
            config(&creates("Size: 1, Encrypted: true")).replace(FORMAT, &format!(r#"{FORMAT}, fstype: "{fstype}""#));
        lab.run(&text, once())
            .ends(0, &["nothing was ever written to vol-", &format!("is mounted at /data ({fstype})")]);
        unmount(&lab);
    }
}

#[test]
fn a_run_that_was_killed_before_it_formatted_is_finished_by_the_next() {
    // With the journal, and with what the tags tell: it is still in transit.
    for (lost, fault) in [(false, "mkfs"), (true, "attached")] {
        let Some((lab, _disk)) = with_spare() else { return };
        let text = config(&creates("Size: 1, Encrypted: true"));
        let how = match fault {
            "mkfs" => tool(&lab, "mkfs.ext4", "echo $$ > $LAB/tool-pid; touch $LAB/first; exec sleep 600"),
            _ => {
                lab.knobs(|k| k.device_ms = 3_600_000);
                lab.server.world().deny("EC2:DeleteTags");
                once()
            }
        };
        let first = lab.start(&text, how);
        match fault {
            "mkfs" => drop(lab.until_file("first")),
            _ => lab.until("the attachment", || !lab.attached(&lab.me).is_empty()),
        }
        first.signal("KILL");
        assert_eq!(first.wait(&lab).code, 137);
        if fault == "mkfs" {
            end_tool(&lab);
        }
        lab.server.world().permit("EC2:DeleteTags");
        if lost {
            lab.lose_journal();
            let mut w = lab.server.world();
            let now = w.now_ms();
            w.volumes.values_mut().flat_map(|v| &mut v.attachments).for_each(|a| a.device_due = Some(now));
        }
        let run = lab.run(&text, once());
        run.ends(0, &["making a file system", "is mounted at /data"]);
        assert_eq!(lab.created().len(), 1, "{run}");
        unmount(&lab);
    }
}

#[test]
fn a_volume_of_the_pool_needs_consent_and_no_trace_of_a_use() {
    let Some((lab, _disk)) = encrypted(|spec| spec) else { return };
    lab.run(&config(&x(FORMAT)), once()).ends(0, &["making a file system", "is mounted at /data"]);
    assert_eq!(lab.tag(&id(1), "format"), "");
    unmount(&lab);
    for (tag, value) in [
        ("user:ec2fd.ts-used", "2026-01-02T03:04:05Z"),
        ("user:ec2fd.owner", "i-0aaaaaaaaaaaaaaaa"),
        ("user:ec2fd.lineage", "vol-0aaaaaaaaaaaaaaaa"),
    ] {
        let Some((lab, disk)) = encrypted(|spec| spec.tag(tag, value)) else { return };
        let before = fs::read(&disk.device).unwrap();
        let run = lab.run(&config(&x(FORMAT)), once());
        run.ends(1, &["it holds noise", &format!("its tag {tag} tells of a use")]);
        assert!(fs::read(&disk.device).unwrap() == before && mounts(&lab.dir).is_empty(), "{run}");
        assert_eq!(lab.tag(&id(1), "format"), "if-blank", "{run}");
        lab.nothing_left(&run);
    }
}

#[test]
fn noise_is_not_blank_where_nothing_says_so() {
    // Not encrypted, as far as EC2 knows: somebody else's cipher.
    let Some((lab, disk)) = encrypted(|spec| spec) else { return };
    lab.server.world().volumes.get_mut(&id(1)).unwrap().encrypted = false;
    let before = fs::read(&disk.device).unwrap();
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["it holds noise", "EC2 does not say that it is encrypted"]);
    // Made of a snapshot.
    lab.server.world().volumes.get_mut(&id(1)).unwrap().encrypted = true;
    lab.server.world().volumes.get_mut(&id(1)).unwrap().snapshot = Some("snap-1".into());
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["it holds noise", "it was made from snap-1"]);
    lab.server.world().volumes.get_mut(&id(1)).unwrap().snapshot = None;
    lab.server.world().volumes.get_mut(&id(1)).unwrap().source = Some("vol-2".into());
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["it holds noise", "it was made from vol-2"]);
    lab.server.world().volumes.get_mut(&id(1)).unwrap().source = None;
    // Without leave, and without consent.
    lab.run(&config(&x("")), once()).ends(1, &["mount.format is never"]);
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.remove("user:ec2fd.format");
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["give it the tag user:ec2fd.format = if-blank"]);
    // Something that has a shape among it.
    lab.server.world().volumes.get_mut(&id(1)).unwrap().tags.insert("user:ec2fd.format".into(), "if-blank".into());
    let mut shaped = before.clone();
    shaped[8 << 20..(8 << 20) + 4096].fill(b'x');
    fs::write(&disk.device, &shaped).unwrap();
    lab.run(&config(&x(FORMAT)), once()).ends(1, &["it holds data of an unknown kind"]);
    assert!(fs::read(&disk.device).unwrap() == shaped);
    assert_eq!(lab.tag(&id(1), "format"), "if-blank");
}

#[test]
fn what_was_used_once_is_not_formatted_by_a_later_run() {
    let Some((lab, disk)) = with_spare() else { return };
    let text = config(&creates("Size: 1, Encrypted: true"));
    // Its commands may do with it what they like where it is not mounted: cipher it themselves.
    let bare = config(&directive("c", "/dev/xvdf", "create: { Size: 1, Encrypted: true }", "true"));
    lab.run(&bare, once()).ends(0, &[]);
    let before = fs::read(&disk.device).unwrap();
    let run = lab.run(&text, once());
    run.ends(1, &["it holds noise"]);
    assert!(fs::read(&disk.device).unwrap() == before, "{run}");
}

#[test]
fn a_copy_of_an_encrypted_volume_is_somebodys_data() {
    let Some((lab, disk)) = with_spare() else { return };
    let snapshot = "snap-0123456789abcdef0";
    lab.server.world().add_snapshot(SnapshotSpec { encrypted: true, ..SnapshotSpec::new(1).id(snapshot) });
    let run = lab.run(&config(&creates(&format!("SnapshotId: \"{snapshot}\""))), once());
    run.ends(1, &["it holds noise", &format!("it was made from {snapshot}")]);
    assert!(!disk.is_blank());
}

/// Where a run is killed.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// At a step of writing the journal.
    Step(u32),
    /// At the first call of an action, before or after it is carried out.
    Call(&'static str, bool),
}

#[test]
fn whenever_a_run_is_killed_the_next_one_finishes_it() {
    let mut cases = Vec::new();
    for made in [false, true] {
        cases.extend((1..=24).map(|n| (made, Kill::Step(n))));
        let calls = ["DescribeVolumes", "CreateVolume", "AttachVolume", "CreateTags", "DeleteTags"];
        cases.extend(calls.iter().flat_map(|call| [false, true].map(|after| (made, Kill::Call(call, after)))));
    }
    let ends = all(&cases, |(made, kill)| {
        let ((lab, _disk), text) = if *made {
            (with_spare()?, config(&creates("Size: 1, Encrypted: true")))
        } else {
            (encrypted(|spec| spec)?, config(&x(FORMAT)))
        };
        match kill {
            Kill::Step(n) => drop(lab.run(&text, once().env("EC2FLEETD_DIE", &n.to_string()))),
            Kill::Call(action, after) => drop(kill_how(&lab, &text, once(), action, 1, *after)),
        }
        // As after the end of whatever used it.
        unmount(&lab);
        let run = lab.run(&text, once());
        run.ends(0, &["is mounted at /data (ext4)"]);
        assert_eq!((lab.created().len(), lab.tag(&id(1), "format").as_str()), (usize::from(*made), ""), "{run}");
        unmount(&lab);
        Some(())
    });
    println!("{} kills around an encrypted volume", ends.iter().flatten().count());
}
