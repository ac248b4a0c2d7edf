//! What is remembered of device names until the next boot: those that this instance has had, and those that proved bad.
//!
//! EC2 keeps a name busy for some seconds after a detachment, and a name that a guest still holds can make an attachment
//! hang for ever. So such names are chosen last. It is a hint: a file that is missing, foreign or broken costs a call at
//! most. Only who has the lock of the choice of device names may use it.

use super::Root;
use super::journal::JournalFile;

/// More than there are names to choose from.
const MOST: usize = 128;
/// Longer ones are not ours.
const LONGEST: usize = 32;
const BAD: &str = "bad ";
const USED: &str = "used ";

/// A device name that is not as good as a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worn {
    /// `/dev/xvdba`.
    pub(crate) name: String,
    /// EC2 said that it is in use, or an attachment under it hung.
    pub(crate) bad: bool,
}

/// The names of this boot, the one that was marked last at the end.
#[derive(Debug, Default)]
pub(crate) struct DeviceNames {
    list: Vec<Worn>,
    changed: bool,
}

impl DeviceNames {
    /// What is known. What cannot be read is nothing.
    pub(crate) fn read(root: &Root) -> DeviceNames {
        let bytes = JournalFile::shared(root, "device-names").read();
        let bytes = bytes.inspect_err(|e| log::debug!("the device names of this boot: {e}"));
        let text = bytes.ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let one = |line: &str| {
            let (bad, name) = match line.strip_prefix(BAD) {
                Some(name) => (true, name),
                None => (false, line.strip_prefix(USED)?),
            };
            let is_name = name.len() <= LONGEST
                && name.strip_prefix("/dev/").is_some_and(|n| n.bytes().all(|b| b.is_ascii_alphanumeric()));
            is_name.then(|| Worn { name: name.to_owned(), bad })
        };
        DeviceNames { list: text.lines().filter_map(one).take(MOST).collect(), changed: false }
    }

    /// The names, the one that was marked first at the beginning.
    pub(crate) fn list(&self) -> &[Worn] {
        &self.list
    }

    /// It is the last one that was used, or that proved bad.
    pub(crate) fn mark(&mut self, name: &str, bad: bool) {
        self.list.retain(|w| w.name != name);
        self.list.push(Worn { name: name.to_owned(), bad });
        self.list.drain(..self.list.len().saturating_sub(MOST));
        self.changed = true;
    }

    /// It is being used, whatever was said of it before.
    pub(crate) fn in_use(&mut self, name: &str) {
        if !self.list.iter().any(|w| w.name == name) {
            self.mark(name, false);
        }
    }

    /// Writes it down if something changed. That this does not work costs a call some day.
    pub(crate) fn keep(&mut self, root: &Root) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let line = |w: &Worn| format!("{}{}\n", if w.bad { BAD } else { USED }, w.name);
        let text: String = self.list.iter().map(line).collect();
        if let Err(e) = JournalFile::shared(root, "device-names").write(text.as_bytes()) {
            log::debug!("the device names of this boot cannot be written down: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    fn names(n: &DeviceNames) -> Vec<String> {
        n.list().iter().map(|w| format!("{}{}", w.name, if w.bad { "!" } else { "" })).collect()
    }

    #[test]
    fn names_are_kept_in_their_order() {
        let t = TestDir::new();
        let mut n = DeviceNames::read(&t.root());
        assert!(n.list().is_empty());
        n.keep(&t.root());
        assert!(!t.0.join("run/ec2fleetd/device-names").exists(), "nothing to keep");
        n.mark("/dev/xvdba", false);
        n.mark("/dev/xvdbb", true);
        n.mark("/dev/xvdba", false);
        n.in_use("/dev/xvdbb");
        n.keep(&t.root());
        let n = DeviceNames::read(&t.root());
        assert_eq!(names(&n), ["/dev/xvdbb!", "/dev/xvdba"]);
    }

    #[test]
    fn foreign_content_is_harmless_and_it_does_not_grow() {
        let t = TestDir::new();
        let many: String = (0..10_000).map(|i| format!("used /dev/x{i}\n")).collect();
        for (text, left) in [
            ("", 0),
            ("\0\0\0\u{1}", 0),
            ("used /dev/xvdba\nbad ../../etc/passwd\nbad /dev/a/../b\nused \nnonsense\nbad /dev/sdf\n", 2),
            ("used /dev/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0),
            (&many, MOST),
        ] {
            t.file("run/ec2fleetd/device-names", text);
            assert_eq!(DeviceNames::read(&t.root()).list().len(), left, "{text:.40}");
        }
        std::fs::write(t.0.join("run/ec2fleetd/device-names"), b"used /dev/xvdba\n\xff\xfe").unwrap();
        assert!(DeviceNames::read(&t.root()).list().is_empty());
        let mut n = DeviceNames::read(&t.root());
        for i in 0..1000 {
            n.mark(&format!("/dev/x{i}"), i % 2 == 0);
        }
        n.keep(&t.root());
        let n = DeviceNames::read(&t.root());
        assert_eq!((n.list().len(), n.list()[MOST - 1].name.as_str()), (MOST, "/dev/x999"));
    }

    #[test]
    fn a_place_that_cannot_be_written_or_read_is_no_failure() {
        let t = TestDir::new();
        t.file("run/ec2fleetd/device-names/a-directory", "");
        let mut n = DeviceNames::read(&t.root());
        n.mark("/dev/xvdba", true);
        n.keep(&t.root());
        assert!(DeviceNames::read(&t.root()).list().is_empty());
    }
}
