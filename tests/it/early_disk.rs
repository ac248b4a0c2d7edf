//! A disk that the kernel announces: on the machine's own `/sys`, `/dev` and `/run`, in namespaces where those are the
//! lab's.

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::disks::{config, volume};
use crate::early_network::{apart, succeeds};
use crate::lab::{Lab, once};

/// As the kernel does; only this test's namespace hears it.
fn announce() {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(KOBJECT_UEVENT)).unwrap();
    let text = b"add@/block/nvme1n1\0ACTION=add\0SUBSYSTEM=block\0";
    rustix::net::sendto(&socket, text, SendFlags::empty(), &SocketAddrNetlink::new(0, 1)).unwrap();
}

/// The daemon's clock stands nearly still: without an announcement its next look would be in 100 seconds. (The kernel may
/// make one of its own meanwhile, of a device of the real machine.)
#[test]
fn an_announced_disk_is_seen_at_once() {
    apart(|| {
        let lab = Lab::new();
        let all = lab.pool_of(1);
        lab.knobs(|k| k.device_never = true);
        let root = lab.root(&lab.me);
        std::fs::write(root.join("dev/null"), "").unwrap();
        let mounts = [("/dev/null", root.join("dev/null").display().to_string())];
        let mounts = mounts.into_iter().map(|(from, to)| (from.to_owned(), to));
        let ours = ["/dev", "/sys/block", "/run"].map(|dir| (format!("{}{dir}", root.display()), dir.to_owned()));
        if !mounts.chain(ours).all(|(from, to)| succeeds(&format!("mount --rbind {from} {to}"))) {
            return println!("skipped: no mounts here");
        }

        let how = once().env("EC2FLEETD_CLOCK", "rate=0.00005").env("EC2FLEETD_ROOT", "/");
        let running = lab.start(&config(&volume("p", "/dev/xvdf", r#""pool-name": "p""#)), how);
        lab.until("the attachment", || lab.count("AttachVolume") == 1);
        // Most probably it waits for the disk by now; if not, its first look finds it.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let device = root.join("sys/block/nvme1n1/device");
        std::fs::create_dir_all(&device).unwrap();
        std::fs::write(root.join("dev/nvme1n1"), [0; 512]).unwrap();
        std::fs::write(device.join("model"), "Amazon Elastic Block Store\n").unwrap();
        std::fs::write(device.join("serial"), all[0].replace('-', "")).unwrap();
        announce();
        let run = running.wait(&lab);
        run.ends(0, &["ready: d started"]);
        assert_eq!(lab.seen(), [format!("{} true p p", all[0])], "{run}");
    });
}
