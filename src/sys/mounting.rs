//! Mounting a disk: mount(2) itself, the point it is mounted on, and holding the disk until then. What comes to a disk or
//! follows a path is done beside the caller, who waits no longer than its scope.

use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Gid, IFlags, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::disk_tree::{DiskTree, number_of_node};
use super::holders;
use super::mounts::{self, Mount};
use super::probe::Disk;
use super::{Root, beside, beside_told};
use crate::scope::Scope;

/// How long somebody else (udev looks at each new disk) may have the disk open.
const BUSY: Duration = Duration::from_secs(10);

/// How long a directory may take to say whether it has a tool.
const LOOKED_UP: Duration = Duration::from_secs(2);

/// Options that are flags of mount(2): to set (`true`) or to take back.
const FLAGS: [(&str, MountFlags, bool); 24] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("lazytime", MountFlags::LAZYTIME, true),
    ("nolazytime", MountFlags::LAZYTIME, false),
    ("silent", MountFlags::SILENT, true),
    ("loud", MountFlags::SILENT, false),
    ("mand", MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
];
/// Options of fstab that are for other programs than the kernel.
const FOR_OTHERS: [&str; 9] = ["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner"];

/// `noatime,discard` as mount(2) takes it: flags, and the rest for the file system.
pub(crate) fn options(text: &str) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut rest = Vec::new();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match FLAGS.iter().find(|(name, ..)| *name == word) {
            Some((_, flag, set)) => flags.set(*flag, *set),
            None if FOR_OTHERS.contains(&word) || word.starts_with("x-") => {}
            None => rest.push(word),
        }
    }
    (flags, rest.join(","))
}

/// Where `point` leads to. `None`: it is not there.
pub(crate) fn real_path(point: &Path, scope: &Scope) -> io::Result<Option<PathBuf>> {
    let path = point.to_owned();
    let end = beside_told(scope, &format!("{} to answer", point.display()), Box::new(move || path.canonicalize()));
    match end {
        Ok(real) => Ok(Some(real)),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(e),
        Err(_) => Ok(None),
    }
}

/// What is mounted at `point`, a real path: the uppermost one.
pub(crate) fn at(root: &Root, point: &Path) -> Option<Mount> {
    mounts::own(root).into_iter().rev().find(|m| m.point == point)
}

/// All mounts, none before what it stands on.
pub(crate) fn order(root: &Root) -> Vec<Mount> {
    mounts::own(root)
}

/// What is mounted somewhere below `point`, a real path, and can be seen there.
pub(crate) fn below(root: &Root, point: &Path) -> Vec<Mount> {
    let all = mounts::own(root);
    // Whatever its path leads through it stands on, unless that came later, over it.
    let is_hidden = |m: &Mount| {
        let up = |m: &Mount| all.iter().find(|o| o.id == m.parent && o.id != o.parent).cloned();
        let below: Vec<u64> = std::iter::successors(Some(m.clone()), up).take(all.len() + 1).map(|m| m.id).collect();
        all.iter().any(|o| m.point.starts_with(&o.point) && !below.contains(&o.id))
    };
    all.iter().filter(|m| m.point != point && m.point.starts_with(point) && !is_hidden(m)).cloned().collect()
}

/// Where these paths lead to: links in what exists of them are followed. A path that does not answer until `scope` ends
/// leads to itself, and so do the others.
pub(crate) fn resolve(paths: Vec<PathBuf>, scope: &Scope) -> Vec<PathBuf> {
    let resolve = |path: &PathBuf| {
        let found = path.ancestors().find_map(|a| Some((a, a.canonicalize().ok()?)));
        found.and_then(|(a, real)| Some(real.join(path.strip_prefix(a).ok()?))).unwrap_or_else(|| path.clone())
    };
    let given = paths.clone();
    let work = move || Ok(paths.iter().map(resolve).collect());
    beside(scope, Box::new(work)).unwrap_or_else(|_| {
        log::warn!("a path on which a disk is to be mounted does not answer: all are taken as they are written");
        given
    })
}

/// Whether the mount is of the disk at `node`.
pub(crate) fn is_of(root: &Root, mount: &Mount, node: &Path) -> bool {
    mount.is_on(root, &DiskTree::of(root, node))
}

