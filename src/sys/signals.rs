//! SIGTERM and SIGINT: the first asks the daemon to stop, a second one kills it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::scope::{Stop, StopReason};

/// From now on the first signal makes a request to `stop`.
pub(crate) fn install(stop: &Stop) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = stop.clone();
    let wait = move || {
        let asked = AtomicBool::new(false);
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("a signal");
            if !asked.swap(true, Ordering::Relaxed) {
                log::info!("{name}: stopping; a second one kills");
                stop.request(StopReason::Terminate);
            } else {
                log::error!("{name} again: killed; what was in flight is left as it is, the next run settles it");
                let _ = emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(wait).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    /// Does something only when the test below runs it in a process of its own.
    #[test]
    fn process_that_is_signalled() {
        if std::env::var_os("EC2FLEETD_TEST_CHILD").is_none() {
            return;
        }
        let stop = Stop::new();
        install(&stop).unwrap();
        let myself = rustix::process::getpid();
        rustix::process::kill_process(myself, rustix::process::Signal::TERM).unwrap();
        assert_eq!(stop.wait(Duration::from_secs(10)), Some(StopReason::Terminate));
        rustix::process::kill_process(myself, rustix::process::Signal::INT).unwrap();
        std::thread::sleep(Duration::from_secs(10));
    }

    #[test]
    fn the_first_asks_and_the_second_kills() {
        let mut me = Command::new(std::env::current_exe().unwrap());
        me.args(["--exact", "sys::signals::tests::process_that_is_signalled"]).env("EC2FLEETD_TEST_CHILD", "1");
        let status = me.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), Some(SIGINT));
    }
}
