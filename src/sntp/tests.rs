//! Tests of `sntp`: what is believed and what is not.

use proptest::prelude::*;

use super::*;
use crate::properties::settings;

const NONCE: [u8; 8] = *b"12345678";
/// 2026-11-20 00:00:00.5 UTC, and the same as NTP counts.
const TIME_MS: i64 = 1_795_132_800_500;
const TIME: [u8; 8] = [0xee, 0xaa, 0x0c, 0x00, 0x80, 0, 0, 0];

/// A good answer.
fn good() -> [u8; 48] {
    let mut out = [7; 48];
    out[..2].copy_from_slice(&[0x24, 3]);
    out[24..32].copy_from_slice(&NONCE);
    out[40..].copy_from_slice(&TIME);
    out
}

#[test]
fn a_good_answer_is_read() {
    assert_eq!(read(&good(), NONCE), Some(TIME_MS));
    assert_eq!(read(&[&good()[..], &[1; 20]].concat(), NONCE), Some(TIME_MS), "with a signature");
    // The count of seconds begins anew on 7 February 2036.
    let mut late = good();
    late[40..].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(read(&late, NONCE), Some(2_085_978_497_000));
}

#[test]
fn an_answer_that_is_not_one_is_not_believed() {
    assert_eq!(read(&question(NONCE), NONCE), None);
    for (at, wrong, why) in [
        (0, 0xe4, "its clock is not set"),
        (0, 0x23, "a question"),
        (0, 0x25, "a broadcast"),
        (0, 0x04, "of a version that nobody has"),
        (1, 0, "a refusal"),
        (1, 16, "it does not know the time"),
        (24, 0, "an answer to somebody else"),
        (31, 0, "an answer to somebody else"),
        (40, 0x83, "before 1970"),
        (40, 0xec, "before this was built"),
        (40, 0x7f, "after 2100"),
    ] {
        let mut bad = good();
        bad[at] = wrong;
        assert_eq!(read(&bad, NONCE), None, "{why}");
    }
    for n in 0..48 {
        assert_eq!(read(&good()[..n], NONCE), None, "cut to {n} bytes");
    }
}

#[test]
fn what_comes_before_the_answer_is_passed_over() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let dead = UdpSocket::bind("[::1]:0").and_then(|s| s.local_addr()).unwrap();
    let clock = Clock::new(Some(&format!("rate=0.1,offset=-1000000000,sntp={at}"))).unwrap();
    std::thread::spawn(move || {
        let mut asked = [0; 100];
        let (n, from) = server.recv_from(&mut asked).unwrap();
        assert_eq!(n, 48);
        let mut answer = good();
        server.send_to(&answer, from).unwrap();
        server.send_to(b"", from).unwrap();
        answer[24..32].copy_from_slice(&asked[40..48]);
        server.send_to(&answer, from).unwrap();
    });
    let ahead = ask(&clock, &[dead, at]).unwrap();
    let wanted = i128::from(TIME_MS) - clock.system().unix_timestamp_nanos() / 1_000_000;
    assert!((i128::from(ahead) - wanted).abs() < 60_000, "{ahead} instead of {wanted}");
    assert!(ask(&clock, &[dead]).is_err() && ask(&clock, &[]).is_err());
}

#[test]
fn a_clock_that_may_be_right_is_left_alone() {
    let clock = Clock::new(Some("offset=-7200,sntp=127.0.0.1:1")).unwrap();
    assert!(!mend(&clock, false) && !mend(&clock, true));
    assert_eq!(clock.skew_ms(), 0);
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn an_answer_of_any_bytes(
        changes in prop::collection::vec((0..60usize, any::<u8>()), 0..20),
        length in 0..60usize,
    ) {
        let mut bytes = [&good()[..], &[0; 12]].concat();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(length);
        if let Some(time) = read(&bytes, NONCE) {
            prop_assert!(is_plausible(time / 1000), "{time}");
            prop_assert!(bytes[24..32] == NONCE && bytes[0] & 7 == 4 && (1..16).contains(&bytes[1]), "{bytes:?}");
        }
    }
}
