//! The process that freezes and thaws, and thawing itself.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::super::mounted_at::MountedAt;
use super::super::{Root, names_in, run_dir};
use super::{FROZEN, THAWED};

/// How often somebody tries to thaw what cannot be thawed.
const TRIES: u32 = 600;
/// Pauses between two looks whether a freeze has come to its end.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

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
    let noted = write_note(&note, &bytes);
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
    let left = thaw(&root, &program, &frozen, TRIES);
    say_still_frozen(&left);
    if noted.is_ok() && left.is_empty() {
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

/// Writes the note at once: who finds it finds all of it.
fn write_note(note: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = note.with_extension("new");
    run_dir::make(note.parent().unwrap_or(Path::new("/")))?;
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, note)
}

/// What is frozen still, and why.
pub(super) type Left = Vec<(PathBuf, String)>;

pub(super) fn say_still_frozen(left: &[(PathBuf, String)]) {
    for (point, why) in left {
        let point = point.display();
        log::error!("{point} is frozen and cannot be thawed: {why}; run: fsfreeze --unfreeze {point}");
    }
}

/// Thaws all of these; what cannot be is tried again so many times.
pub(super) fn thaw(root: &Root, program: &[PathBuf], points: &[MountedAt], tries: u32) -> Left {
    let mut left = Left::new();
    for at in points {
        let Some(point) = at.now(root) else {
            log::warn!("{}: what was frozen there is not mounted any more", at.point.display());
            continue;
        };
        for n in 1..=tries {
            match call(program, "--unfreeze", &point) {
                Ok(()) => break,
                // It is not frozen (any more).
                Err(f) if f.text.contains("Invalid argument") => break,
                Err(f) if n == tries => left.push((point.clone(), f.text)),
                Err(f) if n == 20 => say_still_frozen(&[(point.clone(), f.text)]),
                Err(_) => {}
            }
            if n < tries {
                std::thread::sleep(if n < 20 { PAUSES.0 } else { PAUSES.1 });
            }
        }
    }
    left
}

/// Thaws all of these in place of a guard that is dead. What it has started may freeze still: that is waited for, and
/// thawed then. `guard` was its number, and that of its process group.
pub(super) fn thaw_for(root: &Root, program: &[PathBuf], points: &[MountedAt], guard: Option<u32>) -> Left {
    let mut pause = PAUSES.0;
    loop {
        // Who is gone by this look has frozen before the thaw.
        let freezing = guard.is_some_and(has_left_any);
        let left = thaw(root, program, points, 1);
        if !freezing {
            return left;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Whether anybody of the process group lives whose leader is dead.
fn has_left_any(group: u32) -> bool {
    names_in(Path::new("/proc")).iter().filter_map(|name| name.parse::<u32>().ok()).filter(|pid| *pid != group).any(
        |pid| {
            let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Behind the name, which may be anything: state, parent, group.
            let stat = String::from_utf8_lossy(&stat);
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
            fields.next().is_some_and(|state| !["Z", "X"].contains(&state))
                && fields.nth(1).and_then(|g| g.parse().ok()) == Some(group)
        },
    )
}
