//! The logger: one line per message on standard error, with the domain that the thread works for; where nobody would
//! read that (an initramfs without a console), in the kernel's log.
//!
//! Nobody who logs waits for who reads: lines go to a thread that writes them, by way of a bounded queue ([`queue`]).
//! What the process wrote last is waited for at its end, for [`AT_THE_END`] at most.
//!
//! error = someone must act, warn = degraded or retrying, info = progress (about 20 lines a boot), debug = one line per
//! request. Never headers, bodies, user data or credentials.

mod queue;

use std::cell::RefCell;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use queue::{Item, Queue};

/// How long the end of the process waits for what it wrote last.
const AT_THE_END: Duration = Duration::from_secs(2);

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

/// Where the log goes: `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// To standard error, or to the kernel where that leads nowhere.
    #[default]
    Auto,
    /// To standard error, whatever it is.
    Stderr,
    /// To the kernel (`/dev/kmsg`).
    Kmsg,
}

impl Place {
    /// The value of `--log`.
    pub(crate) fn of(name: &str) -> Option<Place> {
        match name {
            "auto" => Some(Place::Auto),
            "stderr" => Some(Place::Stderr),
            "kmsg" => Some(Place::Kmsg),
            _ => None,
        }
    }
}

/// Whether the kernel gets the log.
pub(crate) fn is_kernels() -> bool {
    TO_KERNEL.load(Ordering::Relaxed)
}

/// The value of `--log` for a process that goes on with our work.
pub(crate) fn place() -> &'static str {
    if is_kernels() { "kmsg" } else { "auto" }
}

static TO_KERNEL: AtomicBool = AtomicBool::new(false);

/// All that is still to be written.
static QUEUE: OnceLock<Queue> = OnceLock::new();
/// Standard error is a terminal, with a line at its foot.
static HAS_BAR: AtomicBool = AtomicBool::new(false);

/// Terminals have at least so many columns; a longer line would not be written over as a whole.
const COLUMNS: usize = 79;

/// Begins a line of a terminal anew.
const CLEAR: &str = "\r\x1b[K";

/// Shows `text` at the foot of the terminal, in place of what was there; nothing if it is empty. `false`: standard error
/// is no terminal.
pub(crate) fn bar(text: &str) -> bool {
    let Some(queue) = QUEUE.get().filter(|_| HAS_BAR.load(Ordering::Relaxed)) else { return false };
    queue.bar(one_line(text).chars().take(COLUMNS).collect());
    true
}

/// Waits until all that was logged is written; not for long, where nobody reads it.
pub(crate) fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(AT_THE_END);
    }
}

/// How the log is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Standard error.
    Plain,
    /// Standard error is the journal: a priority in front, no time.
    Journal,
    /// The kernel's log.
    Kmsg,
}

/// Where it is written to.
enum Sink {
    Stderr,
    /// The path of the kernel's log, and as it was at the start.
    Kmsg(PathBuf, File),
}

/// Writes it. A log that cannot be written stops nothing, so errors are dropped.
struct Writer {
    sink: Sink,
    /// What stands at the foot of the terminal.
    bar: String,
}

impl Writer {
    fn write(&mut self, item: Item) {
        let text = match item {
            Item::Bar(text) => {
                self.bar = text;
                format!("{CLEAR}{}", self.bar)
            }
            Item::Line(line) if self.bar.is_empty() => line,
            Item::Line(line) => format!("{CLEAR}{line}{}", self.bar),
        };
        match &self.sink {
            Sink::Stderr => {
                let _ = std::io::stderr().lock().write_all(text.as_bytes());
            }
            Sink::Kmsg(path, file) => {
                // Of one descriptor the kernel takes ten records in five seconds and drops the others: each message
                // gets its own. After a switch_root there may be no path to it any more.
                let fresh = open(path);
                let mut to = fresh.as_ref().unwrap_or(file);
                let _ = text.split_inclusive('\n').try_for_each(|record| to.write_all(record.as_bytes()));
            }
        }
    }
}

/// The logger of the crate `log`.
struct Logger(Form);

/// Whether `stream` is the one that `JOURNAL_STREAM` (device and inode) names. The variable alone says nothing: whoever
/// redirects our output hands it down all the same.
fn is_journal(variable: Option<&str>, stream: impl AsFd) -> bool {
    let named = variable.and_then(|v| v.split_once(':')).and_then(|(d, i)| Some((d.parse().ok()?, i.parse().ok()?)));
    named.is_some() && rustix::fs::fstat(stream).is_ok_and(|s| named == Some((s.st_dev, s.st_ino)))
}

/// Whether what is written to `stream` is lost: it is `/dev/null` (which Rust puts where nothing is open) or cannot be
/// written to.
fn is_lost(stream: impl AsFd) -> bool {
    let null = |s: rustix::fs::Stat| {
        rustix::fs::FileType::from_raw_mode(s.st_mode).is_char_device() && s.st_rdev == rustix::fs::makedev(1, 3)
    };
    let read_only = |f: rustix::fs::OFlags| f.intersection(rustix::fs::OFlags::RWMODE) == rustix::fs::OFlags::RDONLY;
    rustix::fs::fstat(&stream).map_or(true, null) || rustix::fs::fcntl_getfl(&stream).map_or(true, read_only)
}

