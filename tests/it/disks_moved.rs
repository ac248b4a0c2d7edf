//! Names of disks that move while the daemon runs: somebody detaches, attaches others and attaches again. Whatever is
//! done long after the claim is done to the volume's own disk, and to no other.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{HOLD, directive, id};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::kit::on;
use crate::lab::{How, Lab, Run, Running, once};
use crate::loops::{Loop, mounts, real_lab_of};
use crate::snapshots_frozen::{stands_still, until_it_has_written, writer};

fn text(volumes: &str) -> String {
    format!(
        r#"{{ "interrupt-detection": {{ detect: "poll", options: {{ interval: 0.02 }} }},
            domains: {{ d: {{ "attach-volume": [{volumes}], exec: [{}] }} }} }}"#,
        on(&["stopping"], &[])
    )
}

fn x(n: u32, device: &str, rest: &str, script: &str) -> String {
    directive("x", device, &format!(r#""volume-id": "{}", {rest}"#, id(n)), script)
}

/// Two volumes on disks with file systems, on either kind of instance.
fn disks(hypervisor: &str) -> Option<(Lab, Vec<Loop>)> {
    let lab = real_lab_of(InstanceSpec { hypervisor: hypervisor.into(), ..InstanceSpec::default() });
    let mut loops = Vec::new();
    for n in [1, 2] {
        let disk = Loop::ext4(&lab, &format!("disk{n}"), 4)?;
        lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(n)) });
        loops.push(disk);
    }
    Some((lab, loops))
}

fn data(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("data")
}

fn mount(disk: &Loop, point: &Path) {
    assert!(Command::new("mount").arg(&disk.device).arg(point).status().unwrap().success());
}

fn attach(lab: &Lab, volume: &str, device: &str) {
    lab.take(volume, &lab.me, device);
    lab.until("the disk", || lab.server.world().volume(volume).unwrap().attachments[0].node.is_some());
}

fn detach(lab: &Lab, volume: &str) {
    lab.set_attachment(volume, "detaching", 1);
    lab.until("its end", || lab.server.world().volume(volume).unwrap().state == "available");
}

/// Volume 2 gets the name of volume 1, which comes back under another one. Both are mounted: 1 at `/data` again.
fn move_names(lab: &Lab, loops: &[Loop]) {
    let old = node(lab, 1);
    assert!(Command::new("umount").arg(data(lab)).status().unwrap().success());
    detach(lab, &id(1));
    attach(lab, &id(2), "/dev/xvdf");
    attach(lab, &id(1), "/dev/xvdg");
    assert_eq!(node(lab, 2), old, "the name has moved");
    mount(&loops[0], &data(lab));
    mount(&loops[1], &lab.dir.join("mnt"));
}

fn node(lab: &Lab, n: u32) -> String {
    lab.server.world().volume(&id(n)).unwrap().attachments[0].node.clone().unwrap()
}

