//! The config: from text to types that cannot hold a wrong value.
//!
//! `json5` reads text into a tree in which each node knows its place, `check` turns the tree into [`Config`] and
//! collects every problem with its path, line and column. What only AWS can judge (ids, ranges) is left as it is.

mod address;
mod advice;
mod check;
mod claim;
mod exec;
mod hook;
mod json5;
mod mime;
mod mount;
mod notify;
mod on_failure;
mod problem;
mod reader;
mod record;
mod shared;
mod snapshot;
mod snapshots;
#[cfg(test)]
mod tests;
pub(crate) mod userdata;
mod volume;

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::macros::Template;
use crate::model::Event;

pub(crate) use address::{AddressChoice, AddressDirective};
pub(crate) use advice::advice;
pub(crate) use check::load;
pub(crate) use claim::Claiming;
pub(crate) use hook::{Hook, Transition};
pub(crate) use mount::{Mount, unreleased};
pub(crate) use on_failure::{Action, OnFailure};
pub(crate) use snapshots::Snapshot;

/// A whole config.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// `hostname` (or `set-hostname`).
    pub(crate) hostname: Option<Template>,
    /// `timeout`: for the whole init; default 600 s.
    pub(crate) timeout: Duration,
    /// `interrupt-detection.options.interval`; default 1 s.
    pub(crate) poll_interval: Duration,
    /// `interrupt-margin`: what the way out leaves free before an announced time; default 15 s.
    pub(crate) interrupt_margin: Duration,
    /// `maintenance-lead`: so long before its time maintenance begins for us; default 600 s.
    pub(crate) maintenance_lead: Duration,
    /// `terminating-timeout`: how long Auto Scaling waits for the way out; default 120 s.
    pub(crate) terminating_timeout: Duration,
    /// `lifecycle-hook`, one or several.
    pub(crate) hooks: Vec<Hook>,
    /// `on-failure`: what is done after a run that failed, one after the other until something has an effect.
    pub(crate) on_failure: Vec<OnFailure>,
    /// `domains`, in the order of the file.
    pub(crate) domains: Vec<Domain>,
    /// What is accepted but will not do what its writer may think.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// Whether there is a hook of this transition.
    pub(crate) fn has_hook(&self, on: Transition) -> bool {
        self.hooks.iter().any(|h| h.on == on)
    }
}

impl Domain {
    /// Whether anything of it is to be done at `event`, of those that must be named.
    pub(crate) fn names(&self, event: Event) -> bool {
        self.exec.iter().any(|b| b.runs_on(event))
            || self.notify.iter().any(|n| n.events.contains(&event))
            || self.volumes.iter().any(|v| v.release.as_ref().is_some_and(|r| r.on.contains(&event)))
            || self.volumes.iter().any(|v| v.snapshot.as_ref().is_some_and(|s| s.on.contains(&event)))
            || self.records.iter().any(|r| r.release.contains(&event))
            || self.address.as_ref().is_some_and(|a| a.release.contains(&event))
    }
}

/// One application on the instance.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domain {
    /// Its key in `domains`.
    pub(crate) name: String,
    /// `critical`; default true. If false, its failure leaves the other domains going on.
    pub(crate) critical: bool,
    /// `attach-volume`.
    pub(crate) volumes: Vec<VolumeDirective>,
    /// `associate-address`.
    pub(crate) address: Option<AddressDirective>,
    /// `update-route53`.
    pub(crate) records: Vec<RecordDirective>,
    /// `exec`.
    pub(crate) exec: Vec<ExecBlock>,
    /// `notify`.
    pub(crate) notify: Vec<Notify>,
}

/// Where a volume may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `x`: the volume `volume-id`.
    Existing,
    /// `p`: one of the pool.
    Pool,
    /// `c`: a new one.
    Create,
    /// `s`: a new one with what the newest snapshot has.
    Snapshot,
    /// `m`: a new one with what a free one of the pool in another zone has, which it replaces.
    Move,
}

impl Source {
    /// Its letter in `source` and in `{attach_source}`.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Source::Existing => "x",
            Source::Pool => "p",
            Source::Create => "c",
            Source::Snapshot => "s",
            Source::Move => "m",
        }
    }

    /// Whether what it gives is a volume that this instance made.
    pub(crate) fn makes(self) -> bool {
        matches!(self, Source::Create | Source::Snapshot | Source::Move)
    }
}

/// `pool-pref`: the order in which free volumes of a pool are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolPref {
    /// By launch index, then by hash of instance and volume.
    Index,
    /// At random.
    Random,
    /// One of those whose `ts-used` is oldest (never used first).
    LeastRecentlyUsed,
    /// One of those whose `ts-used` is newest (never used last).
    MostRecentlyUsed,
    /// The one that this instance had last, or the member of the fleet that it stands in for; then by index.
    Sticky,
}

