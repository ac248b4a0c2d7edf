//! The transient host name.

use std::io;

use super::Root;

/// The kernel's limit.
const MAX: usize = 64;

/// Sets the host name; it is gone after a reboot. `name` is what the macros made of the config's text.
pub(crate) fn set(root: &Root, name: &str) -> io::Result<()> {
    let bad = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if name.is_empty() {
        return bad("the host name is empty".to_owned());
    }
    if name.len() > MAX {
        return bad(format!("the host name has {} bytes, the limit is {MAX}", name.len()));
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return bad("the host name has a space or a control character in it".to_owned());
    }
    if root.is_real() {
        Ok(rustix::system::sethostname(name.as_bytes())?)
    } else {
        std::fs::write(root.path("/proc/sys/kernel/hostname"), format!("{name}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn a_name_is_set_and_an_impossible_one_is_refused() {
        let t = TestDir::new();
        let file = t.file("proc/sys/kernel/hostname", "before\n");
        set(&t.root(), "node-1.example.com").unwrap();
        let (long, longest) = ("x".repeat(65), "x".repeat(64));
        let refused = [
            ("", "the host name is empty"),
            (long.as_str(), "the host name has 65 bytes, the limit is 64"),
            ("a b", "the host name has a space or a control character in it"),
            ("a\0b", "the host name has a space or a control character in it"),
        ];
        for (name, text) in refused {
            assert_eq!(set(&t.root(), name).unwrap_err().to_string(), text);
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "node-1.example.com\n");
        set(&t.root(), &longest).unwrap();
    }
}
