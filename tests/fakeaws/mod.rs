//! A strict stand-in for AWS on loopback: EC2, Route 53, SNS, SQS, Auto Scaling and the instance metadata service.
//!
//! It verifies signatures, refuses what AWS refuses, takes time where AWS takes time, and can be told to fail. The
//! integration tests run it in-process ([`Server::start`]); the example binary `fakeaws` runs it for the demo, the
//! benchmarks and the checks with boto3. It never uses code of the product.

// The tree is compiled into two crates, and neither uses all of it.
#![allow(dead_code, unused_imports)]
// A stand-in that cannot go on ends the test, which is what should happen.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::{Connection, Stream};
use text::http_date;

pub(crate) mod addresses;
pub(crate) mod api;
pub(crate) mod autoscaling;
pub(crate) mod disks;
pub(crate) mod ec2;
pub(crate) mod ec2_attach;
pub(crate) mod ec2_create;
pub(crate) mod ec2_describe;
pub(crate) mod ec2_snapshots;
pub(crate) mod ec2_tags;
pub(crate) mod errors;
pub(crate) mod guests;
pub(crate) mod http;
pub(crate) mod imds;
pub(crate) mod imds_events;
pub(crate) mod instances;
pub(crate) mod knobs;
pub(crate) mod r53;
pub(crate) mod r53_parse;
pub(crate) mod records;
pub(crate) mod sigv4;
pub(crate) mod snapshots;
pub(crate) mod sns;
pub(crate) mod sqs;
pub(crate) mod text;
pub(crate) mod tls;
pub(crate) mod volumes;
pub(crate) mod world;

pub(crate) use imds::ImdsCall;
pub(crate) use instances::{InstanceSpec, Nic};
pub(crate) use knobs::{Endless, Fault, FaultKind, Knobs, Nth};
pub(crate) use records::RecordSet;
pub(crate) use snapshots::SnapshotSpec;
pub(crate) use volumes::VolumeSpec;
pub(crate) use world::{Message, World};

/// How to start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// For the CA's PEM and the files that stand for disks. Made if it is not there.
    pub(crate) dir: PathBuf,
    /// Seed of ids and of the order of answers.
    pub(crate) seed: u64,
    /// An address of this machine at which a network of real guests finds us as it would find AWS: the API on ports 80
    /// and 443, the metadata service on 169.254.169.254.
    pub(crate) net: Option<IpAddr>,
}

impl Options {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Options {
        Options { dir: dir.into(), seed: 1, net: None }
    }
}

/// One API call, in the order of arrival.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `EC2`, `Route53`, `SNS`, `SQS`, `AutoScaling`.
    pub(crate) service: String,
    pub(crate) action: String,
    pub(crate) access_key: Option<String>,
    pub(crate) instance: Option<String>,
    /// Parameters; for Route 53 the query, `Id`, and `Change.N.{Action,Name,Type,Values,TTL}`.
    pub(crate) params: BTreeMap<String, String>,
    /// 0 while it is under way, and when nothing was answered.
    pub(crate) status: u16,
    /// The code of a refusal; `reset` and `hang` where a fault left no answer.
    pub(crate) code: Option<String>,
    pub(crate) at_ms: u64,
    pub(crate) ms: u64,
    pub(crate) fault: Option<String>,
    pub(crate) connection: u64,
    pub(crate) tls: bool,
    /// Number of the call since the start.
    pub(crate) seq: u64,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    world: Mutex<World>,
    calls: Mutex<Vec<Call>>,
    stop: AtomicBool,
    connections: AtomicU64,
    tls_connections: AtomicU64,
    sequence: AtomicU64,
}

impl Shared {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.list().clone()
    }

    /// Forgets the calls so far, of the IMDS too.
    pub(crate) fn reset_calls(&self) {
        self.list().clear();
        for state in self.world().imds.values_mut() {
            state.calls.clear();
            state.connections = 0;
        }
    }

    /// Adds a call; gives its number.
    pub(crate) fn log(&self, mut call: Call) -> u64 {
        call.seq = self.sequence.fetch_add(1, Ordering::Relaxed);
        let seq = call.seq;
        self.list().push(call);
        seq
    }

    /// Changes the entry of a call, if it was not forgotten.
    pub(crate) fn edit(&self, seq: u64, f: impl FnOnce(&mut Call)) {
        if let Some(c) = self.list().iter_mut().rev().find(|c| c.seq == seq) {
            f(c);
        }
    }

    pub(crate) fn finish(&self, seq: u64, status: u16, code: Option<String>, took: Duration) {
        self.edit(seq, |c| {
            c.status = status;
            c.code = code;
            c.ms = took.as_millis() as u64;
        });
    }
}

/// A running stand-in. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    http: u16,
    https: u16,
    ca_pem: PathBuf,
}

