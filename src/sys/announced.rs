//! What the kernel announces over netlink: devices that come and go, links, addresses and routes.
//!
//! Who waits for one of them is woken when it is there, and uses no processor until then. An announcement says only
//! that it is time to look: nothing of what is in it is read, and where there are none (a container, seccomp) waiting
//! is all that is done. So who waits looks again from time to time all the same.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};

use crate::scope::{Halt, Scope, Stop};

/// The kernel's own announcements of devices; the second group is udev's.
const DEVICES: u32 = 1;
/// `RTMGRP_LINK`, and `IFADDR` and `ROUTE` of IPv4 and IPv6.
const NETWORK: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// Listens from when it was made.
#[derive(Debug)]
pub(crate) struct Announced(Option<OwnedFd>);

impl Announced {
    /// Devices.
    pub(crate) fn devices() -> Announced {
        Announced::of(Some(KOBJECT_UEVENT), DEVICES)
    }

    /// Links, addresses and routes.
    pub(crate) fn network() -> Announced {
        Announced::of(None, NETWORK)
    }

    /// Nothing is ever announced.
    pub(crate) fn nothing() -> Announced {
        Announced(None)
    }

    fn of(protocol: Option<Protocol>, groups: u32) -> Announced {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = || {
            let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
            Ok(socket)
        };
        let made: rustix::io::Result<OwnedFd> = socket();
        Announced(made.inspect_err(|e| log::debug!("the kernel announces nothing to us: {e}")).ok())
    }

    /// Whether there is anything to hope for.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for an announcement, for `most` at most; whether there was one.
    pub(crate) fn wait(&self, scope: &Scope, most: Duration) -> Result<bool, Halt> {
        let Some(socket) = &self.0 else { return scope.sleep(most).map(|()| false) };
        scope.check()?;
        let real = scope.clock.nap(most.min(scope.remaining()));
        // Rounded up, or the last part of a millisecond would be a busy loop.
        let millis = i64::try_from(real.as_micros().div_ceil(1000)).unwrap_or(1000);
        let timeout = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        let stop = scope.stop.as_ref().and_then(Stop::fd);
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
        fds.extend(
            [Some(socket.as_fd()), stop].into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        // Interrupted or failed: the caller looks again.
        let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap_or(0);
        let announced = ready > 0 && fds.first().is_some_and(|fd| !fd.revents().is_empty());
        if announced {
            // One look is enough for all that has come; what comes during it is for the next.
            let mut left = 1000;
            while left > 0 && rustix::net::recv(socket, &mut [0u8; 1], RecvFlags::empty()).is_ok() {
                left -= 1;
            }
        }
        scope.check().map(|()| announced)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::net::{SendFlags, getsockname, sendto};

    use super::*;
    use crate::clock::Clock;
    use crate::scope::StopReason;

    fn scope(seconds: u64, stop: Option<&Stop>) -> Scope {
        Scope::new(&Arc::new(Clock::new(None).unwrap()), Duration::from_secs(seconds), stop)
    }

    #[test]
    fn an_announcement_ends_a_wait_and_counts_once() {
        let (scope, long) = (scope(60, None), Duration::from_secs(50));
        let a = Announced::devices();
        let Some(socket) = &a.0 else { return eprintln!("skipped: no netlink here") };
        let own = SocketAddrNetlink::try_from(getsockname(socket).unwrap()).unwrap();
        let other = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(KOBJECT_UEVENT)).unwrap();
        // To this socket alone: nobody else on this machine is to take it for a device.
        let send = || sendto(&other, b"add@/x\0", SendFlags::empty(), &SocketAddrNetlink::new(own.pid(), 0));
        if send().is_err() {
            return eprintln!("skipped: only root may send");
        }
        send().unwrap();
        assert_eq!(a.wait(&scope, long), Ok(true));
        // Others on this machine may be plugging in devices.
        while a.wait(&scope, Duration::from_millis(5)) == Ok(true) {}
        std::thread::scope(|s| {
            let waiting = s.spawn(|| a.wait(&scope, long));
            send().unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(true));
        });
    }

    #[test]
    fn a_link_that_comes_up_is_announced() {
        let inside = || {
            // A network of this thread's own; what is unsafe about it concerns tables of descriptors.
            #[allow(deprecated)]
            if rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).is_err() {
                return eprintln!("skipped: only root may");
            }
            let (a, scope) = (Announced::network(), scope(60, None));
            assert_eq!(a.wait(&scope, Duration::from_millis(5)), Ok(false));
            let done = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            if done.is_ok_and(|s| s.success()) {
                assert_eq!(a.wait(&scope, Duration::from_secs(50)), Ok(true));
            }
        };
        std::thread::scope(|s| s.spawn(inside).join()).unwrap();
    }

    #[test]
    fn a_stop_and_a_deadline_end_a_wait() {
        for a in [Announced::nothing(), Announced::network()] {
            let stop = Stop::new();
            let waits = scope(60, Some(&stop));
            std::thread::scope(|s| {
                let waiting = s.spawn(|| {
                    loop {
                        if let Err(halt) = a.wait(&waits, Duration::from_secs(50)) {
                            return halt;
                        }
                    }
                });
                stop.request(StopReason::Terminate);
                assert_eq!(waiting.join().unwrap(), Halt::Stopped(StopReason::Terminate));
            });
            assert_eq!(a.wait(&scope(0, None), Duration::from_secs(50)), Err(Halt::Deadline));
        }
    }
}
