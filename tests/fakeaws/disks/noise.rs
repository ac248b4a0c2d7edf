//! What is on an encrypted volume where nothing was ever written. EC2 deciphers the zeros that are there, and what a
//! guest reads is noise (<https://github.com/kubernetes/kubernetes/issues/86064>).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::is_block_device;

const PIECE: usize = 1 << 20;

/// Makes noise of a disk that has nothing on it; one that has is left as it is. The same `seed` makes the same noise.
pub(crate) fn cover(disk: &Path, seed: &str) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(disk)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut piece = vec![0; PIECE];
    file.rewind()?;
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            break;
        }
        if piece[..n].iter().any(|b| *b != 0) {
            return Ok(());
        }
    }
    let mut state =
        seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    for word in piece.chunks_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..word.len()]);
    }
    file.rewind()?;
    let mut at = 0;
    while at < size {
        // Each piece begins elsewhere in it: no two are the same.
        piece.rotate_left(16);
        let n = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        file.write_all(&piece[..n])?;
        at += n as u64;
    }
    if is_block_device(disk) { file.sync_all() } else { Ok(()) }
}