impl Server {
    /// Starts it on free ports of 127.0.0.1, and where `net` says.
    pub(crate) fn start(options: Options) -> Server {
        std::fs::create_dir_all(&options.dir).unwrap();
        let world = World::new(options.dir.clone(), options.seed);
        let tls = tls::make(&options.dir, world.wall(), options.net);
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            calls: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            tls_connections: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
        });
        let api = |tls: Option<Arc<rustls::ServerConfig>>| {
            let shared = shared.clone();
            move |socket, n| match &tls {
                None => serve_api(&shared, Stream::Plain(socket), n, false),
                Some(config) => {
                    if let Ok(session) = rustls::ServerConnection::new(config.clone()) {
                        shared.tls_connections.fetch_add(1, Ordering::Relaxed);
                        serve_api(&shared, Stream::Tls(Box::new(rustls::StreamOwned::new(session, socket))), n, true);
                    }
                }
            }
        };
        let http = listen(&shared, api(None));
        let https = listen(&shared, api(Some(tls.config.clone())));
        if let Some(address) = options.net {
            listen_at(&shared, SocketAddr::new(address, 80), || true, api(None));
            listen_at(&shared, SocketAddr::new(address, 443), || true, api(Some(tls.config.clone())));
            let all = shared.clone();
            listen_at(
                &shared,
                SocketAddr::from(([169, 254, 169, 254], 80)),
                || true,
                move |socket, n| {
                    // As in EC2: who asks is known by the address it asks from.
                    let peer = socket.peer_addr().map(|p| p.ip().to_string()).unwrap_or_default();
                    let mine = |i: &&instances::Instance| i.nics.iter().any(|nic| nic.local_ipv4s.contains(&peer));
                    let id = all.world().instances.values().find(mine).map(|i| i.id.clone());
                    if let Some(id) = id {
                        serve_imds(&all, &id, socket, n);
                    }
                },
            );
        }
        let ticker = shared.clone();
        thread::spawn(move || {
            while !ticker.stop.load(Ordering::Relaxed) {
                ticker.world().advance();
                thread::sleep(Duration::from_millis(5));
            }
        });
        Server { shared, http, https, ca_pem: tls.ca_pem }
    }

    /// Endpoint of all services, without TLS.
    pub(crate) fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Endpoint of all services, with TLS.
    pub(crate) fn https_url(&self) -> String {
        format!("https://localhost:{}", self.https)
    }

    /// PEM of the certificate authority, for `AWS_CA_BUNDLE`.
    pub(crate) fn ca_pem(&self) -> PathBuf {
        self.ca_pem.clone()
    }

    /// Endpoint of one instance's metadata service (started at the first use).
    ///
    /// # Panics
    /// If there is no such instance.
    pub(crate) fn imds_url(&self, instance: &str) -> String {
        let mut world = self.world();
        let state = world.imds(instance);
        if state.port == 0 {
            let (shared, id) = (self.shared.clone(), instance.to_string());
            let (world, mine) = (self.shared.clone(), id.clone());
            let up = move || {
                let mut world = world.world();
                world.now_ms() >= world.imds(&mine).down_until_ms
            };
            state.port = listen_while(&self.shared, up, move |socket, n| serve_imds(&shared, &id, socket, n));
        }
        format!("http://127.0.0.1:{}", state.port)
    }

    /// The world, to seed and to look at. Hold it briefly: nothing is answered meanwhile.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world()
    }

    /// The API calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls()
    }

    /// The calls of one action ("EC2:AttachVolume", or without the service).
    pub(crate) fn calls_of(&self, action: &str) -> Vec<Call> {
        let mine = |c: &Call| knobs::same_action(action, &format!("{}:{}", c.service, c.action));
        self.calls().into_iter().filter(mine).collect()
    }

    /// Calls that write, all services: what a second run must not do. A request without an action only opens a connection.
    pub(crate) fn writes(&self) -> Vec<Call> {
        let reads = [
            "DescribeVolumes",
            "DescribeInstances",
            "DescribeAddresses",
            "DescribeSnapshots",
            "ListResourceRecordSets",
            "GetChange",
        ];
        self.calls().into_iter().filter(|c| !c.action.is_empty() && !reads.contains(&c.action.as_str())).collect()
    }

    /// Forgets the calls so far, of the IMDS too.
    pub(crate) fn reset_calls(&self) {
        self.shared.reset_calls();
    }

    /// The requests that an instance's IMDS got.
    pub(crate) fn imds_calls(&self, instance: &str) -> Vec<ImdsCall> {
        self.world().imds(instance).calls.clone()
    }

    /// Connections to an instance's IMDS.
    pub(crate) fn imds_connections(&self, instance: &str) -> u64 {
        self.world().imds(instance).connections
    }

    /// Connections of all kinds, and those of them with TLS.
    pub(crate) fn connections(&self) -> (u64, u64) {
        (self.shared.connections.load(Ordering::Relaxed), self.shared.tls_connections.load(Ordering::Relaxed))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Listens on a free port; each connection gets a thread. The port is given.
pub(crate) fn listen(shared: &Arc<Shared>, serve: impl Fn(TcpStream, u64) + Send + Sync + 'static) -> u16 {
    listen_at(shared, SocketAddr::from(([127, 0, 0, 1], 0)), || true, serve)
}

/// The same, but connections are refused while it is not `up` (after 0.2 s at the latest; until then they are reset).
fn listen_while(
    shared: &Arc<Shared>,
    up: impl Fn() -> bool + Send + 'static,
    serve: impl Fn(TcpStream, u64) + Send + Sync + 'static,
) -> u16 {
    listen_at(shared, SocketAddr::from(([127, 0, 0, 1], 0)), up, serve)
}

/// The same at an address; port 0 is a free one.
fn listen_at(
    shared: &Arc<Shared>,
    address: SocketAddr,
    up: impl Fn() -> bool + Send + 'static,
    serve: impl Fn(TcpStream, u64) + Send + Sync + 'static,
) -> u16 {
    let mut listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let (shared, serve) = (shared.clone(), Arc::new(serve));
    thread::spawn(move || {
        while !shared.stop.load(Ordering::Relaxed) {
            if !up() {
                drop(listener);
                listener = loop {
                    thread::sleep(Duration::from_millis(5));
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Somebody else may have the port for a moment.
                    if up()
                        && let Ok(again) = TcpListener::bind(SocketAddr::new(address.ip(), port))
                    {
                        break again;
                    }
                };
                listener.set_nonblocking(true).unwrap();
            }
            // Waits in the kernel for a connection, and looks at the stop switch now and then.
            let mut fds = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            let _ = rustix::event::poll(&mut fds, Some(&wait));
            let Ok((socket, _)) = listener.accept() else { continue };
            let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let _ = socket.set_nonblocking(false);
            let _ = socket.set_nodelay(true);
            let _ = socket.set_read_timeout(Some(Duration::from_millis(250)));
            let _ = socket.set_write_timeout(Some(Duration::from_secs(10)));
            let serve = serve.clone();
            thread::spawn(move || serve(socket, number));
        }
    });
    port
}

fn serve_api(shared: &Shared, stream: Stream, number: u64, tls: bool) {
    let mut connection = Connection::new(stream);
    loop {
        let idle = Duration::from_millis(shared.world().knobs.idle_close_ms);
        let Ok(Some(request)) = connection.next(&shared.stop, idle) else { return };
        match api::serve(shared, &request, number, tls) {
            api::Outcome::Answer(answer) => {
                let date = http_date(shared.world().wall());
                if answer.send(&mut connection.stream, &date, request.method == "HEAD").is_err() {
                    return;
                }
                if request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
                    return;
                }
            }
            api::Outcome::Reset => {
                connection.stream.reset();
                return;
            }
            api::Outcome::Hang(ms) => {
                pause(shared, ms);
                return;
            }
        }
    }
}

