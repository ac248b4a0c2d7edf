//! What can be decided without asking anybody: pure functions from config, facts and what was read to plain steps.
//!
//! Only what the API must arbitrate (who gets a pool volume) is left to `apply`, which gets an ordered list of
//! candidates from here.

pub(crate) mod addresses;
pub(crate) mod copies;
pub(crate) mod create;
pub(crate) mod devices;
pub(crate) mod follow;
pub(crate) mod format;
pub(crate) mod members;
pub(crate) mod moves;
pub(crate) mod nesting;
pub(crate) mod on_failure;
mod order;
pub(crate) mod records;
pub(crate) mod snapshots;
pub(crate) mod unfinished;
pub(crate) mod volumes;
pub(crate) mod waiting;
pub(crate) mod way_out;

/// Tag keys, as existing pools have them. Tags are hints with an owner and a time, never a lock.
pub(crate) mod tags {
    /// The domain that the volume belongs to.
    pub(crate) const DOMAIN: &str = "user:ec2fd.domain";
    /// The pool within the domain.
    pub(crate) const POOL_NAME: &str = "user:ec2fd.pool-name";
    /// Held by a transaction in flight.
    pub(crate) const TRANSC_ID: &str = "user:ec2fd.transc-id";
    /// Created, not committed; gone before the first exec on the volume.
    pub(crate) const IN_TRANSIT: &str = "user:ec2fd.in-transit";
    /// When a transaction last committed the volume, RFC 3339 in UTC.
    pub(crate) const TS_USED: &str = "user:ec2fd.ts-used";
    /// When it was created, RFC 3339 in UTC.
    pub(crate) const TS_CREATED: &str = "user:ec2fd.ts-created";
    /// `if-blank`: it may be formatted once, if it is blank.
    pub(crate) const FORMAT: &str = "user:ec2fd.format";
    /// It is being copied into another zone: by which instance, since when, and the token of the copy's snapshot. On that
    /// snapshot: the token.
    pub(crate) const MOVING: &str = "user:ec2fd.moving";
    /// The volume in another zone that has taken its place.
    pub(crate) const SUPERSEDED_BY: &str = "user:ec2fd.superseded-by";
    /// The first volume of the line that a moved one is of.
    pub(crate) const LINEAGE: &str = "user:ec2fd.lineage";
    /// How often its data was moved.
    pub(crate) const GENERATION: &str = "user:ec2fd.generation";
    /// The member of a fleet that had it last: a host name or a launch index, where `sticky` is configured.
    pub(crate) const MEMBER: &str = "user:ec2fd.member";
    /// The instance that holds or made it.
    pub(crate) const OWNER: &str = "user:ec2fd.owner";
    /// On every snapshot that a `snapshot` directive made, with another value each.
    pub(crate) const SNAPSHOT: &str = "user:ec2fd.snapshot";
}
