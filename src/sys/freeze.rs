//! Freezing the file systems of a disk for a moment, so that a snapshot of it is one that needs no repair.
//!
//! A frozen file system lets nobody write, and stays so until somebody thaws it: if we died meanwhile (or the program
//! that asks AWS hung), whatever uses the disk would stand still for ever. So a process of its own freezes and thaws:
//! this executable under another name ([`GUARD`]). It thaws when our end of its pipe closes, by our will or because we
//! are dead, and at the latest when its time is over. If it is the guard that dies, we thaw.
//!
//! If both die, the next run of the domain finds a note of what was frozen and thaws it ([`thaw_left`]).
//!
//! The kernel's calls are made by `fsfreeze` of the image (util-linux, busybox): there is no safe way to make them here.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::disk_tree::DiskTree;
use super::mounted_at::MountedAt;
use super::mounting::tool;
use super::mounts::{self, Mount};
use super::{Root, beside, run_dir, start};
use crate::scope::Scope;

/// The name under which this executable only guards what is frozen. Arguments: the log's place, the note's path,
/// milliseconds, the words of the program, `--`, the file systems.
pub(crate) const GUARD: &str = "ec2fleetd-freeze";

/// The name under which this executable thaws what runs that are dead have left frozen: units call it when one has
/// ended, since a service manager kills the guard with us.
pub(crate) const THAW: &str = "ec2fleetd-thaw";

/// What the guard says when all that can be frozen is, and when nothing is any more. Other lines say what went wrong.
const FROZEN: &str = "frozen";
const THAWED: &str = "thawed";

/// How long we wait to hear that all is thawed.
const THAWING: Duration = Duration::from_secs(10);
/// How long somebody tries to thaw what cannot be thawed.
const TRIES: u32 = 600;

/// File systems that are frozen until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    guard: Option<Guard>,
    not: Vec<String>,
}

#[derive(Debug)]
struct Guard {
    child: Child,
    /// Closed, it is the word to thaw.
    gate: Option<ChildStdin>,
    heard: String,
    program: Vec<PathBuf>,
    points: Vec<MountedAt>,
    scope: Scope,
}

/// The words that call `fsfreeze`; none: it is not here.
fn program() -> Vec<PathBuf> {
    match (tool("fsfreeze"), tool("busybox")) {
        (Some(own), _) => vec![own],
        // One that was built without it says so.
        (None, Some(busybox)) => vec![busybox, "fsfreeze".into()],
        (None, None) => Vec::new(),
    }
}

/// The mounts of the disk at `node`, one for each file system.
fn file_systems(root: &Root, node: &Path) -> Vec<Mount> {
    let mut all: Vec<Mount> = Vec::new();
    for m in mounts::mounts_of(root, node) {
        if !all.iter().any(|a| a.number == m.number || (a.kind == m.kind && a.source == m.source)) {
            all.push(m);
        }
    }
    all
}

/// Writes out what is mounted from the disk at `node`. `false`: the time for it was over.
pub(crate) fn sync(root: &Root, node: &Path, scope: &Scope) -> bool {
    let points: Vec<PathBuf> = file_systems(root, node).into_iter().map(|m| m.point).collect();
    if points.is_empty() {
        return true;
    }
    let work = move || {
        for point in points {
            // One that is gone by now needs nothing.
            if let Ok(dir) = std::fs::File::open(point) {
                let _ = rustix::fs::syncfs(&dir);
            }
        }
        Ok(())
    };
    beside(scope, Box::new(work)).is_ok()
}

/// The file that says what is frozen of a directive's disk. `owner` is where it stands in the config.
fn note(root: &Root, owner: &str) -> PathBuf {
    run_dir::own(root).join(run_dir::file_name(owner, "frozen"))
}

/// Thaws what a run that was killed, and its guard with it, has left frozen.
pub(crate) fn thaw_left(root: &Root, owner: &str, scope: &Scope) {
    let note = note(root, owner);
    if note.exists() {
        let root = root.clone();
        let work = move || {
            thaw_noted(&root, &note, false);
            Ok(())
        };
        if let Err(e) = beside(&scope.within(THAWING), Box::new(work)) {
            log::warn!("not thawed: {e}");
        }
    }
}

/// What the executable does under the name [`THAW`].
pub(crate) fn thaw_all(root: &Root) {
    let dir = run_dir::own(root);
    // Another daemon may be at it right now.
    super::names_in(&dir).iter().filter(|n| n.ends_with(".frozen")).for_each(|n| thaw_noted(root, &dir.join(n), true));
}

