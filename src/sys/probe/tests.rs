use std::process::Command;

use proptest::prelude::*;

use super::sparse::Sparse;
use super::*;
use crate::properties::settings;
use crate::sys::testing::TestDir;

const SIZE: u64 = 64 << 20;

fn seen(disk: &Sparse) -> String {
    probe(disk).unwrap().to_string()
}

#[test]
fn only_zeros_are_blank() {
    assert_eq!(probe(&Sparse::new(SIZE)).unwrap(), Content::Blank);
    // In the middle of the disk nobody looks: there a format alone would not show.
    let blank_but_for = |at| probe(&Sparse::new(SIZE).with(at, &[1])).unwrap() == Content::Blank;
    for at in [0, 1, HEAD - 1, SIZE - TAIL, SIZE - 1] {
        assert!(!blank_but_for(at), "{at}");
    }
    assert!(blank_but_for(HEAD) && blank_but_for(SIZE - TAIL - 1));
    // But for where file systems keep their copies.
    for at in [8 << 20, (8 << 20) + 4095, SIZE / 4, SIZE / 2, 3 * SIZE / 4] {
        assert!(!blank_but_for(at), "{at}");
    }
    assert!(blank_but_for((8 << 20) + 4096));
    let large = |at| probe(&Sparse::new(1 << 40).with(at, &[1])).unwrap() == Content::Blank;
    assert!(!large(256 << 30) && !large(128 << 20) && !large(3 << 38) && large(3 << 37));
    assert_eq!(seen(&Sparse::new(SIZE).with(77, b"x")), "data of an unknown kind");
    for size in [0, 1, TAIL - 1] {
        probe(&Sparse::new(size)).unwrap_err();
    }
}

#[test]
fn what_cannot_be_read_is_unknown() {
    for bad in [0..1, 0x438..0x439, HEAD - 1..HEAD, SIZE - TAIL..SIZE - TAIL + 1, SIZE - 1..SIZE] {
        let disk = Sparse { bad: vec![bad.clone()], ..Sparse::new(SIZE) };
        probe(&disk).expect_err(&format!("{bad:?}"));
    }
}

