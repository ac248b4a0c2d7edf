//! One life: a run of the daemon from its begin to its end, and what becomes of its instance.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::app;
use super::draw::{After, End, Life, Pause, Plan};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, Nth};
use crate::lab::{How, Lab, Running};

/// Nothing that a daemon does at the speed of these worlds takes so long, really.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(4);
/// Long enough for a kill.
const HUNG: u64 = 1 << 30;
/// The answer that tells us of a call: nobody else asks for this delay. It is longer than a [`LOOK`], so that who is
/// stopped at it gets the answer when it goes on.
const BELL: u64 = 13;
/// The same, where it is the next call of another action that counts.
const FIRST_BELL: u64 = 1;

/// What the call gets at which the daemon is stopped.
fn bell(p: &Pause) -> FaultKind {
    if !p.throttled {
        return FaultKind::Slow(BELL);
    }
    let (code, message) = ("RequestLimitExceeded".to_owned(), "Request limit exceeded, for a long time.".to_owned());
    FaultKind::Custom { status: 503, code, message }
}

/// How it came out.
#[derive(Debug)]
pub(crate) struct Lived {
    pub(crate) instance: String,
    /// 128 + the signal, where one ended it.
    pub(crate) code: i32,
    /// Its `started` command wrote.
    pub(crate) started: bool,
    pub(crate) log: String,
    /// It had to be killed: nothing else ended it.
    pub(crate) stuck: bool,
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends what of the application runs on an instance and is noted in this file. The numbers of what is gone may be
/// another's: so it is looked whose they are.
fn end_noted(root: &Path, file: &str) {
    let mine = format!("EC2FLEETD_ROOT={}", root.display());
    for line in std::fs::read_to_string(root.join(file)).unwrap_or_default().lines() {
        let environment = std::fs::read(format!("/proc/{line}/environ")).unwrap_or_default();
        if environment.split(|b| *b == 0).any(|v| v == mine.as_bytes())
            && let Ok(pid) = line.parse()
        {
            signal(pid, Signal::KILL);
        }
    }
    let _ = std::fs::remove_file(root.join(file));
}

/// Ends all that the application left running on an instance, as a power cut does.
pub(crate) fn end_all(root: &Path) {
    end_noted(root, "commands");
    end_noted(root, "servers");
}

/// The clock of a daemon that is begun now: as fast as the world's, and as late.
pub(crate) fn clock(lab: &Lab, plan: &Plan) -> How {
    let ahead = lab.server.world().wall() - time::OffsetDateTime::now_utc();
    How::default().env("EC2FLEETD_CLOCK", &format!("rate={},offset={:.3}", plan.rate, ahead.as_seconds_f64()))
}

/// Whether a call of this instance came that a fault of this kind was waiting for.
fn came(lab: &Lab, instance: &str, kind: &FaultKind, nth: u32) -> bool {
    let w = lab.server.world();
    w.faults.iter().any(|f| f.instance.as_deref() == Some(instance) && f.kind == *kind && f.seen >= nth)
}

/// Lives it.
pub(crate) fn live(lab: &Lab, plan: &Plan, life: &Life, instance: &str) -> Lived {
    std::thread::sleep(Duration::from_millis(life.delay_ms));
    let mut how = app::environment(clock(lab, plan), life).on(instance);
    if let End::KillInJournal(step) = life.end {
        how = how.env("EC2FLEETD_DIE", &step.to_string());
    }
    {
        let mut w = lab.server.world();
        let mut add = |action: &str, nth: Nth, kind: FaultKind| {
            w.fault(Fault::new(action, nth, kind).of_instance(instance));
        };
        if let End::KillAt(action, nth, after) = life.end {
            add(action, Nth::Only(nth), if after { FaultKind::HangAfter(HUNG) } else { FaultKind::Hang(HUNG) });
        }
        if let Some(p) = life.pause {
            add(p.action, Nth::Only(p.nth), if p.then.is_some() { FaultKind::Slow(FIRST_BELL) } else { bell(&p) });
        }
        life.faults.iter().for_each(|(action, nth, kind)| add(action, *nth, kind.clone()));
    }
    let running = lab.start(&app::config(lab, plan, life), how);
    let (code, stuck) = watch(lab, life, instance, running_pid(&running), running);
    let log = code.1;
    // As systemd does with what is left of a unit. The server is of another one.
    end_noted(&lab.root(instance), "commands");
    lab.server.world().faults.retain(|f| f.instance.as_deref() != Some(instance));
    let started = lab.dir.join(format!("up-{}", life.name)).exists();
    Lived { instance: instance.to_owned(), code: code.0, started, log, stuck }
}

fn running_pid(running: &Running) -> u32 {
    running.child.id()
}

/// Brings its end about, and waits for it.
fn watch(lab: &Lab, life: &Life, instance: &str, pid: u32, mut running: Running) -> ((i32, String), bool) {
    let began = Instant::now();
    let up = lab.dir.join(format!("up-{}", life.name));
    let mut up_since: Option<Instant> = None;
    let (mut ended, mut armed, mut paused, mut stuck) = (None::<Instant>, false, false, false);
    let status = loop {
        if let Some(status) = running.child.try_wait().unwrap() {
            break status;
        }
        if let Some(p) = life.pause
            && let Some((action, nth)) = p.then
            && !armed
            && came(lab, instance, &FaultKind::Slow(FIRST_BELL), p.nth)
        {
            armed = true;
            lab.server.world().faults.insert(0, Fault::nth(action, nth, bell(&p)).of_instance(instance));
        }
        let nth = |p: &Pause| p.then.map_or(p.nth, |(_, nth)| nth);
        if let Some(p) = life.pause.filter(|p| !paused && came(lab, instance, &bell(p), nth(p))) {
            paused = true;
            signal(pid, Signal::STOP);
            std::thread::sleep(Duration::from_millis(p.ms));
            signal(pid, Signal::CONT);
        }
        if up_since.is_none() && up.exists() {
            up_since = Some(Instant::now());
        }
        let is_due = |ms: u64| began.elapsed() >= Duration::from_millis(ms);
        let is_long_up = |ms: u64| up_since.is_some_and(|t| t.elapsed() >= Duration::from_millis(ms));
        let late = is_due(life.patience_ms);
        match (life.end, ended) {
            (_, Some(at)) if at.elapsed() > PATIENCE => {
                stuck = true;
                signal(pid, Signal::KILL);
            }
            (_, Some(_)) => {}
            (End::Term(ms), _) if is_long_up(ms) || late => (signal(pid, Signal::TERM), ended = Some(Instant::now())).0,
            (End::EarlyTerm(ms), _) if is_due(ms) => (signal(pid, Signal::TERM), ended = Some(Instant::now())).0,
            (End::Kill(ms), _) if is_long_up(ms) || late => (signal(pid, Signal::KILL), ended = Some(Instant::now())).0,
            (End::EarlyKill(ms), _) if is_due(ms) => (signal(pid, Signal::KILL), ended = Some(Instant::now())).0,
            (End::KillAt(_, nth, after), _)
                if came(
                    lab,
                    instance,
                    &if after { FaultKind::HangAfter(HUNG) } else { FaultKind::Hang(HUNG) },
                    nth,
                ) =>
            {
                if after {
                    // It is carried out half of the latency later.
                    std::thread::sleep(Duration::from_millis(15));
                }
                signal(pid, Signal::KILL);
                ended = Some(Instant::now());
            }
            (End::Notice(ms, seconds), _) if is_long_up(ms) || late => {
                lab.server.world().notice(instance, "terminate", seconds);
                ended = Some(Instant::now());
            }
            (End::EarlyNotice(ms, seconds), _) if is_due(ms) => {
                lab.server.world().notice(instance, "terminate", seconds);
                ended = Some(Instant::now());
            }
            (End::Cut(ms), _) if is_due(ms) => {
                signal(pid, Signal::KILL);
                ended = Some(Instant::now());
            }
            // What waits for a call or a write that does not come.
            _ if is_due(life.patience_ms * 2) => (signal(pid, Signal::TERM), ended = Some(Instant::now())).0,
            _ => {}
        }
        std::thread::sleep(LOOK);
    };
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ((code, running.log()), stuck)
}

/// What becomes of the instance of a life; gives the one that lives next in its seat.
pub(crate) fn aftermath(lab: &Lab, life: &Life, instance: String, zone: &str) -> String {
    lab.server.world().imds(&instance).notice = None;
    let root = lab.root(&instance);
    if life.after != After::Same {
        let _ = std::fs::write(root.join(format!("over-{}", life.name)), "");
    }
    match life.after {
        After::Same => instance,
        After::Boots => {
            end_all(&root);
            let _ = std::fs::remove_dir_all(root.join("run"));
            let _ = std::fs::create_dir_all(root.join("run"));
            forget_servers(&root);
            instance
        }
        After::Replaced | After::Lingers => {
            end_all(&root);
            let mut w = lab.server.world();
            if life.after == After::Lingers {
                w.drop_addresses(&instance);
                w.set_instance_state(&instance, "terminated");
            } else {
                w.terminate(&instance);
            }
            drop(w);
            lab.add_instance(InstanceSpec { zone: zone.to_owned(), ..InstanceSpec::default() })
        }
    }
}

/// The process ids of servers that were ended count no more.
fn forget_servers(root: &Path) {
    for d in ["d", "e", "z"] {
        let _ = std::fs::remove_file(root.join(format!("app-{d}.server")));
    }
}
