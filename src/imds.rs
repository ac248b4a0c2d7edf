//! The instance metadata service, version 2 only.
//!
//! Boot may come before the network, a fresh token may be refused for ten seconds and more, and the service throttles:
//! so whatever may pass is tried on until the scope ends, with one warning when trouble begins and one line when it is
//! over. What will not pass (the service is switched off) is an error at once.
//!
//! | answer | reaction |
//! |---|---|
//! | 200 | the value |
//! | 404 | there is no such value |
//! | 401 | a new token, on until the scope ends |
//! | 403 | the service is switched off for this instance, or the path is not allowed: an error |
//! | 429, 5xx, timeout | the next endpoint, then again after a pause |
//! | no connection | the next endpoint, then again as soon as the network has changed |
//! | others | an error |
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::http::{Cause, Failure, Http, Limits, Request, Response, Sent};
use crate::random;
use crate::scope::{Halt, Scope};
use crate::sys::announced::Announced;
use crate::waits::waiting;

mod endpoints;
mod events;
mod facts;
mod interface;
mod notice;

pub(crate) use endpoints::endpoints;
pub(crate) use events::Scheduled;
pub(crate) use interface::Interface;

/// The longest life that a token can have.
const TOKEN_TTL: Duration = Duration::from_secs(21600);
/// A token is not used in its last minutes: it would be refused in the middle of something.
const TOKEN_MARGIN: Duration = Duration::from_secs(120);
const LIMITS: Limits = Limits { connect: Duration::from_secs(1), total: Duration::from_secs(3), body: 64 << 10 };
/// User data is 16 KiB by AWS's rule; stand-ins are allowed more, also more than a config may have (that is an error of
/// its own), not anything.
const USER_DATA_LIMIT: usize = 4 << 20;
/// The least and the most that is waited before the next try while there is no way to the service: the kernel says when
/// a link, an address or a route has come, and if it does not, a try costs little.
const NO_WAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(230));
/// What a link without a carrier swallows is not sent again for a second. The service is never far away, so most of the
/// tries after the first one are shorter.
const CONNECT_AGAIN: Duration = Duration::from_millis(250);
/// The clock is taken to be wrong from here on; signatures are good for five minutes.
pub(crate) const SKEW_LIMIT_MS: i64 = 4 * 60 * 1000;

/// Why there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImdsError {
    /// The service is switched off, or does not give this path.
    Forbidden {
        /// What was asked for.
        path: String,
    },
    /// An answer that the service never gives, or one that makes no sense.
    Unexpected {
        /// What was asked for.
        path: String,
        /// What came.
        what: String,
    },
    /// The scope ended before an answer came.
    Halted {
        /// What was asked for.
        path: String,
        /// Why it ended.
        halt: Halt,
        /// What the last try came to.
        last: Option<String>,
    },
}

impl ImdsError {
    /// The reason, if it is that the scope ended.
    pub(crate) fn halt(&self) -> Option<Halt> {
        match self {
            ImdsError::Halted { halt, .. } => Some(*halt),
            _ => None,
        }
    }
}

