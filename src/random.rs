//! Random numbers, from the kernel: for jitter and for the order `random`. Never for secrets.

/// A number from 0 up to, but not, 1.
pub(crate) fn fraction() -> f64 {
    // 53 bits: all that an f64 holds.
    (bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// 64 random bits. Early in boot, when the kernel's pool is not ready, its clock has to do.
pub(crate) fn bits() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            t.tv_nsec.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fractions_lie_between_0_and_1_and_differ() {
        let all: Vec<f64> = (0..100).map(|_| super::fraction()).collect();
        assert!(all.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(all.windows(2).any(|w| w[0] != w[1]));
    }
}
