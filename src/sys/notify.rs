//! Tells systemd how the start goes: the datagrams of sd_notify(3). Other managers are told that we are ready by a file.
//!
//! Nothing here fails its caller: without systemd there is nobody to tell.

use std::ffi::OsString;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    way: Option<(UnixDatagram, SocketAddr)>,
    is_ready: AtomicBool,
    /// What goes on, where no wait is told of.
    status: Mutex<String>,
}

impl Notifier {
    /// By `NOTIFY_SOCKET`: a path, or an abstract name after an `@`.
    pub(crate) fn from_env() -> Notifier {
        Notifier::to(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn to(socket: Option<OsString>) -> Notifier {
        let connect = |name: &OsString| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                [b'/', ..] => SocketAddr::from_pathname(name),
                _ => Err(std::io::ErrorKind::Unsupported.into()),
            }?;
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold us up.
            socket.set_write_timeout(Some(Duration::from_secs(1)))?;
            Ok((socket, address))
        };
        let way = socket.filter(|s| !s.is_empty()).and_then(|name| {
            let tried: std::io::Result<_> = connect(&name);
            tried.inspect_err(|e| log::warn!("cannot use NOTIFY_SOCKET={}: {e}", name.display())).ok()
        });
        Notifier { way, ..Notifier::default() }
    }

    /// The daemon is ready. Told once: who waits for it waits no more.
    pub(crate) fn ready(&self) {
        if self.is_ready.swap(true, Ordering::Relaxed) {
            return;
        }
        self.send("READY=1");
        // OpenRC and busybox wait for a file; s6 has an open one for us, /dev/fd/N.
        if let Some(file) = std::env::var_os("EC2FLEETD_READY_FILE")
            && let Err(e) = write_now(Path::new(&file))
        {
            log::warn!("cannot write EC2FLEETD_READY_FILE={}: {e}", file.display());
        }
    }

    /// One line on what is going on.
    pub(crate) fn status(&self, text: &str) {
        text.clone_into(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
        self.send_status(text);
    }

    /// What goes on, in the words of the last status.
    pub(crate) fn going_on(&self) -> String {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is waited for, in place of what goes on; `None`: nothing any more.
    pub(crate) fn waiting(&self, text: Option<&str>) {
        match text {
            Some(text) => self.send_status(text),
            None => self.send_status(&self.status.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn send_status(&self, text: &str) {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
        self.send(&format!("STATUS={line}"));
    }

    /// The daemon is on its way out.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The start (or the stop) goes on for so long from now.
    pub(crate) fn extend_timeout(&self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.way
            && let Err(e) = socket.send_to_addr(message.as_bytes(), address)
        {
            log::debug!("cannot tell systemd {message}: {e}");
        }
    }
}

/// Writes a line; where nobody reads it (a FIFO), that is an error and no wait.
fn write_now(file: &Path) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(file, flags, Mode::from_raw_mode(0o666)).map_err(|e| match e {
        Errno::NXIO => std::io::Error::other("nobody reads this FIFO"),
        e => e.into(),
    })?;
    std::fs::File::from(fd).write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    fn says_all(n: &Notifier, manager: &UnixDatagram) {
        n.ready();
        n.status("waits for\nvol-1");
        n.stopping();
        n.extend_timeout(Duration::from_millis(1500));
        n.waiting(Some("a command"));
        n.waiting(None);
        let mut buffer = [0; 100];
        let waits = "STATUS=waits for vol-1";
        for text in ["READY=1", waits, "STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000", "STATUS=a command", waits] {
            let size = manager.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..size]).unwrap(), text);
        }
    }

    #[test]
    fn a_path_and_an_abstract_name() {
        let t = TestDir::new();
        let path = t.0.join("notify");
        says_all(&Notifier::to(Some(path.clone().into())), &UnixDatagram::bind(&path).unwrap());
        let name = format!("ec2fleetd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        says_all(&Notifier::to(Some(format!("@{name}").into())), &UnixDatagram::bind_addr(&address).unwrap());
    }

    #[test]
    fn nobody_to_tell_is_no_failure() {
        for socket in [None, Some(""), Some("/nowhere/at/all"), Some("vsock:2:1234")] {
            let n = Notifier::to(socket.map(OsString::from));
            n.ready();
            n.status("x");
        }
    }
}
