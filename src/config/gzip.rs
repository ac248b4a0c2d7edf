//! The gzip file format (RFC 1952) around deflate.
//!
//! User data are small, so this is made for little code: all at once, and a checksum with a small table.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::userdata::UserDataError;

/// The content of a gzip file of one or more members, if it is at most `most` bytes.
pub(super) fn unpack(mut bytes: &[u8], most: usize) -> Result<Vec<u8>, UserDataError> {
    let mut out = Vec::new();
    // A file has at least one member.
    loop {
        let (content, rest) = inflate(header(bytes).ok_or(UserDataError::Gzip)?, most - out.len())?;
        let (trailer, rest) = rest.split_at_checked(8).ok_or(UserDataError::Gzip)?;
        if trailer != [crc32(&content).to_le_bytes(), (content.len() as u32).to_le_bytes()].concat() {
            return Err(UserDataError::Gzip);
        }
        out.extend(content);
        if rest.is_empty() {
            return Ok(out);
        }
        bytes = rest;
    }
}

/// What comes after the header of a member.
fn header(bytes: &[u8]) -> Option<&[u8]> {
    const CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let (fixed, mut rest) = bytes.split_at_checked(10)?;
    let flags = *fixed.get(3)?;
    // Deflate is the only method there is; what the upper flags mean, nobody knows.
    if !fixed.starts_with(&[0x1f, 0x8b, 8]) || flags & 0xe0 != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (length, more) = rest.split_first_chunk()?;
        rest = more.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            rest = rest.get(rest.iter().position(|b| *b == 0)? + 1..)?;
        }
    }
    if flags & CHECKSUM != 0 {
        let (checksum, more) = rest.split_first_chunk()?;
        let before = bytes.get(..bytes.len() - rest.len())?;
        if crc32(before) as u16 != u16::from_le_bytes(*checksum) {
            return None;
        }
        rest = more;
    }
    Some(rest)
}

/// What is packed at the beginning of `bytes`, and what comes after it.
fn inflate(mut bytes: &[u8], most: usize) -> Result<(Vec<u8>, &[u8]), UserDataError> {
    let mut state = Box::<DecompressorOxide>::default();
    let mut out = Vec::new();
    loop {
        let end = out.len();
        // One byte more than is allowed shows that it is too much.
        out.resize((end * 2).max(4096).min(most + 1), 0);
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, read, written) = decompress(&mut state, bytes, &mut out, end, flags);
        bytes = bytes.get(read..).unwrap_or_default();
        out.truncate(end + written);
        match status {
            TINFLStatus::Done | TINFLStatus::HasMoreOutput if out.len() > most => return Err(UserDataError::TooLarge),
            TINFLStatus::Done => return Ok((out, bytes)),
            TINFLStatus::HasMoreOutput => {}
            _ => return Err(UserDataError::Gzip),
        }
    }
}

/// Half a byte at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut n = 0;
        while n < 16 {
            let mut crc = n as u32;
            let mut bit = 0;
            while bit < 4 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };
    let step = |crc: u32, low: u8| crc >> 4 ^ TABLE[usize::from(crc as u8 & 15 ^ low)];
    !bytes.iter().fold(!0, |crc, b| step(step(crc, b & 15), b >> 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::properties::{bytes, settings};

    /// `member` with the header of a file that has everything.
    fn with_all_of_a_header(member: &[u8]) -> Vec<u8> {
        let mut out = member[..10].to_vec();
        out[3] = 0x1f;
        out.extend(b"\x03\0abcname\0comment\0");
        out.extend((crc32(&out) as u16).to_le_bytes());
        out.extend(&member[10..]);
        out
    }

    /// `gzip -n` made it.
    const HELLO: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";

    #[test]
    fn the_published_checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn every_part_of_a_header_is_passed_over_and_checked() {
        let full = with_all_of_a_header(HELLO);
        assert_eq!(unpack(&full, 5).unwrap(), b"hello");
        assert_eq!(unpack(&[&full, HELLO].concat(), 10).unwrap(), b"hellohello");
        for at in 0..HELLO.len() {
            assert_eq!(unpack(&HELLO[..at], 9), Err(UserDataError::Gzip), "cut at {at}");
        }
        for at in (10..full.len()).filter(|at| *at != HELLO.len()) {
            let mut bad = full.clone();
            bad[at] ^= 0x41;
            assert!(unpack(&bad, 9).is_err(), "a wrong byte at {at}");
        }
        for (at, wrong) in [(2, 7), (3, 0x20)] {
            let mut bad = HELLO.to_vec();
            bad[at] = wrong;
            assert_eq!(unpack(&bad, 9), Err(UserDataError::Gzip));
        }
    }

    proptest! {
        #![proptest_config(settings())]

        #[test]
        fn what_flate2_reads_is_read_the_same(
            pieces in prop::collection::vec((bytes(), 0..60usize, any::<bool>()), 1..4),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            use std::io::{Read, Write};
            let mut packed = Vec::new();
            for (content, repeat, full) in pieces {
                let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                e.write_all(&content.repeat(repeat)).unwrap();
                let member = e.finish().unwrap();
                packed.extend(if full { with_all_of_a_header(&member) } else { member });
            }
            for (at, byte) in changes {
                let at = at.index(packed.len());
                packed[at] = byte;
            }
            let mut theirs = Vec::new();
            let read = flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut theirs);
            prop_assert_eq!(unpack(&packed, 1 << 20).ok(), read.ok().map(|_| theirs));
        }
    }

    #[test]
    fn the_bound_is_for_all_members() {
        let two = [HELLO, HELLO].concat();
        assert_eq!(unpack(&two, 9), Err(UserDataError::TooLarge));
        assert_eq!(unpack(HELLO, 4), Err(UserDataError::TooLarge));
        assert_eq!(unpack(&[HELLO, b"\0"].concat(), 99), Err(UserDataError::Gzip), "what comes after is no member");
    }
}