#[test]
fn each_kind_is_known_by_its_magic() {
    let md = MD.to_le_bytes();
    let cases: [(u64, &[u8], &str); 26] = [
        (0, b"XFSB", "xfs"),
        (0x1_0040, b"_BHRfS_M", "btrfs"),
        (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
        (3, b"NTFS    ", "ntfs"),
        (0x52, b"FAT32   ", "vfat"),
        (0, b"LUKS\xba\xbe\0\x01", "LUKS"),
        (0, b"LUKS\xba\xbe\0\x02", "LUKS"),
        (0x4000, b"SKUL\xba\xbe\0\x02", "LUKS"),
        (0x200, b"LABELONE", "LVM2"),
        (0xff6, b"SWAPSPACE2", "swap"),
        (0xfff6, b"SWAPSPACE2", "swap"),
        (0, &md, "md raid"),
        (0x1000, &md, "md raid"),
        (SIZE - 0x2000, &md, "md raid"),
        (SIZE - 0x1_0000, &md, "md raid"),
        (SIZE - 0x1_0000, b"\xa9\x2b\x4e\xfc", "md raid"),
        (0x200, b"EFI PART", "GPT"),
        (0x1000, b"EFI PART", "GPT"),
        (SIZE - 0x200, b"EFI PART", "GPT"),
        (SIZE - 0x1000, b"EFI PART", "GPT"),
        (0x1fe, b"\x55\xaa", "MBR"),
        (128 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "zfs"),
        ((384 << 10) + 1024, b"\0\0\0\0\0\xba\xb1\x0c", "zfs"),
        (SIZE - (128 << 10), b"\x0c\xb1\xba\0\0\0\0\0", "zfs"),
        (SIZE - (384 << 10), b"\x0c\xb1\xba\0\0\0\0\0", "zfs"),
        (0x8001, b"CD001", "iso9660"),
    ];
    for (at, bytes, kind) in cases {
        assert_eq!(seen(&Sparse::new(SIZE).with(at, bytes)), kind, "{at:#x}");
    }
    // md 0.90 and 1.0 on a disk whose size is no multiple of anything.
    let odd = SIZE + 0x1_2345;
    assert_eq!(seen(&Sparse::new(odd).with((odd & !0xffff) - 0x1_0000, &md)), "md raid");
    assert_eq!(seen(&Sparse::new(odd).with((odd - 0x2000) & !0xfff, &md)), "md raid");
}

#[test]
fn the_family_of_ext() {
    let ext = |compatible: u8, incompatible: u8, read_only: u8| {
        let features = [compatible, 0, 0, 0, incompatible, 0, 0, 0, read_only, 0, 0, 0];
        seen(&Sparse::new(SIZE).with(0x438, b"\x53\xef").with(0x45c, &features))
    };
    assert_eq!([ext(0, 2, 1), ext(4, 2, 3), ext(4, 0x42, 3), ext(4, 2, 8)], ["ext2", "ext3", "ext4", "ext4"]);
    assert_eq!(ext(0, 8, 0), "jbd");
    let sized = Sparse::new(SIZE).with(0x438, b"\x53\xef").with(0x404, &[0, 1, 0, 0]).with(0x418, &[2]);
    assert_eq!(
        probe(&sized).unwrap(),
        Content::FileSystem(Found { kind: "ext2", role: Use::FileSystem, bytes: Some(1 << 20) })
    );
}

#[test]
fn what_contradicts_itself_is_no_file_system() {
    let xfs = || Sparse::new(SIZE).with(0, b"XFSB");
    assert_eq!(seen(&xfs().with(0x1_0040, b"_BHRfS_M")), "xfs and btrfs");
    // A member of a mirror shows its file system, and must not be mounted beside it.
    assert_eq!(seen(&xfs().with(SIZE - 0x2000, &MD.to_le_bytes())), "xfs and md raid");
    // A table at the end is what the disk was before.
    assert_eq!(seen(&xfs().with(SIZE - 0x200, b"EFI PART")), "xfs");
    assert_eq!(seen(&Sparse::new(SIZE).with(0x52, b"FAT32   ").with(0x1fe, b"\x55\xaa")), "vfat");
    assert_eq!(seen(&Sparse::new(SIZE).with(0x200, b"EFI PART").with(0x1fe, b"\x55\xaa")), "GPT and MBR");
}

/// What the real tools make, also with its first superblock lost; those that are not installed are named.
#[test]
fn what_the_tools_make_is_known() {
    let t = TestDir::new();
    let make = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disks/make.sh");
    let run = |arguments: &[&str]| {
        let out = Command::new(make).args(arguments).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let mut made = Vec::new();
    let (_, kinds, _) = run(&["list"]);
    for line in kinds.lines() {
        let (kind, wanted) = line.split_once(' ').unwrap();
        let path = t.0.join(kind);
        match run(&[kind, path.to_str().unwrap()]) {
            (Some(0), ..) => {}
            (Some(77), why, _) => {
                print!("skipped: {kind}: {why}");
                continue;
            }
            (_, _, error) => panic!("{kind}: {error}"),
        }
        let file = File::open(&path).unwrap();
        let seen = probe(&file).unwrap();
        assert_eq!(seen.to_string(), wanted, "{kind}");
        if let Content::FileSystem(Found { bytes: Some(bytes), .. }) = seen {
            let size = file.size().unwrap();
            assert!((size - size / 16..=size).contains(&bytes), "{kind} {bytes} {size}");
        }
        made.push(kind);
        std::fs::remove_file(&path).unwrap();
    }
    println!("made and known: {made:?}");
    assert!(made.contains(&"ext4"), "e2fsprogs is needed: {made:?}");
}

proptest! {
    #![proptest_config(settings())]

    /// Whatever is written and whatever cannot be read: it is blank only if all that was looked at is zero.
    #[test]
    fn nothing_but_zeros_is_blank(
        size in TAIL..SIZE,
        writes in prop::collection::vec((any::<u64>(), any::<u8>()), 0..4),
        bad in prop::collection::vec(any::<u64>(), 0..2),
        magics in prop::collection::vec(any::<prop::sample::Index>(), 0..2),
    ) {
        let mut disk = Sparse::new(size);
        for (at, byte) in writes {
            disk = disk.with(at % size, &[byte]);
        }
        for m in magics {
            let m = m.get(&MAGICS);
            if m.at + (m.bytes.len() as u64) < size {
                disk = disk.with(m.at, m.bytes);
            }
        }
        disk.bad = bad.into_iter().map(|at| at % size..at % size + 1).collect();
        let looked = |at: u64| at < HEAD || at >= size - TAIL;
        let dirty = disk.bytes.iter().any(|(at, b)| *b != 0 && looked(*at));
        let unreadable = disk.bad.iter().any(|b| looked(b.start));
        if let Ok(content) = probe(&disk) {
            prop_assert!(content != Content::Blank || (!dirty && !unreadable));
            prop_assert!(content == Content::Blank || !disk.bytes.is_empty());
        } else {
            prop_assert!(!disk.bad.is_empty());
        }
    }
}
