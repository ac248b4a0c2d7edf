//! What happens in a world: all of it is drawn from the seed before anything runs.

use crate::fakeaws::text::Random;
use crate::fakeaws::{FaultKind, Nth};

/// Instances at a time.
pub(crate) const SEATS: usize = 3;

/// Where a domain's volume comes from, and with it what may be true of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One volume, by its id.
    ById,
    /// A pool.
    Pool,
    /// A pool, else a new volume.
    PoolOrNew,
    /// A pool, else a copy of its newest snapshot.
    PoolOrCopy,
    /// A pool, else a volume of another zone.
    PoolOrMoved,
    /// A pool, else a volume of another zone, else a new one.
    MovedOrNew,
}

impl Kind {
    /// `source`.
    pub(crate) fn sources(self) -> &'static str {
        match self {
            Kind::ById => "x",
            Kind::Pool => "p",
            Kind::PoolOrNew => "pc",
            Kind::PoolOrCopy => "psc",
            Kind::PoolOrMoved => "pm",
            Kind::MovedOrNew => "pmc",
        }
    }

    /// Whether a history goes on from one volume in another one, and so is at one place only.
    pub(crate) fn moves(self) -> bool {
        matches!(self, Kind::PoolOrMoved | Kind::MovedOrNew)
    }

    /// Whether what is made from a snapshot is a history of its own from there on.
    pub(crate) fn forks(self) -> bool {
        self == Kind::PoolOrCopy
    }
}

/// The world and what it lives through.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    /// Time runs so many times faster.
    pub(crate) rate: u32,
    /// Of each seat.
    pub(crate) zones: [&'static str; SEATS],
    /// Volumes of the pool at the beginning, in the first seat's zone.
    pub(crate) volumes: usize,
    /// Seconds.
    pub(crate) wait: Option<u32>,
    pub(crate) timeout: u32,
    pub(crate) fence: bool,
    pub(crate) device: bool,
    pub(crate) record: bool,
    pub(crate) multivalue: bool,
    pub(crate) address: bool,
    /// A second domain, `e`, with a pool of its own.
    pub(crate) second: bool,
    /// A failure of the one fails the other.
    pub(crate) critical: bool,
    pub(crate) knobs: Vec<(&'static str, u64)>,
    pub(crate) seats: Vec<Vec<Life>>,
}

/// What the config of a life says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Domains {
    Usual,
    /// With a record in a hosted zone that does not exist: once all else stands, it is rolled back.
    Doomed,
    /// The domain has another name, and none of its volumes.
    Renamed,
    /// There is no domain at all.
    None,
}

/// What the command of a volume does: a migration that leaves a mark at its begin and takes it off at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Migration {
    Works,
    /// Takes long enough for the others.
    Slow,
    /// Fails half way.
    Fails,
    /// Kills the daemon half way.
    Kills,
    /// Does not end.
    Hangs,
}

/// What the `started` command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// Writes once, and so many times more beside the daemon.
    Writes(u32),
    Fails,
    /// Kills the daemon before it writes.
    KillsFirst,
    /// And after.
    KillsThen,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM so many ms after it started (or did not start in time).
    Term(u64),
    /// SIGTERM so many ms after its begin.
    EarlyTerm(u64),
    /// kill -9 so many ms after it started.
    Kill(u64),
    /// kill -9 so many ms after its begin.
    EarlyKill(u64),
    /// kill -9 at a call of its instance, before or after it is carried out.
    KillAt(&'static str, u32, bool),
    /// kill -9 in or after a write of the journal.
    KillInJournal(u32),
    /// A notice so many ms after it started, for so many seconds later.
    Notice(u64, i64),
    /// A notice so many ms after its begin.
    EarlyNotice(u64, i64),
    /// The instance is terminated so many ms after its begin, with all that runs on it.
    Cut(u64),
}

/// What becomes of the instance after a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It lives on; what the daemon left running too.
    Same,
    /// It boots: nothing runs, the journal is lost.
    Boots,
    /// It is terminated, and a new one takes the seat.
    Replaced,
    /// The same, but its volumes stay attached to it until they are fenced (or all is over).
    Lingers,
}

/// The daemon stands still, and the time of the others goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// At the nth call of an action; `*`: of any.
    pub(crate) action: &'static str,
    pub(crate) nth: u32,
    /// Not there, but at the nth call of this action after it: what was read then is acted on minutes later.
    pub(crate) then: Option<(&'static str, u32)>,
    /// The call is throttled: it is made again minutes later.
    pub(crate) throttled: bool,
    /// For so long, really.
    pub(crate) ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Life {
    /// Unique in its world.
    pub(crate) name: String,
    /// Before it begins.
    pub(crate) delay_ms: u64,
    pub(crate) domains: Domains,
    pub(crate) migration: Migration,
    pub(crate) server: Server,
    pub(crate) faults: Vec<(&'static str, Nth, FaultKind)>,
    pub(crate) pause: Option<Pause>,
    pub(crate) end: End,
    /// How long it may take until it has started, really, before its end comes anyway.
    pub(crate) patience_ms: u64,
    pub(crate) after: After,
}

/// A random number generator with the words that are needed here.
struct Dice(Random);

impl Dice {
    fn up_to(&mut self, n: u64) -> u64 {
        (self.0.next() >> 16) % (n + 1)
    }
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.up_to(high - low)
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.up_to(99) < percent
    }
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.up_to(of.len() as u64 - 1) as usize]
    }
    /// One of these, by their weights.
    fn weighed<T: Copy>(&mut self, of: &[(u64, T)]) -> T {
        let mut at = self.up_to(of.iter().map(|(w, _)| w).sum::<u64>() - 1);
        for (w, t) in of {
            if at < *w {
                return *t;
            }
            at -= w;
        }
        of[0].1
    }
}

