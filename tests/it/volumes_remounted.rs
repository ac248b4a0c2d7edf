//! Between our unmount and EC2's end of the attachment somebody may come back to the disk: an automount, a mount unit, a
//! program that opens it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::disks::{config, directive, id};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::{How, Lab, Running, once};
use crate::loops::{Loop, mounts, real_lab_of};

/// Mounts a disk whenever it is not mounted, until it is dropped.
struct Remounter {
    stop: Arc<AtomicBool>,
    /// How often that worked.
    done: Arc<Mutex<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl Remounter {
    fn new(device: &Path, point: PathBuf) -> Remounter {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (device, stop_, done_) = (device.to_path_buf(), stop.clone(), done.clone());
        let work = move || {
            while !stop_.load(Ordering::Relaxed) {
                // As the kernel does it for an automount: no program to start.
                let is_mounted = mounts(&point).contains(&point);
                let flags = rustix::mount::MountFlags::empty();
                if !is_mounted && rustix::mount::mount(&device, &point, "ext4", flags, None).is_ok() {
                    *done_.lock().unwrap() += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Remounter { stop, done, thread: Some(std::thread::spawn(work)) }
    }

    fn end(&mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|t| t.join().unwrap());
        *self.done.lock().unwrap()
    }
}

impl Drop for Remounter {
    fn drop(&mut self) {
        self.end();
    }
}

fn disk(hypervisor: &str) -> Option<(Lab, Loop)> {
    let lab = real_lab_of(InstanceSpec { hypervisor: hypervisor.into(), ..InstanceSpec::default() });
    let disk = Loop::ext4(&lab, "disk", 4)?;
    lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(1)) });
    Some((lab, disk))
}

fn x(rest: &str, script: &str) -> String {
    let rest = format!(r#""volume-id": "{}", mount: {{ path: "/data" }}{rest}"#, id(1));
    config(&directive("x", "/dev/xvdf", &rest, script))
}

fn data(lab: &Lab) -> PathBuf {
    lab.root(&lab.me).join("data")
}

fn started(lab: &Lab) -> Running {
    started_as(lab, How::default())
}

fn started_as(lab: &Lab, how: How) -> Running {
    let running = lab.start(&x(r#", release: ["stopping"]"#, "true"), how);
    running.says(lab, "watching for interruptions");
    lab.until("the last tags", || lab.tag_keys(&id(1)) == ["owner", "ts-used"]);
    running
}

/// All calls about tags take so long: that is the time between the unmount and DetachVolume.
fn slow_tags(lab: &Lab) {
    lab.knobs(|k| {
        k.action_latency_ms = [("EC2:CreateTags".to_owned(), 700), ("EC2:DeleteTags".to_owned(), 700)].into()
    });
}

fn clean_up(lab: &Lab) {
    for point in mounts(&lab.dir).iter().rev() {
        let _ = Command::new("umount").arg(point).status();
    }
    let _ = Command::new("chattr").arg("-fi").arg(data(lab)).status();
}

#[test]
fn nobody_mounts_it_again_until_it_is_gone() {
    let Some((lab, disk)) = disk("nitro") else { return };
    let running = started(&lab);
    slow_tags(&lab);
    lab.knobs(|k| k.detaching_ms = 500);
    let mut remounter = Remounter::new(&disk.device, data(&lab));
    running.signal("TERM");
    lab.until("it is free", || lab.state(&id(1)) == "available");
    // From here on the disk is another machine's.
    remounter.end();
    let run = running.wait(&lab);
    clean_up(&lab);
    run.ends(0, &["unmounted ", &format!("{} is released", id(1))]);
    assert!(!run.log.contains("busy"), "{run}");
    lab.nothing_left(&run);
}

#[test]
fn a_roll_back_holds_it_too() {
    let Some((lab, disk)) = disk("nitro") else { return };
    let running = lab.start(&x("", &format!("{}; exit 5", crate::disks::HOLD)), once());
    lab.until_file("first");
    slow_tags(&lab);
    let mut remounter = Remounter::new(&disk.device, data(&lab));
    lab.file("go", "");
    lab.until("it is free", || lab.state(&id(1)) == "available");
    remounter.end();
    let run = running.wait(&lab);
    clean_up(&lab);
    run.ends(1, &["exit code 5", &format!("{} detached", id(1))]);
    assert!(!run.log.contains("busy"), "{run}");
    lab.nothing_left(&run);
}

#[test]
fn where_a_disk_cannot_be_held_it_is_looked_at_and_its_holder_named() {
    let Some((lab, disk)) = disk("xen") else { return };
    let running = started(&lab);
    // Nobody comes: it must not be our own hold that keeps it.
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &[&format!("{} is released", id(1))]);
    lab.nothing_left(&run);
    clean_up(&lab);
    for remains in [false, true] {
        let running = started_as(&lab, How::default().rate(5));
        slow_tags(&lab);
        lab.server.reset_calls();
        running.signal("TERM");
        lab.until("the time of use", || lab.count("CreateTags") == 1);
        let file = File::open(&disk.device).unwrap();
        running.says(&lab, &format!("process {} (", std::process::id()));
        running.says(&lab, "; trying until ");
        assert_eq!(lab.count("DetachVolume"), 0, "{}", running.log());
        let file = Some(file).filter(|_| remains);
        let run = running.wait(&lab);
        drop(file);
        clean_up(&lab);
        if remains {
            run.ends(3, &["stays attached", &format!("process {} (", std::process::id())]);
            assert_eq!(lab.count("DetachVolume"), 0, "{run}");
            lab.has(&[(&id(1), "/dev/xvdf")], &run);
        } else {
            run.ends(0, &[&format!("{} is released", id(1))]);
            lab.nothing_left(&run);
        }
    }
}

#[test]
fn who_comes_all_the_same_is_named_when_ec2_says_busy() {
    for remains in [true, false] {
        let Some((lab, disk)) = disk("nitro") else { return };
        let running = started_as(&lab, How::default().rate(5));
        slow_tags(&lab);
        lab.server.world().hold(&id(1));
        lab.server.reset_calls();
        running.signal("TERM");
        lab.until("the time of use", || lab.count("CreateTags") == 1);
        // A plain open is nothing that an exclusive one keeps out.
        let node = lab.root(&lab.me).join("dev/nvme1n1");
        let file = File::open(&disk.device).unwrap();
        running.says(&lab, "EC2 says busy: ");
        let named = format!("process {} (", std::process::id());
        running.says(&lab, &named);
        if !remains {
            drop(file);
            lab.server.world().release(&id(1));
            let run = running.wait(&lab);
            run.ends(0, &[&format!("{} is released", id(1))]);
            lab.nothing_left(&run);
        } else {
            let run = running.wait(&lab);
            run.ends(3, &["not released: ", "stays attached as /dev/xvdf: EC2 says busy: process "]);
            assert!(fs::exists(node).unwrap(), "{run}");
            drop(file);
        }
        clean_up(&lab);
    }
}
