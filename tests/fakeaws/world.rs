//! What exists: instances, volumes, zones, topics, queues and messages; and how tests put it there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Instant;

use time::{Duration, OffsetDateTime};

use super::addresses::{Address, Coming};
use super::autoscaling::Scaling;
use super::guests::Order;
use super::imds::ImdsState;
use super::instances::Instance;
use super::knobs::{Bucket, Fault, Knobs, Policy};
use super::records::Zone;
use super::sigv4::Credential;
use super::snapshots::Snapshot;
use super::text::Random;
use super::volumes::{PageToken, Volume};

/// The account that all of it belongs to.
pub(crate) const ACCOUNT: &str = "111122223333";
/// A key of a user, not of an instance: for tests of the environment's credentials, and for boto3.
pub(crate) const STATIC_KEY: (&str, &str) = ("AKIAFAKEAWSSTATIC001", "fakeaws/static+secret0123456789abcdefghi");

/// A message that SNS or SQS took.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The topic's ARN or the queue's URL.
    pub(crate) target: String,
    pub(crate) subject: Option<String>,
    pub(crate) body: String,
    pub(crate) group: Option<String>,
    pub(crate) dedup: Option<String>,
    /// Who sent it, if an instance.
    pub(crate) instance: Option<String>,
    pub(crate) at_ms: u64,
}

/// When something of an attachment came about that nobody asked for at that moment.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) at_ms: u64,
    pub(crate) volume: String,
    pub(crate) instance: String,
    /// `disk`: it shows in the guest; `attached`; `detached`.
    pub(crate) what: &'static str,
}

/// A call of EC2 that was not answered, and is still to be carried out.
#[derive(Debug, Clone)]
pub(crate) struct Late {
    pub(crate) action: String,
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) region: String,
}

/// What a listing leaves out by a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Hidden {
    #[default]
    Nothing,
    All,
    One(String),
}

impl Hidden {
    pub(crate) fn hides(&self, id: &str) -> bool {
        match self {
            Hidden::Nothing => false,
            Hidden::All => true,
            Hidden::One(one) => one == id,
        }
    }
}

/// A topic or a queue.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// ARN, or URL.
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) fifo: bool,
    pub(crate) content_dedup: bool,
    pub(crate) limit: usize,
}

/// Everything. Fields are there to be read and set; what has rules has a method.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) knobs: Knobs,
    pub(crate) policy: Policy,
    pub(crate) faults: Vec<Fault>,
    pub(crate) buckets: BTreeMap<String, Bucket>,
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) imds: BTreeMap<String, ImdsState>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// Volumes that are gone, as they were last.
    pub(crate) graves: BTreeMap<String, Volume>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) addresses: BTreeMap<String, Address>,
    /// What the metadata service does not know of yet.
    pub(crate) coming_addresses: Vec<Coming>,
    /// When CreateSnapshot of a volume was asked for last.
    pub(crate) snapshot_asked: BTreeMap<String, u64>,
    /// Disks of the real machine for volumes that CreateVolume makes: the last one first.
    pub(crate) spare_disks: Vec<PathBuf>,
    /// Zone name to its region and id.
    pub(crate) availability_zones: BTreeMap<String, (String, String)>,
    pub(crate) zones: BTreeMap<String, Zone>,
    pub(crate) topics: Vec<Target>,
    pub(crate) scaling: Scaling,
    pub(crate) queues: Vec<Target>,
    pub(crate) sent: Vec<Message>,
    pub(crate) moments: Vec<Moment>,
    pub(crate) keys: BTreeMap<String, Credential>,
    /// CreateVolume's client tokens: fingerprint of the parameters and the volume.
    pub(crate) tokens: BTreeMap<String, (String, String)>,
    pub(crate) pages: BTreeMap<String, PageToken>,
    /// Calls that are carried out later, and when.
    pub(crate) late: Vec<(u64, Late)>,
    /// What the listing that is answered now leaves out.
    pub(crate) hidden: Hidden,
    /// Volumes that something in the guest holds: their detach stays `busy`.
    pub(crate) held: BTreeSet<String>,
    /// What is to be done to the disks of real guests.
    pub(crate) orders: Vec<Order>,
    pub(crate) next_order: u64,
    pub(crate) random: Random,
    /// Change id of Route 53 to when it becomes INSYNC.
    pub(crate) changes: BTreeMap<String, u64>,
    pub(crate) history: VecDeque<(u64, BTreeMap<String, Volume>)>,
    pub(crate) dir: PathBuf,
    pub(crate) start: Instant,
    pub(crate) next_id: u64,
}

