//! Real disks: loop devices. They need root; tests say so and pass where they cannot be had.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::disks::id;
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::Lab;

/// A loop device on a file. Taken down when dropped, with whatever is mounted below the lab's directory.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
    pub(crate) file: PathBuf,
    below: PathBuf,
}

/// What a program prints, if it ends well.
pub(crate) fn run(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

impl Loop {
    /// A disk of so many MiB, all zero.
    pub(crate) fn blank(lab: &Lab, name: &str, size: u64) -> Option<Loop> {
        let file = lab.dir.join(name);
        File::create(&file).unwrap().set_len(size << 20).unwrap();
        Loop::on(lab, file, &[])
    }

    /// The disk that a file is.
    pub(crate) fn on(lab: &Lab, file: PathBuf, options: &[&str]) -> Option<Loop> {
        let arguments = [options, &["--find", "--show", file.to_str().unwrap()]].concat();
        let made = Some(()).filter(|()| Path::new("/dev/loop-control").exists());
        let Some(device) = made.and_then(|()| run("losetup", &arguments)) else {
            println!("skipped: no loop device can be had here (root is needed)");
            return None;
        };
        // EBS knows no discard: a `mkfs` does not find zeros because it asked for them.
        let queue = Path::new("/sys/block").join(Path::new(&device).file_name().unwrap_or_default()).join("queue");
        let _ = fs::write(queue.join("discard_max_bytes"), "0");
        Some(Loop { device: device.into(), file, below: lab.dir.clone() })
    }

    /// The same with a file system.
    pub(crate) fn ext4(lab: &Lab, name: &str, size: u64) -> Option<Loop> {
        let disk = Loop::blank(lab, name, size)?;
        run("mkfs.ext4", &["-q", "-F", disk.device.to_str().unwrap()]).map(|_| disk)
    }

    /// Whether the disk is as it was made: all zero.
    pub(crate) fn is_blank(&self) -> bool {
        fs::read(&self.device).unwrap().iter().all(|b| *b == 0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for point in mounts(&self.below).iter().rev() {
            let _ = Command::new("umount").arg(point).status();
        }
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// What is mounted below a directory, in order.
pub(crate) fn mounts(below: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|p| p.starts_with(below)).collect()
}

/// A lab whose instance sees the real `/proc`, and what the kernel counts of real disks.
pub(crate) fn real_lab() -> Lab {
    real_lab_of(InstanceSpec::default())
}

/// The same with an instance of this kind.
pub(crate) fn real_lab_of(spec: InstanceSpec) -> Lab {
    let lab = Lab::with(spec);
    let proc = lab.root(&lab.me).join("proc");
    fs::remove_dir_all(&proc).unwrap();
    std::os::unix::fs::symlink("/proc", &proc).unwrap();
    let sys = lab.root(&lab.me).join("sys");
    fs::create_dir_all(&sys).unwrap();
    std::os::unix::fs::symlink("/sys/dev", sys.join("dev")).unwrap();
    fs::create_dir(lab.dir.join("mnt")).unwrap();
    lab
}

/// The same with volume `n` on each of some loop devices with a file system.
pub(crate) fn lab(count: u32) -> Option<(Lab, Vec<Loop>)> {
    let lab = real_lab();
    let mut loops = Vec::new();
    for n in 1..=count {
        let disk = Loop::ext4(&lab, &format!("disk{n}"), 4)?;
        lab.volume(VolumeSpec { backing: Some(disk.device.clone()), ..VolumeSpec::default().id(&id(n)) });
        loops.push(disk);
    }
    Some((lab, loops))
}
