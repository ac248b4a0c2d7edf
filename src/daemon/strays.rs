//! What runs of domains that this config does not have left behind: settled beside everything else.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::domain::Domain;
use super::{Daemon, Outcome, incomplete};
use crate::apply::{lock, strays};
use crate::parallel;
use crate::scope::Scope;

/// How long all of them may take.
const SETTLE: Duration = Duration::from_secs(120);

/// The thread that settles them, and what it could not.
#[derive(Debug, Default)]
pub(super) struct Strays {
    thread: Mutex<Option<JoinHandle<()>>>,
    left: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Begins to settle them. What `all` name is theirs when this returns. Their journals must be open.
    pub(super) fn settle_strays(&self, all: &[&Arc<Domain>]) {
        let mut thread = lock(&self.strays.thread);
        if thread.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        let shared = self.context.shared.clone();
        let runs: Vec<_> = all.iter().map(|d| &d.run).collect();
        let strays = strays::find(&shared, &runs);
        lock(&self.strays.left).clear();
        if strays.is_empty() {
            return;
        }
        let left = self.strays.left.clone();
        let work = move || {
            // By nobody's stop, as a roll-back.
            let scope = Scope::new(&shared.clock, SETTLE, None);
            let end = strays::settle(&shared, &strays, &scope);
            *lock(&left) = end;
        };
        *thread = parallel::background("strays", Box::new(work));
    }

    /// Waits for the end of it.
    pub(super) fn strays_are_settled(&self) {
        let thread = lock(&self.strays.thread).take();
        if let Some(thread) = thread.filter(|t| !t.is_finished()) {
            self.notifier.extend_timeout(self.context.shared.clock.real(SETTLE));
            let _ = thread.join();
        }
    }

    /// What the run comes to, with them.
    pub(super) fn with_strays(&self, outcome: Outcome) -> Outcome {
        self.strays_are_settled();
        let left = std::mem::take(&mut *lock(&self.strays.left));
        if left.is_empty() { outcome } else { incomplete("put back", &left) }
    }
}
