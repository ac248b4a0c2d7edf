//! A stand-in with one instance, and the executable run on it.
//!
//! A [`Lab`] is a world of its own in a temporary directory. [`Lab::run`] runs the daemon to its end, [`Lab::start`]
//! leaves it running. When an assertion about a run fails, [`Run`]'s `Display` shows the command, its output and the
//! requests that it made.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fakeaws::{Call, InstanceSpec, Options, Server, VolumeSpec};
use crate::secrets::{self, Manager};

/// How long a run may really take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stand-in, a directory, and an instance.
pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) dir: PathBuf,
    /// The first instance.
    pub(crate) me: String,
    /// What systemd would be told.
    pub(crate) manager: Manager,
}

/// A run that has ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) log: String,
    calls: Vec<Call>,
}

/// A run that goes on.
pub(crate) struct Running {
    pub(crate) child: Child,
    log: PathBuf,
    root: PathBuf,
    /// It is made to panic.
    panics: bool,
}

/// How to run.
#[derive(Clone, Default)]
pub(crate) struct How {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) instance: Option<String>,
    pub(crate) tls: bool,
    /// The config is the instance's user data instead of a file.
    pub(crate) user_data: bool,
}

impl How {
    pub(crate) fn arg(mut self, a: &str) -> How {
        self.args.push(a.into());
        self
    }
    pub(crate) fn env(mut self, k: &str, v: &str) -> How {
        self.env.push((k.into(), v.into()));
        self
    }
    pub(crate) fn on(mut self, instance: &str) -> How {
        self.instance = Some(instance.into());
        self
    }
    /// Time runs `n` times faster for the daemon.
    pub(crate) fn rate(self, n: u32) -> How {
        self.env("EC2FLEETD_CLOCK", &format!("rate={n}"))
    }
    /// Ends after `started`.
    pub(crate) fn once(self) -> How {
        self.arg("--enable-poll=false")
    }
}

/// Ends after `started`.
pub(crate) fn once() -> How {
    How::default().once()
}

impl Lab {
    /// A world with one instance on Nitro in eu-west-1a, a hosted zone `Z1` for example.com, a topic and a queue.
    pub(crate) fn new() -> Lab {
        Lab::with(InstanceSpec::default())
    }