fn serve_imds(shared: &Shared, id: &str, socket: TcpStream, number: u64) {
    let mut connection = Connection::new(Stream::Plain(socket));
    {
        let mut world = shared.world();
        let state = world.imds(id);
        state.connections += 1;
        if state.reset_connections > 0 {
            state.reset_connections -= 1;
            connection.stream.reset();
            return;
        }
    }
    let down = |shared: &Shared| {
        let mut world = shared.world();
        world.now_ms() < world.imds(id).down_until_ms
    };
    loop {
        let idle = Duration::from_millis(shared.world().knobs.idle_close_ms);
        let Ok(Some(request)) = connection.next(&shared.stop, idle) else { return };
        if down(shared) {
            connection.stream.reset();
            return;
        }
        let (reply, latency, close, date) = {
            let mut world = shared.world();
            let at_ms = world.now_ms();
            let reply = world.imds_answer(id, &request);
            let date = http_date(world.wall());
            let common = world.knobs.imds_latency_ms;
            let state = world.imds(id);
            let status = if let imds::Reply::Answer(a) = &reply { a.status } else { 0 };
            let path = request.path.clone();
            state.calls.push(ImdsCall { method: request.method.clone(), path, status, at_ms, connection: number });
            (reply, state.latency_ms.max(common), state.close, date)
        };
        match reply {
            imds::Reply::Answer(mut answer) => {
                thread::sleep(Duration::from_millis(latency));
                if close {
                    answer = answer.with("Connection", "close");
                }
                if answer.send(&mut connection.stream, &date, request.method == "HEAD").is_err() || close {
                    return;
                }
            }
            imds::Reply::Hang(ms) => {
                pause(shared, ms);
                return;
            }
        }
    }
}

/// Waits, but not beyond the end of the server.
fn pause(shared: &Shared, ms: u64) {
    let mut left = ms;
    while left > 0 && !shared.stop.load(Ordering::Relaxed) {
        let step = left.min(50);
        thread::sleep(Duration::from_millis(step));
        left -= step;
    }
}
