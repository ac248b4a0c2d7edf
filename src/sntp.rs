//! The time by Amazon's time service: one question by SNTP (RFC 4330), for a machine whose clock is plainly wrong.
//!
//! Without the true time no certificate is valid and no signature good. The `Date` of the metadata service's answers
//! tells it too, but not of every stand-in for it, and to the second only. Nothing is believed that is not the answer to
//! our question: the random number in it comes back.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configure-ec2-ntp.html>

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::clock::{Clock, is_plausible};
use crate::random;

/// The same on every instance; IPv6 on Nitro only.
const SERVERS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 123)), 123),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123)), 123),
];
/// How long an answer may take. The service is in the host below: it takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);
/// The system clock is left alone if it is not further away than that.
const SMALL_MS: u64 = 1000;

/// Asks for the time where the machine's clock is plainly wrong, or where the system clock is to be set (`set`).
/// Whether an answer corrected it. To be called when the network is there; without an answer things stay as they are.
pub(crate) fn mend(clock: &Clock, set: bool) -> bool {
    let wrong = clock.is_plainly_wrong();
    if !wrong && !set {
        return false;
    }
    let answer = ask(clock, &clock.time_servers(&SERVERS));
    match &answer {
        Ok(ahead) => {
            if ahead.unsigned_abs() > SMALL_MS {
                log::warn!(
                    "the clock of this machine is {} s behind Amazon's time service: corrected for",
                    ahead / 1000
                );
                clock.set_skew_ms(*ahead);
            }
        }
        Err(e) => log::warn!("the clock of this machine is not compared, Amazon's time service does not answer: {e}"),
    }
    // The metadata service may have said the time.
    if set && clock.skew_ms().unsigned_abs() > SMALL_MS {
        match clock.set_system() {
            Ok(()) => log::info!("the system clock is set"),
            Err(e) => log::warn!("cannot set the system clock: {e}"),
        }
    }
    answer.is_ok()
}

/// How far the first server that answers is ahead of the machine's clock, in milliseconds.
fn ask(clock: &Clock, servers: &[SocketAddr]) -> io::Result<i64> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for server in servers {
        match ask_one(clock, *server) {
            Ok(ahead) => return Ok(ahead),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn ask_one(clock: &Clock, server: SocketAddr) -> io::Result<i64> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected: only this server's packets are seen, and a refusal is an error at once.
    socket.connect(server)?;
    let nonce = random::bits().to_be_bytes();
    let (begin, patience) = (Instant::now(), clock.real(PATIENCE));
    socket.send(&question(nonce))?;
    let mut buffer = [0; 128];
    loop {
        let left = patience.checked_sub(begin.elapsed()).filter(|d| !d.is_zero()).ok_or(io::ErrorKind::TimedOut)?;
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        let Some(time_ms) = read(buffer.get(..length).unwrap_or_default(), nonce) else { continue };
        let system_ms = clock.system().unix_timestamp_nanos() / 1_000_000;
        // The answer was half the way ago.
        let now_ms = i128::from(time_ms) + (begin.elapsed() / 2).as_millis() as i128;
        return i64::try_from(now_ms - system_ms).map_err(|_| io::ErrorKind::InvalidData.into());
    }
}

/// Version 4, a client. The time of sending is for the server to give back: a random number is as good and says nothing.
fn question(nonce: [u8; 8]) -> [u8; 48] {
    let mut out = [0; 48];
    out[0] = 4 << 3 | 3;
    out[40..].copy_from_slice(&nonce);
    out
}

/// The time of an answer, in milliseconds since 1970; `None` if it is not the answer to our question, if its server is
/// not sure of the time, or if it cannot be that time.
fn read(answer: &[u8], nonce: [u8; 8]) -> Option<i64> {
    /// From 1900 to 1970.
    const EPOCH: i64 = 2_208_988_800;
    let word = |at: usize| Some(u32::from_be_bytes(*answer.get(at..)?.first_chunk()?));
    let [first, stratum, ..] = answer.get(..48)? else { return None };
    let (alarm, version, mode) = (first >> 6, first >> 3 & 7, first & 7);
    if alarm == 3 || !matches!(version, 3 | 4) || mode != 4 || !(1..=15).contains(stratum) {
        return None;
    }
    if answer.get(24..32)? != nonce {
        return None;
    }
    let (seconds, fraction) = (word(40)?, word(44)?);
    // The count begins anew in 2036.
    let era = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    let unix = i64::from(seconds) + era - EPOCH;
    let milliseconds = (i64::from(fraction) * 1000) >> 32;
    is_plausible(unix).then_some(unix * 1000 + milliseconds)
}

#[cfg(test)]
mod tests;
