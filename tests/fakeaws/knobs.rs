//! What can be set about the world: delays, faults, permissions, throttles. All in milliseconds of real time.

use std::collections::{BTreeMap, BTreeSet};

/// Delays and behaviours of the services.
#[derive(Debug, Clone)]
pub(crate) struct Knobs {
    /// Each API call takes this long, half of it before it is carried out and half after.
    pub(crate) latency_ms: u64,
    /// Latency of single actions ("EC2:AttachVolume"), in place of `latency_ms`.
    pub(crate) action_latency_ms: BTreeMap<String, u64>,
    /// Each answer of every IMDS takes at least so long.
    pub(crate) imds_latency_ms: u64,
    /// A volume is `creating` for so long.
    pub(crate) creating_ms: u64,
    /// An attachment is `attaching` for so long.
    pub(crate) attaching_ms: u64,
    /// An attachment never leaves `attaching` (the disk does not come either).
    pub(crate) attaching_stuck: bool,
    /// The disk shows this long after AttachVolume was accepted.
    pub(crate) device_ms: u64,
    /// No disk ever shows.
    pub(crate) device_never: bool,
    /// An attachment is `detaching` for so long.
    pub(crate) detaching_ms: u64,
    /// A device name is still "in use" this long after the volume is `available` again.
    pub(crate) cooldown_ms: u64,
    /// A deleted volume shows as `deleting` for so long.
    pub(crate) deleting_ms: u64,
    /// DeleteVolume says `VolumeInUse` this long after a detach.
    pub(crate) delete_in_use_ms: u64,
    /// A created volume cannot be seen, attached or tagged for so long.
    pub(crate) created_invisible_ms: u64,
    /// A snapshot is `pending` for so long.
    pub(crate) snapshot_ms: u64,
    /// A new snapshot cannot be seen for so long.
    pub(crate) snapshot_invisible_ms: u64,
    /// CreateSnapshot of one volume is refused within so long of the one before.
    pub(crate) snapshot_gap_ms: u64,
    /// So many snapshots of one volume may be `pending`.
    pub(crate) pending_snapshots: usize,
    /// Snapshots that are `pending` end in `error`.
    pub(crate) snapshot_fails: bool,
    /// DescribeVolumes tells what was true this long ago.
    pub(crate) stale_ms: u64,
    /// DescribeVolumes tells what was true before the last so many writes.
    pub(crate) stale_writes: usize,
    /// DescribeVolumes and DescribeSnapshots never give more than this on a page.
    pub(crate) page_cap: Option<usize>,
    /// Before each page of theirs comes an empty one.
    pub(crate) empty_pages: bool,
    /// Their listings never end.
    pub(crate) endless_pages: Option<Endless>,
    /// DescribeVolumes tells, and filters by, the tags of this long ago; a volume that is newer has none.
    pub(crate) tags_late_ms: u64,
    /// CreateVolume's answer has no tags.
    pub(crate) created_untagged: bool,
    /// CreateVolume answers a client token of a volume that is gone as it answered the first time, `creating`. Without
    /// it, as the volume was before it went.
    pub(crate) replay_first_answer: bool,
    /// ListResourceRecordSets never gives more than this on a page.
    pub(crate) record_page_cap: usize,
    /// The metadata service tells of a change of public addresses so much later.
    pub(crate) imds_address_ms: u64,
    /// DescribeAddresses tells of an association so much later.
    pub(crate) address_seen_ms: u64,
    /// A change of records is PENDING for so long.
    pub(crate) insync_ms: u64,
    /// A zone takes no other change for this long after one was answered.
    pub(crate) change_busy_ms: u64,
    /// `InvalidChangeBatch` in its older, bare shape.
    pub(crate) bare_batch_errors: bool,
    /// SNS refuses subjects that are not ASCII, as some regions do.
    pub(crate) ascii_subjects: bool,
    /// The account's limit of volumes.
    pub(crate) volume_limit: usize,
    /// Idle connections are closed by the server after so long.
    pub(crate) idle_close_ms: u64,
    /// The server's wall clock is off by so many seconds.
    pub(crate) clock_offset_s: i64,
    /// The server's wall clock, and with it the life of tokens and credentials, runs so many times faster.
    pub(crate) clock_rate: u32,
    /// A signature is good for so many seconds to either side.
    pub(crate) signature_window_s: i64,
    /// Size of the files that stand for disks.
    pub(crate) disk_bytes: u64,
    /// The account's encryption by default: whatever CreateVolume makes is encrypted.
    pub(crate) encrypt_by_default: bool,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            latency_ms: 0,
            action_latency_ms: BTreeMap::new(),
            imds_latency_ms: 0,
            creating_ms: 40,
            attaching_ms: 40,
            attaching_stuck: false,
            device_ms: 30,
            device_never: false,
            detaching_ms: 40,
            cooldown_ms: 60,
            deleting_ms: 60,
            delete_in_use_ms: 0,
            created_invisible_ms: 0,
            snapshot_ms: 100,
            snapshot_invisible_ms: 0,
            snapshot_gap_ms: 15_000,
            pending_snapshots: 5,
            snapshot_fails: false,
            stale_ms: 0,
            stale_writes: 0,
            page_cap: None,
            empty_pages: false,
            endless_pages: None,
            tags_late_ms: 0,
            created_untagged: false,
            replay_first_answer: false,
            record_page_cap: 300,
            imds_address_ms: 300,
            address_seen_ms: 0,
            insync_ms: 500,
            change_busy_ms: 0,
            bare_batch_errors: false,
            ascii_subjects: false,
            volume_limit: 5000,
            idle_close_ms: 60_000,
            clock_offset_s: 0,
            clock_rate: 1,
            signature_window_s: 300,
            disk_bytes: 16 << 20,
            encrypt_by_default: false,
        }
    }
}

