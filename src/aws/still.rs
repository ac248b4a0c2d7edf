//! Whether what a call changes still is the caller's to change.
//!
//! A DeleteVolume that is throttled for a minute is another call than the one that was decided on: meanwhile the volume
//! may have become another instance's. So every call that removes or overwrites something takes a [`Still`], and the
//! retry loop asks it before each try.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::{ApiError, Class};
use crate::scope::Scope;

/// Asked before each try of a call.
pub(crate) struct Still<'a> {
    ask: Option<&'a Ask<'a>>,
    /// The caller has just looked: the next time it is not asked.
    looked: AtomicBool,
}

/// Looks whether the call is still to be made.
type Ask<'a> = dyn Fn(&Scope) -> Result<(), Lapsed> + Sync + 'a;

/// Why a call is not made (any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lapsed {
    /// What it is for has changed; in words: "vol-1 is now attached to i-2".
    Changed(String),
    /// It cannot be told.
    Unknown(ApiError),
}

impl<'a> Still<'a> {
    /// A call that AWS itself refuses where it does not fit any more, or that may be made at any time.
    pub(crate) fn always() -> Still<'static> {
        Still { ask: None, looked: AtomicBool::new(false) }
    }

    /// A call that is made only while `ask` finds that it fits.
    pub(crate) fn while_(ask: &'a Ask<'a>) -> Still<'a> {
        Still { ask: Some(ask), looked: AtomicBool::new(false) }
    }

    /// The same for who has just looked: before the first try it is not asked.
    pub(crate) fn again(ask: &'a Ask<'a>) -> Still<'a> {
        Still { ask: Some(ask), looked: AtomicBool::new(true) }
    }

    /// Asks; the error is that of `action`, and its class is [`Class::Lapsed`] where the thing has changed.
    pub(super) fn holds(&self, action: &'static str, scope: &Scope) -> Result<(), ApiError> {
        let Some(ask) = self.ask.filter(|_| !self.looked.swap(false, Ordering::Relaxed)) else { return Ok(()) };
        ask(scope).map_err(|lapsed| match lapsed {
            Lapsed::Changed(why) => ApiError::ours(action, Class::Lapsed, why),
            Lapsed::Unknown(e) => e,
        })
    }
}

impl fmt::Debug for Still<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ask.is_some() { "Still(asked)" } else { "Still(always)" })
    }
}
