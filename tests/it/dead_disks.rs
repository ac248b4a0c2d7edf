//! Disks and file systems that do not answer: whatever is done with them ends in time, and says what it waits for.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::disks::{config, directive, id};
use crate::fakeaws::VolumeSpec;
use crate::lab::{How, Lab, Running, once};
use crate::loops::{Loop, lab, mounts, real_lab, run};

/// A file system that never answers: whoever looks at it waits until this is dropped.
struct Dead {
    device: Option<File>,
    point: PathBuf,
}

impl Dead {
    /// The mount table shows it as a mount of `source` at `point`.
    fn mount(source: &str, point: &Path) -> Option<Dead> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok();
        let mounted = device.and_then(|device| {
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
            let options = std::ffi::CString::new(options).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount(source, point, "fuse", flags, Some(options.as_c_str())).ok()?;
            Some(device)
        });
        if mounted.is_none() {
            println!("skipped: no FUSE here (root is needed)");
        }
        mounted.map(|device| Dead { device: Some(device), point: point.to_path_buf() })
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // From here on everything fails at once.
        drop(self.device.take());
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.point, flags);
    }
}

fn text(volume: &str) -> String {
    let poll = r#"{ "interrupt-detection": { detect: "poll", options: { interval: 0.02 } },"#;
    config(volume).replacen('{', poll, 1)
}

fn x(rest: &str) -> String {
    directive("x", "/dev/xvdf", &format!(r#""volume-id": "{}", {rest}"#, id(1)), "true")
}

fn started(lab: &Lab, text: &str, how: How) -> Running {
    let running = lab.start(text, how);
    running.says(lab, "watching for interruptions");
    running
}

fn unseal(lab: &Lab) {
    let _ = Command::new("chattr").arg("-fi").arg(lab.root(&lab.me).join("data")).status();
}

#[test]
fn a_mount_that_does_not_answer_is_waited_for_with_a_word_and_not_for_ever() {
    for lazy in [false, true] {
        let Some((lab, loops)) = lab(1) else { return };
        let release = format!(r#"release: {{ on: ["interrupted"], lazy: {lazy} }}"#);
        let running = started(&lab, &text(&x(&release)), How::default().rate(20));
        let point = lab.dir.join("mnt");
        let Some(dead) = Dead::mount(loops[0].device.to_str().unwrap(), &point) else { return };
        lab.server.world().notice(&lab.me, "terminate", 120);
        running.says(&lab, &format!("still waiting for the data of {} to be written out", point.display()));
        let run = running.wait(&lab);
        if lazy {
            run.ends(0, &["its data is not written out", &format!("unmounted {} lazily", point.display())]);
            run.ends(0, &[&format!("{} is released", id(1))]);
            lab.nothing_left(&run);
            assert!(mounts(&lab.dir).is_empty(), "{run}");
        } else {
            run.ends(3, &["not released: ", "stays attached", "its data is still being written"]);
            assert_eq!((lab.attached(&lab.me).len(), lab.count("DetachVolume")), (1, 0), "{run}");
        }
        drop(dead);
    }
}

/// The disk of the volume is a file on another one, whose writes stand still.
#[test]
fn a_disk_that_takes_no_more_writes_is_unmounted_lazily_where_the_config_says_so() {
    let lab = real_lab();
    let Some(below) = Loop::ext4(&lab, "below", 64) else { return };
    let base = lab.dir.join("mnt");
    assert!(Command::new("mount").arg(&below.device).arg(&base).status().unwrap().success());
    let file = base.join("disk");
    File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let Some(disk) = Loop::on(&lab, file, &[]) else { return };
    assert!(run("mkfs.ext4", &["-q", "-F", disk.device.to_str().unwrap()]).is_some());
    lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) });
    let rest = r#"mount: { path: "/data" }, release: { on: ["interrupted"], lazy: true }"#;
    let running = started(&lab, &text(&x(rest)), How::default().rate(20));
    assert!(run("fsfreeze", &["--freeze", base.to_str().unwrap()]).is_some());
    fs::write(lab.root(&lab.me).join("data/file"), vec![1; 1 << 20]).unwrap();
    lab.server.world().notice(&lab.me, "terminate", 120);
    let released = format!("{} is released", id(1));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !running.log().contains(&released) && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // A thread that waits for a disk ends with no signal, and so no process with it: that needs the disk.
    assert!(run("fsfreeze", &["--unfreeze", base.to_str().unwrap()]).is_some());
    let end = running.wait(&lab);
    end.ends(0, &["still waiting for the data of ", "its data is not written out", " lazily", &released]);
    // Its own thread that waits is nobody who holds the disk.
    assert!(!end.log.contains("(ec2fleetd): has "), "{end}");
    unseal(&lab);
    drop(disk);
}

#[test]
fn a_place_to_mount_that_does_not_answer_fails_its_directive_in_time() {
    let Some((lab, _loops)) = lab(1) else { return };
    let dead = lab.root(&lab.me).join("dead");
    fs::create_dir(&dead).unwrap();
    let Some(dead) = Dead::mount("nowhere", &dead) else { return };
    let text = text(&x(r#"mount: { path: "/dead/data" }"#)).replacen('{', "{ timeout: 30,", 1);
    let run = lab.run(&text, once().rate(10));
    run.ends(1, &[&format!("cannot mount {} at /dead/data: ", id(1)), "does not answer", "still waiting for "]);
    lab.nothing_left(&run);
    drop(dead);
}

/// PATH has a directory that does not answer: tools are found where they always are.
#[test]
fn a_tool_is_found_though_a_directory_of_the_path_does_not_answer() {
    let Some((lab, _loops)) = lab(1) else { return };
    let bin = lab.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let Some(dead) = Dead::mount("nowhere", &bin) else { return };
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let text = text(&x(r#"mount: { path: "/data" }"#));
    let run = lab.run(&text, once().rate(10).env("PATH", &path));
    run.ends(0, &["is mounted at /data"]);
    drop(dead);
    for point in mounts(&lab.dir).iter().rev() {
        let _ = Command::new("umount").arg(point).status();
    }
    unseal(&lab);
}