    pub(crate) fn with(spec: InstanceSpec) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ec2fleetd-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let server = Server::start(Options::new(dir.join("fake")));
        let manager = Manager::new(dir.join("manager"));
        let mut lab = Lab { server, dir, me: String::new(), manager };
        lab.me = lab.add_instance(spec);
        let mut w = lab.server.world();
        w.add_zone("Z1", "example.com");
        w.add_topic(TOPIC);
        w.add_queue(QUEUE);
        drop(w);
        lab
    }

    /// Another instance, with a root of its own.
    pub(crate) fn add_instance(&self, spec: InstanceSpec) -> String {
        let mut w = self.server.world();
        let n = w.instances.len();
        let root = self.dir.join(format!("root{n}"));
        for d in ["dev", "sys/block", "proc/sys/kernel", "run"] {
            std::fs::create_dir_all(root.join(d)).unwrap();
        }
        w.add_instance(InstanceSpec { root: Some(root), ..spec })
    }

    /// The directory that stands for `/` of an instance.
    pub(crate) fn root(&self, instance: &str) -> PathBuf {
        self.server.world().instances[instance].spec.root.clone().unwrap()
    }

    /// What a power cut or a new root does to the journals of the first instance.
    pub(crate) fn lose_journal(&self) {
        let _ = std::fs::remove_dir_all(self.root(&self.me).join("run/ec2fleetd"));
    }

    /// A free volume in the pool `pool` of `domain`.
    pub(crate) fn pool_volume(&self, domain: &str, pool: &str) -> String {
        self.server.world().add_volume(VolumeSpec::pool(domain, pool))
    }

    /// A file in the lab's directory.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The daemon, not started yet.
    pub(crate) fn command(&self, config: &str, how: &How, log: &Path) -> Command {
        let me = how.instance.as_deref().unwrap_or(&self.me);
        let mut c = Command::new(env!("CARGO_BIN_EXE_ec2fleetd"));
        let url = if how.tls { self.server.https_url() } else { self.server.http_url() };
        c.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("EC2FLEETD_ROOT", self.root(me))
            .env("AWS_ENDPOINT_URL", url)
            .env("AWS_CA_BUNDLE", self.server.ca_pem())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.server.imds_url(me))
            .env("LAB", &self.dir)
            .env("NOTIFY_SOCKET", &self.manager.path)
            .arg("-v")
            .args(&how.args)
            .current_dir(&self.dir);
        c.envs(how.env.iter().map(|(k, v)| (k, v)));
        if how.user_data {
            self.server.world().instances.get_mut(me).unwrap().spec.user_data = Some(config.as_bytes().to_vec());
        } else {
            // Two daemons of one instance have two configs.
            let name = format!("{}.json5", log.file_name().unwrap_or_default().display());
            c.arg(format!("--userdata={}", self.file(&name, config).display()));
        }
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        c.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        c
    }

    /// Runs the daemon to its end.
    pub(crate) fn run(&self, config: &str, how: How) -> Run {
        self.start(config, how).wait(self)
    }

    /// Runs the daemon with the user data that the instance has.
    pub(crate) fn run_user_data(&self, how: How) -> Run {
        let bytes = self.server.world().instances[&self.me].spec.user_data.clone();
        let log = self.dir.join("log-user-data");
        let mut command = self.command("", &How { user_data: true, ..how }, &log);
        self.server.world().instances.get_mut(&self.me).unwrap().spec.user_data = bytes;
        Running { child: command.spawn().unwrap(), log, root: self.root(&self.me), panics: false }.wait(self)
    }

    /// Starts the daemon by other words: they get its command line.
    pub(crate) fn start_wrapped(&self, config: &str, how: How, words: &[&str]) -> Running {
        let log = self.dir.join("log-wrapped");
        let daemon = self.command(config, &how, &log);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(daemon.get_program()).args(daemon.get_args()).current_dir(&self.dir).env_clear();
        command.envs(daemon.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let file = std::fs::File::options().append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let root = self.root(how.instance.as_deref().unwrap_or(&self.me));
        Running { child: command.spawn().unwrap(), log, root, panics: false }
    }

    /// Starts the daemon.
    pub(crate) fn start(&self, config: &str, how: How) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = self.dir.join(format!("log{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let child = self.command(config, &how, &log).spawn().unwrap();
        let panics = how.env.iter().any(|(name, value)| name == "EC2FLEETD_DIE" && value.starts_with("panic"));
        Running { child, log, root: self.root(how.instance.as_deref().unwrap_or(&self.me)), panics }
    }

    /// Waits until `done` holds.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "waited in vain for: {what}\n{}", calls_text(&self.server.calls()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Volumes attached to an instance as (volume, device), sorted.
    pub(crate) fn attached(&self, instance: &str) -> Vec<(String, String)> {
        let mut all: Vec<_> = self
            .server
            .world()
            .attached_to(instance)
            .into_iter()
            .filter(|(device, ..)| device != "/dev/xvda")
            .map(|(device, id, _)| (id, device))
            .collect();
        all.sort();
        all
    }

    /// The tags of a volume that are ours, without their prefix.
    pub(crate) fn tags(&self, volume: &str) -> Vec<(String, String)> {
        let w = self.server.world();
        let Some(v) = w.volume(volume) else { return Vec::new() };
        v.tags.iter().filter_map(|(k, v)| Some((k.strip_prefix("user:ec2fd.")?.to_owned(), v.clone()))).collect()
    }

    /// The keys of those tags.
    pub(crate) fn tag_keys(&self, volume: &str) -> Vec<String> {
        self.tags(volume).into_iter().map(|(k, _)| k).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Running {
    /// Waits for its end.
    pub(crate) fn wait(mut self, lab: &Lab) -> Run {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("the daemon did not end\n{}\n{}", self.log(), calls_text(&lab.server.calls()));
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let log = self.log();
        assert!(self.panics || !log.contains("panicked"), "{log}");
        crate::disks::harmless(&lab.server.calls());
        secrets::none(lab, &self.root, &log);
        Run { code, log, calls: lab.server.calls() }
    }

    /// Where its log is.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        std::fs::File::open(&self.log).unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until it has said `text`.
    #[track_caller]
    pub(crate) fn says(&self, lab: &Lab, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(
                Instant::now() < end,
                "it never said '{text}'\n{}\n{}",
                self.log(),
                calls_text(&lab.server.calls())
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    /// Its exit code is `code` and its log has all of `texts`.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{self}");
        for t in texts {
            assert!(self.log.contains(t), "the log lacks '{t}'\n{self}");
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code {}\n{}", self.code, self.log)?;
        f.write_str(&calls_text(&self.calls))
    }
}

/// The calls, one a line.
pub(crate) fn calls_text(calls: &[Call]) -> String {
    let one = |c: &Call| {
        format!("{:>6} ms {}:{} {} {:?} {:?} {:?}\n", c.at_ms, c.service, c.action, c.status, c.code, c.fault, c.params)
    };
    calls.iter().map(one).collect()
}

/// In user data it stands for a secret: nothing that a run leaves behind may have it.
pub(crate) const USER_DATA_MARK: &str = "hunter2-in-user-data";
pub(crate) const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:fleet";
pub(crate) const QUEUE: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/fleet";
