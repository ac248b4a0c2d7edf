//! A disk for tests that is not there: what is on it, and what cannot be read.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::Disk;

/// Zeros but for some bytes; some places cannot be read.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sparse {
    pub(crate) size: u64,
    pub(crate) bytes: BTreeMap<u64, u8>,
    pub(crate) bad: Vec<Range<u64>>,
}

impl Sparse {
    pub(crate) fn new(size: u64) -> Sparse {
        Sparse { size, ..Sparse::default() }
    }

    pub(crate) fn with(mut self, at: u64, bytes: &[u8]) -> Sparse {
        self.bytes.extend((at..).zip(bytes.iter().copied()));
        self
    }
}

impl Disk for Sparse {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.bad.iter().any(|b| b.start < end && offset < b.end) {
            return Err(io::Error::from_raw_os_error(5));
        }
        buffer.fill(0);
        for (at, b) in self.bytes.range(offset..end) {
            buffer[usize::try_from(at - offset).unwrap()] = *b;
        }
        Ok(())
    }
}
