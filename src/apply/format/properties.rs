//! Whatever is on a disk, whatever fails, whoever is killed and when, and whatever people do in between: `mkfs` begins
//! only on a disk that is blank or that an earlier `mkfs` of ours left half done, and only with consent.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::properties::settings;
use crate::sys::probe::sparse::Sparse;

/// What a step suffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// It fails, and nothing was done; of `mkfs` some was.
    Fails,
    /// It fails, and nothing was done.
    Refuses,
    /// It is done, and reported as failed: a lost reply.
    FailsAfter,
    /// It is reported as done, and nothing was.
    Lies,
    /// The run is killed before the step, in the middle of it, or after it.
    KilledBefore,
    KilledHalfway,
    KilledAfter,
    /// In the middle, and the guard of `mkfs` with it.
    KilledAll,
    /// The byte there (of all) cannot be read.
    Unreadable(u64),
    /// Reading ends there: the disk is shorter than it says.
    Short(u64),
}
use Fault::*;

/// What happens between two runs.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    GivesConsent,
    /// Somebody uses the disk for something that has a name.
    Uses((&'static str, u64, &'static [u8])),
    /// Somebody writes a byte.
    Writes(u64, u8),
    /// `/run` is new: the journal of the run before is not.
    LosesJournal,
    /// The volume goes to another instance, which has no journal of it.
    Moves,
}

/// Whose the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// None are set.
    Zero,
    /// Of a `mkfs` of ours that did not end well.
    Half,
    /// Of one that did.
    Whole,
    /// Somebody's.
    Foreign,
}

#[derive(Debug, Clone)]
struct World {
    disk: Sparse,
    data: Data,
    tag: bool,
    /// Consent was taken off for a file system that is not made yet.
    granted: bool,
    journal: bool,
    /// The journal has the consent.
    kept: bool,
    /// A guard has noted what was written, and nobody has written since.
    as_left: bool,
    history: History,
    faults: Vec<Fault>,
    killed: bool,
    held: bool,
    noted: bool,
    formatted: u32,
}

