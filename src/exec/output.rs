//! The output of a command, from bytes to lines of the log.

use std::collections::VecDeque;
use std::path::Path;

use crate::log;

/// A longer line is cut.
const MAX_LINE: usize = 4096;
/// What is kept for the error: so many lines, each cut to so many bytes, and so many in all.
const TAIL_LINES: usize = 10;
const TAIL_LINE: usize = 512;
const TAIL_BYTES: usize = 2048;

/// Cuts output into lines, logs them for the domain of the thread that made it, and keeps the last ones.
#[derive(Debug)]
pub(super) struct Lines {
    domain: String,
    /// The command's name without its directory, in front of each line.
    name: String,
    line: Vec<u8>,
    /// More than [`MAX_LINE`] bytes came: the rest of the line is dropped.
    cut: bool,
    tail: VecDeque<String>,
    tail_bytes: usize,
}

impl Lines {
    pub(super) fn new(argv0: &str) -> Lines {
        let name = Path::new(argv0).file_name().map_or_else(|| argv0.into(), |n| n.to_string_lossy());
        Lines {
            domain: log::current_domain(),
            name: name.into_owned(),
            line: Vec::new(),
            cut: false,
            tail: VecDeque::new(),
            tail_bytes: 0,
        }
    }

    /// The domain and the command's name.
    pub(super) fn of(&self) -> (&str, &str) {
        (&self.domain, &self.name)
    }

    /// Takes bytes in.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        // A carriage return ends a line too: progress bars are lines of their own.
        while let Some(end) = bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
            self.extend(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.line.len();
        self.cut |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Logs what is left without an end of line.
    pub(super) fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let mut text = String::from_utf8_lossy(&self.line).into_owned();
        if self.cut {
            text.push_str(" [cut]");
        }
        self.line.clear();
        self.cut = false;
        log::in_domain(&self.domain, || ::log::info!(target: "ec2fleetd::exec", "{}: {text}", self.name));
        self.keep(&text);
    }

    fn keep(&mut self, text: &str) {
        let kept = bounded(text);
        self.tail_bytes += kept.len();
        self.tail.push_back(kept);
        while self.tail.len() > TAIL_LINES || (self.tail_bytes > TAIL_BYTES && self.tail.len() > 1) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |t| t.len());
        }
    }

    /// The last lines, oldest first, with what has no end yet.
    pub(super) fn tail(&self) -> Vec<String> {
        let open = (!self.line.is_empty()).then(|| bounded(&String::from_utf8_lossy(&self.line)));
        let mut all: Vec<String> = self.tail.iter().cloned().chain(open).collect();
        if all.len() > TAIL_LINES {
            all.remove(0);
        }
        all
    }
}

/// The beginning of a line, with nothing in it that would not be seen.
fn bounded(text: &str) -> String {
    let visible = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    text[..text.floor_char_boundary(TAIL_LINE)].chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_the_last_are_kept() {
        let mut lines = Lines::new("/bin/sh");
        lines.push(b"a\r\nb");
        lines.push(b"c\n\n10%\r20%\rdone");
        assert_eq!(lines.tail(), ["a", "bc", "10%", "20%", "done"]);
        lines.end_line();
        assert_eq!(lines.tail(), ["a", "bc", "10%", "20%", "done"]);
        for n in 0..100 {
            lines.push(format!("{n}\n").as_bytes());
        }
        assert_eq!(lines.tail(), (90..100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn no_output_takes_much_memory_or_breaks_text() {
        let mut lines = Lines::new("x");
        for _ in 0..1000 {
            lines.push("\u{20ac}".repeat(5000).as_bytes());
        }
        assert_eq!(lines.line.len(), MAX_LINE);
        assert!(lines.line.capacity() <= 2 * MAX_LINE);
        lines.push(b"\n\xff\x00\x1b[0m\n");
        let tail = lines.tail();
        assert_eq!(tail[0], "\u{20ac}".repeat(TAIL_LINE / 3));
        assert_eq!(tail[1], "\u{fffd}\u{fffd}\u{fffd}[0m");
        for _ in 0..20 {
            lines.push(&[b"\x01".repeat(600), b"\n".to_vec()].concat());
        }
        assert!(lines.tail().iter().map(String::len).sum::<usize>() <= TAIL_BYTES);
    }
}