impl fmt::Display for ImdsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImdsError::Forbidden { path } => write!(
                f,
                "cannot read {path} from the instance metadata service: refused with 403; it is switched off for this \
                 instance (HttpEndpoint must be enabled) or does not give this path"
            ),
            ImdsError::Unexpected { path, what } => {
                write!(f, "cannot read {path} from the instance metadata service: {what}")
            }
            ImdsError::Halted { path, halt, last } => {
                write!(f, "cannot read {path} from the instance metadata service: {halt}")?;
                match last {
                    Some(last) => write!(f, "; last: {last}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for ImdsError {}

struct Token {
    value: String,
    until: Tick,
}

/// The client. `Sync`: threads share its token and connections.
pub(crate) struct Imds {
    http: Http,
    clock: Arc<Clock>,
    /// Such as `http://169.254.169.254`.
    endpoints: Vec<String>,
    /// The one that worked last.
    current: AtomicUsize,
    token: Mutex<Option<Token>>,
    /// So many tries in a row found no way to the service.
    no_way: AtomicU32,
    in_trouble: AtomicBool,
    date_disputed: AtomicBool,
    notice_warned: AtomicBool,
}

impl fmt::Debug for Imds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Imds({})", self.endpoints.join(", "))
    }
}

/// What one try came to.
enum Tried {
    Value(Response),
    Absent,
    /// Worth another try; the text says why.
    Again(String),
    /// The same, and there is no way to the service (yet).
    NoWay(String),
    Never(ImdsError),
}

impl Imds {
    /// A client of these endpoints (see [`endpoints`]), tried in their order.
    pub(crate) fn new(endpoints: Vec<String>, clock: &Arc<Clock>) -> Imds {
        Imds {
            http: Http::for_imds(clock),
            clock: clock.clone(),
            endpoints,
            current: AtomicUsize::new(0),
            token: Mutex::new(None),
            no_way: AtomicU32::new(0),
            in_trouble: AtomicBool::new(false),
            date_disputed: AtomicBool::new(false),
            notice_warned: AtomicBool::new(false),
        }
    }

    /// A value under `/latest/meta-data/` as text; `None` if there is none.
    pub(crate) fn get(&self, scope: &Scope, path: &str) -> Result<Option<String>, ImdsError> {
        self.text(scope, &format!("/latest/meta-data/{path}"))
    }

    /// The user data as they are; `None` if there are none.
    pub(crate) fn user_data(&self, scope: &Scope) -> Result<Option<Vec<u8>>, ImdsError> {
        let found = self.fetch(scope, "/latest/user-data", USER_DATA_LIMIT)?;
        Ok(found.map(|r| r.body))
    }

    /// The token is not used again: the instance may be on another host by now.
    pub(crate) fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// AWS says that the time by the metadata service's `Date` is wrong: it is not believed again.
    pub(crate) fn dispute_date(&self) {
        self.date_disputed.store(true, Ordering::Relaxed);
    }

    fn text(&self, scope: &Scope, path: &str) -> Result<Option<String>, ImdsError> {
        let Some(found) = self.fetch(scope, path, LIMITS.body)? else { return Ok(None) };
        match String::from_utf8(found.body) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(ImdsError::Unexpected { path: path.to_owned(), what: "the answer is not text".to_owned() }),
        }
    }

    fn fetch(&self, scope: &Scope, path: &str, limit: usize) -> Result<Option<Response>, ImdsError> {
        let mut last = None;
        let mut attempt = 0;
        let mut network = None;
        let _wait = waiting(scope, format!("the metadata service to give {path}"));
        loop {
            if let Err(halt) = scope.check() {
                return Err(ImdsError::Halted { path: path.to_owned(), halt, last });
            }
            let (why, no_way) = match self.attempt(scope, path, limit) {
                Tried::Value(r) => {
                    self.trouble_over();
                    return Ok(Some(r));
                }
                Tried::Absent => {
                    self.trouble_over();
                    return Ok(None);
                }
                Tried::Never(e) => return Err(e),
                Tried::Again(why) => (why, false),
                Tried::NoWay(why) => (why, true),
            };
            // A token that has run out is no trouble.
            let quiet = attempt == 0 && why.starts_with("401");
            if !quiet && !self.in_trouble.swap(true, Ordering::Relaxed) {
                log::warn!("the instance metadata service does not give {path} yet: {why}; trying on");
            }
            // What was cut off by the end of the scope tells less than what came before it.
            if last.is_none() || scope.check().is_ok() {
                last = Some(why);
            }
            let waited = if no_way {
                let network = network.get_or_insert_with(Announced::network);
                // A network that comes up is announced piece by piece: not a try for each.
                scope.sleep(NO_WAY.0).and_then(|()| network.wait(scope, NO_WAY.1).map(drop))
            } else {
                scope.sleep(if quiet { Duration::ZERO } else { pause(attempt) })
            };
            if let Err(halt) = waited {
                return Err(ImdsError::Halted { path: path.to_owned(), halt, last });
            }
            attempt += 1;
        }
    }

    fn trouble_over(&self) {
        if self.in_trouble.swap(false, Ordering::Relaxed) {
            log::warn!("the instance metadata service answers again");
        }
    }

    /// One try over all endpoints, beginning with the one that worked.
    fn attempt(&self, scope: &Scope, path: &str, limit: usize) -> Tried {
        let first = self.current.load(Ordering::Relaxed);
        let mut why = String::new();
        let mut sent = false;
        for n in 0..self.endpoints.len() {
            let index = (first + n) % self.endpoints.len();
            let Some(base) = self.endpoints.get(index) else { continue };
            match self.at(base, scope, path, limit) {
                Ok(tried) => {
                    self.current.store(index, Ordering::Relaxed);
                    self.no_way.store(0, Ordering::Relaxed);
                    return tried;
                }
                Err(failure) => {
                    sent |= failure.sent != Sent::Nothing;
                    if !why.is_empty() {
                        why.push_str("; ");
                    }
                    why.push_str(&format!("{base}: {failure}"));
                }
            }
        }
        if sent {
            return Tried::Again(why);
        }
        self.no_way.fetch_add(1, Ordering::Relaxed);
        Tried::NoWay(why)
    }

    /// One try at one endpoint; `Err` if nobody answers there.
    fn at(&self, base: &str, scope: &Scope, path: &str, limit: usize) -> Result<Tried, Failure> {
        let token = match self.token(base, scope, path)? {
            Ok(token) => token,
            Err(tried) => return Ok(tried),
        };
        let url = format!("{base}{path}");
        let headers = [("x-aws-ec2-metadata-token".to_owned(), token.clone())];
        let request = Request { method: "GET", url: &url, headers: &headers, body: b"" };
        let response = match self.send(scope, &request, limit) {
            Err(f) if f.cause == Cause::TooLong => {
                return Ok(Tried::Never(ImdsError::Unexpected { path: path.to_owned(), what: f.text }));
            }
            other => other?,
        };
        log::debug!("imds GET {path} {} {} ms", response.status, response.took.as_millis());
        Ok(match response.status {
            200 => {
                self.compare_date(&response);
                Tried::Value(response)
            }
            404 => Tried::Absent,
            401 => {
                self.drop_token(&token);
                Tried::Again("401 (the token is not accepted)".to_owned())
            }
            403 => Tried::Never(ImdsError::Forbidden { path: path.to_owned() }),
            s if s == 429 || s >= 500 => Tried::Again(format!("{s}")),
            s => Tried::Never(ImdsError::Unexpected { path: path.to_owned(), what: format!("status {s}") }),
        })
    }

    fn token(&self, base: &str, scope: &Scope, path: &str) -> Result<Result<String, Tried>, Failure> {
        // Held while the token is fetched: threads that come meanwhile want the same one.
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = held.as_ref().filter(|t| self.clock.now() < t.until) {
            return Ok(Ok(token.value.clone()));
        }
        let url = format!("{base}/latest/api/token");
        let headers = [("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), TOKEN_TTL.as_secs().to_string())];
        let request = Request { method: "PUT", url: &url, headers: &headers, body: b"" };
        let asked = self.clock.now();
        let response = match self.send(scope, &request, 4096) {
            Err(f) if f.cause == Cause::Timeout && f.sent == Sent::Unknown => {
                return Ok(Err(Tried::Again(format!(
                    "{base}: no answer to the token request; within a container the hop limit of the instance \
                     (HttpPutResponseHopLimit) may be too low"
                ))));
            }
            other => other?,
        };
        log::debug!("imds PUT token {} {} ms", response.status, response.took.as_millis());
        match response.status {
            200 => {}
            403 => return Ok(Err(Tried::Never(ImdsError::Forbidden { path: path.to_owned() }))),
            s if s == 401 || s == 429 || s >= 500 => return Ok(Err(Tried::Again(format!("{s} to the token request")))),
            s => {
                let what = format!("{base} gives no token (status {s}): this is not version 2 of the service");
                return Ok(Err(Tried::Never(ImdsError::Unexpected { path: path.to_owned(), what })));
            }
        }
        let value = std::str::from_utf8(&response.body).unwrap_or_default().trim();
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Err(Tried::Again("an empty token".to_owned())));
        }
        let ttl = response.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|v| v.parse().ok());
        let life = ttl.map_or(TOKEN_TTL, Duration::from_secs).min(TOKEN_TTL);
        let until = asked.after(life.saturating_sub(TOKEN_MARGIN.min(life / 10)));
        let value = value.to_owned();
        *held = Some(Token { value: value.clone(), until });
        Ok(Ok(value))
    }

    fn drop_token(&self, refused: &str) {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have fetched a new one meanwhile.
        if held.as_ref().is_some_and(|t| t.value == refused) {
            *held = None;
        }
    }

    fn send(&self, scope: &Scope, request: &Request<'_>, body: usize) -> Result<Response, Failure> {
        let total = LIMITS.total.min(scope.remaining().max(Duration::from_millis(1)));
        let patient = self.no_way.load(Ordering::Relaxed).is_multiple_of(4);
        let connect = if patient { LIMITS.connect } else { CONNECT_AGAIN };
        let limits = Limits { total, connect: connect.min(total), body };
        match self.http.send(request, &limits) {
            // A kept connection that died in a pause; asking twice does no harm.
            Err(f) if f.sent == Sent::Stale => self.http.send(request, &limits),
            other => other,
        }
    }

    /// The service's `Date` is the host's clock, read without TLS: it mends a clock that is so wrong that no
    /// certificate is valid and no signature good, until AWS itself says what the time is.
    fn compare_date(&self, response: &Response) {
        let Some(ahead) = response.server_ahead_ms() else { return };
        if (ahead - self.clock.skew_ms()).abs() > SKEW_LIMIT_MS && !self.date_disputed.load(Ordering::Relaxed) {
            log::warn!("the clock of this machine is {} s behind the metadata service's: corrected for", ahead / 1000);
            self.clock.set_skew_ms(ahead);
        }
    }
}

/// 0.1 s doubling to 2 s, half of it left to chance.
fn pause(attempt: u32) -> Duration {
    Duration::from_millis(100 << attempt.min(5)).min(Duration::from_secs(2)).mul_f64(0.5 + random::fraction() / 2.0)
}

#[cfg(test)]
mod tests;
