//! Whether a disk reads as noise, as an encrypted EBS volume does where nothing was written: EC2 deciphers the zeros that
//! are there. So does whatever was ciphered by somebody else: noise alone proves nothing.

use std::collections::BTreeSet;
use std::io;

use super::places::places;
use super::{Disk, HEAD, TAIL};

const BLOCK: u64 = 4096;

/// Whether all blocks that are looked at are noise.
pub(super) fn is_noise(disk: &dyn Disk, size: u64) -> io::Result<bool> {
    let last = (size / BLOCK).saturating_sub(1);
    // Everything that is looked for in `superblocks` lies in one of these.
    let doubling = || (0..).map(|n| BLOCK << n);
    let mut blocks: BTreeSet<u64> = doubling().take_while(|at| *at < HEAD).map(|at| at / BLOCK).collect();
    blocks.extend(
        doubling().take_while(|to_end| *to_end <= TAIL).map(|to_end| (last + 1).saturating_sub(to_end / BLOCK)),
    );
    blocks.extend(places(size).into_iter().map(|at| at / BLOCK));
    blocks.extend([0, (HEAD / BLOCK).saturating_sub(1), last]);
    let mut block = [0; BLOCK as usize];
    for n in blocks.into_iter().filter(|n| *n <= last) {
        disk.read(&mut block, n * BLOCK)?;
        if !is_random(&block) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether each byte is as frequent as chance has it: chi-squared with 255 degrees of freedom is 255, and beyond these
/// bounds once in some 10⁹ blocks. Zeros, text, tables and code are far above, counters are below.
fn is_random(block: &[u8; BLOCK as usize]) -> bool {
    let mut counts = [0_u32; 256];
    for byte in block {
        counts[usize::from(*byte)] += 1;
    }
    let expected = (BLOCK / 256) as u32;
    let squares: u32 = counts.iter().map(|n| n.abs_diff(expected).pow(2)).sum();
    (130..=420).contains(&(squares / expected))
}
