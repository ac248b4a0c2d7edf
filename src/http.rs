//! HTTP, as AWS and the metadata service need it: blocking, over kept connections, each try bounded.
//!
//! Called by `imds` and `aws::client`, which own retries. What this layer adds to ureq is the answer to one question:
//! when a try fails, may the request have reached the server? [`Failure::sent`] says so.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use time::OffsetDateTime;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, TcpConnector};

use crate::clock::Clock;

mod dns;
mod provider;
mod roots;
#[cfg(test)]
pub(crate) mod script;
mod tls;
mod watch;

pub(crate) use roots::{CaError, Roots};

/// The shortest real time for a try, whatever a fast test clock makes of its limit.
const FLOOR: Duration = Duration::from_millis(250);

/// Whether a failed request may have had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Not a byte of it left: it can be sent again.
    Nothing,
    /// A kept connection turned out to be dead at its first use: very probably nothing happened, but only for a request
    /// that may be repeated is that good enough.
    Stale,
    /// Nobody knows.
    Unknown,
}

/// What a failed try failed of, as far as callers tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No answer in time.
    Timeout,
    /// No connection: no route, refused, no such host.
    Unreachable,
    /// The server's certificate is not (or no longer) valid at what we believe the time to be.
    CertificateTime,
    /// The server's certificate is not one that we trust.
    Certificate,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// The answer is longer than the caller allows.
    TooLong,
}

/// A try without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Whether it may have had an effect.
    pub(crate) sent: Sent,
    /// What failed.
    pub(crate) cause: Cause,
    /// The same for people.
    pub(crate) text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// A request. `Debug` shows neither headers nor body: both may hold secrets.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    /// `GET`, `POST` or `PUT`.
    pub(crate) method: &'static str,
    /// With scheme and host.
    pub(crate) url: &'a str,
    /// Without `Host` and `Content-Length`.
    pub(crate) headers: &'a [(String, String)],
    /// Empty for none.
    pub(crate) body: &'a [u8],
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// The limits of one try, on the program's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Until the connection stands, TLS included.
    pub(crate) connect: Duration,
    /// For all of it.
    pub(crate) total: Duration,
    /// Bytes of body.
    pub(crate) body: usize,
}

/// An answer, of whatever status.
pub(crate) struct Response {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, all of it.
    pub(crate) body: Vec<u8>,
    /// The machine's time in the middle between request and answer.
    pub(crate) midpoint: OffsetDateTime,
    /// From the first step to the last byte.
    pub(crate) took: Duration,
    headers: ureq::http::HeaderMap,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.status, self.body.len())
    }
}

impl Response {
    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok().map(str::trim)
    }

    /// How far the server's clock (`Date`) is ahead of the machine's, in milliseconds. `None` if it does not say, or if
    /// a cache said it, or if the answer took so long that the number means nothing.
    pub(crate) fn server_ahead_ms(&self) -> Option<i64> {
        if self.header("age").is_some() || self.took > Duration::from_secs(900) {
            return None;
        }
        let date = parse_date(self.header("date")?)?;
        i64::try_from((date - self.midpoint).whole_milliseconds()).ok()
    }
}

/// An HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<OffsetDateTime> {
    parse_gmt(text.split_once(", ")?.1)
}

/// The same without the day of the week: `06 Nov 1994 08:49:37 GMT`.
pub(crate) fn parse_gmt(text: &str) -> Option<OffsetDateTime> {
    let rest = text.strip_suffix(" GMT")?;
    let format = &time::format_description::well_known::Rfc2822;
    let date = OffsetDateTime::parse(&format!("{rest} +0000"), format).ok()?;
    // A clock that was corrected to the last years that can be told would panic when it goes on.
    (date.year() < 3000).then_some(date)
}

/// A pool of connections with its rules; shared by all threads.
#[derive(Debug)]
pub(crate) struct Http {
    agent: ureq::Agent,
    clock: Arc<Clock>,
    route: watch::Route,
}

impl Http {
    /// For the metadata service: no proxy (it refuses proxied token requests, and credentials must not pass one), few
    /// connections.
    pub(crate) fn for_imds(clock: &Arc<Clock>) -> Http {
        let route = watch::Route::default();
        let config = base().proxy(None).input_buffer_size(8 << 10).output_buffer_size(2 << 10);
        let config = config.max_idle_connections(2).max_idle_connections_per_host(2).build();
        let connector = ().chain(TcpConnector::default()).chain(watch::WatchConnector(route.clone()));
        let agent = ureq::Agent::with_parts(config, connector, dns::AwsResolver::default());
        Http { agent, clock: clock.clone(), route }
    }

