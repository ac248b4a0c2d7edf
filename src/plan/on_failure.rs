//! `on-failure`: how long a retry waits, and whether a machine that keeps failing may boot once more.

use std::time::Duration;

/// The longest pause that doubling leads to.
const LONGEST: Duration = Duration::from_secs(300);

/// Reboots are counted over this time, in seconds.
const HOUR: i64 = 3600;

/// The pause after so many failed attempts (from 1), for a random number from 0 to 1: it doubles, and half of it is left
/// to chance, so that a fleet that failed together does not come back together.
pub(crate) fn pause(backoff: Duration, failed: u32, random: f64) -> Duration {
    let whole = backoff.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST.max(backoff));
    whole.mul_f64(0.5 + random / 2.0)
}

/// The reboots of an instance that nothing good came of yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reboots(Vec<i64>);

impl Reboots {
    /// What a text says of `instance`: its id, and when (in seconds since 1970; 0 where that was not known). What was
    /// written by another instance (an image was made of its disk) does not count. `None`: it cannot be read.
    pub(crate) fn parse(text: &str, instance: &str) -> Option<Reboots> {
        let mut words = text.split_whitespace();
        let owner = words.next().filter(|w| w.starts_with("i-"))?;
        let times: Option<Vec<i64>> = words.map(|w| w.parse().ok()).collect();
        Some(if owner == instance { Reboots(times?) } else { Reboots::default() })
    }

    /// The text of these.
    pub(crate) fn text(&self, instance: &str) -> String {
        let times: Vec<String> = self.0.iter().map(i64::to_string).collect();
        format!("{instance} {}\n", times.join(" "))
    }

    /// Those that may have been within an hour of `now`, in the order of their coming; `None`: the time is not known.
    pub(crate) fn recent(&self, now: Option<i64>) -> Reboots {
        // One in the future is of a clock that was wrong.
        let may_be = |t: i64| t == 0 || now.is_none_or(|now| t > now - HOUR);
        Reboots(self.0.iter().copied().filter(|t| may_be(*t)).collect())
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// With one more.
    pub(crate) fn with(mut self, now: Option<i64>) -> Reboots {
        self.0.push(now.unwrap_or(0));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_cap_and_half_is_chance() {
        let ms = |backoff, failed, random| pause(Duration::from_secs(backoff), failed, random).as_millis();
        assert_eq!([1, 2, 3, 6, 7, 100].map(|n| ms(10, n, 1.0)), [10_000, 20_000, 40_000, 300_000, 300_000, 300_000]);
        assert_eq!([ms(10, 1, 0.0), ms(10, 1, 0.5), ms(10, 2, 0.0)], [5000, 7500, 10_000]);
        assert_eq!([ms(900, 1, 1.0), ms(900, 5, 1.0)], [900_000, 900_000]);
    }

    #[test]
    fn reboots_of_the_last_hour_count_and_those_of_unknown_time() {
        let read = |text| Reboots::parse(text, "i-1").unwrap();
        let all = read("i-1 0 1000 4000 9999999\n");
        assert_eq!(all.recent(Some(4600)).count(), 3);
        assert_eq!((all.recent(Some(4601)).count(), all.recent(None).count()), (3, 4));
        assert_eq!(all.recent(Some(4600)).with(Some(4600)).text("i-1"), "i-1 0 4000 9999999 4600\n");
        assert_eq!(Reboots::default().with(None).text("i-1"), "i-1 0\n");
        assert_eq!(read("i-2 1 2 3").count(), 0);
        for bad in ["", "1 2", "i-1 x", "i-1 1 \u{fffd}"] {
            assert_eq!(Reboots::parse(bad, "i-1"), None, "{bad}");
        }
    }
}
