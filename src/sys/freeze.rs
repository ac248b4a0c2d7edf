//! Freezing the file systems of a disk for a moment, so that a snapshot of it is one that needs no repair.
//!
//! A frozen file system lets nobody write, and stays so until somebody thaws it: if we died meanwhile (or the program
//! that asks AWS hung), whatever uses the disk would stand still for ever. So a process of its own freezes and thaws:
//! this executable under another name ([`GUARD`]). It thaws when our end of its pipe closes, by our will or because we
//! are dead, and at the latest when its time is over. Whenever we do not hear that it has thawed, we thaw: a guard that
//! dies leaves behind whom it has told to freeze.
//!
//! If both die, the next run finds a note of what was frozen and thaws it, whatever its config ([`thaw_left`]).
//!
//! While something may be frozen nothing is logged: nobody knows who writes the log to what.
//!
//! The kernel's calls are made by `fsfreeze` of the image (util-linux, busybox): there is no safe way to make them here.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::disk_tree::DiskTree;
use super::mounted_at::MountedAt;
use super::mounting::tool;
use super::mounts::{self, Mount};
use super::{Root, beside, beside_told, names_in, run_dir, start};
use crate::clock::Clock;
use crate::parallel;
use crate::scope::Scope;

mod guard;

pub(crate) use guard::guard;

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

/// The same for a unit that has ended: it has nothing else to do.
const UNIT: Duration = Duration::from_secs(300);

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
    /// Nothing more will be heard: it is dead.
    ended: bool,
    note: PathBuf,
    program: Vec<PathBuf>,
    points: Vec<MountedAt>,
    scope: Scope,
}

/// How it went on with listening to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Word,
    /// It is dead.
    End,
    /// Nothing in time.
    Nothing,
}

/// The words that call `fsfreeze`; none: it is not here.
fn program(scope: &Scope) -> Vec<PathBuf> {
    match (tool("fsfreeze", scope), tool("busybox", scope)) {
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
    beside_told(scope, &format!("what is mounted from {} to be written out", node.display()), Box::new(work)).is_ok()
}

/// The file that says what is frozen of a directive's disk; where every daemon of the instance finds it. `owner` is where
/// the directive stands in the config.
fn note(root: &Root, owner: &str) -> PathBuf {
    run_dir::shared(root).join(run_dir::file_name(owner, "frozen"))
}

/// Thaws what runs that were killed, and their guards with them, have left frozen, whatever their configs were. What has
/// its guard is not touched.
pub(crate) fn thaw_left(root: &Root, scope: &Scope) {
    thaw_notes(root, &scope.within(THAWING));
}

fn thaw_notes(root: &Root, scope: &Scope) {
    // An older version had its notes beside the journals.
    let mut dirs = vec![run_dir::shared(root), run_dir::own(root)];
    dirs.dedup();
    let is_note = |name: &String| name.ends_with(".frozen");
    let notes = dirs.iter().flat_map(|dir| names_in(dir).into_iter().filter(is_note).map(|name| dir.join(name)));
    let notes: Vec<PathBuf> = notes.collect();
    if notes.is_empty() {
        return;
    }
    let program = program(scope);
    // Each for itself: a disk that does not answer keeps only its own.
    let (done, all) = mpsc::channel::<()>();
    for note in notes {
        let (root, program, done) = (root.clone(), program.clone(), done.clone());
        let work = move || {
            thaw_noted(&root, &program, &note);
            drop(done);
        };
        parallel::background("thaw", Box::new(work));
    }
    drop(done);
    let end = move || {
        // Nobody sends anything: it ends with the last of them.
        let _ = all.recv();
        Ok(())
    };
    if let Err(e) = beside_told(scope, "frozen file systems to be thawed", Box::new(end)) {
        log::error!("not all is thawed that runs which were killed had frozen ({e}); it is tried on");
    }
}

/// What the executable does under the name [`THAW`].
pub(crate) fn thaw_all(root: &Root) {
    match Clock::new(None) {
        Ok(clock) => thaw_notes(root, &Scope::new(&clock.into(), UNIT, None)),
        Err(e) => log::error!("{e}"),
    }
}

/// Thaws what is noted, unless its guard will.
fn thaw_noted(root: &Root, program: &[PathBuf], note: &Path) {
    let bytes = std::fs::read(note).unwrap_or_default();
    let mut words = bytes.split(|b| *b == 0);
    let guard = words.next().and_then(|pid| std::str::from_utf8(pid).ok()?.parse::<u32>().ok());
    let runs = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.starts_with(GUARD.as_bytes()));
    if guard.is_some_and(runs) {
        return;
    }
    let points: Vec<MountedAt> =
        words.filter(|p| !p.is_empty()).map(|p| MountedAt::parse(OsStr::from_bytes(p))).collect();
    log::warn!("thawing {}: a run that was killed had it frozen", named(&points));
    let left = guard::thaw_for(root, program, &points, guard);
    guard::say_still_frozen(&left);
    // What is frozen still the next run tries.
    if left.is_empty() {
        let _ = std::fs::remove_file(note);
    }
}

