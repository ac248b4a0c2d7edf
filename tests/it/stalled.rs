//! Programs that cannot be loaded, as on a disk that does not answer: a lease on the file holds up whoever opens it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const LEASE: &str = "
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
time.sleep(300)
";

/// Who holds up a program; let go when dropped.
pub(crate) struct Stalled(Child);

/// Nobody loads the program at `path` as long as this lives, or for 45 s (`/proc/sys/fs/lease-break-time`).
pub(crate) fn program(path: &Path) -> Option<Stalled> {
    let mut command = Command::new("python3");
    command.args(["-c", LEASE]).arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take()?).read_line(&mut line);
    let stalled = Stalled(child);
    if line.trim() == "held" {
        return Some(stalled);
    }
    println!("skipped: no lease can be had here");
    None
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
