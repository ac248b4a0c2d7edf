//! What the property tests share: how many inputs, how they are made, how long one may take.
//!
//! `PROPTEST_CASES=1000000` makes a long run of it; without it a test tries 256 inputs. A failure prints the smallest
//! input that still fails: it belongs into a test of its own.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;

/// More than this for one input is a hang. Debug builds on a busy machine stay far below it.
const LONGEST: Duration = Duration::from_secs(20);

/// The settings of every property test. Nothing is written into the source tree.
pub(crate) fn settings() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, max_shrink_time: 30_000, ..ProptestConfig::default() }
}

/// What `f` returns, if it does so in time.
#[track_caller]
pub(crate) fn in_time<T>(f: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let value = f();
    assert!(began.elapsed() < LONGEST, "one input took {} ms", began.elapsed().as_millis());
    value
}

/// Any bytes, few or some.
pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// Words of a grammar in any order: most of it is wrong, but not at the first character.
pub(crate) fn words(words: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<Index>(), 0..most).prop_map(|all| all.iter().map(|i| *i.get(words)).collect())
}

/// One of `seeds` with up to eight changes: bytes, words of the grammar, pieces gone, doubled, swapped or cut off.
pub(crate) fn mutated(
    seeds: &'static [&'static str],
    words: &'static [&'static str],
) -> impl Strategy<Value = Vec<u8>> {
    let change = (0..7u8, any::<Index>(), any::<Index>(), any::<u8>());
    (any::<Index>(), prop::collection::vec(change, 0..8)).prop_map(move |(seed, changes)| {
        let mut text = seed.get(seeds).as_bytes().to_vec();
        for (kind, at, other, byte) in changes {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            let piece = at..text.len().min(at + 1 + usize::from(byte));
            let mut insert = |at: usize, what: Vec<u8>| drop(text.splice(at..at, what));
            match kind {
                0 => text[at] = byte,
                1 => insert(at, other.get(words).as_bytes().to_vec()),
                2 => insert(at, other.get(words).as_bytes().repeat(usize::from(byte))),
                3 => drop(text.drain(piece)),
                4 => {
                    let twice = text[piece].to_vec();
                    text.splice(at..at, twice);
                }
                5 => {
                    let (word, length) = (other.get(words).as_bytes(), 1 + usize::from(byte % 8));
                    text.splice(at..text.len().min(at + length), word.iter().copied());
                }
                _ => text.truncate(at),
            }
        }
        text
    })
}

/// As [`mutated`], as text.
pub(crate) fn mutated_text(
    seeds: &'static [&'static str],
    words: &'static [&'static str],
) -> impl Strategy<Value = String> {
    mutated(seeds, words).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Short text of any characters, often of those that mean something somewhere.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let special = "\0\u{1}\t\n\r \"'\\{}<>&*./:-_0aAzé\u{2028}\u{fffe}\u{feff}😀";
    let special: Vec<char> = special.chars().collect();
    let one = prop_oneof![2 => prop::sample::select(special), 1 => any::<char>()];
    prop::collection::vec(one, 0..24).prop_map(|chars| chars.into_iter().collect())
}