impl Knobs {
    /// Sets a knob by its name, for seeds and the control of a running server.
    pub(crate) fn set(&mut self, name: &str, v: &serde_json::Value) -> Result<(), String> {
        let number = |v: &serde_json::Value| v.as_u64().ok_or("not a number");
        match name {
            "latency_ms" => self.latency_ms = number(v)?,
            "imds_latency_ms" => self.imds_latency_ms = number(v)?,
            "creating_ms" => self.creating_ms = number(v)?,
            "attaching_ms" => self.attaching_ms = number(v)?,
            "attaching_stuck" => self.attaching_stuck = v.as_bool().ok_or("not a boolean")?,
            "device_ms" => self.device_ms = number(v)?,
            "device_never" => self.device_never = v.as_bool().ok_or("not a boolean")?,
            "detaching_ms" => self.detaching_ms = number(v)?,
            "cooldown_ms" => self.cooldown_ms = number(v)?,
            "deleting_ms" => self.deleting_ms = number(v)?,
            "delete_in_use_ms" => self.delete_in_use_ms = number(v)?,
            "created_invisible_ms" => self.created_invisible_ms = number(v)?,
            "snapshot_ms" => self.snapshot_ms = number(v)?,
            "snapshot_invisible_ms" => self.snapshot_invisible_ms = number(v)?,
            "snapshot_gap_ms" => self.snapshot_gap_ms = number(v)?,
            "pending_snapshots" => self.pending_snapshots = number(v)? as usize,
            "snapshot_fails" => self.snapshot_fails = v.as_bool().ok_or("not a boolean")?,
            "stale_ms" => self.stale_ms = number(v)?,
            "stale_writes" => self.stale_writes = number(v)? as usize,
            "page_cap" => self.page_cap = v.as_u64().map(|n| n as usize),
            "empty_pages" => self.empty_pages = v.as_bool().ok_or("not a boolean")?,
            "endless_pages" => {
                self.endless_pages = match v.as_str() {
                    None => None,
                    Some("same") => Some(Endless::Same),
                    Some("empty") => Some(Endless::Empty),
                    Some("again") => Some(Endless::Again),
                    Some(other) => return Err(format!("no endless pages '{other}'")),
                }
            }
            "tags_late_ms" => self.tags_late_ms = number(v)?,
            "created_untagged" => self.created_untagged = v.as_bool().ok_or("not a boolean")?,
            "replay_first_answer" => self.replay_first_answer = v.as_bool().ok_or("not a boolean")?,
            "record_page_cap" => self.record_page_cap = number(v)? as usize,
            "imds_address_ms" => self.imds_address_ms = number(v)?,
            "address_seen_ms" => self.address_seen_ms = number(v)?,
            "insync_ms" => self.insync_ms = number(v)?,
            "change_busy_ms" => self.change_busy_ms = number(v)?,
            "bare_batch_errors" => self.bare_batch_errors = v.as_bool().ok_or("not a boolean")?,
            "ascii_subjects" => self.ascii_subjects = v.as_bool().ok_or("not a boolean")?,
            "volume_limit" => self.volume_limit = number(v)? as usize,
            "idle_close_ms" => self.idle_close_ms = number(v)?,
            "clock_offset_s" => self.clock_offset_s = v.as_i64().ok_or("not a number")?,
            "clock_rate" => self.clock_rate = number(v)?.clamp(1, 1 << 20) as u32,
            "signature_window_s" => self.signature_window_s = v.as_i64().ok_or("not a number")?,
            "disk_bytes" => self.disk_bytes = number(v)?,
            "encrypt_by_default" => self.encrypt_by_default = v.as_bool().ok_or("not a boolean")?,
            action => {
                let (true, Some(ms)) = (action.contains(':'), v.as_u64()) else {
                    return Err(format!("no knob '{name}'"));
                };
                self.action_latency_ms.insert(action.into(), ms);
            }
        }
        Ok(())
    }

