//! From the command line to everything that a run has: config, facts, AWS client, locks.
//!
//! Metadata and config are read side by side; the config is checked whole before anything is touched.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use time::UtcOffset;

use super::domain::{Context, Domain};
use super::{Daemon, Outcome, on_failure::Failing};
use crate::apply::nested::{self, Nested};
use crate::apply::{Shared, lock, zone::Zones};
use crate::aws::{Aws, AwsConfig, env::Env};
use crate::cli::{Args, Input};
use crate::clock::Clock;
use crate::config::{self, Config, userdata};
use crate::exec::Runner;
use crate::imds::{Imds, ImdsError};
use crate::log::in_domain;
use crate::model::Facts;
use crate::parallel;
use crate::poll::Noticed;
use crate::scope::{Scope, Stop};
use crate::sntp;
use crate::sys::journal::JournalFile;
use crate::sys::lock::{DomainLock, LockError};
use crate::sys::mounts::MountSet;
use crate::sys::{Root, beside, freeze, notify::Notifier, signals};
use crate::waits::{self, waiting};

/// How long the metadata service may take until the config says how long init may take.
const METADATA: Duration = Duration::from_secs(300);
/// How long the first keys are fetched ahead; after that the first call that needs them waits for them.
const WARM_UP: Duration = Duration::from_secs(10);
/// How often it is looked whether another daemon has settled what an earlier run left.
const SETTLING: Duration = Duration::from_millis(50);
/// More than any config that is accepted, so that one that is too large is refused by its own error.
const MAX_INPUT: u64 = 2 * 1024 * 1024;

/// What setting up leads to.
pub(super) enum Ready {
    /// A run.
    Daemon(Box<Daemon>),
    /// There is no config: nothing to do, and that is said.
    Nothing,
}

/// The outcome that the process ends with, and why.
pub(super) type Refusal = (Outcome, String);

fn failed(e: impl std::fmt::Display) -> Refusal {
    (Outcome::Failed, e.to_string())
}

fn usage(e: impl std::fmt::Display) -> Refusal {
    (Outcome::Usage, e.to_string())
}

/// Reads and checks the config of `--check` and of a run from a file or standard input. A run does not wait without an
/// end for whoever writes it: that is over with `scope`.
pub(super) fn read_input(input: &Input, scope: Option<&Scope>) -> Result<Option<Config>, Refusal> {
    let name = match input {
        Input::Stdin => "standard input".to_owned(),
        Input::File(path) => path.display().to_string(),
    };
    let (input, input_is_stdin) = (input.clone(), *input == Input::Stdin);
    let read = move || {
        let mut bytes = Vec::new();
        match input {
            Input::Stdin => std::io::stdin().take(MAX_INPUT).read_to_end(&mut bytes),
            Input::File(path) => std::fs::File::open(path)?.take(MAX_INPUT).read_to_end(&mut bytes),
        }?;
        Ok(bytes)
    };
    let bytes = match scope {
        Some(scope) => beside(scope, Box::new(read)),
        None => read(),
    };
    let bytes = bytes.map_err(|e: std::io::Error| {
        let text = format!("cannot read the config from {name}: {e}");
        if e.kind() == std::io::ErrorKind::TimedOut { failed(text) } else { usage(text) }
    })?;
    if input_is_stdin && scope.is_some() {
        super::rescue::keep_input(&bytes);
    }
    parse(&bytes, &name)
}

/// Decodes and checks a config that came from `name`. `None`: there is none.
fn parse(bytes: &[u8], name: &str) -> Result<Option<Config>, Refusal> {
    let text = match userdata::decode(bytes).map_err(|e| usage(format!("{name}: {e}")))? {
        userdata::Decoded::Empty => return Ok(None),
        userdata::Decoded::Config(text) => text,
    };
    let config =
        config::load(&text).map_err(|e| usage(format!("{name} is not a config, nothing was touched:\n{e}")))?;
    Ok(Some(config))
}

