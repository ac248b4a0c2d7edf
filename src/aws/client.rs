//! One signed call, tried until it has an answer that counts or the scope ends.
//!
//! The only loop of retries on the way to AWS. What is retried is said in [`retry`]; what a call may bear is said by
//! its [`Repeat`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::credentials::{CredentialsError, Keys, Provider};
use super::endpoint::{Endpoint, Endpoints, Partition, Service};
use super::error::{ApiError, Class};
use super::still::Still;
use super::{retry, sign, xml};
use crate::clock::Clock;
use crate::http::{Cause, Failure, Http, Limits, Request, Response, Sent};
use crate::imds::{Imds, SKEW_LIMIT_MS};
use crate::random;
use crate::scope::Scope;
use crate::waits::waiting;

const CONNECT: Duration = Duration::from_secs(3);
const TRY: Duration = Duration::from_secs(15);
const MAX_BODY: usize = 8 << 20;
/// An answer that cannot be read may be a proxy's hiccup; so many of them are not.
const MAX_GARBAGE: u32 = 5;

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only reads, or does the same however often it comes.
    Safe,
    /// A second one could do harm, or be refused because of the first: an uncertain end is [`Class::Ambiguous`].
    Once,
}

/// A call, ready to be signed.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) service: Service,
    pub(crate) action: &'static str,
    /// The region; `None`: the program's.
    pub(crate) region: Option<&'a str>,
    /// Where to; `None`: the service's endpoint for the region.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) method: &'static str,
    /// With the query; begins with a slash.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// A page of a listing: how many bytes of it are read. Of a longer one the class is [`Class::TooLong`].
    pub(crate) most: Option<usize>,
    pub(crate) repeat: Repeat,
}

impl<'a> Call<'a> {
    /// A call of the query protocol.
    pub(crate) fn form(service: Service, action: &'static str, body: String, repeat: Repeat) -> Call<'a> {
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        Call {
            service,
            action,
            region: None,
            endpoint: None,
            method: "POST",
            path: "/".to_owned(),
            headers: vec![("content-type".to_owned(), kind.to_owned())],
            body,
            most: None,
            repeat,
        }
    }
}

/// What is shared by all calls.
#[derive(Debug)]
pub(crate) struct Client {
    http: Http,
    provider: Provider,
    endpoints: Endpoints,
    /// The program's region, where the environment or the profile names one.
    region: Option<String>,
    /// The instance's region, known a little later than the first credentials are wanted.
    instance_region: OnceLock<String>,
    clock: Arc<Clock>,
    imds: Arc<Imds>,
    unknown: Mutex<Vec<(String, Partition)>>,
}

/// What has been corrected (each at most once) and borne in the course of one call.
#[derive(Default)]
struct Corrected {
    clock: bool,
    keys: bool,
    certificate_time: bool,
    /// Answers so far that could not be read.
    garbage: u32,
}

impl Corrected {
    /// Counts an answer that cannot be read; says whether another may be asked for.
    fn bear_garbage(&mut self) -> bool {
        self.garbage += 1;
        self.garbage < MAX_GARBAGE
    }
}

/// What one try came to, other than success.
enum Tried {
    /// Send it again, without a pause.
    Now(ApiError),
    /// Send it again after a pause; AWS may have wished for one.
    Later(ApiError, Option<Duration>),
    /// That is the end of it.
    End(ApiError),
}

impl Client {
    pub(crate) fn new(
        http: Http,
        provider: Provider,
        endpoints: Endpoints,
        region: Option<String>,
        clock: &Arc<Clock>,
        imds: &Arc<Imds>,
    ) -> Client {
        Client {
            http,
            provider,
            endpoints,
            region,
            instance_region: OnceLock::new(),
            clock: clock.clone(),
            imds: imds.clone(),
            unknown: Mutex::default(),
        }
    }

    /// The region of calls that name none.
    pub(crate) fn region(&self) -> &str {
        self.region.as_deref().or(self.instance_region.get().map(String::as_str)).unwrap_or_default()
    }

    /// The region for when nothing else names one.
    pub(crate) fn set_instance_region(&self, region: &str) {
        let _ = self.instance_region.set(region.to_owned());
    }

    /// The endpoint for the messages of a queue.
    pub(crate) fn queue(&self, url: &str, region: &str) -> Option<Endpoint> {
        self.endpoints.queue(url, region)
    }

    /// The next call fetches its keys anew.
    pub(super) fn forget_credentials(&self) {
        self.provider.forget();
    }

    /// This machine's public address has changed.
    pub(crate) fn forget_connections(&self) {
        self.http.forget_connections();
    }

    /// Fetches the credentials, so that the first call finds them.
    pub(crate) fn warm_up(&self, scope: &Scope) -> Result<(), CredentialsError> {
        self.provider.get(scope).map(drop)
    }