/// In what the options of `mount` are not those of fstab in `wanted`, as far as the kernel shows it. `None`: in nothing.
pub(crate) fn other_options(root: &Root, mount: &Mount, wanted: &str) -> Option<String> {
    let table = std::fs::read_to_string(root.path("/proc/self/mountinfo")).ok()?;
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = fields.into_iter().find(|f| f.first().and_then(|id| id.parse().ok()) == Some(mount.id))?;
    let shown: Vec<&str> = line.get(5)?.split(',').chain(line.last()?.split(',')).collect();
    other_than(&shown, wanted)
}

fn other_than(shown: &[&str], wanted: &str) -> Option<String> {
    // Those that the kernel always shows where they are set.
    const SHOWN: [&str; 8] = ["ro", "nosuid", "nodev", "noexec", "sync", "dirsync", "noatime", "nodiratime"];
    let (flags, rest) = options(wanted);
    let mut other: Vec<String> = Vec::new();
    for name in SHOWN {
        // `ro` of the mount, or of the file system after an error.
        match (shown.contains(&name), flags.contains(options(name).0)) {
            (true, false) => other.push(format!("it has {name}")),
            (false, true) => other.push(format!("it lacks {name}")),
            _ => {}
        }
    }
    // Of the file system's own ones it need not show what is usual: only another value tells.
    for word in rest.split(',') {
        let Some((key, value)) = word.split_once('=') else { continue };
        let of = |s: &&&str| s.split_once('=').is_some_and(|(k, v)| k == key && v != value);
        if !shown.contains(&word)
            && let Some(there) = shown.iter().find(of)
        {
            other.push(format!("it has {there}"));
        }
    }
    (!other.is_empty()).then(|| other.join(", "))
}

/// Opens the disk so that nobody else can mount it or make a file system on it. Who has it open for a moment is waited
/// for; what is mounted of it, or built on it, will not go by itself.
pub(crate) fn hold(root: &Root, node: &Path, scope: &Scope) -> Result<File, String> {
    let flags = i32::try_from((OFlags::EXCL | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let patience = scope.within(BUSY);
    let mut said = false;
    loop {
        let path = node.to_owned();
        let open = move || OpenOptions::new().read(true).custom_flags(flags).open(path);
        match beside_told(scope, &format!("{} to be opened", node.display()), Box::new(open)) {
            Ok(file) => return Ok(file),
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                if let Some(m) = mounts::mounts_of(root, node).first() {
                    return Err(format!(
                        "{} is mounted at {} ({}): unmount it there, or let mount.path be that",
                        m.source,
                        m.point.display(),
                        m.kind
                    ));
                }
                if let Some(name) = DiskTree::of(root, node).stacked.first() {
                    return Err(format!("{} is built on it: take that down first", DiskTree::describe(root, name)));
                }
                let who = || {
                    let all = holders::holders(root, node, scope).unwrap_or_default();
                    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                    if all.is_empty() { "nobody shows who".to_owned() } else { all.join("; ") }
                };
                if !std::mem::replace(&mut said, true) {
                    log::info!("somebody has {} ({}): waiting {} s for it", node.display(), who(), BUSY.as_secs());
                }
                if patience.sleep(Duration::from_millis(50)).is_err() {
                    return Err(format!("somebody else has it ({}): end that first", who()));
                }
            }
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// Whether what is open is still what stands at `node`.
pub(crate) fn is_still(file: &File, node: &Path) -> bool {
    let open = file.metadata().ok().map(|m| (rustix::fs::major(m.rdev()), rustix::fs::minor(m.rdev())));
    number_of_node(node).is_some_and(|n| Some(n) == open)
}

/// Makes the directory to mount on. One that is new is made so that nothing can be written into it while nothing is
/// mounted: an application that starts without its disk fails instead of filling the root file system. What is odd
/// about one that was there is returned.
pub(crate) fn make_point(point: &Path, scope: &Scope) -> io::Result<Option<&'static str>> {
    let path = point.to_owned();
    beside_told(scope, &format!("the directory {}", point.display()), Box::new(move || make_directory(&path)))
}

fn make_directory(point: &Path) -> io::Result<Option<&'static str>> {
    match point.metadata() {
        Ok(meta) if !meta.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {
            let empty = std::fs::read_dir(point)?.next().is_none();
            return Ok((!empty).then_some("is not empty: what is in it is hidden while the disk is mounted"));
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) => {}
    }
    DirBuilder::new().recursive(true).mode(0o755).create(point)?;
    let dir = File::open(point)?;
    // Not every file system can: then permissions keep out at least those who are not root.
    let sealed = rustix::fs::ioctl_getflags(&dir).and_then(|f| rustix::fs::ioctl_setflags(&dir, f | IFlags::IMMUTABLE));
    if sealed.is_err() {
        rustix::fs::fchmod(&dir, Mode::empty())?;
    }
    Ok(None)
}

/// Mounts the disk at `node` on `point`. A dead disk may never answer; then it ends with the scope.
pub(crate) fn mount(node: &Path, point: &Path, fstype: &str, options: &str, scope: &Scope) -> Result<(), String> {
    let (flags, rest) = self::options(options);
    // The kernel refuses a second file system with the same UUID, which every copy of an XFS has.
    let rest = match fstype {
        "xfs" if !rest.split(',').any(|w| w == "nouuid") => {
            format!("{rest}{}nouuid", if rest.is_empty() { "" } else { "," })
        }
        _ => rest,
    };
    let data = CString::new(rest).map_err(|e| e.to_string())?;
    let what = format!("{} to be mounted at {}", node.display(), point.display());
    let (node, point, fstype) = (node.to_owned(), point.to_owned(), fstype.to_owned());
    let work = move || Ok(rustix::mount::mount(&node, &point, fstype.as_str(), flags, Some(data.as_c_str()))?);
    beside_told(scope, &what, Box::new(work)).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::NODEV) => "this kernel does not know the file system".to_owned(),
        Some(Errno::INVAL) => "the kernel takes neither the options nor the file system (see its log)".to_owned(),
        _ => e.to_string(),
    })
}

