//! The output of programs that outlive the command which started them.
//!
//! A script may start a game server and end; the server still has the script's output. Closing our end would kill it
//! at its next line, so one thread for the whole process goes on logging. When the process ends before such programs
//! do (`--enable-poll=false` in user data), each of their pipes gets a process of its own that reads on: this executable
//! under another name.

use std::ffi::OsString;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::child::read_some;
use super::output::Lines;
use crate::clock::Clock;
use crate::scope::Scope;
use crate::sys::start;

/// The name under which this executable only reads on; the log's place, the domain and the command's name are its
/// arguments.
pub(crate) const READER: &str = "ec2fleetd-output";

/// How long the start of those who read on may take, all together.
const READERS: Duration = Duration::from_secs(10);

/// The thread that reads what is left; made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Drain(Mutex<Option<(Arc<Inbox>, JoinHandle<()>)>>);

#[derive(Debug)]
struct Inbox {
    new: Mutex<Vec<(PipeReader, Lines)>>,
    wake: OwnedFd,
    /// The process ends: within this others must have taken over.
    leaving: OnceLock<Scope>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<(PipeReader, Lines)>> {
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    /// Reads on from `pipe` until its end.
    pub(super) fn take(&self, pipe: PipeReader, lines: Lines) {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.is_none() {
            *inbox = begin().inspect_err(|e| log::warn!("cannot read the output of background programs: {e}")).ok();
        }
        match &*inbox {
            Some((inbox, _)) => {
                inbox.lock().push((pipe, lines));
                let _ = rustix::io::write(&inbox.wake, &1u64.to_ne_bytes());
            }
            // Left open and unread: the program may block, but it is not killed.
            None => std::mem::forget(pipe),
        }
    }

    /// The process ends: what is still open is read on by processes of its own.
    pub(super) fn hand_over(&self, clock: &Arc<Clock>) {
        let Some((inbox, thread)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let _ = inbox.leaving.set(Scope::new(clock, READERS, None));
        let _ = rustix::io::write(&inbox.wake, &1u64.to_ne_bytes());
        let _ = thread.join();
    }
}

/// What the executable does under the name [`READER`], with the log in its place.
pub(crate) fn read_on(mut args: impl Iterator<Item = OsString>) {
    let mut text = || args.next().unwrap_or_default().to_string_lossy().into_owned();
    let (domain, name) = (text(), text());
    let mut lines = crate::log::in_domain(&domain, || Lines::new(&name));
    let mut buffer = [0; 8 << 10];
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut buffer) {
            Ok(n) if n > 0 => lines.push(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    lines.end_line();
}

fn reader(pipe: PipeReader, lines: &Lines, scope: &Scope) {
    // It is to wait for its input.
    let _ = rustix::io::ioctl_fionbio(&pipe, false);
    let (domain, name) = lines.of();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(READER)
        .args([crate::log::place(), domain, name])
        .env_remove(super::NOT_FOR_CHILDREN[0])
        .env_remove(super::NOT_FOR_CHILDREN[1])
        .stdin(OwnedFd::from(pipe))
        .stdout(Stdio::null())
        .process_group(0);
    match start::spawn(Box::new(move || Ok(command)), scope).map_err(std::io::Error::from) {
        Ok(_) => log::info!("{name} goes on in the background; its output is read on"),
        Err(e) => log::warn!("{name} goes on in the background and loses its output: {e}"),
    }
}

fn begin() -> std::io::Result<(Arc<Inbox>, JoinHandle<()>)> {
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let inbox = Arc::new(Inbox { new: Mutex::default(), wake, leaving: OnceLock::new() });
    let own = inbox.clone();
    let thread = std::thread::Builder::new().name("output".into()).stack_size(128 << 10).spawn(move || run(&own))?;
    Ok((inbox, thread))
}

fn run(inbox: &Inbox) {
    let mut all: Vec<(PipeReader, Lines)> = Vec::new();
    loop {
        let _ = rustix::io::read(&inbox.wake, &mut [0u8; 8]);
        all.append(&mut inbox.lock());
        if let Some(scope) = inbox.leaving.get() {
            for (mut pipe, mut lines) in all {
                // One that has come to its end needs nobody.
                if read_some(&mut pipe, &mut lines, 64 << 10) {
                    reader(pipe, &lines, scope);
                }
                lines.end_line();
            }
            return;
        }
        let fds = std::iter::once(inbox.wake.as_fd()).chain(all.iter().map(|(pipe, _)| pipe.as_fd()));
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if rustix::event::poll(&mut fds, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        all.retain_mut(|(pipe, lines)| {
            let open = !ready.next().unwrap_or(false) || read_some(pipe, lines, 64 << 10);
            if !open {
                lines.end_line();
            }
            open
        });
    }
}