    /// Makes the call; `parse` reads the body of a success.
    pub(crate) fn call<T>(
        &self,
        scope: &Scope,
        call: &Call<'_>,
        parse: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, ApiError> {
        self.call_while(scope, call, &Still::always(), parse)
    }

    /// The same for a call that changes or removes something: before each try, also after a throttle or a lost answer,
    /// `still` says whether it is to be made.
    pub(crate) fn call_while<T>(
        &self,
        scope: &Scope,
        call: &Call<'_>,
        still: &Still<'_>,
        parse: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, ApiError> {
        let mut corrected = Corrected::default();
        let mut last = None;
        let mut attempt = 0;
        let mut unsure = false;
        let wait = waiting(scope, format!("{} of {}", call.action, call.service.name()));
        loop {
            if let Err(halt) = scope.check() {
                return Err(ApiError::halted(call.action, halt, last));
            }
            if let Err(e) = still.holds(call.action, scope) {
                return Err(ApiError { unsure: unsure || e.unsure, ..e });
            }
            let tried = match self.attempt(scope, call, &mut corrected) {
                Ok(response) => match parse(&response.body) {
                    Ok(value) => return Ok(value),
                    Err(why) => {
                        let e = ApiError::ours(call.action, Class::Transient, why);
                        uncertain(call, e, corrected.bear_garbage())
                    }
                },
                Err(tried) => tried,
            };
            let (e, pause) = match tried {
                Tried::End(e) => return Err(ApiError { unsure: unsure || e.unsure, ..e }),
                Tried::Now(e) => (e, Duration::ZERO),
                Tried::Later(e, wish) => {
                    let pause = retry::pause(e.class, attempt, random::fraction(), wish);
                    attempt += 1;
                    (e, pause)
                }
            };
            if attempt == 3 {
                log::warn!("{} {}: {e}; trying on", call.service.name(), call.action);
            }
            unsure |= e.unsure;
            wait.say(format!("{} of {} (last answer: {e})", call.action, call.service.name()));
            last = Some(e);
            if let Err(halt) = scope.sleep(pause) {
                return Err(ApiError::halted(call.action, halt, last));
            }
        }
    }

    fn attempt(&self, scope: &Scope, call: &Call<'_>, corrected: &mut Corrected) -> Result<Response, Tried> {
        let keys = self.provider.get(scope).map_err(|e| Tried::End(no_keys(call, &e)))?;
        let endpoint = match &call.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.endpoint(scope, call).map_err(Tried::End)?,
        };
        let url = format!("{}{}", endpoint.url, call.path);
        let skew = self.clock.skew_ms();
        let mut headers = call.headers.clone();
        let signed = sign::headers(
            &keys,
            &endpoint.region,
            call.service.name(),
            self.clock.corrected(),
            call.method,
            &url,
            &headers,
            call.body.as_bytes(),
        );
        let signed = signed
            .map_err(|e| Tried::End(ApiError::ours(call.action, Class::Fatal, format!("cannot sign it: {e}"))))?;
        headers.extend(signed);
        let request = Request { method: call.method, url: &url, headers: &headers, body: call.body.as_bytes() };
        let total = TRY.min(scope.remaining().max(Duration::from_millis(1)));
        let limits = Limits { connect: CONNECT.min(total), total, body: call.most.unwrap_or(MAX_BODY) };
        match self.http.send(&request, &limits) {
            Err(failure) => {
                log::debug!("{} {}: {failure}", call.service.name(), call.action);
                Err(self.unanswered(call, &failure, &endpoint, corrected))
            }
            Ok(response) => {
                let id = response.header("x-amzn-requestid").unwrap_or("-");
                let (status, took) = (response.status, response.took.as_millis());
                log::debug!("{} {} {status} {id} {took} ms", call.service.name(), call.action);
                if (200..300).contains(&status) {
                    return Ok(response);
                }
                Err(self.refused(scope, call, &response, &keys, skew, corrected))
            }
        }
    }

    fn unanswered(&self, call: &Call<'_>, failure: &Failure, endpoint: &Endpoint, corrected: &mut Corrected) -> Tried {
        let text = format!("{}: {failure}", endpoint.url);
        let e = ApiError::ours(call.action, Class::Transient, text);
        match (failure.cause, failure.sent) {
            (Cause::Certificate, _) => Tried::End(ApiError { class: Class::Fatal, ..e }),
            (Cause::TooLong, _) if call.most.is_some() => Tried::End(ApiError { class: Class::TooLong, ..e }),
            (Cause::TooLong, _) => uncertain(call, e, false),
            (Cause::CertificateTime, _) if self.clock.skew_ms() != 0 && !corrected.certificate_time => {
                // What we took for the time was the metadata service's: without it, then.
                corrected.certificate_time = true;
                self.imds.dispute_date();
                self.clock.set_skew_ms(0);
                Tried::Now(e)
            }
            (_, Sent::Nothing) => Tried::Later(e, None),
            (_, Sent::Stale) if call.repeat == Repeat::Safe => Tried::Now(ApiError { unsure: true, ..e }),
            (_, Sent::Stale | Sent::Unknown) => uncertain(call, e, true),
        }
    }

    fn refused(
        &self,
        scope: &Scope,
        call: &Call<'_>,
        response: &Response,
        keys: &Arc<Keys>,
        skew: i64,
        corrected: &mut Corrected,
    ) -> Tried {
        let e = error_of(call, response, keys);
        if retry::may_be_skew(&e.code)
            && !corrected.clock
            && let Some(ahead) = response.server_ahead_ms()
            && (ahead - skew).abs() > SKEW_LIMIT_MS
        {
            corrected.clock = true;
            self.imds.dispute_date();
            self.clock.set_skew_ms(ahead);
            log::warn!("the clock of this machine is {} s behind AWS's: corrected for", ahead / 1000);
            return Tried::Now(e);
        }
        match e.class {
            Class::Auth if !corrected.keys => {
                corrected.keys = true;
                match self.provider.after_refusal(scope, keys) {
                    Some(_) => Tried::Now(e),
                    None => Tried::End(e),
                }
            }
            Class::Throttled => Tried::Later(e, wish(response)),
            Class::Transient => match uncertain(call, e, true) {
                Tried::Later(e, _) => Tried::Later(e, wish(response)),
                end => end,
            },
            // No error of AWS's: half of one, or a page of something on the way.
            Class::Fatal if e.code.is_empty() && response.status >= 400 => {
                uncertain(call, ApiError { class: Class::Transient, ..e }, corrected.bear_garbage())
            }
            _ => Tried::End(e),
        }
    }

    fn endpoint(&self, scope: &Scope, call: &Call<'_>) -> Result<Endpoint, ApiError> {
        let region = call.region.unwrap_or(self.region());
        // A region becomes part of a host name.
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ApiError::ours(call.action, Class::Fatal, format!("'{region}' is no region")));
        }
        let partition = match Partition::of(region) {
            Some(known) => known,
            None => self.unknown_partition(scope, call, region)?,
        };
        Ok(self.endpoints.resolve(call.service, region, &partition))
    }