/// Thaws what is noted; with `dead`, only if its guard does so no more.
fn thaw_noted(root: &Root, note: &Path, dead: bool) {
    let bytes = std::fs::read(note).unwrap_or_default();
    let mut words = bytes.split(|b| *b == 0);
    let guard = words.next().and_then(|pid| std::str::from_utf8(pid).ok());
    let runs = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.starts_with(GUARD.as_bytes()));
    if dead && guard.is_some_and(runs) {
        return;
    }
    let points: Vec<MountedAt> =
        words.filter(|p| !p.is_empty()).map(|p| MountedAt::parse(OsStr::from_bytes(p))).collect();
    let list: Vec<String> = points.iter().map(|p| p.point.display().to_string()).collect();
    log::warn!("thawing {}: a run that was killed had it frozen", list.join(", "));
    thaw(root, &program(), &points, 1);
    let _ = std::fs::remove_file(note);
}

/// Freezes what is mounted from the disk at `node`, for `most` at the longest. It has `scope` for it; what could not be
/// frozen by then will not be. `owner` is the directive that does it.
pub(crate) fn freeze(root: &Root, node: &Path, owner: &str, most: Duration, scope: &Scope) -> Frozen {
    let mut not = Vec::new();
    let all = file_systems(root, node);
    if mounts::holds_root(root, &DiskTree::of(root, node)) {
        not.push("the root file system is on this disk".to_owned());
        return Frozen { guard: None, not };
    }
    let ours = what_we_write_to(root);
    let points: Vec<PathBuf> = all.into_iter().map(|m| m.point).collect();
    let points: Vec<MountedAt> = points
        .into_iter()
        .filter(|p| {
            let free = rustix::fs::stat(p).is_ok_and(|s| !ours.contains(&s.st_dev));
            if !free {
                not.push(format!("{}: ec2fleetd's own files or log are on it", p.display()));
            }
            free
        })
        .map(MountedAt::new)
        .collect();
    let program = program();
    if points.is_empty() {
        return Frozen { guard: None, not };
    }
    if program.is_empty() {
        not.push("there is no fsfreeze (util-linux or busybox) here".to_owned());
        return Frozen { guard: None, not };
    }
    let mut guard = match Guard::start(&note(root, owner), program, points, most, scope) {
        Ok(guard) => guard,
        Err(e) => {
            not.push(format!("no process can be started: {e}"));
            return Frozen { guard: None, not };
        }
    };
    if !guard.hear(FROZEN, scope) {
        // What it may still freeze it thaws at once.
        drop(guard.gate.take());
        not.push("it did not come about in time (too much is still being written, or the disk does not answer)".into());
    }
    not.extend(guard.complaints());
    Frozen { guard: Some(guard), not }
}

/// The devices of the file systems that this process may write to at any moment: a log line that waited for the thaw would
/// keep us from thawing.
fn what_we_write_to(root: &Root) -> Vec<u64> {
    let paths = [Path::new("/").to_path_buf(), root.path("/run"), root.path("/run/ec2fleetd")];
    let mut all: Vec<u64> = paths.iter().filter_map(|p| Some(rustix::fs::stat(p).ok()?.st_dev)).collect();
    all.extend(rustix::fs::fstat(io::stderr()).map(|s| s.st_dev));
    all.extend(rustix::fs::fstat(io::stdout()).map(|s| s.st_dev));
    all
}

impl Frozen {
    /// Thaws it all. What was not frozen, and why, for people.
    pub(crate) fn thaw(mut self) -> Vec<String> {
        self.end();
        std::mem::take(&mut self.not)
    }

    fn end(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.gate.take());
        // By nobody's stop: what is frozen must be thawed.
        let scope = Scope::new(&guard.scope.clock, THAWING, None);
        if guard.has_heard(FROZEN) && !guard.hear(THAWED, &scope) {
            let (program, points) = (guard.program.clone(), guard.points.clone());
            let work = move || {
                thaw(&Root::from_env(), &program, &points, 1);
                Ok(())
            };
            let _ = beside(&scope, Box::new(work));
            log::warn!("the process that guards frozen file systems does not answer: we have thawed them ourselves");
        }
        // It has nothing more to do; if the disk keeps it, somebody must wait for it in the end.
        if !matches!(guard.child.try_wait(), Ok(Some(_))) {
            crate::parallel::background("guard", Box::new(move || drop(guard.child.wait())));
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.end();
    }
}

impl Guard {
    fn start(
        note: &Path,
        program: Vec<PathBuf>,
        points: Vec<MountedAt>,
        most: Duration,
        scope: &Scope,
    ) -> io::Result<Guard> {
        let millis = scope.clock.real(most).as_millis().to_string();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(GUARD)
            .arg(crate::log::place())
            .arg(note)
            .arg(millis)
            .args(&program)
            .arg("--")
            .args(points.iter().map(MountedAt::word))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = start::spawn(Box::new(move || Ok(command)), scope, &mut || {})?;
        let gate = child.stdin.take();
        if let Some(out) = &child.stdout {
            rustix::io::ioctl_fionbio(out, true)?;
        }
        Ok(Guard { child, gate, heard: String::new(), program, points, scope: scope.clone() })
    }

    fn has_heard(&self, word: &str) -> bool {
        self.heard.lines().any(|l| l == word)
    }

