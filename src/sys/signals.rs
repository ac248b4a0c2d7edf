//! Signals: SIGTERM, SIGINT and SIGQUIT ask the daemon to stop, a second one of them kills it; SIGUSR1 has it log its
//! state. SIGHUP and SIGUSR2 mean nothing here, and that is said: they would end a process that does not know them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::scope::{Stop, StopReason};

/// From now on the first signal makes a request to `stop`. `state` logs what goes on.
pub(crate) fn install(stop: &Stop, state: Box<dyn Fn() + Send>) -> io::Result<()> {
    let mut wanted = vec![SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2];
    // Under nohup it stays ignored.
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let stop = stop.clone();
    let wait = move || {
        let asked = AtomicBool::new(false);
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("a signal");
            match signal {
                SIGUSR1 => state(),
                SIGHUP => log::info!("{name}: the config is not read again; stop and start to have another one"),
                SIGUSR2 => log::info!("{name}: has no meaning here"),
                _ if !asked.swap(true, Ordering::Relaxed) => {
                    log::info!("{name}: stopping; a second one kills");
                    stop.request(StopReason::Terminate);
                }
                _ => {
                    log::error!("{name} again: killed; what was in flight is left as it is, the next run settles it");
                    crate::log::flush();
                    let _ = emulate_default_handler(signal);
                }
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).stack_size(128 << 10).spawn(wait).map(drop)
}

/// Whether the signal was ignored when this process began: `SigIgn` of proc(5).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m >> (signal - 1) & 1 == 1)
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
        install(&stop, Box::new(|| {})).unwrap();
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
