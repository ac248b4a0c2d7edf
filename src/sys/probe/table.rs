//! Partition tables. Their marks alone prove nothing: the boot sectors of vfat and ntfs end like an MBR, and a GPT leaves
//! its header behind. A table counts where it leads somewhere.
//!
//! UEFI 2.10, 5.3.2; and what the kernel takes for an MBR (`block/partitions/msdos.c`).

use std::io;

use super::{Disk, Use, bytes_at, matches};

/// What bytes 510 and 511 of the disk make of it: a table, if the kernel would make a partition of one of its entries.
pub(super) fn mbr(disk: &dyn Disk, size: u64) -> io::Result<Option<Use>> {
    let sector: [u8; 512] = bytes_at(disk, size, 0)?;
    if !sector.ends_with(b"\x55\xaa") {
        return Ok(None);
    }
    let Some(entries) = sector.get(446..510) else { return Ok(None) };
    // Where the flags are anything else, the bytes are code or text of a boot sector.
    let flagged = entries.chunks_exact(16).all(|e| matches!(e.first(), Some(0 | 0x80)));
    let leads = |e: &[u8]| {
        let word = |at: usize| e.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        word(12) != 0 && u64::from(word(8)) < size / 512
    };
    let is_table = flagged && entries.chunks_exact(16).any(leads);
    Ok(Some(if is_table { Use::Table } else { Use::Trace }))
}

/// The same for both headers of a GPT, in sectors of 512 bytes or 4 KiB: a table, if a header says where it is and its
/// checksum fits. `overwritten`: the first sector is a file system's, which a table would have for itself, so that the
/// second header alone is what an older use has left.
pub(super) fn gpt(disk: &dyn Disk, size: u64, overwritten: bool) -> io::Result<Option<Use>> {
    let mut found = None;
    for sector in [0x200, 0x1000] {
        for (at, counts) in [(sector, true), (size.wrapping_sub(sector), !overwritten)] {
            if !matches(disk, size, at, b"EFI PART")? {
                continue;
            }
            let header: [u8; 0x200] = bytes_at(disk, size, at)?;
            if counts && is_gpt_header(header, at / sector) {
                return Ok(Some(Use::Table));
            }
            found = Some(Use::Trace);
        }
    }
    Ok(found)
}

fn is_gpt_header(mut header: [u8; 0x200], place: u64) -> bool {
    let word = |at: usize| header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    let (length, sum) = (usize::try_from(word(12)).unwrap_or(0), word(16));
    let mine = u64::from(word(24)) | u64::from(word(28)) << 32;
    if !(92..=header.len()).contains(&length) || mine != place {
        return false;
    }
    // It is computed with zeros in its own place.
    header[16..20].fill(0);
    crc32(header.get(..length).unwrap_or_default()) == sum
}

/// As in IEEE 802.3. Of a few hundred bytes: no table is worth it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
