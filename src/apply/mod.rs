//! Doing what the plan says for one domain: volumes with their execs, then DNS; and putting it back.
//!
//! A domain is one transaction of [`hold::Hold`]s. Each hold is pushed *before* the call that makes it (intent) and
//! marked when the call is known to have worked; both are in the crash journal before the program goes on.
//! [`DomainRun::init`] either leaves a list of holds that the caller commits, or an error, after which the caller rolls
//! back. Nothing here decides about other domains.
//!
//! A run after one that was cut off goes on with its transaction ([`settle`]): what is still wanted is taken up where it
//! stands, the rest is put back.

pub(crate) mod act;
pub(crate) mod address;
pub(crate) mod claim;
pub(crate) mod commit;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod disk;
pub(crate) mod existing;
pub(crate) mod fence;
pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod journal;
pub(crate) mod keep;
pub(crate) mod late;
pub(crate) mod looks;
pub(crate) mod marks;
pub(crate) mod mine;
pub(crate) mod mount;
mod mounted;
pub(crate) mod moved;
pub(crate) mod moving;
pub(crate) mod names;
pub(crate) mod nested;
pub(crate) mod offered;
pub(crate) mod pool;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod record_read;
pub(crate) mod release;
pub(crate) mod release_record;
pub(crate) mod restore;
pub(crate) mod rollback;
pub(crate) mod settle;
pub(crate) mod snapshot;
pub(crate) mod strays;
pub(crate) mod sweep;
pub(crate) mod tidy;
pub(crate) mod uses;
pub(crate) mod volume;
pub(crate) mod wait;
pub(crate) mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;

use crate::aws::{ApiError, Aws, Class};
use crate::clock::{Clock, Tick};
use crate::config::{Domain, RecordDirective};
use crate::exec::Runner;
use crate::imds::Imds;
use crate::macros::Values;
use crate::model::Facts;
use crate::scope::Halt;
use crate::sys::Root;
use crate::sys::block::Named;
use crate::sys::mounts::MountSet;
use crate::sys::notify::Notifier;
use hold::Ledger;

/// What all domains share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) aws: Arc<Aws>,
    pub(crate) imds: Arc<Imds>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) root: Root,
    pub(crate) runner: Arc<Runner>,
    /// What the metadata service said; the addresses may come late.
    pub(crate) facts: RwLock<Arc<Facts>>,
    /// When a missing address was asked for again last, by any domain.
    pub(crate) asked_again: Mutex<Option<Tick>>,
    pub(crate) zones: zone::Zones,
    /// `--transc_id`, or one made for this run.
    pub(crate) transaction_id: String,
    /// The names that directives have, of all domains.
    pub(crate) names: names::Names,
    /// Public addresses that this process has given up: the metadata service tells of that only later.
    pub(crate) given_up: Mutex<BTreeSet<String>>,
    /// Those of them that a roll-back gave back while other domains went on.
    pub(crate) given_back: Mutex<BTreeSet<String>>,
    /// Public addresses that are elastic, as far as is known.
    pub(crate) elastic: Mutex<BTreeSet<String>>,
    /// How many domains are about to give this instance another public address.
    pub(crate) addresses_to_come: AtomicUsize,
    /// Who has which volume, in the same way.
    pub(crate) uses: uses::Uses,
    /// The domains of this process.
    pub(crate) configs: OnceLock<Vec<Arc<Domain>>>,
    /// Volumes that journals of other domains name, and that are about to be put back.
    pub(crate) owed: Mutex<BTreeSet<String>>,
    /// The mounts of all domains, where these stand on each other.
    pub(crate) nested: nested::Nested,
    /// For `pool-pref: random` and jitter.
    pub(crate) seed: u64,
    /// Volumes that a directive of this process claims or has claimed.
    pub(crate) taken: Mutex<BTreeSet<String>>,
    /// Whether the daemon watches, and with it whether records follow addresses (`--enable-poll`).
    pub(crate) follows: bool,
    /// Whether commands run at all (`--enable-exec`).
    pub(crate) exec_enabled: bool,
    /// The offset of local time, for `{ts}`.
    pub(crate) offset: UtcOffset,
    /// What was mounted when the run began: not ours to unmount.
    pub(crate) mounts_before: MountSet,
    /// The service manager.
    pub(crate) notifier: Arc<Notifier>,
}

impl Shared {
    /// One line on how a long piece of work goes on, for the log and for `systemctl status`.
    pub(crate) fn progress(&self, text: &str) {
        log::info!("{text}");
        self.notifier.status(text);
    }

    /// The facts as they are known now.
    pub(crate) fn facts(&self) -> Arc<Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time as tags have it: RFC 3339 in UTC, whole seconds.
    fn time_tag(&self) -> String {
        let now = self.clock.corrected();
        now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
    }
}

/// Locks. No lock is ever poisoned: a panic ends the process.
pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a directive ended without what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What could not be done, on what, why, and what to do.
    pub(crate) text: String,
    /// The wait ended, rather than the thing failed.
    pub(crate) halt: Option<Halt>,
}