impl World {
    pub(crate) fn new(dir: PathBuf, seed: u64) -> World {
        let mut zones = BTreeMap::new();
        for (region, short) in [("eu-west-1", "euw1"), ("us-east-1", "use1")] {
            for (i, letter) in ["a", "b", "c"].iter().enumerate() {
                zones.insert(format!("{region}{letter}"), (region.to_string(), format!("{short}-az{}", i + 1)));
            }
        }
        let mut world = World {
            knobs: Knobs::default(),
            policy: Policy::default(),
            faults: Vec::new(),
            buckets: BTreeMap::new(),
            instances: BTreeMap::new(),
            imds: BTreeMap::new(),
            volumes: BTreeMap::new(),
            graves: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            addresses: BTreeMap::new(),
            coming_addresses: Vec::new(),
            snapshot_asked: BTreeMap::new(),
            spare_disks: Vec::new(),
            availability_zones: zones,
            zones: BTreeMap::new(),
            topics: Vec::new(),
            scaling: Scaling::default(),
            queues: Vec::new(),
            sent: Vec::new(),
            moments: Vec::new(),
            keys: BTreeMap::new(),
            tokens: BTreeMap::new(),
            pages: BTreeMap::new(),
            late: Vec::new(),
            hidden: Hidden::Nothing,
            held: BTreeSet::new(),
            orders: Vec::new(),
            next_order: 0,
            random: Random::new(seed),
            changes: BTreeMap::new(),
            history: VecDeque::new(),
            dir,
            start: Instant::now(),
            next_id: 1,
        };
        world.add_key(STATIC_KEY.0, STATIC_KEY.1, None, None);
        world
    }

    /// Milliseconds since the server started: the time of all `_ms` fields and of the calls.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Notes what came about.
    pub(crate) fn moment(&mut self, volume: &str, instance: &str, what: &'static str) {
        let at_ms = self.now_ms();
        self.moments.push(Moment { at_ms, volume: volume.into(), instance: instance.into(), what });
    }

    /// The server's wall clock.
    pub(crate) fn wall(&self) -> OffsetDateTime {
        let gained = self.start.elapsed() * (self.knobs.clock_rate - 1);
        OffsetDateTime::now_utc() + gained + Duration::seconds(self.knobs.clock_offset_s)
    }

    /// The wall time at a moment of [`World::now_ms`].
    pub(crate) fn wall_at(&self, ms: u64) -> OffsetDateTime {
        self.wall() + Duration::milliseconds(ms as i64 - self.now_ms() as i64)
    }

    /// Adds a key that may sign requests; `instance` makes it that instance's.
    pub(crate) fn add_key(&mut self, access_key: &str, secret: &str, token: Option<&str>, instance: Option<&str>) {
        let key = Credential {
            access_key: access_key.into(),
            secret: secret.into(),
            token: token.map(String::from),
            expires: None,
            instance: instance.map(String::from),
        };
        self.keys.insert(access_key.into(), key);
    }