fn open(kmsg: &Path) -> std::io::Result<File> {
    File::options().append(true).open(kmsg)
}

/// Installs the logger. `verbose` shows debug messages, `kmsg` is the path of `/dev/kmsg`.
pub(crate) fn init(verbose: bool, place: Place, kmsg: &Path) {
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), std::io::stderr());
    let wanted = place == Place::Kmsg || (place == Place::Auto && !journal && is_lost(std::io::stderr()));
    let (form, sink, missing) = match wanted.then(|| open(kmsg)) {
        Some(Ok(file)) => {
            TO_KERNEL.store(true, Ordering::Relaxed);
            (Form::Kmsg, Sink::Kmsg(kmsg.to_owned(), file), None)
        }
        other => (if journal { Form::Journal } else { Form::Plain }, Sink::Stderr, other.and_then(Result::err)),
    };
    HAS_BAR.store(form == Form::Plain && std::io::stderr().is_terminal(), Ordering::Relaxed);
    let queue = Queue::new(match form {
        Form::Plain => |n| missing_lines(Form::Plain, n),
        Form::Journal => |n| missing_lines(Form::Journal, n),
        Form::Kmsg => |n| missing_lines(Form::Kmsg, n),
    });
    let mut writer = Writer { sink, bar: String::new() };
    // Without a thread there is no log: what has no thread for it ends soon anyway, and says so by its exit code.
    queue.serve(move |item| writer.write(item));
    let _ = QUEUE.set(queue);
    if log::set_boxed_logger(Box::new(Logger(form))).is_ok() {
        log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
    }
    if let Some(e) = missing {
        log::warn!("cannot log to {}: {e}", kmsg.display());
    }
}

/// The line for lines that were not taken.
fn missing_lines(form: Form, n: u64) -> String {
    let text = format!("{n} lines of this log were dropped: they came faster than they were read");
    form.text(Level::Warn, "", &text)
}

impl Form {
    fn text(self, level: Level, domain: &str, message: &str) -> String {
        match self {
            Form::Plain => dated(level, domain, message),
            Form::Journal => format!("<{}>{domain}{message}\n", priority(level)),
            Form::Kmsg => records(level, domain, message).collect(),
        }
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
        let message = one_line(&r.args().to_string());
        if let Some(queue) = QUEUE.get() {
            queue.put(r.level(), self.0.text(r.level(), &domain, &message));
        }
    }

    fn flush(&self) {
        flush();
    }
}

/// One message is one line, whatever an API or a command put into it.
fn one_line(message: &str) -> String {
    let plain = |c: char| match c {
        '\n' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    message.chars().map(plain).collect()
}

/// As syslog and the kernel count.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn dated(level: Level, domain: &str, message: &str) -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok().and_then(|t| t.format(&Rfc3339).ok());
    format!("{} {:<5} {domain}{message}\n", now.unwrap_or_default(), level.as_str().to_lowercase())
}

/// What the kernel takes as one record, with what it puts before it, is 1024 bytes: a longer message is cut into
/// several.
fn records(level: Level, domain: &str, message: &str) -> impl Iterator<Item = String> {
    const LONGEST: usize = 900;
    let head =
        format!("<{}>ec2fleetd: {}", priority(level), domain.get(..domain.floor_char_boundary(300)).unwrap_or(""));
    let room = LONGEST - head.len();
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let (piece, more) = rest?.split_at_checked(rest?.floor_char_boundary(room))?;
        rest = (!more.is_empty()).then_some(more);
        Some(format!("{head}{piece}\n"))
    })
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
        assert_eq!(one_line("x\ny\x1b"), "x y\u{fffd}");
        assert!(dated(Level::Info, "[a] ", "ready").ends_with(" info  [a] ready\n"));
    }

    #[test]
    fn nobody_reads_what_goes_to_null_or_to_a_stream_that_is_only_read() {
        let dir = crate::sys::testing::TestDir::new();
        let file = dir.file("log", "");
        for (path, write, lost) in
            [("/dev/null".as_ref(), true, true), (file.as_path(), true, false), (&file, false, true)]
        {
            let stream = File::options().read(!write).write(write).open(path).unwrap();
            assert_eq!(is_lost(&stream), lost, "{path:?} {write}");
        }
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(is_lost(&reader) && !is_lost(&writer));
    }

    #[test]
    fn the_kernel_gets_records_that_it_takes() {
        let of = |domain: &str, message: &str| records(Level::Warn, domain, message).collect::<Vec<_>>();
        assert_eq!(of("[a] ", "x"), ["<4>ec2fleetd: [a] x\n"]);
        assert_eq!(of("", ""), ["<4>ec2fleetd: \n"]);
        for (domain, message) in [("", "é".repeat(1000)), ("d".repeat(2000).as_str(), "x".repeat(5000))] {
            let all = of(domain, &message);
            assert!(all.len() > 1 && all.iter().all(|r| r.len() <= 901 && r.ends_with('\n')), "{all:?}");
            let head = all[0].find(message.chars().next().unwrap()).unwrap();
            let text: String = all.iter().map(|r| r[head..].trim_end()).collect();
            assert_eq!(text, message);
        }
    }
}