    /// The latency of an action.
    pub(crate) fn latency(&self, action: &str) -> u64 {
        self.action_latency_ms.get(action).copied().unwrap_or(self.latency_ms)
    }
}

/// How a listing goes on for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endless {
    /// Each page leads to itself.
    Same,
    /// After the last page come empty ones, each with a token of its own.
    Empty,
    /// After the last page comes the first one again, with a token of its own.
    Again,
}

/// Which calls of an action a fault hits, counted from when it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nth {
    /// All of them.
    Every,
    /// This one (from 1).
    Only(u32),
    /// The first so many.
    First(u32),
    /// This one and all later ones.
    From(u32),
}

impl Nth {
    fn hits(self, n: u32) -> bool {
        match self {
            Nth::Every => true,
            Nth::Only(k) => n == k,
            Nth::First(k) => n <= k,
            Nth::From(k) => n >= k,
        }
    }
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Status500,
    Status503,
    /// The service's own throttling error.
    Throttle,
    /// The connection is reset, and nothing was done.
    ResetBefore,
    /// It is done, then the connection is reset.
    ResetAfter,
    /// It is done, then the answer is an internal error.
    ErrorAfter500,
    /// Nothing is answered for so many milliseconds; then the connection is closed. Nothing is done.
    Hang(u64),
    /// It is done, then nothing is answered for so many milliseconds; then the connection is closed.
    HangAfter(u64),
    /// It is answered so many milliseconds late.
    Slow(u64),
    /// Status 200 with an HTML page; nothing is done.
    Garbage,
    /// It is done; of the answer only the first half comes (with the length of that half).
    Truncated,
    /// The service's own refusal of permission.
    Denied,
    /// A listing that is answered with nothing, whatever there is.
    Empty,
    /// A listing in whose answer this one is missing.
    Without(String),
    /// It is answered; right after that somebody deletes this volume or snapshot.
    ThenDeleted(String),
    /// Nothing is answered, and the connection is closed at once. So many milliseconds later it is done.
    Late(u64),
    /// An error of choice; nothing is done.
    Custom {
        status: u16,
        code: String,
        message: String,
    },
}