const EXT: (&str, u64, &[u8]) = ("ext", 0x438, b"\x53\xef");
const USES: [(&str, u64, &[u8]); 6] = [
    EXT,
    ("xfs", 0, b"XFSB"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM2", 0x200, b"LABELONE"),
    ("swap", 0xff6, b"SWAPSPACE2"),
    ("GPT", 0x200, b"EFI PART"),
];

impl World {
    fn new(size: u64, tag: bool, made: bool, copied: bool) -> World {
        World {
            disk: Sparse::new(size),
            data: Data::Zero,
            tag,
            granted: false,
            journal: false,
            kept: false,
            as_left: false,
            history: History { made, copied, used: None, half: Half::No },
            faults: Vec::new(),
            killed: false,
            held: false,
            noted: false,
            formatted: 0,
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8], data: Data) {
        let at = at % (self.disk.size - bytes.len() as u64 + 1);
        self.disk = std::mem::take(&mut self.disk).with(at, bytes);
        self.data = data;
        self.as_left = false;
    }

    fn next(&mut self) -> Fault {
        if self.faults.is_empty() { Fault::Nothing } else { self.faults.remove(0) }
    }

    /// One run, from power-on to its end, which is not always its own.
    fn run(&mut self, m: &Mount, faults: &[Fault]) -> Result<Found, Failure> {
        (self.faults, self.killed, self.held, self.noted) = (faults.to_vec(), false, false, false);
        self.history.half = match (self.journal, self.as_left) {
            (false, _) => Half::No,
            (true, false) => Half::Unsure,
            (true, true) => Half::Ours,
        };
        // A consent that no journal tells of was spent for nothing.
        self.granted &= self.journal || self.kept;
        let end = file_system(m, "vol-1", self);
        if !self.killed {
            // Committed or rolled back: the hold is gone from the journal, and no later run made the volume.
            (self.journal, self.history.made) = (false, false);
        }
        end
    }

    fn between(&mut self, what: Between) {
        match what {
            Between::Nothing => {}
            Between::GivesConsent => self.tag = true,
            Between::Uses((_, at, magic)) => self.write(at, magic, Data::Foreign),
            Between::Writes(at, byte) => self.write(at, &[byte.max(1)], Data::Foreign),
            Between::LosesJournal => (self.journal, self.kept, self.as_left) = (false, false, false),
            Between::Moves => {
                (self.journal, self.kept, self.as_left, self.history.made) = (false, false, false, false);
            }
        }
    }

    /// The end of a step that is done by `effect`, or not.
    fn step(&mut self, effect: impl FnOnce(&mut World)) -> Result<(), Failure> {
        let fault = self.next();
        if self.killed || fault == KilledBefore {
            self.killed = true;
            return Err(Failure::new("killed"));
        }
        if !matches!(fault, Fails | Refuses | Lies) {
            effect(self);
        }
        self.killed = matches!(fault, KilledHalfway | KilledAfter | KilledAll);
        match fault {
            Fails | Refuses | FailsAfter | KilledHalfway | KilledAfter | KilledAll => Err(Failure::new("it failed")),
            _ => Ok(()),
        }
    }
}

impl Ground for World {
    fn look(&mut self) -> Result<Content, String> {
        let mut disk = self.disk.clone();
        match self.next() {
            Fault::Nothing | Lies => {}
            Unreadable(at) => disk.bad.push(at % disk.size..at % disk.size + 1),
            Short(at) => disk.bad.push(at % disk.size..disk.size),
            fault => {
                self.killed = !matches!(fault, Fails | Refuses | FailsAfter);
                return Err("no look".to_owned());
            }
        }
        self.held = true;
        probe::probe(&disk).map_err(|e| e.to_string())
    }

    fn history(&self) -> History {
        self.history.clone()
    }

    fn prepare(&mut self, _: &str, _: &Content) -> Result<(), Failure> {
        self.step(|_| {})
    }

    fn take_consent(&mut self) -> Result<(), Failure> {
        if self.killed {
            return Err(Failure::new("killed"));
        }
        if !self.tag {
            return if self.kept { Ok(()) } else { Err(Failure::new("no tag")) };
        }
        self.kept = true;
        // A delete that is reported as done is: that EC2 lies is beyond us.
        if self.faults.first() == Some(&Lies) {
            self.faults[0] = Fault::Nothing;
        }
        let refused = matches!(self.faults.first(), Some(Fails | Refuses));
        let end = self.step(|w| (w.tag, w.granted) = (false, true));
        self.kept &= !refused;
        end
    }

    fn note(&mut self, note: Note) {
        self.noted |= note == Note::Begun;
        let _ = self.step(|w| {
            w.journal = note == Note::Begun;
            w.kept &= note != Note::Done;
        });
    }

    fn mkfs(&mut self) -> Result<(), Failure> {
        if self.killed {
            return Err(Failure::new("killed"));
        }
        assert!(matches!(self.data, Data::Zero | Data::Half), "mkfs on somebody's data: {self:?}");
        assert!(self.granted || (self.history.made && !self.history.copied), "mkfs without consent: {self:?}");
        assert!(self.held && self.noted, "mkfs on a disk that was not held, or before the journal: {self:?}");
        self.held = false;
        let fault = self.next();
        self.killed = matches!(fault, KilledBefore | KilledHalfway | KilledAfter | KilledAll);
        match fault {
            KilledBefore | Lies | Refuses => {}
            // Some of it, with what it is known by or without.
            Fails => self.write(EXT.1, EXT.2, Data::Half),
            KilledHalfway | KilledAll => self.write(1, b"half", Data::Half),
            _ => {
                self.write(EXT.1, EXT.2, Data::Whole);
                self.formatted += 1;
            }
        }
        self.as_left = matches!(fault, KilledBefore | KilledHalfway);
        match fault {
            Fault::Nothing | Lies | Unreadable(_) | Short(_) => Ok(()),
            _ => Err(Failure::new("it failed")),
        }
    }
}

fn mount(format: bool) -> Mount {
    Mount {
        key: "m".to_owned(),
        path: "/data".to_owned(),
        fstype: None,
        options: String::new(),
        format,
        label: None,
        owner: None,
        group: None,
        mode: None,
        fsck: true,
        grow: true,
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => prop::sample::select(vec![Fails, Refuses, FailsAfter, Lies, KilledBefore, KilledHalfway, KilledAfter, KilledAll]),
        1 => any::<u64>().prop_map(Unreadable),
        1 => any::<u64>().prop_map(Short),
    ]
}

/// What the steps of a run suffer: mostly one of them, so that the others are reached.
fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let one = (0..7_usize, fault()).prop_map(|(at, fault)| {
        let mut all = vec![Fault::Nothing; at];
        all.push(fault);
        all
    });
    let any = prop::collection::vec(prop_oneof![2 => Just(Fault::Nothing), 1 => fault()], 0..8);
    prop_oneof![2 => Just(Vec::new()), 4 => one, 1 => any]
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        3 => Just(Between::Nothing),
        3 => Just(Between::GivesConsent),
        3 => any::<Index>().prop_map(|i| Between::Uses(*i.get(&USES))),
        1 => (any::<u64>(), any::<u8>()).prop_map(|(at, byte)| Between::Writes(at, byte)),
        1 => Just(Between::LosesJournal),
        1 => Just(Between::Moves),
    ]
}