/// One entry of `attach-volume`.
#[derive(Debug, Clone)]
pub(crate) struct VolumeDirective {
    /// Where it stands in the config: `domains."a".attach-volume[0]`.
    pub(crate) path: String,
    /// Its number within the domain, from 0.
    pub(crate) index: usize,
    /// `critical`; default true.
    pub(crate) critical: bool,
    /// `source`, in order, each at most once; never empty.
    pub(crate) sources: Vec<Source>,
    /// `device`, such as `/dev/xvdf`; `None`: a free one is chosen.
    pub(crate) device: Option<String>,
    /// `volume-id`; there whenever `sources` has [`Source::Existing`].
    pub(crate) volume_id: Option<String>,
    /// `pool-name`; there whenever `sources` has [`Source::Pool`].
    pub(crate) pool_name: Option<String>,
    /// `pool-pref`.
    pub(crate) pool_pref: PoolPref,
    /// With `sticky`: `hostname`, by which an instance is known for the one that it stands in for.
    pub(crate) member: Option<Template>,
    /// `wait`, `fence`, `max-per-instance`.
    pub(crate) claiming: Claiming,
    /// `create`; there whenever `sources` has [`Source::Create`].
    pub(crate) create: Option<serde_json::Map<String, serde_json::Value>>,
    /// `snapshot.tags`: what the snapshots of [`Source::Snapshot`] are known by, in place of domain and pool.
    pub(crate) snapshot_tags: Vec<(String, String)>,
    /// `initialization-rate` in MiB/s; its range is for EC2 to judge.
    pub(crate) initialization_rate: Option<i64>,
    /// `mount`.
    pub(crate) mount: Option<Mount>,
    /// `release`.
    pub(crate) release: Option<Release>,
    /// `snapshot`, where it makes some.
    pub(crate) snapshot: Option<Snapshot>,
    /// `exec`: run when the disk is usable (and mounted). Blocks with `on` are dropped (with a warning).
    pub(crate) exec: Vec<ExecBlock>,
}

/// When a volume is unmounted and detached while the instance lives on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// On these events, after their commands.
    pub(crate) on: Vec<Event>,
    /// A disk that is held is unmounted all the same, in a way that loses what is written to it later.
    pub(crate) lazy: bool,
}

/// `policy` of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordPolicy {
    /// The name is this instance's alone.
    Simple,
    /// Each instance of a fleet has a record of its own at the name.
    Multivalue,
}

/// Which dead members of a fleet lose their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// None.
    Never,
    /// Those that EC2 says are terminated or shutting down.
    Terminated,
    /// Those that EC2 does not know too.
    Missing,
}

/// One entry of `update-route53`.
#[derive(Debug, Clone)]
pub(crate) struct RecordDirective {
    /// Where it stands in the config: `domains."a".update-route53[0]`.
    pub(crate) path: String,
    /// `critical`; default true.
    pub(crate) critical: bool,
    /// `hostedzone`: the id, without `/hostedzone/`.
    pub(crate) hosted_zone: String,
    /// `name`.
    pub(crate) name: Template,
    /// `ttl` in seconds; its range is for Route 53 to judge.
    pub(crate) ttl: i64,
    /// `policy`.
    pub(crate) policy: RecordPolicy,
    /// `sweep`: which records of other members of the fleet are deleted.
    pub(crate) sweep: Sweep,
    /// `wait`: how long a public IPv4 address is waited for.
    pub(crate) wait: Option<Duration>,
    /// `follow`: its value changes with the addresses of the instance, while the daemon watches; default true.
    pub(crate) follow: bool,
    /// `release`: the events on which it is deleted, after their commands and the volumes.
    pub(crate) release: Vec<Event>,
}

/// One entry of an `exec`.
#[derive(Debug, Clone)]
pub(crate) struct ExecBlock {
    /// `on`; `None`: all events that need not be named.
    pub(crate) on: Option<Vec<Event>>,
    /// `on-error`: what a command that fails ends, where the config says it.
    pub(crate) on_error: Option<OnError>,
    /// `lines`.
    pub(crate) lines: Vec<ExecLine>,
}

/// What comes after a command that failed, whatever the event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// The next line.
    Continue,
    /// No other command of the event.
    Stop,
}

impl ExecBlock {
    /// Whether it runs at `event`.
    pub(crate) fn runs_on(&self, event: Event) -> bool {
        self.on.as_ref().map_or(!event.must_be_named(), |on| on.contains(&event))
    }
}

/// One command.
#[derive(Debug, Clone)]
pub(crate) struct ExecLine {
    /// Where it is in its domain: `exec[0].lines[1]`.
    pub(crate) path: String,
    /// `argv`; never empty.
    pub(crate) argv: Vec<Template>,
    /// `ec` of the line, or else of its block, or else 0.
    pub(crate) ec: ExitCodes,
    /// `timeout` in seconds.
    pub(crate) timeout: Option<Duration>,
}

/// Which exit codes count as success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExitCodes {
    /// `null`: all.
    Any,
    /// `"0-1,142"`: both ends count.
    Of(Vec<RangeInclusive<u32>>),
}

impl ExitCodes {
    /// Whether `code` counts as success.
    pub(crate) fn contains(&self, code: u32) -> bool {
        match self {
            ExitCodes::Any => true,
            ExitCodes::Of(ranges) => ranges.iter().any(|r| r.contains(&code)),
        }
    }
}

/// One entry of `notify`.
#[derive(Debug, Clone)]
pub(crate) struct Notify {
    /// Where it stands in the config: `domains."a".notify[0]`.
    pub(crate) path: String,
    /// `backend` with its `options`.
    pub(crate) backend: Backend,
    /// `envelope.subject`, or its default.
    pub(crate) subject: Template,
    /// `envelope.body`, or its default.
    pub(crate) body: Template,
    /// The events that are on, from `matrix`; never `starting`.
    pub(crate) events: Vec<Event>,
}

/// Where a notification goes. `region` is the one given or found in the ARN or URL; `None`: the instance's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `aws-sns`.
    Sns {
        /// The topic's ARN.
        topic: String,
        /// Its region.
        region: Option<String>,
    },
    /// `aws-sqs` (or `ans-sqs`).
    Sqs {
        /// The queue's URL.
        queue_url: String,
        /// Its region.
        region: Option<String>,
    },
}