/// One line of the fault script.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// "EC2:AttachVolume" (any case, the service may be left out), or `*`.
    pub(crate) action: String,
    pub(crate) nth: Nth,
    pub(crate) kind: FaultKind,
    /// Only calls of this instance.
    pub(crate) instance: Option<String>,
    /// Only calls one of whose parameters has this value.
    pub(crate) with_value: Option<String>,
    pub(crate) seen: u32,
}

impl Fault {
    pub(crate) fn new(action: &str, nth: Nth, kind: FaultKind) -> Fault {
        Fault { action: action.into(), nth, kind, instance: None, with_value: None, seen: 0 }
    }
    pub(crate) fn nth(action: &str, n: u32, kind: FaultKind) -> Fault {
        Fault::new(action, Nth::Only(n), kind)
    }
    pub(crate) fn first(action: &str, n: u32, kind: FaultKind) -> Fault {
        Fault::new(action, Nth::First(n), kind)
    }
    pub(crate) fn every(action: &str, kind: FaultKind) -> Fault {
        Fault::new(action, Nth::Every, kind)
    }
    pub(crate) fn of_instance(mut self, id: &str) -> Fault {
        self.instance = Some(id.into());
        self
    }
    pub(crate) fn with_value(mut self, value: &str) -> Fault {
        self.with_value = Some(value.into());
        self
    }

    /// Counts this call if it is one of this fault's; true if it is hit.
    pub(crate) fn take(&mut self, action: &str, instance: Option<&str>, params: &BTreeMap<String, String>) -> bool {
        let mine = same_action(&self.action, action)
            && self.instance.as_deref().is_none_or(|i| Some(i) == instance)
            && self.with_value.as_ref().is_none_or(|v| params.values().any(|p| p == v));
        if mine {
            self.seen += 1;
        }
        mine && self.nth.hits(self.seen)
    }
}

/// Whether the pattern names this action ("EC2:AttachVolume").
pub(crate) fn same_action(pattern: &str, action: &str) -> bool {
    if pattern == "*" || pattern.eq_ignore_ascii_case(action) {
        return true;
    }
    let short = action.split(':').nth(1).unwrap_or("");
    match pattern.strip_suffix('*') {
        Some(start) => action.to_ascii_lowercase().starts_with(&start.to_ascii_lowercase()),
        None => pattern.eq_ignore_ascii_case(short),
    }
}

/// Who may do what. One policy for all keys: the instances of a fleet share a role.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Actions refused; "EC2:AttachVolume/vol-1" refuses it on one resource.
    pub(crate) deny: BTreeSet<String>,
    /// If set, all others are refused.
    pub(crate) allow: Option<BTreeSet<String>>,
}

impl Policy {
    pub(crate) fn permits(&self, action: &str, resources: &[String]) -> bool {
        let denied = self.deny.iter().any(|d| match d.split_once('/') {
            Some((a, r)) => same_action(a, action) && resources.iter().any(|x| x == r),
            None => same_action(d, action),
        });
        !denied && self.allow.as_ref().is_none_or(|list| list.iter().any(|a| same_action(a, action)))
    }
}

/// A token bucket of one action.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) capacity: f64,
    pub(crate) per_second: f64,
    level: f64,
    at_ms: u64,
}

impl Bucket {
    pub(crate) fn new(capacity: u32, per_second: f64) -> Bucket {
        Bucket { capacity: f64::from(capacity), per_second, level: f64::from(capacity), at_ms: 0 }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0 * self.per_second;
        self.level = (self.level + gained).min(self.capacity);
        self.at_ms = now_ms;
        if self.level < 1.0 {
            return false;
        }
        self.level -= 1.0;
        true
    }
}