fn world() -> impl Strategy<Value = World> {
    // All of so small a disk is looked at. What cannot be noticed by looking at the places that count is no fault.
    let size = (1_u64 << 20)..(1 << 20) + 8192;
    (size, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(size, tag, made, copied)| World::new(size, tag, made, copied))
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn no_faults_and_no_kills_lead_to_mkfs_on_data(
        mut world in world(),
        before in prop::option::weighted(0.4, between()),
        runs in prop::collection::vec((faults(), any::<u8>(), between()), 1..5),
    ) {
        world.between(before.unwrap_or(Between::Nothing));
        for (faults, format, then) in runs {
            let was = (world.disk.bytes.clone(), world.formatted);
            let end = world.run(&mount(format % 8 != 0), &faults);
            if world.data == Data::Foreign {
                prop_assert_eq!(&world.disk.bytes, &was.0);
            }
            // That it is formatted is known only where it is.
            prop_assert!(world.formatted == was.1 || format % 8 != 0);
            prop_assert!(end.is_err() || world.disk.bytes.len() > 1);
            world.between(then);
        }
    }
}

#[test]
fn what_was_cut_off_or_refused_is_done_by_the_next_run_and_once() {
    let faults = [KilledBefore, KilledHalfway, KilledAfter, FailsAfter, Refuses];
    for (at, fault) in (0..8).flat_map(|at| faults.map(|f| (at, f))) {
        let mut world = World::new(1 << 20, true, false, false);
        let mut faults = vec![Fault::Nothing; at];
        faults.push(fault);
        let _ = world.run(&mount(true), &faults);
        let again = world.run(&mount(true), &[]);
        assert_eq!(again.unwrap().kind, "ext2", "{at} {fault:?} {world:?}");
        assert_eq!(world.formatted, 1, "{at} {fault:?} {world:?}");
    }
}

#[test]
fn what_somebody_wrote_on_half_a_file_system_is_left_alone() {
    for (fault, between) in [
        (KilledHalfway, Between::Writes(5000, 1)),
        (KilledBefore, Between::Writes(5000, 1)),
        (KilledAll, Between::Writes(5000, 1)),
        // Nobody knows whether somebody has.
        (KilledAll, Between::Nothing),
    ] {
        let mut world = World::new(1 << 20, true, false, false);
        let steps = [vec![Fault::Nothing; 4], vec![fault]].concat();
        let _ = world.run(&mount(true), &steps);
        assert!(world.killed && world.journal && world.noted, "{world:?}");
        world.between(between);
        let before = world.disk.bytes.clone();
        let told = world.run(&mount(true), &[]).unwrap_err().text;
        assert!(told.contains("cut off while it formatted it"), "{told}");
        assert_eq!(world.disk.bytes, before);
    }
}
