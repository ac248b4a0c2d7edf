//! The words that every layer shares: events, facts of the instance, the interruption.

use time::OffsetDateTime;

/// What execs and notifications are bound to; also the daemon's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// Before anything is touched.
    Starting,
    /// Everything stands.
    Started,
    /// A critical directive failed; its domain is rolled back.
    Failed,
    /// SIGTERM or SIGINT.
    Stopping,
    /// EC2 takes the capacity back.
    Interrupted,
    /// EC2 recommends another instance in place of this one.
    Rebalance,
    /// Something is scheduled for this instance.
    Maintenance,
    /// Auto Scaling takes this instance out of service.
    Terminating,
}

impl Event {
    /// All of them. Those that are on unless the config says otherwise come first, in the order in which they can happen.
    pub(crate) const ALL: [Event; 8] = [
        Event::Starting,
        Event::Started,
        Event::Failed,
        Event::Stopping,
        Event::Interrupted,
        Event::Rebalance,
        Event::Maintenance,
        Event::Terminating,
    ];

    /// It is off unless the config names it.
    pub(crate) fn must_be_named(self) -> bool {
        self > Event::Interrupted
    }

    /// What serves is ended at it: its commands are to stop an application, whatever else goes wrong.
    pub(crate) fn is_shutdown(self) -> bool {
        matches!(self, Event::Failed | Event::Stopping | Event::Interrupted | Event::Maintenance | Event::Terminating)
    }

    /// Its name in the config and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Event::Starting => "starting",
            Event::Started => "started",
            Event::Failed => "failed",
            Event::Stopping => "stopping",
            Event::Interrupted => "interrupted",
            Event::Rebalance => "rebalance",
            Event::Maintenance => "maintenance",
            Event::Terminating => "terminating",
        }
    }
}

/// What the metadata service says about this instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// `i-…`.
    pub(crate) instance_id: String,
    /// Such as `m7g.large`.
    pub(crate) instance_type: String,
    /// `ami-launch-index`, 0 for the first of its reservation.
    pub(crate) launch_index: u64,
    /// Such as `eu-west-1`.
    pub(crate) region: String,
    /// Such as `eu-west-1a`.
    pub(crate) zone: String,
    /// The `system` leaf: `nitro`, `xen`; `None` where the service does not say.
    pub(crate) hypervisor: Option<String>,
    /// Public IPv4 addresses of interface 0, in the order of the service.
    pub primary_ipv4: Vec<String>,
    /// IPv6 addresses of interface 0.
    pub primary_ipv6: Vec<String>,
    /// Public IPv4 addresses of all interfaces, interface 0's first.
    pub all_ipv4: Vec<String>,
    /// IPv6 addresses of all interfaces, interface 0's first.
    pub all_ipv6: Vec<String>,
}

/// An interruption notice (`spot/instance-action`), or another announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// `terminate`, `stop` or `hibernate`; the kind of another event.
    pub(crate) action: String,
    /// When EC2 will do it.
    pub(crate) time: OffsetDateTime,
    /// The time as EC2 wrote it, or as we would.
    pub(crate) time_text: String,
}
