//! After a panic, which is a fault of this program: the process starts itself anew in its own place (`execve`, with the
//! same process id), finds in the journals what was in flight, puts it back, tells of the failure and ends.
//!
//! So a panic in any thread is the failure of the run, and is rolled back, without tables for unwinding: they would be a
//! fifth of the binary. A panic before there is anything to put back ends the program, and so does a second one.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::PanicHookInfo;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::exec::PANIC;

/// The exit code where nothing was in flight, and where what was in flight is still there.
const NOTHING_HELD: i32 = 1;
const HELD: i32 = 3;

/// The config, where it came from standard input: it cannot be read again from there.
static INPUT: OnceLock<OwnedFd> = OnceLock::new();
/// Something may be in flight from here on.
static ARMED: OnceLock<()> = OnceLock::new();
/// Only one thread takes the place.
static ONCE: Mutex<()> = Mutex::new(());

/// Why the program whose place this one took broke off; `None`: this one is the first.
pub(crate) fn reason() -> Option<String> {
    std::env::var_os(PANIC).map(|text| text.to_string_lossy().into_owned())
}

/// Logs a panic in one line, and ends the process in a way that leaves nothing behind.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(on_panic));
}

/// From here on AWS resources may be in flight.
pub(super) fn arm() {
    let _ = ARMED.set(());
}

/// Keeps a config that cannot be read a second time.
pub(super) fn keep_input(bytes: &[u8]) {
    // Without it a rescue ends with an error, and the next run settles what is left.
    if let Ok(fd) = rustix::fs::memfd_create("config", MemfdFlags::CLOEXEC) {
        let mut file = std::fs::File::from(fd);
        if file.write_all(bytes).is_ok() {
            let _ = INPUT.set(file.into());
        }
    }
}

fn on_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.to_string().replace('\n', " ");
    log::error!("a fault in this program: {text}");
    if ARMED.get().is_none() {
        end(NOTHING_HELD);
    }
    if reason().is_some() {
        end(HELD);
    }
    // Another thread that panics meanwhile waits here until it is gone.
    let _once = ONCE.lock();
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(input) = INPUT.get() {
        let _ = rustix::io::fcntl_setfd(input, FdFlags::empty());
        args.push(format!("--userdata=/proc/self/fd/{}", input.as_raw_fd()).into());
    }
    let mut again = Command::new("/proc/self/exe");
    again.args(args).env(PANIC, &text);
    // The steps at which a test wants it to die are counted anew.
    again.env_remove("EC2FLEETD_DIE");
    crate::log::flush();
    let error = again.exec();
    log::error!("cannot start again to put back what was in flight (the next run does): {error}");
    end(HELD);
}

fn end(code: i32) -> ! {
    crate::log::flush();
    std::process::exit(code)
}