fn started(lab: &Lab, rest: &str) -> Running {
    let volume = x(1, "/dev/xvdf", &format!(r#"mount: {{ path: "/data" }}, {rest}"#), "true");
    let running = lab.start(&text(&volume), How::default());
    running.says(lab, "watching for interruptions");
    running
}

fn ends(lab: &Lab, running: Running) -> Run {
    lab.server.world().notice(&lab.me, "terminate", 120);
    let run = running.wait(lab);
    let _ = Command::new("chattr").arg("-fi").arg(data(lab)).status();
    run
}

/// Volume 2 is as it was: attached, mounted, and no call was about it.
#[track_caller]
fn the_other_is_untouched(lab: &Lab, run: &Run) {
    assert_eq!(mounts(&lab.dir), [lab.dir.join("mnt")], "{run}");
    assert!(lab.attached(&lab.me).iter().any(|(v, _)| *v == id(2)), "{run}");
    let about = |v: &String| v.contains(&id(2));
    assert!(!lab.server.writes().iter().any(|c| c.params.values().any(about)), "{run}");
}

#[test]
fn a_release_unmounts_the_disk_of_the_volume_whatever_its_name_is_by_now() {
    for hypervisor in ["nitro", "xen"] {
        let Some((lab, loops)) = disks(hypervisor) else { return };
        let running = started(&lab, r#"release: ["interrupted"]"#);
        move_names(&lab, &loops);
        let run = ends(&lab, running);
        run.ends(0, &[&format!("unmounted {}", data(&lab).display()), &format!("{} is released", id(1))]);
        assert_eq!(lab.state(&id(1)), "available", "{run}");
        the_other_is_untouched(&lab, &run);
    }
}

#[test]
fn a_lazy_release_too() {
    let Some((lab, loops)) = disks("nitro") else { return };
    let running = started(&lab, r#"release: { on: ["interrupted"], lazy: true }"#);
    move_names(&lab, &loops);
    let file = std::fs::File::create(data(&lab).join("file")).unwrap();
    lab.server.world().notice(&lab.me, "terminate", 11);
    let run = running.wait(&lab);
    run.ends(0, &["unmounting lazily, as the config says"]);
    let _ = Command::new("chattr").arg("-fi").arg(data(&lab)).status();
    the_other_is_untouched(&lab, &run);
    drop(file);
}

#[test]
fn a_snapshot_freezes_the_disk_of_the_volume_whatever_its_name_is_by_now() {
    for hypervisor in ["nitro", "xen"] {
        let Some((lab, loops)) = disks(hypervisor) else { return };
        let running = started(&lab, r#"snapshot: { on: ["interrupted"] }, release: ["interrupted"]"#);
        move_names(&lab, &loops);
        lab.knobs(|k| k.action_latency_ms = [("EC2:CreateSnapshot".to_owned(), 1500)].into());
        lab.server.world().notice(&lab.me, "terminate", 120);
        lab.until("it is asked for", || lab.count("CreateSnapshot") == 1);
        let (own, other) = (writer(&data(&lab)), writer(&lab.dir.join("mnt")));
        lab.until("the write waits", || stands_still(&own));
        until_it_has_written(&lab, other);
        until_it_has_written(&lab, own);
        let run = ends(&lab, running);
        run.ends(0, &["is begun (interrupted)", "is released"]);
        the_other_is_untouched(&lab, &run);
    }
}

#[test]
fn a_disk_that_is_not_there_any_more_is_not_unmounted_by_its_old_name() {
    for hypervisor in ["nitro", "xen"] {
        let Some((lab, loops)) = disks(hypervisor) else { return };
        let running = started(&lab, r#"snapshot: { on: ["interrupted"] }, release: ["interrupted"]"#);
        let neighbour = lab.neighbour();
        assert!(Command::new("umount").arg(data(&lab)).status().unwrap().success());
        detach(&lab, &id(1));
        attach(&lab, &id(2), "/dev/xvdf");
        mount(&loops[1], &lab.dir.join("mnt"));
        // Another instance has the volume by now.
        lab.take(&id(1), &neighbour, "/dev/xvdf");
        lab.until("the last tags", || lab.tag_keys(&id(1)) == ["owner", "ts-used"]);
        lab.server.reset_calls();
        let run = ends(&lab, running);
        run.ends(0, &[&format!("{} is not attached here any more", id(1))]);
        the_other_is_untouched(&lab, &run);
        assert!(lab.server.writes().is_empty(), "nothing of it is ours any more: {run}");
        assert_eq!(lab.attached(&neighbour), [(id(1), "/dev/xvdf".to_owned())], "{run}");
    }
}

#[test]
fn a_roll_back_unmounts_the_disk_of_the_volume_whatever_its_name_is_by_now() {
    for hypervisor in ["nitro", "xen"] {
        let Some((lab, loops)) = disks(hypervisor) else { return };
        let script = &format!("{HOLD}; exit 5");
        let volume = x(1, "/dev/xvdf", r#"mount: { path: "/data" }"#, script);
        let running = lab.start(&text(&volume), once());
        lab.until_file("first");
        move_names(&lab, &loops);
        lab.file("go", "");
        let run = running.wait(&lab);
        let _ = Command::new("chattr").arg("-fi").arg(data(&lab)).status();
        run.ends(1, &["exit code 5", &format!("unmounted {}", data(&lab).display()), &format!("{} detached", id(1))]);
        the_other_is_untouched(&lab, &run);
    }
}

#[test]
fn a_mount_after_a_long_command_is_of_the_disk_of_the_volume() {
    for hypervisor in ["nitro", "xen"] {
        let Some((lab, loops)) = disks(hypervisor) else { return };
        let third = Loop::ext4(&lab, "disk3", 4).unwrap();
        lab.volume(VolumeSpec { backing: Some(third.device.clone()), ..VolumeSpec::default().id(&id(3)) });
        let all = [x(1, "/dev/xvdf", "critical: true", HOLD), x(2, "/dev/xvdh", r#"mount: { path: "/data" }"#, "true")];
        let running = lab.start(&text(&all.join(", ")), once());
        lab.until_file("first");
        lab.until("both", || {
            lab.attached(&lab.me).len() == 2 && running.log().contains(&format!("{} attached", id(2)))
        });
        let old = node(&lab, 2);
        detach(&lab, &id(2));
        attach(&lab, &id(3), "/dev/xvdh");
        attach(&lab, &id(2), "/dev/xvdi");
        assert_eq!(node(&lab, 3), old);
        lab.file("go", "");
        let run = running.wait(&lab);
        run.ends(0, &["is mounted at /data"]);
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|l| l.contains(data(&lab).to_str().unwrap())).unwrap();
        let number =
            std::fs::read_to_string(format!("/sys/block/{}/dev", loops[1].device.file_name().unwrap().display()));
        assert!(line.contains(&format!(" {} ", number.unwrap().trim())), "{line} {run}");
        let _ = Command::new("umount").arg(data(&lab)).status();
        let _ = Command::new("chattr").arg("-fi").arg(data(&lab)).status();
    }
}
