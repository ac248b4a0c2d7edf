//! The guest's side of an attachment: files under the instance's root directory that look like sysfs and `/dev`.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::instances::Instance;
use super::volumes::{Attachment, Volume};
use super::world::World;

pub(crate) mod noise;

/// The file or device that holds the data of a volume: it outlives attachments, and moves with the volume.
pub(crate) fn backing(world: &World, v: &Volume) -> PathBuf {
    if let Some(path) = &v.backing {
        return path.clone();
    }
    let dir = world.dir.join("disks");
    let path = dir.join(format!("{}.img", v.id));
    if !path.exists() {
        let _ = fs::create_dir_all(&dir);
        if let Ok(f) = fs::File::create(&path) {
            let _ = f.set_len(world.knobs.disk_bytes);
        }
        if v.encrypted {
            let _ = noise::cover(&path, &v.id);
        }
    }
    path
}

/// Whether it is a disk of the real machine.
pub(crate) fn is_block_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// Whether a device of the real machine that backs this volume is mounted here.
pub(crate) fn mounted(v: &Volume) -> bool {
    let Some(dev) = v.backing.as_deref().and_then(numbers) else { return false };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|l| l.split(' ').nth(2) == Some(dev.as_str()))
}

/// `major:minor` of a real block device.
fn numbers(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    if !meta.file_type().is_block_device() {
        return None;
    }
    let dev = meta.rdev();
    Some(format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev)))
}

fn write(path: &Path, text: &str) {
    if let Some(dir) = path.parent() {
        let _ = fs::create_dir_all(dir);
    }
    let _ = fs::write(path, text);
}

/// Shows the disk of a new attachment in the guest; gives the name of its node.
pub(crate) fn plug(world: &World, v: &Volume, a: &Attachment) -> Option<String> {
    let instance = world.instances.get(&a.instance)?;
    let root = instance.spec.root.clone()?;
    if world.knobs.device_never && a.device != instance.root_device {
        return None;
    }
    let data = backing(world, v);
    let node = if instance.spec.hypervisor == "xen" { xen_name(&a.device) } else { free_nvme(&root, instance, a) };
    let sys = root.join("sys/block").join(&node);
    if instance.spec.hypervisor != "xen" {
        // The kernel pads these with spaces to 20 and 40 characters.
        let serial = format!("{:<20}\n", v.id.replace('-', ""));
        let model = format!("{:<40}\n", "Amazon Elastic Block Store");
        write(&sys.join("device/serial"), &serial);
        write(&sys.join("device/model"), &model);
        if instance.spec.multipath {
            let number: String = node.chars().skip(4).take_while(char::is_ascii_digit).collect();
            let hidden = root.join("sys/block").join(format!("nvme{number}c{number}n1"));
            write(&hidden.join("hidden"), "1\n");
            write(&hidden.join("device/serial"), &serial);
            write(&hidden.join("device/model"), &model);
        }
    }
    // Seeking tells the size of a real device too; its metadata does not.
    let size = fs::File::open(&data).and_then(|mut f| f.seek(SeekFrom::End(0))).unwrap_or(0) / 512;
    write(&sys.join("size"), &format!("{size}\n"));
    write(&sys.join("hidden"), "0\n");
    let number = node.bytes().fold(0u32, |n, b| (n * 31 + u32::from(b)) % 1000);
    write(&sys.join("dev"), &format!("{}\n", numbers(&data).unwrap_or_else(|| format!("259:{number}"))));
    let dev = root.join("dev").join(&node);
    if let Some(dir) = dev.parent() {
        let _ = fs::create_dir_all(dir);
    }
    let _ = fs::remove_file(&dev);
    symlink(&data, &dev).ok()?;
    Some(node)
}

/// Takes the disk of an attachment out of the guest.
pub(crate) fn unplug(world: &World, a: &Attachment) {
    let (Some(node), Some(instance)) = (&a.node, world.instances.get(&a.instance)) else { return };
    let Some(root) = &instance.spec.root else { return };
    let _ = fs::remove_file(root.join("dev").join(node));
    let _ = fs::remove_dir_all(root.join("sys/block").join(node));
    if let Some(number) = node.strip_prefix("nvme").and_then(|n| n.strip_suffix("n1")) {
        let _ = fs::remove_dir_all(root.join("sys/block").join(format!("nvme{number}c{number}n1")));
    }
}

/// `/dev/sdf` is `xvdf` in the guest.
fn xen_name(device: &str) -> String {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    name.strip_prefix("sd").map_or_else(|| name.to_string(), |tail| format!("xvd{tail}"))
}

/// The lowest free controller; 0 is the root volume's.
fn free_nvme(root: &Path, instance: &Instance, a: &Attachment) -> String {
    if a.device == instance.root_device {
        return "nvme0n1".into();
    }
    (1..).map(|n| format!("nvme{n}n1")).find(|n| !root.join("sys/block").join(n).exists()).unwrap_or_default()
}
