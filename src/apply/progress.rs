//! How far a long wait is: `STATUS=` for systemd, a bar on a terminal, and in the log a line now and then.

use std::time::Duration;

use super::Shared;
use crate::clock::Tick;
use crate::log;

/// A wait that is told about repeats itself in the log after this.
const REPEAT: Duration = Duration::from_secs(30);
/// Percent after which a line goes into the log.
const STEP: u8 = 10;

/// One wait, from its first word to its end (when it is dropped).
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    shared: &'a Shared,
    /// Whose wait it is: the path of a directive.
    who: &'a str,
    status: String,
    /// What was logged last, and when.
    logged: Option<(Option<u8>, Tick)>,
    bar: bool,
}

impl Shared {
    /// The measure of a wait of `who`.
    pub(crate) fn measure<'a>(&'a self, who: &'a str) -> Progress<'a> {
        Progress { shared: self, who, status: String::new(), logged: None, bar: false }
    }
}

impl Progress<'_> {
    /// Says what is waited for, and how far it is. May be called as often as one looks.
    pub(crate) fn tell(&mut self, what: &str, percent: Option<u8>) {
        let text = percent.map_or_else(|| what.to_owned(), |p| format!("{what}: {p} %"));
        let status = format!("{}: {text}", self.who);
        if status != self.status {
            self.shared.notifier.status(&status);
            self.status = status;
        }
        self.bar = log::bar(&draw(what, percent));
        let now = self.shared.clock.now();
        let due = self
            .logged
            .is_none_or(|(last, at)| last.map(|p| p / STEP) != percent.map(|p| p / STEP) || now.since(at) >= REPEAT);
        if due {
            self.logged = Some((percent, now));
            // On a terminal the bar says it.
            let level = if self.bar { ::log::Level::Debug } else { ::log::Level::Info };
            ::log::log!(level, "{}: {text}", self.who);
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.bar {
            log::bar("");
        }
    }
}

fn draw(what: &str, percent: Option<u8>) -> String {
    const WIDTH: usize = 20;
    match percent.map(|p| p.min(100)) {
        Some(p) => {
            let full = usize::from(p) * WIDTH / 100;
            format!("[{}{}] {p:>3} % {what}", "#".repeat(full), ".".repeat(WIDTH - full))
        }
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_bar_is_as_long_as_it_is_far() {
        assert_eq!(super::draw("w", None), "w");
        assert_eq!(super::draw("w", Some(0)), "[....................]   0 % w");
        assert_eq!(super::draw("w", Some(55)), "[###########.........]  55 % w");
        assert_eq!(super::draw("w", Some(255)), "[####################] 100 % w");
    }
}