fn named(points: &[MountedAt]) -> String {
    points.iter().map(|p| p.point.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Freezes what is mounted from the disk at `node`, for `most` at the longest. It has `scope` for it; what could not be
/// frozen by then will not be. `owner` is the directive that does it.
pub(crate) fn freeze(root: &Root, node: &Path, owner: &str, most: Duration, scope: &Scope) -> Frozen {
    let look = {
        let (root, node) = (root.clone(), node.to_owned());
        move || Ok(to_be_frozen(&root, &node))
    };
    let what = format!("what is mounted from {} to answer", node.display());
    let (points, mut not) = beside_told(scope, &what, Box::new(look))
        .unwrap_or_else(|e| (Vec::new(), vec![format!("what is mounted from {}: {e}", node.display())]));
    if points.is_empty() {
        return Frozen { guard: None, not };
    }
    let program = program(scope);
    if program.is_empty() {
        not.push("there is no fsfreeze (util-linux or busybox) here".to_owned());
        return Frozen { guard: None, not };
    }
    let mut guard = match Guard::start(note(root, owner), program, points, most, scope) {
        Ok(guard) => guard,
        Err(e) => {
            not.push(format!("no process can be started: {e}"));
            return Frozen { guard: None, not };
        }
    };
    match guard.hear(FROZEN, scope) {
        Heard::Word => {}
        // Whatever it has begun must not stay.
        Heard::End => {
            not.extend(guard.complaints());
            not.push("the process that guards frozen file systems has ended".to_owned());
            guard.end();
            return Frozen { guard: None, not };
        }
        Heard::Nothing => {
            // What it may still freeze it thaws at once.
            drop(guard.gate.take());
            not.push(
                "it did not come about in time (too much is still being written, or the disk does not answer)".into(),
            );
        }
    }
    not.extend(guard.complaints());
    Frozen { guard: Some(guard), not }
}

/// What can be frozen of the disk at `node`, and why the rest cannot.
fn to_be_frozen(root: &Root, node: &Path) -> (Vec<MountedAt>, Vec<String>) {
    if mounts::holds_root(root, &DiskTree::of(root, node)) {
        return (Vec::new(), vec!["the root file system is on this disk".to_owned()]);
    }
    let (mut points, mut not) = (Vec::new(), Vec::new());
    let ours = what_we_write_to(root);
    for p in file_systems(root, node).into_iter().map(|m| m.point) {
        match rustix::fs::stat(&p) {
            Ok(s) if !ours.contains(&s.st_dev) => points.push(MountedAt::new(p)),
            Ok(_) => not.push(format!("{}: ec2fleetd's own files or log are on it", p.display())),
            Err(e) => not.push(format!("{}: {}", p.display(), io::Error::from(e))),
        }
    }
    (points, not)
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
        if let Some(guard) = self.guard.take() {
            guard.end();
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
        note: PathBuf,
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
            .arg(&note)
            .arg(millis)
            .args(&program)
            .arg("--")
            .args(points.iter().map(MountedAt::word))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = start::spawn(Box::new(move || Ok(command)), scope)?;
        let gate = child.stdin.take();
        if let Some(out) = &child.stdout {
            rustix::io::ioctl_fionbio(out, true)?;
        }
        Ok(Guard { child, gate, heard: String::new(), ended: false, note, program, points, scope: scope.clone() })
    }

    /// Tells it to thaw, and sees to it that it does.
    fn end(mut self) {
        drop(self.gate.take());
        if self.has_heard(FROZEN) || self.ended {
            self.until_thawed(false);
        } else {
            // It waits for the disk, and thaws at once when that has answered.
            parallel::background("guard", Box::new(move || self.until_thawed(true)));
        }
    }

    /// Waits until it has thawed, and thaws in its place if it is dead; if it does not answer only where there is no
    /// reason to be `patient`.
    fn until_thawed(mut self, patient: bool) {
        // By nobody's stop: what is frozen must be thawed.
        let clock = self.scope.clock.clone();
        let scope = || Scope::new(&clock, THAWING, None);
        let heard = loop {
            match self.hear(THAWED, &scope()) {
                Heard::Nothing if patient => {}
                heard => break heard,
            }
        };
        let (who, guard) = match heard {
            Heard::Word => ("", None),
            Heard::End => ("has ended", Some(self.child.id())),
            Heard::Nothing => ("does not answer", None),
        };
        if heard != Heard::Word {
            let (program, points) = (self.program.clone(), self.points.clone());
            let work = move || Ok(guard::thaw_for(&Root::from_env(), &program, &points, guard));
            match beside(&scope(), Box::new(work)) {
                Ok(left) if left.is_empty() => {
                    let _ = std::fs::remove_file(&self.note);
                    log::warn!("the process that guards frozen file systems {who}: we have thawed them ourselves");
                }
                Ok(left) => guard::say_still_frozen(&left),
                Err(_) => log::error!(
                    "the process that guards frozen file systems {who}, and {} may be frozen: it is tried on to thaw it \
                     (fsfreeze --unfreeze)",
                    named(&self.points)
                ),
            }
        }
        // It has nothing more to do; if the disk keeps it, somebody must wait for it in the end.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            parallel::background("guard", Box::new(move || drop(self.child.wait())));
        }
    }

    fn has_heard(&self, word: &str) -> bool {
        self.heard.lines().any(|l| l == word)
    }

    /// The lines about what went wrong.
    fn complaints(&self) -> Vec<String> {
        self.heard.lines().filter(|l| ![FROZEN, THAWED].contains(l)).map(str::to_owned).collect()
    }

    /// Listens until it has said `word`, or will not any more, or the scope has ended.
    fn hear(&mut self, word: &str, scope: &Scope) -> Heard {
        while !self.has_heard(word) {
            let Some(out) = self.child.stdout.as_mut().filter(|_| !self.ended) else { return Heard::End };
            let mut buffer = [0; 1024];
            match out.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(n) => self.heard.push_str(&String::from_utf8_lossy(buffer.get(..n).unwrap_or_default())),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if scope.check().is_err() {
                        return Heard::Nothing;
                    }
                    wait_for(out, scope.clock.nap(scope.remaining()).min(Duration::from_millis(250)));
                }
                Err(_) => self.ended = true,
            }
        }
        Heard::Word
    }
}

/// Waits so long at most for something to read, or for the end.
fn wait_for(pipe: impl AsFd, real: Duration) {
    let timeout = Timespec::try_from(real.max(Duration::from_millis(1))).ok();
    let _ = rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], timeout.as_ref());
}
