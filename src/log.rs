//! The logger: one line per message on standard error, with the domain that the thread works for.
//!
//! error = someone must act, warn = degraded or retrying, info = progress (about 20 lines a boot), debug = one line per
//! request. Never headers, bodies, user data or credentials.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::AsFd;

use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

thread_local! {
    static DOMAIN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `f` with `domain` in front of every message of this thread.
pub(crate) fn in_domain<T>(domain: &str, f: impl FnOnce() -> T) -> T {
    let before = DOMAIN.with(|d| d.replace(domain.to_owned()));
    let out = f();
    DOMAIN.with(|d| d.replace(before));
    out
}

/// The domain that this thread works for; empty if none. For a thread that goes on with its work.
pub(crate) fn current_domain() -> String {
    DOMAIN.with(|d| d.borrow().clone())
}

struct Logger {
    /// Standard error is the journal: a priority in front, no time.
    journal: bool,
}

/// Whether `stream` is the one that `JOURNAL_STREAM` (device and inode) names. The variable alone says nothing: whoever
/// redirects our output hands it down all the same.
fn is_journal(variable: Option<&str>, stream: impl AsFd) -> bool {
    let named = variable.and_then(|v| v.split_once(':')).and_then(|(d, i)| Some((d.parse().ok()?, i.parse().ok()?)));
    named.is_some() && rustix::fs::fstat(stream).is_ok_and(|s| named == Some((s.st_dev, s.st_ino)))
}

/// Installs the logger. `verbose` shows debug messages.
pub(crate) fn init(verbose: bool) {
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), std::io::stderr());
    let logger = Logger { journal };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

impl Log for Logger {
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        // Dependencies may only warn: their lower levels print what we must not (headers).
        m.level() <= if m.target().starts_with("ec2fleetd") { Level::Debug } else { Level::Warn }
    }

    fn log(&self, r: &Record<'_>) {
        if !self.enabled(r.metadata()) || r.level() > log::max_level() {
            return;
        }
        let domain = DOMAIN.with(|d| match d.borrow().as_str() {
            "" => String::new(),
            d => format!("[{d}] "),
        });
        let text = line(self.journal, r.level(), &domain, &r.args().to_string());
        // A log that cannot be written must not stop a boot.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn flush(&self) {}
}

fn line(journal: bool, level: Level, domain: &str, message: &str) -> String {
    // One message is one line, whatever an API or a command put into it.
    let message: String = message
        .chars()
        .map(|c| {
            if c == '\n' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    if journal {
        let priority = match level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        format!("<{priority}>{domain}{message}\n")
    } else {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|t| t.format(&Rfc3339).ok());
        format!("{} {:<5} {domain}{message}\n", now.unwrap_or_default(), level.as_str().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let s = rustix::fs::fstat(&reader).unwrap();
        let named = format!("{}:{}", s.st_dev, s.st_ino);
        assert!(is_journal(Some(&named), &reader));
        for other in [None, Some(""), Some("1:2"), Some("x"), Some("::")] {
            assert!(!is_journal(other, &reader), "{other:?}");
        }
    }

    #[test]
    fn one_message_is_one_line() {
        assert_eq!(line(true, Level::Error, "[a] ", "x\ny\x1b"), "<3>[a] x y\u{fffd}\n");
        assert!(line(false, Level::Info, "", "ready").ends_with(" info  ready\n"));
    }
}