/// The calls that something can happen to, as often as they matter.
const ACTIONS: [(u64, &str); 11] = [
    (4, "EC2:DeleteVolume"),
    (3, "EC2:DetachVolume"),
    (3, "EC2:AttachVolume"),
    (3, "EC2:CreateTags"),
    (3, "EC2:DeleteTags"),
    (3, "EC2:DescribeVolumes"),
    (2, "EC2:CreateVolume"),
    (2, "EC2:CreateSnapshot"),
    (1, "EC2:DeleteSnapshot"),
    (1, "Route53:ChangeResourceRecordSets"),
    (1, "*"),
];

/// The same of a roll-back.
const ROLL_BACK: [(u64, &str); 5] = [
    (8, "EC2:DeleteVolume"),
    (8, "EC2:DetachVolume"),
    (1, "EC2:DeleteTags"),
    (1, "EC2:CreateTags"),
    (2, "EC2:DeleteSnapshot"),
];

impl Plan {
    pub(crate) fn draw(seed: u64) -> Plan {
        let mut dice = Dice(Random::new(seed));
        let kind = dice.weighed(&[
            (1, Kind::ById),
            (2, Kind::Pool),
            (4, Kind::PoolOrNew),
            (3, Kind::PoolOrCopy),
            (5, Kind::PoolOrMoved),
            (3, Kind::MovedOrNew),
        ]);
        let rate = dice.one(&[10, 20, 40]);
        let zones = match kind {
            Kind::PoolOrMoved | Kind::MovedOrNew => {
                ["eu-west-1a", dice.one(&["eu-west-1a", "eu-west-1b"]), "eu-west-1b"]
            }
            _ => ["eu-west-1a"; SEATS],
        };
        let volumes = match kind {
            Kind::ById => 1,
            Kind::PoolOrNew if dice.chance(40) => 0,
            Kind::MovedOrNew if dice.chance(20) => 0,
            _ => dice.weighed(&[(3, 1), (1, 2)]),
        };
        let mut knobs = vec![
            ("latency_ms", dice.weighed(&[(3, 0), (2, 5), (1, 20)])),
            ("attaching_ms", dice.between(10, 60)),
            ("detaching_ms", dice.between(10, 60)),
            ("creating_ms", dice.between(10, 80)),
            ("cooldown_ms", dice.between(0, 60)),
            ("snapshot_ms", dice.between(50, 500)),
            ("snapshot_gap_ms", 15_000 / u64::from(rate)),
            ("disk_bytes", 1 << 20),
        ];
        if dice.chance(30) {
            // Of the daemons' time: half a second to two seconds.
            knobs.push(("stale_ms", dice.between(500, 2000) / u64::from(rate)));
            if dice.chance(50) {
                knobs.push(("stale_writes", dice.between(1, 3)));
            }
        }
        if dice.chance(15) {
            knobs.push(("created_invisible_ms", dice.between(500, 3000) / u64::from(rate)));
            knobs.push(("snapshot_invisible_ms", dice.between(500, 3000) / u64::from(rate)));
        }
        let mut plan = Plan {
            seed,
            kind,
            rate,
            zones,
            volumes,
            wait: dice.weighed(&[(1, None), (2, Some(10)), (3, Some(40))]),
            timeout: dice.one(&[60, 100, 200]),
            fence: dice.chance(30),
            device: dice.chance(40),
            record: dice.chance(40),
            multivalue: dice.chance(40),
            address: dice.chance(15),
            second: dice.chance(20),
            critical: dice.chance(50),
            knobs,
            seats: Vec::new(),
        };
        let lives = dice.between(4, 6);
        for seat in 1..=SEATS {
            let lives =
                (1..=lives).map(|n| Life::draw(&mut dice, format!("{seat}.{n}"), kind, rate, plan.fence)).collect();
            plan.seats.push(lives);
        }
        plan
    }

    /// How many there are, with the last two of each seat.
    pub(crate) fn lives(&self) -> usize {
        self.seats.iter().map(|s| s.len() + 2).sum()
    }

    pub(crate) fn knob(&self, name: &str) -> u64 {
        self.knobs.iter().find(|(n, _)| *n == name).map_or(0, |k| k.1)
    }
}

impl Life {
    /// One of those at the end, in which nothing goes wrong.
    pub(crate) fn is_last(&self) -> bool {
        self.name.ends_with("-of-all")
    }

