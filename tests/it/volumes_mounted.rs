//! Roll-back with a disk that is mounted: a real loop device with a real file system.

use std::fs::{self, File};
use std::process::{Child, Command};

use crate::disks::{config, directive, id};
use crate::lab::once;
use crate::loops::{lab, mounts};

/// A process that is not the daemon's. Ended when dropped.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn x(n: u32, device: &str, script: &str) -> String {
    directive("x", device, &format!(r#""volume-id": "{}""#, id(n)), script)
}

#[test]
fn what_a_command_mounted_is_written_out_unmounted_and_detached() {
    let Some((lab, loops)) = lab(1) else { return };
    let script = "mount $4 $LAB/mnt && echo saved > $LAB/mnt/file && exit 5";
    let run = lab.run(&config(&x(1, "/dev/xvdf", script)), once());
    run.ends(1, &["exit code 5", "unmounted "]);
    lab.nothing_left(&run);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
    // The data is on the disk.
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&loops[0].device).arg(&point).status().unwrap().success());
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "saved\n");
    drop(loops);
}

#[test]
fn a_mount_that_stands_on_another_volumes_mount_goes_first() {
    let Some((lab, _loops)) = lab(2) else { return };
    let text = config(&format!(
        "{}, {}",
        x(1, "/dev/xvdf", "mount $4 $LAB/mnt && mkdir $LAB/mnt/sub"),
        x(2, "/dev/xvdg", "mount $4 $LAB/mnt/sub && exit 5")
    ));
    let run = lab.run(&text, once());
    run.ends(1, &["exit code 5"]);
    lab.nothing_left(&run);
    assert_eq!(lab.volumes_of("DetachVolume"), [id(2), id(1)], "{run}");
    assert!(mounts(&lab.dir).is_empty(), "{run}");
}

#[test]
fn a_file_that_another_process_has_open_keeps_the_volume_and_is_named() {
    let Some((lab, _loops)) = lab(1) else { return };
    let script = "mount $4 $LAB/mnt && touch $LAB/mnt/file $LAB/first; until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done; exit 5";
    let run = lab.start(&config(&x(1, "/dev/xvdf", script)), once().rate(10));
    lab.until_file("first");
    let file = File::open(lab.dir.join("mnt/file")).unwrap();
    let holder = Foreign(Command::new("sleep").arg("600").stdin(file).spawn().unwrap());
    fs::write(lab.dir.join("go"), "").unwrap();
    let run = run.wait(&lab);
    let who = format!("process {} (sleep): has {}/mnt/file open", holder.0.id(), lab.dir.display());
    run.ends(3, &[&format!("{} stays attached as /dev/xvdf", id(1)), "is still in use", &who]);
    lab.has(&[(&id(1), "/dev/xvdf")], &run);
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
    assert_eq!(mounts(&lab.dir).len(), 1, "still mounted\n{run}");
    drop(holder);
}

#[test]
fn a_process_of_the_commands_that_works_on_the_disk_is_ended() {
    let Some((lab, _loops)) = lab(1) else { return };
    let script = "mount $4 $LAB/mnt && cd $LAB/mnt && { sleep 600 & } ; exit 5";
    let run = lab.run(&config(&x(1, "/dev/xvdf", script)), once().rate(4));
    run.ends(1, &["exit code 5", "unmounted "]);
    lab.nothing_left(&run);
    assert!(mounts(&lab.dir).is_empty(), "{run}");
}

#[test]
fn what_was_mounted_before_the_run_is_not_unmounted() {
    let Some((lab, loops)) = lab(1) else { return };
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&loops[0].device).arg(&point).status().unwrap().success());
    let run = lab.run(&config(&x(1, "/dev/xvdf", "exit 5")), once().rate(10));
    run.ends(3, &[&format!("{} stays attached as /dev/xvdf", id(1)), &format!("mount: {}", point.display())]);
    assert_eq!(mounts(&lab.dir), [point], "{run}");
    assert_eq!(lab.count("DetachVolume"), 0, "{run}");
}

#[test]
fn what_was_mounted_after_a_kill_before_the_disk_was_seen_is_not_cut_off() {
    let Some((lab, loops)) = lab(1) else { return };
    crate::journal::killed_at(&lab, &config(&x(1, "/dev/xvdf", "true")), "AttachVolume", 1);
    lab.until("the disk", || lab.root(&lab.me).join("dev/nvme1n1").exists());
    // Somebody goes on by hand.
    let point = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&loops[0].device).arg(&point).status().unwrap().success());
    for (text, code) in [(config(""), 0), (config(&x(1, "/dev/xvdf", "exit 5")), 3)] {
        let run = lab.run(&text, once().rate(10));
        run.ends(code, &[&format!("{} stays attached as /dev/xvdf", id(1)), &format!("mount: {}", point.display())]);
        lab.has(&[(&id(1), "/dev/xvdf")], &run);
        assert_eq!((mounts(&lab.dir), lab.count("DetachVolume")), (vec![point.clone()], 0), "{run}");
    }
}

#[test]
fn a_disk_that_has_another_number_by_now_is_not_mixed_up_with_another_one() {
    let Some((lab, loops)) = lab(2) else { return };
    let script = crate::disks::HOLD;
    crate::journal::killed_in_command(&lab, &config(&x(1, "/dev/xvdf", script)));
    let point = lab.dir.join("mnt");
    // By hand the volumes changed their places: the first disk is the second volume's now.
    let attach = |volume: &str, device: &str| {
        lab.take(volume, &lab.me, device);
        lab.until("the disk", || lab.server.world().volume(volume).unwrap().attachments[0].node.is_some());
    };
    lab.set_attachment(&id(1), "detaching", 1);
    lab.until("its end", || lab.server.world().volume(&id(1)).unwrap().state == "available");
    attach(&id(2), "/dev/xvdg");
    attach(&id(1), "/dev/xvdf");
    assert!(Command::new("mount").arg(&loops[1].device).arg(&point).status().unwrap().success());
    let run = lab.run(&config(""), once().rate(10));
    run.ends(0, &[&format!("{} detached", id(1))]);
    lab.has(&[(&id(2), "/dev/xvdg")], &run);
    assert_eq!(mounts(&lab.dir), [point], "{run}");
}