/// Takes away what was just mounted at `point`.
pub(crate) fn unmount(point: &Path, scope: &Scope) -> io::Result<()> {
    let path = point.to_owned();
    let work = move || Ok(rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW)?);
    beside_told(scope, &format!("{} to be unmounted", point.display()), Box::new(work))
}

/// How many bytes the disk at `node` has.
pub(crate) fn size_of(node: &Path, scope: &Scope) -> io::Result<u64> {
    let path = node.to_owned();
    let work = move || File::open(path).and_then(|disk| Disk::size(&disk));
    beside_told(scope, &format!("{} to be opened", node.display()), Box::new(work))
}

/// Sets owner, group and permissions of what is mounted at `point`.
pub(crate) fn set_owner(
    root: &Root,
    point: &Path,
    owner: Option<&str>,
    group: Option<&str>,
    mode: Option<u32>,
    scope: &Scope,
) -> Result<(), String> {
    let (owner, group) = ids(root, owner, group)?;
    let path = point.to_owned();
    let work = move || {
        if owner.is_some() || group.is_some() {
            rustix::fs::chown(&path, owner, group)?;
        }
        if let Some(mode) = mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    };
    let what = format!("the owner of {} to be written", point.display());
    beside_told(scope, &what, Box::new(work)).map_err(|e| e.to_string())
}

/// The numbers of an owner and a group.
pub(crate) fn ids(root: &Root, owner: Option<&str>, group: Option<&str>) -> Result<(Option<Uid>, Option<Gid>), String> {
    let owner = owner.map(|name| id_of(root, "/etc/passwd", name)).transpose()?.map(Uid::from_raw);
    let group = group.map(|name| id_of(root, "/etc/group", name)).transpose()?.map(Gid::from_raw);
    Ok((owner, group))
}

/// The number of `name`, from the table itself: there may be no libc that knows other sources of names.
fn id_of(root: &Root, table: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = std::fs::read(root.path(table)).map_err(|e| format!("cannot read {table}: {e}"))?;
    let text = String::from_utf8_lossy(&text);
    let id = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    text.lines().find_map(id).ok_or_else(|| format!("{table} does not know {name}"))
}