    /// A new id: the prefix and 17 hex digits. Ids are not in the order of creation.
    pub(crate) fn make_id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        let tail = self.next_id;
        format!("{prefix}-0{}{tail:04x}", self.random.hex(12))
    }

    /// The region of an availability zone.
    pub(crate) fn region_of(&self, zone: &str) -> String {
        self.availability_zones.get(zone).map(|z| z.0.clone()).unwrap_or_default()
    }

    /// Adds a fault to the script.
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Takes a permission away: "EC2:AttachVolume", or "EC2:AttachVolume/vol-…" for one resource.
    pub(crate) fn deny(&mut self, action: &str) {
        self.policy.deny.insert(action.into());
    }

    /// Gives it back.
    pub(crate) fn permit(&mut self, action: &str) {
        self.policy.deny.remove(action);
    }

    /// Allows these actions and no others.
    pub(crate) fn allow_only<'a>(&mut self, actions: impl IntoIterator<Item = &'a str>) {
        self.policy.allow = Some(actions.into_iter().map(String::from).collect());
    }

    /// Throttles an action with a token bucket.
    pub(crate) fn throttle(&mut self, action: &str, capacity: u32, per_second: f64) {
        self.buckets.insert(action.into(), Bucket::new(capacity, per_second));
    }

    /// Adds an SNS topic. `.fifo` at the end makes it one.
    pub(crate) fn add_topic(&mut self, arn: &str) {
        let region = arn.split(':').nth(3).unwrap_or("").to_string();
        let fifo = arn.ends_with(".fifo");
        self.topics.push(Target { name: arn.into(), region, fifo, content_dedup: false, limit: 256 << 10 });
    }

    /// Adds an SQS queue by its URL. `.fifo` at the end makes it one.
    pub(crate) fn add_queue(&mut self, url: &str) {
        let host = url.split('/').nth(2).unwrap_or("");
        let region = super::sqs::region_of_host(host).unwrap_or_else(|| "eu-west-1".into());
        let fifo = url.ends_with(".fifo");
        self.queues.push(Target { name: url.into(), region, fifo, content_dedup: false, limit: 1 << 20 });
    }

    /// What was published and sent, oldest first.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.sent.clone()
    }

    /// Carries out the calls that were not answered and whose time has come.
    pub(crate) fn carry_out_late(&mut self, now: u64) {
        for (_, call) in self.late.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>() {
            // Who called has gone long ago: a refusal is nobody's.
            let _ = super::ec2::run(self, &call.action, &call.params, &call.region);
        }
    }

    /// Keeps the volumes as they are now, for stale reads. Called before every write.
    pub(crate) fn remember(&mut self) {
        if self.knobs.stale_ms == 0 && self.knobs.stale_writes == 0 && self.knobs.tags_late_ms == 0 {
            return;
        }
        let now = self.now_ms();
        self.history.push_back((now, self.volumes.clone()));
        if self.history.len() > 64 {
            self.history.pop_front();
        }
    }

    /// The volumes as a reader sees them: maybe as they were, maybe with the tags of before.
    pub(crate) fn volumes_as_read(&self) -> Cow<'_, BTreeMap<String, Volume>> {
        let now = self.volumes_back_then();
        let late = self.knobs.tags_late_ms;
        if late == 0 {
            return Cow::Borrowed(now);
        }
        let then = self.now_ms().saturating_sub(late);
        let Some((_, then)) = self.history.iter().find(|(until, _)| *until > then) else { return Cow::Borrowed(now) };
        let mut all = now.clone();
        for v in all.values_mut() {
            v.tags = then.get(&v.id).map(|old| old.tags.clone()).unwrap_or_default();
        }
        Cow::Owned(all)
    }

    fn volumes_back_then(&self) -> &BTreeMap<String, Volume> {
        let (writes, ms) = (self.knobs.stale_writes, self.knobs.stale_ms);
        let then = self.now_ms().saturating_sub(ms);
        let mut at = self.history.len();
        if writes > 0 {
            at = at.saturating_sub(writes);
        }
        if ms > 0 {
            // With both set: so many writes ago, but not longer ago than this.
            let by_time = self.history.iter().position(|(until, _)| *until > then).unwrap_or(self.history.len());
            at = if writes > 0 { at.max(by_time) } else { by_time };
        }
        if let Some((_, old)) = self.history.get(at) {
            return old;
        }
        &self.volumes
    }
}
