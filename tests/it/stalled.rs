//! Programs that cannot be loaded, as on a disk that does not answer: a lease on a file holds up whoever opens it, and a
//! file system in user space whose program says nothing holds up whoever looks for one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const LEASE: &str = "
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
time.sleep(300)
";

const FUSE: &str = r#"exec 3<>/dev/fuse && echo held &&
mount -i -n -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 stalled "$1" && exec sleep 300"#;

/// Who holds up a program; let go when dropped.
pub(crate) struct Stalled {
    child: Child,
    /// What is to be unmounted then.
    point: Option<PathBuf>,
}

/// Nobody loads the program at `path` as long as this lives, or for 45 s (`/proc/sys/fs/lease-break-time`).
pub(crate) fn program(path: &Path) -> Option<Stalled> {
    held(Command::new("python3").args(["-c", LEASE]).arg(path), None).or_else(|| {
        println!("skipped: no lease can be had here");
        None
    })
}

/// Nobody comes to the end of a look into the directory `path`, which is there, as long as this lives.
pub(crate) fn directory(path: &Path) -> Option<Stalled> {
    let mut command = Command::new("sh");
    let stalled = held(command.args(["-c", FUSE, "sh"]).arg(path), Some(path.to_path_buf()));
    let is_mounted = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        table.lines().any(|l| l.split(' ').nth(4).is_some_and(|point| Path::new(point) == path))
    };
    let begin = std::time::Instant::now();
    while stalled.is_some() && !is_mounted() {
        if begin.elapsed() > std::time::Duration::from_secs(10) {
            println!("skipped: no file system in user space can be mounted here");
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    stalled
}

fn held(command: &mut Command, point: Option<PathBuf>) -> Option<Stalled> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let mut line = String::new();
    let _ = BufReader::new(child.stdout.take()?).read_line(&mut line);
    let stalled = Stalled { child, point };
    (line.trim() == "held").then_some(stalled)
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(point) = &self.point {
            let _ = Command::new("umount").args(["-l"]).arg(point).stderr(Stdio::null()).status();
        }
    }
}
