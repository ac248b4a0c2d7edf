//! `mkfs` under guard: if we die, what it has done to the disk until then is known.
//!
//! Half a file system cannot be told from what a person has written since. So `mkfs` is the child of a process of its own,
//! this executable under another name ([`GUARD`]). When we die it ends `mkfs` at once and notes what had been written to
//! the disk by then, as the kernel counts it. The next run may begin anew only if that count is still the same: nobody
//! has written since. Without such a note (the guard was killed too) nobody knows.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::written::written;
use super::{Root, run_dir};

/// The name under which this executable only guards a `mkfs`. Arguments: the log's place, the note's path, the disk, the
/// words of `mkfs`.
pub(crate) const GUARD: &str = "ec2fleetd-mkfs";

/// How soon the end of `mkfs` is seen. Ours is at once.
const LOOK: Duration = Duration::from_millis(10);

/// The file that says what a `mkfs` that was cut off had written to the disk of this volume.
fn note(root: &Root, volume_id: &str) -> PathBuf {
    run_dir::own(root).join(run_dir::file_name(volume_id, "mkfs"))
}

/// What runs `argv`, a `mkfs` of the disk at `node`, under guard. What an earlier one noted is forgotten.
pub(crate) fn guarded(root: &Root, volume_id: &str, node: &Path, argv: &[String]) -> Command {
    let note = note(root, volume_id);
    let _ = std::fs::remove_file(&note);
    let mut command = Command::new("/proc/self/exe");
    command.arg0(GUARD).arg(crate::log::place()).arg(note).arg(node).args(argv);
    command
}

/// Whether nobody has written to the disk at `node` since the `mkfs` that was cut off. What is still to be written must
/// have been synced.
pub(crate) fn is_as_left(root: &Root, volume_id: &str, node: &Path) -> bool {
    let noted = std::fs::read(note(root, volume_id)).ok();
    noted.is_some_and(|noted| written(root, node).is_some_and(|now| now.as_bytes() == noted))
}

/// What the executable does under the name [`GUARD`], with the log in its place. It ends as `mkfs` did.
pub(crate) fn guard(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    // They are for `mkfs`, which is in our group. We stay until it has ended.
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
    let (note, disk) = (PathBuf::from(args.next().unwrap_or_default()), PathBuf::from(args.next().unwrap_or_default()));
    let program = args.next().unwrap_or_default();
    let mut child = match Command::new(&program).args(args).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(e) => {
            log::error!("cannot start {}: {e}", program.display());
            return ExitCode::from(127);
        }
    };
    let mut orphaned = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(_) => return ExitCode::from(255),
        }
        // Nobody reads what we say: who started us is dead.
        let out = io::stdout();
        let mut end = [PollFd::new(&out, PollFlags::empty())];
        let timeout = Timespec::try_from(LOOK).ok();
        if rustix::event::poll(&mut end, timeout.as_ref()).is_ok_and(|ready| ready > 0) {
            orphaned = true;
            let _ = child.kill();
            let _ = child.wait();
        }
    };
    if orphaned {
        keep(&note, &disk);
    }
    let code = status.code().or(status.signal().map(|n| n.saturating_add(128)));
    ExitCode::from(code.and_then(|n| u8::try_from(n).ok()).unwrap_or(255))
}

/// Notes what has been written. That it cannot be is told by the note that is missing.
fn keep(note: &Path, disk: &Path) {
    let synced = File::open(disk).and_then(|disk| disk.sync_all());
    if let (Ok(()), Some(counts)) = (synced, written(&Root::from_env(), disk)) {
        let made = run_dir::make(note.parent().unwrap_or(Path::new("/")));
        let file = made.and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(note));
        let _ = file.and_then(|mut file| file.write_all(counts.as_bytes()));
    }
}