/// Sets up a run. From here on a signal makes a request to `stop`.
pub(super) fn setup(args: Args, stop: &Stop) -> Result<Ready, Refusal> {
    let offset = crate::clock::local_offset();
    let clock = Arc::new(Clock::new(std::env::var("EC2FLEETD_CLOCK").ok().as_deref()).map_err(usage)?);
    let root = Root::from_env();
    let mounts_before = MountSet::take(&root);
    let notifier = Arc::new(Notifier::from_env());
    let told = notifier.clone();
    waits::watch(clock.clone(), move |text| told.waiting(text));
    let (told, ticks) = (notifier.clone(), clock.clone());
    let state = move || {
        log::info!("{}", told.going_on());
        for (domain, text) in waits::list(&ticks) {
            in_domain(&domain, || log::info!("{text}"));
        }
    };
    signals::install(stop, Box::new(state)).map_err(|e| failed(format!("cannot handle signals: {e}")))?;
    let env = Env::of_process();
    let endpoints = match args.imds.as_slice() {
        [] => crate::imds::endpoints(None, &|name| env.get(name).map(str::to_owned)).map_err(usage)?,
        given => given.to_vec(),
    };
    let imds = Arc::new(Imds::new(endpoints, &clock));
    let early = Scope::new(&clock, METADATA, Some(stop));
    notifier.extend_timeout(clock.real(METADATA));
    notifier.status("reading the metadata and the config");

    let facts = fetch_facts(&imds, &early);
    // Whatever this run is for: somebody waits to write.
    freeze::thaw_left(&root, &early);
    let config = match &args.userdata {
        Some(input) => read_input(input, Some(&early))?,
        None => {
            let bytes = imds.user_data(&early);
            let bytes = bytes.map_err(|e| failed(format!("cannot read the user data: {e}")))?;
            parse(&bytes.unwrap_or_default(), "the user data")?
        }
    };
    let mut args = args;
    let config = match config {
        Some(config) => config,
        // A run of an earlier config may have left something.
        None if args.init && !JournalFile::all(&root).is_empty() => {
            log::info!("there is no config: only what earlier runs left is settled");
            args.poll = false;
            config::load("{}").map_err(usage)?
        }
        None => {
            log::info!("there is no config: nothing to do");
            notifier.ready();
            notifier.status("no config: nothing to do");
            return Ok(Ready::Nothing);
        }
    };
    for warning in &config.warnings {
        log::warn!("config: {warning}");
    }

    let aws_config = AwsConfig { env, profile: args.profile.clone() };
    let aws = Arc::new(Aws::new(&aws_config, &clock, &imds).map_err(failed)?);
    let needs_aws = wants_aws(&args, &config);
    // The first keys come while the facts do.
    if needs_aws {
        let (aws, scope) = (aws.clone(), early.within(WARM_UP));
        // If there are none, the first call waits for them, and says so.
        parallel::background("keys", Box::new(move || drop(aws.warm_up(&scope))));
    }
    let facts = facts.wait().map_err(|e| failed(format!("cannot read the instance's metadata: {e}")))?;
    // The network is there now, and nothing was signed or verified yet.
    if sntp::mend(&clock, args.set_clock) {
        imds.dispute_date();
    }
    aws.set_instance_region(&facts.region);
    log::info!(
        "{} ({}) in {}, launch index {}, public addresses: {}",
        facts.instance_id,
        facts.instance_type,
        facts.zone,
        facts.launch_index,
        addresses(&facts)
    );

    let runner = Arc::new(Runner::new());
    let mut config = config;
    nested::arrange(&mut config.domains, &root, &early).map_err(usage)?;
    let nested = Nested::of(&config.domains.iter().collect::<Vec<_>>(), &root, &early);
    let lasting = Lasting { aws, imds, clock, root, runner, offset, mounts_before, notifier: notifier.clone(), nested };
    let context = lasting.context(&args, facts, &Noticed::default());
    let domains = std::mem::take(&mut config.domains).into_iter();
    let domains: Vec<_> = domains.map(|d| Arc::new(Domain::new(&context, Arc::new(d)))).collect();
    let _ = context.shared.configs.set(domains.iter().map(|d| d.config.clone()).collect());
    let (stop, failing) = (stop.clone(), Failing::new());
    let daemon = Daemon {
        args,
        config,
        context,
        domains,
        notifier,
        stop,
        acted_on: None,
        watch: Arc::default(),
        looked: Arc::default(),
        hurry: Stop::new(),
        failing,
        strays: Default::default(),
    };
    Ok(Ready::Daemon(Box::new(daemon)))
}

/// What outlasts a turn of the story.
struct Lasting {
    aws: Arc<Aws>,
    imds: Arc<Imds>,
    clock: Arc<Clock>,
    root: Root,
    runner: Arc<Runner>,
    offset: UtcOffset,
    mounts_before: MountSet,
    notifier: Arc<Notifier>,
    nested: Nested,
}

impl Lasting {
    /// What a turn begins with: a transaction with nothing in it.
    fn context(self, args: &Args, facts: Facts, notice: &Noticed) -> Arc<Context> {
        let Lasting { aws, imds, clock, root, runner, offset, mounts_before, notifier, nested } = self;
        let mut seed = [0; 16];
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let transaction_id = args.transaction_id.clone().unwrap_or_else(|| uuid(seed));
        Arc::new(Context {
            exec: args.exec,
            notify: args.notify,
            notice: notice.clone(),
            happening: Mutex::new(None),
            shared: Arc::new(Shared {
                aws,
                imds,
                clock,
                root,
                runner,
                facts: RwLock::new(Arc::new(facts)),
                asked_again: Mutex::default(),
                names: Default::default(),
                given_up: Mutex::default(),
                given_back: Mutex::default(),
                elastic: Mutex::default(),
                addresses_to_come: Default::default(),
                uses: Default::default(),
                owed: Mutex::default(),
                configs: Default::default(),
                zones: Zones::default(),
                transaction_id,
                seed: u64::from_ne_bytes(std::array::from_fn(|i| seed[i])),
                taken: Mutex::new(BTreeSet::new()),
                follows: args.poll,
                exec_enabled: args.exec,
                offset,
                mounts_before,
                nested,
                notifier,
            }),
        })
    }
}

