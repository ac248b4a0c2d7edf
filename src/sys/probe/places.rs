//! Where a disk is looked at beyond its two ends: for the day when the beginning of the disk is lost, and the rest is not.
//!
//! File systems keep copies of their superblocks. Where, depends on the size that the disk had when they were made, and on
//! the partition that they are in: a disk that has grown since has them at other places than one of its size. So they are
//! looked for where they are today, and besides on a grid over the whole disk, which meets those of any older size (EBS
//! volumes have whole GiB), and at places of no order, which meet data.

use std::collections::BTreeSet;

/// How much is looked at, at each place.
pub(super) const LENGTH: u64 = 4096;

const MIB: u64 = 1 << 20;
/// The grid is as fine as it can be with so many places.
const GRID: u64 = 1024;
/// How many places are of no order.
const SCATTERED: u64 = 256;

/// All places, in order. There are less than 1500, however large the disk is: some seconds on the slowest EBS volume, of
/// 250 reads each second.
pub(super) fn places(size: u64) -> BTreeSet<u64> {
    let mut all: BTreeSet<u64> = copies(size).collect();
    let step = (size / GRID).next_power_of_two().max(MIB);
    all.extend((1..=GRID).map(|n| n * step));
    let part = size / SCATTERED;
    all.extend((0..SCATTERED).map(|n| n * part + mixed(n) % part.max(1)));
    all.retain(|at| *at < size);
    all
}

/// Where file systems keep copies of their superblocks: ext in the groups 1, 3, 5, 7 and so on, of 8, 32 or 128 MiB each,
/// counted from the beginning of the disk or of a first partition; btrfs at 64 MiB and 256 GiB, XFS at the quarters, or at
/// one block less than each TiB where it is large.
fn copies(size: u64) -> impl Iterator<Item = u64> {
    const LARGE: u64 = (1 << 40) - 4096;
    let quarter = size.div_ceil(4 * 4096) * 4096;
    let groups = [8, 32, 128].into_iter().flat_map(|group| [1, 3, 5, 7, 9, 25, 27].map(|n| n * group * MIB));
    let of_ext = groups.flat_map(|at| [0, 63 * 512, MIB].map(|partition| at + partition));
    let of_xfs = (1..4).map(move |n| n * quarter).chain((1..=16).map(|n| n * LARGE));
    of_ext.chain(of_xfs).chain((23..63).map(|n| 1 << n))
}

/// A number of no order, always the same: SplitMix64.
fn mixed(n: u64) -> u64 {
    let z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn they_are_few_and_spread() {
        for size in [1, 4096, MIB, 160 * MIB, 470 * MIB, 8 * GIB, 1000 * GIB, 16 << 40, 64 << 40, u64::MAX / 2] {
            let all = places(size);
            assert!(all.len() < 1500 && all.iter().all(|at| *at < size), "{size} {}", all.len());
            assert_eq!(all, places(size));
            // Nowhere is there a gap in which more than a hundredth of the disk could be.
            let ends = all.iter().copied().chain([size]);
            let gap = all.iter().copied().zip(ends.skip(1)).map(|(a, b)| b - a).max().unwrap_or(0);
            assert!(gap <= size / 100 + 4096, "{size} {gap}");
        }
    }

    #[test]
    fn an_xfs_that_has_grown_is_met() {
        // Its allocation groups are those of its first size, a quarter each, and go on.
        for now in 2..=400_u64 {
            let all = places(now * GIB);
            for then in 1..now {
                let group = then * GIB / 4;
                assert!((1..=4).any(|n| all.contains(&(n * group))), "{then} {now}");
            }
        }
        assert!(places(470 * MIB).contains(&(80 * MIB)));
        assert!(places(20 << 40).contains(&((1 << 40) - 4096)));
    }

    #[test]
    fn an_ext_in_a_partition_is_met() {
        for start in [63 * 512, MIB] {
            for size in [200 * MIB, 8 * GIB, 500 * GIB] {
                assert!(places(size).contains(&(128 * MIB + start)), "{start} {size}");
            }
        }
    }
}