impl Failure {
    /// A failure with its whole text.
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), halt: None }
    }

    /// `cannot {what}: {error}`, and what to do where that is known.
    pub(crate) fn api(what: &str, e: &ApiError) -> Failure {
        let advice = match e.class() {
            Class::Denied => format!(" (allow {} for this instance's role)", e.permission()),
            _ => String::new(),
        };
        Failure { text: format!("cannot {what}: {e}{advice}"), halt: e.halt() }
    }

    /// A wait for `what` that ended too early.
    pub(crate) fn halted(what: impl fmt::Display, halt: Halt) -> Failure {
        Failure { text: format!("{what}: {halt}"), halt: Some(halt) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// One domain's transaction.
#[derive(Debug)]
pub(crate) struct DomainRun {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: Arc<Domain>,
    /// `{transaction_log}`: the calls that changed something, in order.
    calls: Mutex<Vec<Value>>,
    ledger: Mutex<Ledger>,
    /// The disks of its volumes, as they were when they were seen last.
    disks: Mutex<BTreeMap<String, Named>>,
    /// What its directives use.
    in_use: Mutex<Vec<release::InUse>>,
    /// The records that its directives wrote, or found as they want them.
    written: Mutex<Vec<release_record::Written>>,
    /// Volumes that were found attached with tags of a run that ended: when this one stands, they are brought up to date.
    found: Mutex<Vec<hold::Committed>>,
    /// What is known of those that follow the addresses of the instance; and held while one is changed.
    follow: Mutex<follow::Follow>,
    following: Mutex<()>,
    /// The elastic address that its directive has.
    address: Mutex<Option<hold::AddressHold>>,
    /// The other members of the fleets whose names its directives share.
    crowds: Mutex<Vec<sweep::Crowd>>,
    /// A critical directive failed: what runs beside it need not go on.
    abandoned: Arc<AtomicBool>,
    /// What its snapshots share.
    snapshots: snapshot::State,
    /// When it was committed.
    committed_at: Mutex<Option<Tick>>,
    /// What this run made and has put back: reads that lag may show it as it was.
    rolled_back: Mutex<BTreeSet<String>>,
    /// Moves of others that are over, as their volumes say, but not finished.
    moves_to_finish: Mutex<Vec<hold::MoveHold>>,
    /// Threads that still write tags on volumes, by directive.
    tagging: Mutex<Vec<(hold::Key, JoinHandle<()>)>>,
    /// What directives that wait have seen.
    looks: wait::Looks,
}

impl DomainRun {
    /// A transaction with nothing in it.
    pub(crate) fn new(shared: &Arc<Shared>, config: &Arc<Domain>) -> DomainRun {
        DomainRun {
            shared: shared.clone(),
            config: config.clone(),
            calls: Mutex::new(Vec::new()),
            ledger: Mutex::default(),
            disks: Mutex::default(),
            in_use: Mutex::default(),
            found: Mutex::default(),
            written: Mutex::default(),
            follow: Mutex::default(),
            following: Mutex::default(),
            crowds: Mutex::default(),
            address: Mutex::default(),
            abandoned: shared.nested.abandoned(&config.name),
            snapshots: snapshot::State::default(),
            committed_at: Mutex::default(),
            rolled_back: Mutex::default(),
            moves_to_finish: Mutex::default(),
            tagging: Mutex::new(Vec::new()),
            looks: wait::Looks::default(),
        }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<Value> {
        lock(&self.calls).clone()
    }

    /// Notes a call that changes something, before it is made. The same one again, after a look, is noted once.
    pub(crate) fn note_call(&self, method: &str, param: Value) {
        let call = json!({
            "platform": "aws", "domain": self.config.name, "method": method, "param": param, "dry": false,
        });
        let mut calls = lock(&self.calls);
        if calls.last() != Some(&call) {
            calls.push(call);
        }
    }

    /// The macro values of this domain, without those of a volume.
    pub(crate) fn values(&self) -> Values {
        let values = self.values_for_names();
        let name = |r: &RecordDirective| r.name.expand(&values).trim_end_matches('.').to_owned();
        Values { static_dns_rr: self.config.records.iter().map(name).collect(), ..values }
    }

    /// The same without the names of records: for these names themselves.
    pub(crate) fn values_for_names(&self) -> Values {
        Values {
            domain: self.config.name.clone(),
            facts: self.shared.facts(),
            transaction_id: self.shared.transaction_id.clone(),
            transaction_log: self.calls(),
            cwd: std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned()).display().to_string(),
            now: Some(self.shared.clock.corrected().to_offset(self.shared.offset)),
            pid: std::process::id(),
            ..Values::default()
        }
    }

    /// Reads what a run that was cut off left, and keeps a journal from here on. The domain's lock must be held.
    /// `same_run`: this process goes on with the run that wrote it.
    pub(crate) fn open_journal(&self, same_run: bool) {
        let opened = Ledger::open(&self.shared.root, &self.config.name, &self.shared.facts().instance_id, same_run);
        *lock(&self.ledger) = opened;
    }

    /// Whether there is anything that a roll-back would put back.
    pub(crate) fn holds_anything(&self) -> bool {
        let l = lock(&self.ledger);
        !l.held.is_empty() || !l.inherited.is_empty()
    }

    /// What runs beside the caller need not go on.
    pub(crate) fn abandon(&self) {
        self.shared.nested.lost(&self.config.name);
        self.abandoned.store(true, Ordering::Relaxed);
    }
}