impl Daemon {
    /// Makes everything new for another turn on the same instance, as a second run of the program would have it: other
    /// facts, credentials and tokens, a transaction of its own. `notice` is where one will be.
    pub(super) fn renew(&mut self, notice: &Noticed) -> Result<(), Refusal> {
        let old = &self.context.shared;
        old.imds.forget_token();
        old.aws.forget_credentials();
        let early = Scope::new(&old.clock, METADATA, Some(&self.stop));
        let facts = old.imds.facts(&early);
        let facts = facts.map_err(|e| failed(format!("cannot read the instance's metadata again: {e}")))?;
        log::info!("public addresses: {}", addresses(&facts));
        let lasting = Lasting {
            aws: old.aws.clone(),
            imds: old.imds.clone(),
            clock: old.clock.clone(),
            root: old.root.clone(),
            runner: old.runner.clone(),
            offset: old.offset,
            mounts_before: MountSet::take(&old.root),
            notifier: old.notifier.clone(),
            nested: Nested::of(&self.domains.iter().map(|d| &*d.config).collect::<Vec<_>>(), &old.root, &early),
        };
        self.domains.iter().for_each(|d| d.run.no_more_snapshots());
        // A thread of before may keep the old one for a while.
        old.uses.forget();
        let context = lasting.context(&self.args, facts, notice);
        self.domains = self.domains.iter().map(|d| Arc::new(d.again(&context))).collect();
        let _ = context.shared.configs.set(self.domains.iter().map(|d| d.config.clone()).collect());
        self.context = context;
        Ok(())
    }
}

/// The facts, on their way.
struct FactsToCome {
    thread: Option<JoinHandle<()>>,
    slot: Arc<Mutex<Option<Result<Facts, ImdsError>>>>,
}

fn fetch_facts(imds: &Arc<Imds>, scope: &Scope) -> FactsToCome {
    let slot = Arc::new(Mutex::new(None));
    let (imds, scope, into) = (imds.clone(), scope.clone(), slot.clone());
    let work = move || *lock(&into) = Some(imds.facts(&scope));
    FactsToCome { thread: parallel::background("facts", Box::new(work)), slot }
}

impl FactsToCome {
    fn wait(self) -> Result<Facts, String> {
        self.thread.map(JoinHandle::join);
        match lock(&self.slot).take() {
            Some(facts) => facts.map_err(|e| e.to_string()),
            None => Err("the thread for it failed".to_owned()),
        }
    }
}

/// Whether the run can come to a call of AWS at all.
fn wants_aws(args: &Args, config: &Config) -> bool {
    config.domains.iter().any(|d| {
        (args.init && !(d.volumes.is_empty() && d.records.is_empty() && d.address.is_none()))
            || (args.notify && !d.notify.is_empty())
    })
}

fn addresses(facts: &Facts) -> String {
    let all: Vec<&str> = facts.all_ipv4.iter().chain(&facts.all_ipv6).map(String::as_str).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// A random UUID (version 4).
fn uuid(mut b: [u8; 16]) -> String {
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// One lock per domain name: a second daemon for the same domain is a mistake, for another domain it is normal. One that
/// only settles what an earlier run of the domain left is waited for.
pub(super) fn lock_domains(daemon: &Daemon) -> Result<Vec<DomainLock>, String> {
    let shared = &daemon.context.shared;
    let scope = Scope::new(&shared.clock, METADATA, Some(&daemon.stop));
    let mut said = false;
    let _wait = waiting(&scope, "another ec2fleetd, which settles what an earlier run left");
    let mut one = |d: &Arc<Domain>| loop {
        let e = match DomainLock::acquire(&shared.root, d.name()) {
            Ok(lock) => return Ok(lock),
            Err(e) => e,
        };
        let LockError::Held { pid: Some(pid), settles: true, .. } = e else { return Err(e.full()) };
        if !std::mem::replace(&mut said, true) {
            daemon.notifier.extend_timeout(shared.clock.real(METADATA));
            log::info!("waiting for process {pid}, which settles what an earlier run of domain '{}' left", d.name());
        }
        scope.sleep(SETTLING).map_err(|halt| format!("{}: {halt}", e.full()))?;
    };
    daemon.domains.iter().map(&mut one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_one() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
