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
    let blank_but_for = |at| probe(&Sparse::new(SIZE).with(at, &[1])).unwrap() == Content::Blank;
    for at in [0, 1, HEAD - 1, SIZE - TAIL, SIZE - 1] {
        assert!(!blank_but_for(at), "{at}");
    }
    // In the middle of it, where file systems keep their copies, and all over it.
    for at in [HEAD, 8 << 20, (8 << 20) + 4095, SIZE / 4, SIZE / 2, 3 * SIZE / 4, 13 << 20, 61 << 20] {
        assert!(!blank_but_for(at), "{at}");
    }
    let many = (HEAD..SIZE - TAIL).step_by(64 << 10).filter(|at| !blank_but_for(*at)).count();
    assert!((59..700).contains(&many), "{many}");
    let large = |at| probe(&Sparse::new(1 << 40).with(at, &[1])).unwrap() == Content::Blank;
    assert!(!large(256 << 30) && !large(128 << 20) && !large(3 << 38) && !large(25 << 30) && large((25 << 30) + 4096));
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

/// A header of a GPT at sector `place`, of a disk with such sectors.
fn gpt_header(place: u64) -> Vec<u8> {
    let mut header = vec![0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[24..32].copy_from_slice(&place.to_le_bytes());
    let sum = table::crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

/// An entry of an MBR: its flag, its type, where it begins and how many sectors it has.
fn mbr_entry(flag: u8, kind: u8, start: u32, sectors: u32) -> Vec<u8> {
    [&[flag, 0, 0, 0, kind, 0, 0, 0], &start.to_le_bytes()[..], &sectors.to_le_bytes()].concat()
}

#[test]
fn a_table_beside_a_file_system_is_no_file_system() {
    assert_eq!(table::crc32(b"123456789"), 0xcbf4_3926);
    let ext = || Sparse::new(SIZE).with(0x438, b"\x53\xef");
    let mbr = |disk: Sparse, slot: u64, entry: &[u8]| seen(&disk.with(0x1fe, b"\x55\xaa").with(446 + 16 * slot, entry));
    for slot in 0..4 {
        assert_eq!(mbr(ext(), slot, &mbr_entry(0, 0x83, 2048, 4096)), "ext2 and MBR");
        assert_eq!(mbr(ext(), slot, &mbr_entry(0x80, 0, 0, 1)), "ext2 and MBR");
    }
    // An entry that leads nowhere, and a boot sector whose bytes only look like one.
    assert_eq!(mbr(ext(), 0, &mbr_entry(0, 0x83, 2048, 0)), "ext2");
    assert_eq!(mbr(ext(), 0, &mbr_entry(0, 0x83, 0x7fff_ffff, 1)), "ext2");
    assert_eq!(mbr(ext().with(446 + 48, b"B"), 0, &mbr_entry(0x80, 0x83, 2048, 4096)), "ext2");
    assert_eq!(mbr(Sparse::new(SIZE).with(3, b"NTFS    "), 0, b"Press any key to restart"), "ntfs");
    assert_eq!(mbr(Sparse::new(SIZE).with(3, b"NTFS    "), 2, &mbr_entry(0, 7, 63, 900)), "ntfs and MBR");
    for (at, place) in [(0x200, 1), (0x1000, 1), (SIZE - 0x200, SIZE / 0x200 - 1), (SIZE - 0x1000, SIZE / 0x1000 - 1)] {
        assert_eq!(seen(&ext().with(at, &gpt_header(place))), "ext2 and GPT", "{at:#x}");
        // Another place's, or one that was written over.
        assert_eq!(seen(&ext().with(at, &gpt_header(place + 1))), "ext2", "{at:#x}");
        assert_eq!(seen(&ext().with(at, &gpt_header(place)).with(at + 72, b"x")), "ext2", "{at:#x}");
    }
    let second = |disk: Sparse| disk.with(SIZE - 0x200, &gpt_header(SIZE / 0x200 - 1));
    // Who partitions a disk writes its first sector.
    assert_eq!(seen(&second(Sparse::new(SIZE).with(0x52, b"FAT32   ").with(0x1fe, b"\x55\xaa"))), "vfat");
    assert_eq!(mbr(second(Sparse::new(SIZE).with(0, b"XFSB")), 0, &mbr_entry(0, 0xee, 1, 99)), "xfs and GPT and MBR");
    let mut shown = probe(&ext()).unwrap();
    shown.add_partitions();
    assert_eq!(shown.to_string(), "ext2 and partitions");
    let mut shown = Content::Blank;
    shown.add_partitions();
    assert_eq!(shown.to_string(), "partitions");
}

/// Noise: SplitMix64.
fn noise(size: u64, seed: u64) -> Sparse {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    let bytes: Vec<u8> = words.take(usize::try_from(size / 8).unwrap()).flat_map(u64::to_le_bytes).collect();
    Sparse::new(size).with(0, &bytes)
}

#[test]
fn noise_is_known_and_nothing_else_is() {
    let size = 1 << 20;
    for seed in 0..4 {
        assert_eq!(seen(&noise(size, seed)), "noise");
    }
    let disk = noise(size, 7);
    // Chance makes marks of two bytes; those of more it does not, nor two that fit what is beside them.
    let zeros = disk.clone().with(0x438, b"\x53\xef").with(0x1fe, b"\x55\xaa");
    assert_eq!(seen(&zeros), "noise");
    let whole = disk.clone().with(0x438, b"\x53\xef").with(0x418, &[2, 0, 0, 0]).with(0x44c, &[1, 0, 0, 0]);
    assert_eq!(seen(&whole.with(0x45c, &[0; 12])), "ext2");
    assert_eq!(seen(&disk.clone().with(0x200, b"EFI PART")), "GPT");
    assert_eq!(seen(&disk.clone().with(0, b"XFSB")), "xfs");
    assert_eq!(seen(&disk.clone().with(0, b"LUKS\xba\xbe")), "LUKS");
    // Of a mark alone nobody makes a file system.
    assert_eq!(seen(&Sparse::new(size).with(0x438, b"\x53\xef").with(0x418, &[7])), "a damaged ext superblock");
    // One block that is none.
    for (at, what) in [(0, 0), (size - 4096, 0), (8192, b'x'), (size / 64 * 33, 0xff), (65536, 0)] {
        let at = at / 4096 * 4096;
        assert_eq!(seen(&disk.clone().with(at, &[what; 4096])), "data of an unknown kind", "{at}");
    }
    let counter: Vec<u8> = (0..size).map(|n| n as u8).collect();
    let text = "what a person wrote, again and again\n".bytes().cycle().take(1 << 20).collect::<Vec<u8>>();
    for data in [counter, text] {
        assert_eq!(seen(&Sparse::new(size).with(0, &data)), "data of an unknown kind");
    }
    let bad = Sparse { bad: std::iter::once(4096..4097).collect(), ..disk };
    probe(&bad).unwrap_err();
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
        let places = places::places(size);
        let at_place = |at: u64| places.range(at.saturating_sub(places::LENGTH - 1)..=at).next().is_some();
        let looked = |at: u64| at < HEAD || at >= size - TAIL || at_place(at);
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