/// Where a helper is, in the directories where such tools are: an early boot may have no PATH. A directory that does not
/// answer is passed over.
pub(crate) fn tool(name: &str, scope: &Scope) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let always = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let places: Vec<PathBuf> = std::env::split_paths(&path).chain(always).map(|dir| dir.join(name)).collect();
    let is_tool = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    let all = places.clone();
    let first = beside(&scope.within(LOOKED_UP), Box::new(move || Ok(all.into_iter().find(is_tool))));
    first.unwrap_or_else(|_| {
        // One of them keeps us. Which one?
        places.into_iter().find(|file| {
            let one = file.clone();
            beside(&scope.within(LOOKED_UP), Box::new(move || Ok(is_tool(&one)))).unwrap_or_else(|_| {
                log::warn!("{} does not answer: looking for {name} elsewhere", file.display());
                false
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn options_of_fstab() {
        let (flags, rest) = options("defaults,noatime, nosuid ,commit=30,x-systemd.automount,nofail,discard,ro,rw");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NOSUID);
        assert_eq!(rest, "commit=30,discard");
        assert_eq!(options(""), (MountFlags::empty(), String::new()));
    }

    #[test]
    fn options_that_are_not_those_of_the_config() {
        let of =
            |shown: &str, wanted: &str| other_than(&shown.split(',').collect::<Vec<_>>(), wanted).unwrap_or_default();
        let usual = "rw,relatime,rw";
        for wanted in ["", "defaults", "rw", "relatime,x-y,nofail", "commit=30", "discard", "strictatime"] {
            assert_eq!(of(usual, wanted), "", "{wanted}");
        }
        assert_eq!(of(usual, "ro,noatime"), "it lacks ro, it lacks noatime");
        assert_eq!(of("ro,noatime,rw", ""), "it has ro, it has noatime");
        assert_eq!(of("rw,relatime,ro,errors=remount-ro", ""), "it has ro");
        assert_eq!(of("rw,noatime,rw,commit=7", "noatime,commit=7"), "");
        assert_eq!(of("rw,noatime,rw,commit=7", "noatime,commit=30"), "it has commit=7");
    }

    #[test]
    fn what_is_seen_below_a_point() {
        let t = TestDir::new();
        let at = |path: &str| t.file(&format!("{path}/x"), "").parent().unwrap().display().to_string();
        let (srv, a, b, other) = (at("srv"), at("srv/a"), at("srv/a/b"), at("srvx"));
        let line = |id: u32, parent: u32, point: &str| format!("{id} {parent} 8:{id} / {point} rw - ext4 /dev/x rw\n");
        // Numbers are used again: they tell nothing of what came first.
        let table = [line(20, 1, "/"), line(30, 20, &a), line(25, 30, &b), line(28, 20, &other)].concat();
        t.file("proc/self/mountinfo", &table);
        let seen = |point: &str| below(&t.root(), Path::new(point)).iter().map(|m| m.id).collect::<Vec<_>>();
        assert_eq!([seen(&srv), seen(&a), seen(&b), seen("/no/such")], [vec![30, 25], vec![25], vec![], vec![]]);
        // Something came over it.
        t.file("proc/self/mountinfo", &(table + &line(22, 20, &srv)));
        assert_eq!((seen(&srv), seen(&t.0.display().to_string())), (vec![], vec![28, 22]));
    }

    #[test]
    fn names_are_looked_up_in_the_tables() {
        let t = TestDir::new();
        t.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nminecraft:x:998:997::/srv:/bin/false\nbad:x:y:0::/:/\n");
        let id = |name: &str| id_of(&t.root(), "/etc/passwd", name);
        assert_eq!([id("minecraft"), id("0"), id("12")], [Ok(998), Ok(0), Ok(12)]);
        assert_eq!(id("bad").unwrap_err(), "/etc/passwd does not know bad");
        assert!(id_of(&t.root(), "/etc/group", "x").unwrap_err().starts_with("cannot read /etc/group"));
    }

    #[test]
    fn a_new_point_cannot_be_written_to() {
        let t = TestDir::new();
        let new = t.0.join("a/data");
        assert_eq!(make_directory(&new).unwrap(), None);
        let unseal = || {
            let dir = File::open(&new).unwrap();
            let flags = rustix::fs::ioctl_getflags(&dir).map(|f| f - IFlags::IMMUTABLE);
            let _ = flags.and_then(|f| rustix::fs::ioctl_setflags(&dir, f));
        };
        let sealed = File::open(&new).ok().and_then(|d| rustix::fs::ioctl_getflags(&d).ok());
        let sealed = sealed.is_some_and(|f| f.contains(IFlags::IMMUTABLE));
        let mode = new.metadata().unwrap().mode() & 0o777;
        assert!(sealed || mode == 0, "{mode:o}");
        let written = std::fs::write(new.join("x"), "");
        unseal();
        assert!(!sealed || written.is_err());
        // One that was there stays as it is.
        let old = t.0.join("old");
        std::fs::create_dir(&old).unwrap();
        assert_eq!(make_directory(&old).unwrap(), None);
        std::fs::write(old.join("x"), "").unwrap();
        assert!(make_directory(&old).unwrap().unwrap().contains("not empty"));
        make_directory(&old.join("x")).unwrap_err();
    }

    #[test]
    fn what_is_no_disk_is_not_what_was_opened() {
        let t = TestDir::new();
        let file = t.file("disk", "");
        assert!(!is_still(&File::open(&file).unwrap(), &file));
    }
}
