//! What this machine has written to a disk since it appeared, as the kernel counts it: whether anybody has written to it
//! between two looks.
//!
//! <https://docs.kernel.org/block/stat.html>

use std::path::Path;

use super::disk_tree::number_of_node;
use super::{Root, read_trimmed};

/// Of `stat`: sectors written, sectors discarded. A mere flush counts as a write, of none.
const FIELDS: [usize; 2] = [6, 13];

/// The counts of the disk at `node`, with the number that the kernel gave it when it appeared: two of these are equal if
/// nothing was written between them. What is still to be written must have been synced. `None`: the kernel does not
/// count.
pub(crate) fn written(root: &Root, node: &Path) -> Option<String> {
    let (major, minor) = number_of_node(node)?;
    let dir = root.path("/sys/dev/block").join(format!("{major}:{minor}"));
    if read_trimmed(&dir.join("queue/iostats")).as_deref() != Some("1") {
        return None;
    }
    let stat = read_trimmed(&dir.join("stat"))?;
    let counts: Vec<&str> = stat.split_ascii_whitespace().collect();
    // Before Linux 4.18 discards were counted as writes.
    let mut text = read_trimmed(&dir.join("diskseq")).unwrap_or_default();
    for field in FIELDS {
        text.push(' ');
        text.push_str(counts.get(field).copied().or((field > 7).then_some("-"))?);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TestDir;

    #[test]
    fn what_is_no_disk_is_not_counted() {
        let t = TestDir::new();
        assert_eq!(written(&t.root(), &t.file("dev/nvme1n1", "")), None);
    }
}