    /// The lines about what went wrong.
    fn complaints(&self) -> Vec<String> {
        self.heard.lines().filter(|l| ![FROZEN, THAWED].contains(l)).map(str::to_owned).collect()
    }

    /// Listens until it has said `word`. `false`: it has not, and will not, or the scope has ended.
    fn hear(&mut self, word: &str, scope: &Scope) -> bool {
        while !self.has_heard(word) {
            let Some(out) = &mut self.child.stdout else { return false };
            let mut buffer = [0; 1024];
            match out.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.heard.push_str(&String::from_utf8_lossy(buffer.get(..n).unwrap_or_default())),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if scope.check().is_err() {
                        return false;
                    }
                    wait_for(out, scope.clock.nap(scope.remaining()).min(Duration::from_millis(250)));
                }
                Err(_) => return false,
            }
        }
        true
    }
}

/// Waits so long at most for something to read, or for the end.
fn wait_for(pipe: impl AsFd, real: Duration) {
    let timeout = Timespec::try_from(real.max(Duration::from_millis(1))).ok();
    let _ = rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], timeout.as_ref());
}

/// What the executable does under the name [`GUARD`], with the log in its place.
pub(crate) fn guard(mut args: impl Iterator<Item = OsString>) {
    // A service manager that stops us signals every process of ours at once.
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
    let note = PathBuf::from(args.next().unwrap_or_default());
    let millis = args.next().and_then(|ms| ms.to_str()?.parse().ok()).unwrap_or(0);
    let program: Vec<PathBuf> = args.by_ref().take_while(|word| word != "--").map(PathBuf::from).collect();
    let root = Root::from_env();
    let points: Vec<MountedAt> = args.map(|word| MountedAt::parse(&word)).collect();
    // It is not on any of them.
    let mut bytes = std::process::id().to_string().into_bytes();
    points.iter().for_each(|p| bytes.extend([&[0], p.word().as_bytes()].concat()));
    let noted = run_dir::make(note.parent().unwrap_or(Path::new("/"))).and_then(|()| std::fs::write(&note, bytes));
    let mut frozen = Vec::new();
    if let Err(e) = &noted {
        // Without it nobody could thaw what is frozen if both of us died.
        let _ = std::fs::remove_file(&note);
        say(&format!("{} cannot be written: {e}{}", note.display(), run_dir::advice(e)));
    }
    for point in points.into_iter().filter(|_| noted.is_ok()) {
        // Something else may be there since it was looked at.
        let Some(now) = point.now(&root) else { continue };
        match call(&program, "--freeze", &now) {
            Ok(()) => frozen.push(point),
            Err(Failed { text, certain }) => {
                say(&format!("{}: {}", now.display(), text.replace('\n', " ")));
                // Somebody else's freeze is not ours to thaw; but one that may have come about is.
                if !certain {
                    frozen.push(point);
                }
            }
        }
    }
    say(FROZEN);
    let mut end = Duration::from_millis(millis);
    let begun = std::time::Instant::now();
    // Nothing is ever written to it: what can be read is its end.
    while let Some(left) = end.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        let timeout = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            _ => end = Duration::ZERO,
        }
    }
    frozen.reverse();
    thaw(&root, &program, &frozen, TRIES);
    if noted.is_ok() {
        let _ = std::fs::remove_file(&note);
    }
    say(THAWED);
}

fn say(line: &str) {
    let mut out = io::stdout();
    // Nobody may listen any more.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

struct Failed {
    text: String,
    /// Nothing was done.
    certain: bool,
}

fn call(program: &[PathBuf], what: &str, point: &Path) -> Result<(), Failed> {
    let failed = |text: String, certain| Err(Failed { text, certain });
    let Some((name, words)) = program.split_first() else { return failed("no fsfreeze".to_owned(), true) };
    // Its own words are looked at.
    let end = Command::new(name).args(words).arg(what).arg(point).env("LC_ALL", "C").stdin(Stdio::null()).output();
    match end {
        Err(e) => failed(format!("{}: {e}", name.display()), true),
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => failed(String::from_utf8_lossy(&out.stderr).trim().to_owned(), out.status.code().is_some()),
    }
}

/// Thaws all of these; what cannot be is tried again so many times.
fn thaw(root: &Root, program: &[PathBuf], points: &[MountedAt], tries: u32) {
    for at in points {
        let Some(point) = at.now(root) else {
            log::warn!("{}: what was frozen there is not mounted any more", at.point.display());
            continue;
        };
        let point = point.as_path();
        for n in 1..=tries {
            match call(program, "--unfreeze", point) {
                Ok(()) => break,
                // It is not frozen (any more).
                Err(f) if f.text.contains("Invalid argument") => break,
                Err(f) => {
                    if n == 20 || n == tries {
                        let point = point.display();
                        log::error!(
                            "{point} is frozen and cannot be thawed: {}; run: fsfreeze --unfreeze {point}",
                            f.text
                        );
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(if n < 20 { 50 } else { 1000 }));
        }
    }
}
