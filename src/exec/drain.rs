//! The output of programs that outlive the command which started them.
//!
//! A script may start a game server and end; the server still has the script's output. Closing our end would kill it
//! at its next line, so one thread for the whole process goes on logging.

use std::io::PipeReader;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use super::child::read_some;
use super::output::Lines;

/// The thread that reads what is left; made when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Drain(Mutex<Option<Arc<Inbox>>>);

#[derive(Debug)]
struct Inbox {
    new: Mutex<Vec<(PipeReader, Lines)>>,
    wake: OwnedFd,
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
            *inbox = start().inspect_err(|e| log::warn!("cannot read the output of background programs: {e}")).ok();
        }
        match &*inbox {
            Some(inbox) => {
                inbox.lock().push((pipe, lines));
                let _ = rustix::io::write(&inbox.wake, &1u64.to_ne_bytes());
            }
            // Left open and unread: the program may block, but it is not killed.
            None => std::mem::forget(pipe),
        }
    }
}

fn start() -> std::io::Result<Arc<Inbox>> {
    let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let inbox = Arc::new(Inbox { new: Mutex::default(), wake });
    let own = inbox.clone();
    std::thread::Builder::new().name("output".into()).stack_size(128 << 10).spawn(move || run(&own))?;
    Ok(inbox)
}

fn run(inbox: &Inbox) {
    let mut all: Vec<(PipeReader, Lines)> = Vec::new();
    loop {
        let _ = rustix::io::read(&inbox.wake, &mut [0u8; 8]);
        all.append(&mut inbox.lock());
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
