//! What is on a disk, by a look of our own: no udev, no blkid, no exit code of another program.
//!
//! Two questions, and never a guess. *Which file system is it?* is answered by superblocks: by one alone, and not beside
//! a partition table, since who partitions a disk leaves the superblock that was there before. *Is it blank?* is answered
//! with yes only where no superblock of any kind is found **and** the places where one could be (the first 4 MiB, the
//! last 1 MiB, and where file systems keep copies of theirs) are all zero, **and** so is whatever some hundred looks all
//! over the disk meet ([`places`]). Whatever cannot be read is an error: unknown, and never formatted. Whether a disk that
//! reads as noise is blank, its volume tells.
//!
//! The layouts are those of the kernel's headers and of each format's own documentation.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

mod noise;
mod places;
mod table;

/// What must be zero at the beginning of a blank disk.
const HEAD: u64 = 4 << 20;
/// And at its end.
const TAIL: u64 = 1 << 20;
const PIECE: usize = 64 << 10;

/// Something that can be read at any place.
pub(crate) trait Disk {
    /// How many bytes it has.
    fn size(&self) -> io::Result<u64>;
    /// Fills all of `buffer` from `offset` on; fewer bytes are an error.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Disk for File {
    fn size(&self) -> io::Result<u64> {
        use std::io::Seek;
        let mut file = self;
        file.seek(io::SeekFrom::End(0))
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// What a superblock says that the disk is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A file system that can be mounted.
    FileSystem,
    /// A part of something else: encrypted, a member of an array or of a volume group, swap.
    Member,
    /// A partition table that leads somewhere.
    Table,
    /// The mark of a partition table or of ext alone, which a boot sector, an older use or chance have left.
    Trace,
}

/// A superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// As the kernel names it where it is a file system: `ext4`, `xfs`.
    pub(crate) kind: &'static str,
    pub(crate) role: Use,
    /// How many bytes of the disk the file system takes, where its superblock says so.
    pub(crate) bytes: Option<u64>,
}

impl Found {
    /// Whether noise has it once in some ten thousand disks: the mark is of two bytes.
    fn may_be_chance(&self) -> bool {
        self.role == Use::Trace && self.kind != GPT
    }
}

const MBR: &str = "MBR";
const GPT: &str = "GPT";
const DAMAGED_EXT: &str = "a damaged ext superblock";

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Proven to be blank.
    Blank,
    /// Noise, and no superblock: nothing, on an encrypted volume that nobody wrote to.
    Noise,
    /// One file system, and nothing that contradicts it.
    FileSystem(Found),
    /// Anything else.
    Other(Vec<Found>),
}

impl Content {
    /// The kernel shows partitions of the disk: whatever is seen of it as a whole is not all there is.
    pub(crate) fn add_partitions(&mut self) {
        let mut found = match std::mem::replace(self, Content::Blank) {
            Content::Blank | Content::Noise => Vec::new(),
            Content::FileSystem(found) => vec![found],
            Content::Other(found) => found,
        };
        if !found.iter().any(|f| f.role == Use::Table) {
            found.push(Found { kind: "partitions", role: Use::Table, bytes: None });
        }
        *self = Content::Other(found);
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Blank => f.write_str("nothing"),
            Content::Noise => f.write_str("noise"),
            Content::FileSystem(found) => f.write_str(found.kind),
            Content::Other(found) if found.is_empty() => f.write_str("data of an unknown kind"),
            Content::Other(found) => {
                let kinds: Vec<&str> = found.iter().map(|s| s.kind).collect();
                f.write_str(&kinds.join(" and "))
            }
        }
    }
}

/// Looks at the whole disk. An error means that nothing is known of it.
pub(crate) fn probe(disk: &dyn Disk) -> io::Result<Content> {
    let size = disk.size()?;
    if size < TAIL {
        return Err(io::Error::other(format!("it has {size} bytes only")));
    }
    let mut found = superblocks(disk, size)?;
    let systems = found.iter().filter(|s| s.role == Use::FileSystem).count();
    if systems == 1 && found.iter().all(|s| matches!(s.role, Use::FileSystem | Use::Trace)) {
        // What is left of a table at the other end, or the boot sector of the file system itself.
        found.retain(|s| s.role == Use::FileSystem);
        return Ok(Content::FileSystem(found[0]));
    }
    if found.is_empty() && is_zero(disk, 0, HEAD.min(size))? && is_zero(disk, size.saturating_sub(TAIL), size)? {
        for at in places::places(size) {
            if !is_zero(disk, at, (at + places::LENGTH).min(size))? {
                return Ok(Content::Other(found));
            }
        }
        return Ok(Content::Blank);
    }
    if found.iter().all(Found::may_be_chance) && noise::is_noise(disk, size)? {
        return Ok(Content::Noise);
    }
    Ok(Content::Other(found))
}