    /// A region that is newer than this program: the metadata service knows its domain.
    fn unknown_partition(&self, scope: &Scope, call: &Call<'_>, region: &str) -> Result<Partition, ApiError> {
        if self.endpoints.is_overridden(call.service) {
            return Ok(Partition::unknown(region, None));
        }
        let mut known = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, partition)) = known.iter().find(|(r, _)| r == region) {
            return Ok(partition.clone());
        }
        let domain = self.imds.get(&scope.within(Duration::from_secs(5)), "services/domain").ok().flatten();
        let partition = Partition::unknown(region, domain.as_deref());
        known.push((region.to_owned(), partition.clone()));
        Ok(partition)
    }
}

/// For an end of which nobody knows what it did: it is sent `again`, where the call may be repeated.
fn uncertain(call: &Call<'_>, e: ApiError, again: bool) -> Tried {
    match call.repeat {
        Repeat::Safe if again => Tried::Later(ApiError { unsure: true, ..e }, None),
        // Also of what may be repeated: a CreateVolume whose answers cannot be read has made a volume.
        Repeat::Safe | Repeat::Once => Tried::End(ApiError { class: Class::Ambiguous, ..e }),
    }
}

fn no_keys(call: &Call<'_>, e: &CredentialsError) -> ApiError {
    let class = e.halt().map_or(Class::Auth, Class::Halted);
    ApiError::ours(call.action, class, e.to_string())
}

/// The pause that AWS asks for: milliseconds in its own header, seconds in HTTP's.
fn wish(response: &Response) -> Option<Duration> {
    let number = |name: &str| response.header(name).and_then(|v| v.parse::<u64>().ok());
    number("x-amz-retry-after").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

/// The error in an answer, in whatever shape it comes; a load balancer's page has only its status.
fn error_of(call: &Call<'_>, response: &Response, keys: &Keys) -> ApiError {
    #[derive(serde::Deserialize)]
    struct Json {
        #[serde(rename = "__type")]
        kind: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let mut fault = xml::fault(&response.body).unwrap_or_default();
    if fault.code.is_empty()
        && let Ok(json) = serde_json::from_slice::<Json>(&response.body)
    {
        fault.code = json.kind.unwrap_or_default().rsplit('#').next().unwrap_or_default().to_owned();
        fault.message = json.message.unwrap_or_default();
    }
    if fault.code.is_empty() {
        let known = response.header("x-amzn-query-error").or_else(|| response.header("x-amzn-errortype"));
        fault.code = known.and_then(|v| v.split([';', ':']).next()).unwrap_or_default().to_owned();
    }
    let class = retry::classify(call.action, response.status, &fault.code, &fault.message);
    if fault.code.is_empty() {
        fault.message = format!("HTTP status {} without an error that can be read", response.status);
    }
    let header = || ["x-amzn-requestid", "x-amz-request-id"].iter().find_map(|n| response.header(n)).map(str::to_owned);
    // Some services answer a wrong signature with all that should have been signed.
    fault.message = keys.hidden_in(fault.message);
    let bounded = |text: String| if text.len() > 4000 { text.chars().take(1000).collect() } else { text };
    ApiError {
        action: call.action,
        class,
        code: bounded(fault.code),
        message: bounded(fault.message),
        request_id: fault.request_id.or_else(header),
        unsure: false,
    }
}

#[cfg(test)]
mod tests;