    /// For AWS: TLS with the given roots, the proxy of the environment, enough kept connections for all domains.
    pub(crate) fn for_aws(clock: &Arc<Clock>, roots: &Roots) -> Result<Http, CaError> {
        let route = watch::Route::default();
        let tls = tls::TlsConnector::new(roots.store()?, clock).map_err(CaError::Tls)?;
        // Buffers are per connection (and twice with TLS): ureq's own sizes would cost 512 KiB for each.
        let config = base().input_buffer_size(16 << 10).output_buffer_size(8 << 10);
        let config = config.max_idle_connections(32).max_idle_connections_per_host(16).build();
        let connector =
            ().chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(tls)
                .chain(watch::WatchConnector(route.clone()));
        let agent = ureq::Agent::with_parts(config, connector, dns::AwsResolver::default());
        Ok(Http { agent, clock: clock.clone(), route })
    }

    /// This machine's public address has changed: what goes over connections that stand is lost, so new requests take
    /// new ones.
    pub(crate) fn forget_connections(&self) {
        self.route.fetch_add(1, Ordering::Relaxed);
    }

    /// One try.
    pub(crate) fn send(&self, request: &Request<'_>, limits: &Limits) -> Result<Response, Failure> {
        let real = |d: Duration| self.clock.real(d).max(FLOOR.min(d));
        let before = self.clock.now();
        let system = self.clock.system();
        watch::begin(real(limits.total));
        let mut builder = ureq::http::Request::builder().method(request.method).uri(request.url);
        for (name, value) in request.headers {
            builder = builder.header(name, value);
        }
        let built = builder.body(request.body).map_err(|e| Failure {
            sent: Sent::Nothing,
            cause: Cause::Broken,
            text: format!("cannot make a request of it: {e}"),
        })?;
        let built = self
            .agent
            .configure_request(built)
            .timeout_connect(Some(real(limits.connect)))
            .timeout_resolve(Some(real(limits.connect)))
            .timeout_global(Some(real(limits.total)))
            .build();
        let answer = self.agent.run(built).map_err(|e| failure(&e))?;
        let (head, body) = answer.into_parts();
        let body = read(body, limits.body)?;
        let took = self.clock.now().since(before);
        Ok(Response { status: head.status.as_u16(), body, midpoint: system + took / 2, took, headers: head.headers })
    }
}

fn base() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("ec2fleetd/", env!("CARGO_PKG_VERSION")))
        .accept("")
        .accept_encoding("")
        // Shorter than what AWS keeps idle connections, longer than any pause of an init.
        .max_idle_age(Duration::from_secs(50))
        .timeout_await_100(None)
}

fn read(body: ureq::Body, limit: usize) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure {
        sent: Sent::Unknown,
        cause: Cause::TooLong,
        text: format!("the answer is longer than {limit} bytes"),
    };
    let expected = body.content_length().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    if expected > limit {
        return Err(too_long());
    }
    let mut out = Vec::with_capacity(expected);
    let mut reader = body.into_with_config().limit(u64::MAX).reader().take(limit as u64 + 1);
    match reader.read_to_end(&mut out) {
        Ok(_) if out.len() > limit => Err(too_long()),
        Ok(_) => Ok(out),
        Err(e) => Err(failure(&ureq::Error::from(e))),
    }
}

fn failure(e: &ureq::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    let seen = watch::end();
    let broken_off =
        |k: Kind| matches!(k, Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof);
    let (cause, text) = match e {
        ureq::Error::Timeout(t) => (Cause::Timeout, format!("no answer in time ({t})")),
        ureq::Error::HostNotFound => (Cause::Unreachable, "the host name is not known".to_owned()),
        ureq::Error::Rustls(e) => tls::describe(e),
        ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(e) => tls::describe(e),
            None if matches!(e.kind(), Kind::TimedOut | Kind::WouldBlock) => {
                (Cause::Timeout, "no answer in time".to_owned())
            }
            None if seen.sent => (Cause::Broken, format!("the connection broke: {e}")),
            None => (Cause::Unreachable, format!("no connection: {e}")),
        },
        other => (Cause::Broken, other.to_string()),
    };
    let sent = match (seen.sent, e) {
        (false, _) => Sent::Nothing,
        (true, ureq::Error::Io(io)) if !seen.fresh && !seen.received && broken_off(io.kind()) => Sent::Stale,
        _ => Sent::Unknown,
    };
    Failure { sent, cause, text }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