    fn draw(dice: &mut Dice, name: String, kind: Kind, rate: u32, fence: bool) -> Life {
        let domains =
            dice.weighed(&[(86, Domains::Usual), (8, Domains::Doomed), (4, Domains::Renamed), (2, Domains::None)]);
        let migration = dice.weighed(&[
            (62, Migration::Works),
            (8, Migration::Slow),
            (18, Migration::Fails),
            (6, Migration::Kills),
            (6, Migration::Hangs),
        ]);
        let writes = dice.up_to(6) as u32;
        let server = dice.weighed(&[
            (84, Server::Writes(writes)),
            (4, Server::Fails),
            (4, Server::KillsFirst),
            (8, Server::KillsThen),
        ]);
        // What is rolled back is where most can go wrong.
        let fails = domains == Domains::Doomed || migration == Migration::Fails;
        let mut faults = Vec::new();
        if fails && dice.chance(60) {
            faults.push(fault(dice, rate, &ROLL_BACK));
        }
        if dice.chance(35) {
            for _ in 0..dice.between(1, 3) {
                faults.push(fault(dice, rate, &ACTIONS));
            }
        }
        // Minutes of the daemons' time; in a roll-back long enough for a life of another instance.
        let ms = if fails { dice.between(1500, 6000) } else { dice.between(10_000, 180_000) / u64::from(rate).max(30) };
        let look = dice.between(2, 4) as u32;
        let at = |action, nth| Pause { action, nth, then: None, throttled: false, ms };
        let pause = match (fails, dice.up_to(99)) {
            (true, 0..20) => Some(Pause { then: Some(("EC2:DescribeVolumes", look)), ..at("EC2:DetachVolume", 1) }),
            (true, 20..50) => Some(Pause { throttled: true, ..at("EC2:DeleteVolume", 1) }),
            (true, 50..65) => Some(at(dice.weighed(&ROLL_BACK), 1)),
            (false, 0..10) => Some(at(dice.weighed(&ACTIONS), dice.weighed(&[(3, 1), (2, 2), (1, 3)]))),
            _ => None,
        };
        let stay = dice.up_to(500);
        let (action, nth, after) = (dice.weighed(&ACTIONS), dice.between(1, 3) as u32, dice.chance(50));
        let (step, seconds) = (dice.between(1, 30) as u32, dice.between(60, 120) as i64);
        let end = dice.weighed(&[
            (30, End::Term(stay)),
            (4, End::EarlyTerm(stay * 2)),
            (10, End::Kill(stay)),
            (5, End::EarlyKill(stay * 2)),
            (10, End::KillAt(action, nth, after)),
            (7, End::KillInJournal(step)),
            (18, End::Notice(stay, seconds)),
            (4, End::EarlyNotice(stay * 2, seconds)),
            (12, End::Cut(stay * 3)),
        ]);
        let replaced = if fence && dice.chance(30) { After::Lingers } else { After::Replaced };
        let after = match end {
            End::Cut(_) => replaced,
            End::Notice(..) | End::EarlyNotice(..) if dice.chance(70) => replaced,
            _ => dice.weighed(&[(60, After::Same), (15, After::Boots), (25, replaced)]),
        };
        let slow = if kind.moves() { 2 } else { 1 };
        Life {
            name,
            delay_ms: dice.up_to(400),
            domains,
            migration,
            server,
            faults,
            pause,
            end,
            patience_ms: dice.between(800, 3000) * slow,
            after,
        }
    }
}

/// The table of what can happen to a call: to each kind how likely it is. Lost answers and late calls are the hard ones.
fn fault(dice: &mut Dice, rate: u32, actions: &[(u64, &'static str)]) -> (&'static str, Nth, FaultKind) {
    let real = |ms: u64| ms / u64::from(rate);
    let action = dice.weighed(actions);
    let nth = dice.weighed(&[(3, 1), (2, 2), (1, 3), (1, 4)]);
    let minute = dice.between(3_000, 60_000);
    let once = Nth::Only(nth);
    let some = Nth::First(dice.between(2, 9) as u32);
    // Of the daemons' time.
    let (late, long) = (real(minute).max(20), real(minute * 2).max(20));
    match dice.weighed(&[(5, 0), (2, 1), (3, 2), (3, 3), (2, 4), (2, 5), (2, 6), (2, 7), (6, 8)]) {
        0 => (action, some, FaultKind::Throttle),
        1 => (action, some, FaultKind::Status503),
        2 => (action, once, FaultKind::ResetAfter),
        3 => (action, once, FaultKind::ErrorAfter500),
        4 => (action, once, FaultKind::HangAfter(long)),
        5 => (action, once, FaultKind::Truncated),
        6 => (action, once, FaultKind::Slow(late)),
        7 => (action, some, FaultKind::Denied),
        // Not DetachVolume: EC2 has no condition for it, and one that is carried out after its run has ended ends what the
        // next run of the same instance has attached.
        _ if action.starts_with("EC2:") && action != "EC2:DetachVolume" => (action, once, FaultKind::Late(late)),
        _ => (action, once, FaultKind::Slow(late)),
    }
}