fn is_zero(disk: &dyn Disk, from: u64, to: u64) -> io::Result<bool> {
    let piece = |at: u64| usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
    let mut buffer = vec![0; piece(from)];
    let mut at = from;
    while at < to {
        let buffer = &mut buffer[..piece(at)];
        disk.read(buffer, at)?;
        if buffer.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += buffer.len() as u64;
    }
    Ok(true)
}

/// A magic number at a place that is always the same.
struct Magic {
    at: u64,
    bytes: &'static [u8],
    kind: &'static str,
    role: Use,
}

const fn magic(at: u64, bytes: &'static [u8], kind: &'static str, role: Use) -> Magic {
    Magic { at, bytes, kind, role }
}

/// Those whose place and meaning need no arithmetic.
const MAGICS: [Magic; 31] = [
    magic(0, b"XFSB", "xfs", Use::FileSystem),
    magic(0x1_0040, b"_BHRfS_M", "btrfs", Use::FileSystem),
    magic(0x400, &0xf2f5_2010_u32.to_le_bytes(), "f2fs", Use::FileSystem),
    magic(3, b"NTFS    ", "ntfs", Use::FileSystem),
    magic(3, b"EXFAT   ", "exfat", Use::FileSystem),
    magic(0x52, b"FAT32   ", "vfat", Use::FileSystem),
    magic(0x36, b"FAT16   ", "vfat", Use::FileSystem),
    magic(0x36, b"FAT12   ", "vfat", Use::FileSystem),
    magic(0x8000, b"JFS1", "jfs", Use::FileSystem),
    magic(0x1_0034, b"ReIsEr", "reiserfs", Use::FileSystem),
    magic(0x400, &0xe0f5_e1e2_u32.to_le_bytes(), "erofs", Use::FileSystem),
    magic(0, b"hsqs", "squashfs", Use::FileSystem),
    magic(0x8001, b"CD001", "iso9660", Use::FileSystem),
    magic(0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache", Use::Member),
    magic(0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs", Use::FileSystem),
    magic(0, b"LUKS\xba\xbe", "LUKS", Use::Member),
    // LUKS 2 has a second header, at one of some distances.
    magic(0x4000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x8000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x1_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x2_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x4_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x8_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x10_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x20_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0x40_0000, b"SKUL\xba\xbe", "LUKS", Use::Member),
    magic(0, b"LABELONE", "LVM2", Use::Member),
    magic(0x200, b"LABELONE", "LVM2", Use::Member),
    magic(0x400, b"LABELONE", "LVM2", Use::Member),
    magic(0x600, b"LABELONE", "LVM2", Use::Member),
    // Version 1.1 and 1.2; 1.0 and 0.90 are at the end.
    magic(0, &MD.to_le_bytes(), "md raid", Use::Member),
    magic(0x1000, &MD.to_le_bytes(), "md raid", Use::Member),
];

const MD: u32 = 0xa92b_4efc;

fn superblocks(disk: &dyn Disk, size: u64) -> io::Result<Vec<Found>> {
    let mut all: Vec<Found> = Vec::new();
    let mut add = |kind, role, bytes| {
        if !all.iter().any(|f| f.kind == kind) {
            all.push(Found { kind, role, bytes });
        }
    };
    let has = |at: u64, bytes: &[u8]| matches(disk, size, at, bytes);
    // A file system has the first sector.
    let mut first = false;
    for m in &MAGICS {
        if has(m.at, m.bytes)? {
            first |= m.at < 0x200 && m.role == Use::FileSystem;
            add(m.kind, m.role, if m.kind == "xfs" { xfs_bytes(disk, size)? } else { None });
        }
    }
    if let Some((kind, bytes)) = ext(disk, size)? {
        let role = match kind {
            "jbd" => Use::Member,
            DAMAGED_EXT => Use::Trace,
            _ => Use::FileSystem,
        };
        add(kind, role, bytes);
    }
    // Swap has its magic at the end of its first page, of whatever size.
    for page in [0x1000, 0x2000, 0x4000, 0x8000, 0x1_0000] {
        for text in [b"SWAPSPACE2", b"SWAP-SPACE", b"S1SUSPEND\0", b"S2SUSPEND\0"] {
            if has(page - 10, text)? {
                add("swap", Use::Member, None);
            }
        }
    }
    // md 0.90: at the last 64 KiB boundary that has 64 KiB after it, in the byte order of its machine. md 1.0: 8 KiB
    // before the end, at a multiple of 4 KiB.
    let old = (size & !0xffff).wrapping_sub(0x1_0000);
    let at_end = (size.wrapping_sub(0x2000)) & !0xfff;
    if has(old, &MD.to_le_bytes())? || has(old, &MD.to_be_bytes())? || has(at_end, &MD.to_le_bytes())? {
        add("md raid", Use::Member, None);
    }
    let mbr = table::mbr(disk, size)?;
    for (kind, role) in [(GPT, table::gpt(disk, size, first && mbr != Some(Use::Table))?), (MBR, mbr)] {
        if let Some(role) = role {
            add(kind, role, None);
        }
    }
    if zfs(disk, size)? {
        add("zfs", Use::Member, None);
    }
    Ok(all)
}

/// Whether `bytes` are at `at`; what lies outside of the disk is not there.
fn matches(disk: &dyn Disk, size: u64, at: u64, bytes: &[u8]) -> io::Result<bool> {
    let Some(end) = at.checked_add(bytes.len() as u64).filter(|end| *end <= size) else { return Ok(false) };
    let mut buffer = vec![0; usize::try_from(end - at).unwrap_or_default()];
    disk.read(&mut buffer, at)?;
    Ok(buffer == bytes)
}

fn bytes_at<const N: usize>(disk: &dyn Disk, size: u64, at: u64) -> io::Result<[u8; N]> {
    let mut buffer = [0; N];
    if at + N as u64 <= size {
        disk.read(&mut buffer, at)?;
    }
    Ok(buffer)
}

/// `sb_blocksize` and `sb_dblocks`, both big endian.
fn xfs_bytes(disk: &dyn Disk, size: u64) -> io::Result<Option<u64>> {
    let block = u32::from_be_bytes(bytes_at(disk, size, 4)?);
    let blocks = u64::from_be_bytes(bytes_at(disk, size, 8)?);
    Ok(blocks.checked_mul(u64::from(block)))
}

/// ext2, ext3, ext4, or the journal of another one.
fn ext(disk: &dyn Disk, size: u64) -> io::Result<Option<(&'static str, Option<u64>)>> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    // What ext3 knows: file types, recovery, meta block groups; sparse superblocks, large files, B-trees.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    if !matches(disk, size, 0x438, &0xef53_u16.to_le_bytes())? {
        return Ok(None);
    }
    let word = |at: u64| Ok::<_, io::Error>(u32::from_le_bytes(bytes_at(disk, size, 0x400 + at)?));
    let (compatible, incompatible, read_only) = (word(0x5c)?, word(0x60)?, word(0x64)?);
    // Blocks of 1 to 64 KiB, and revision 0 or 1: two bytes of magic are little.
    let fits = word(0x18)? <= 6 && word(0x4c)? <= 1;
    let kind = if !fits {
        DAMAGED_EXT
    } else if incompatible & JOURNAL_DEVICE != 0 {
        "jbd"
    } else if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        "ext4"
    } else if compatible & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let wide = if incompatible & 0x80 != 0 { u64::from(word(0x150)?) } else { 0 };
    let blocks = wide << 32 | u64::from(word(4)?);
    let block = 1024_u64.checked_shl(word(0x18)?);
    Ok(Some((kind, block.and_then(|b| blocks.checked_mul(b)))))
}

/// An uberblock in one of the four labels, two at each end.
fn zfs(disk: &dyn Disk, size: u64) -> io::Result<bool> {
    const LABEL: u64 = 256 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let end = size & !(LABEL - 1);
    let mut ring = vec![0; 128 << 10];
    for label in [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)].into_iter().flatten() {
        if label + LABEL > size {
            continue;
        }
        disk.read(&mut ring, label + (128 << 10))?;
        let is = |c: &[u8]| c.starts_with(&MAGIC.to_le_bytes()) || c.starts_with(&MAGIC.to_be_bytes());
        if ring.chunks(1024).any(is) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
pub(crate) mod sparse;
#[cfg(test)]
mod tests;
