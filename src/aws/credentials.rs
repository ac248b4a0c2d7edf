//! The keys that requests are signed with: the environment's, a profile's, or else the instance role's.
//!
//! Role credentials come late on a young instance, and change: they are waited for until the scope ends, renewed five
//! minutes before their end by whoever needs them first (the others go on with the old ones while those are good), and
//! used beyond their end when there are no newer ones: it is AWS that refuses a request, never our clock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_smithy_runtime_api::client::identity::Identity;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::env::Env;
use super::profile::{self, Profile, ProfileError};
use crate::clock::{Clock, Tick};
use crate::imds::{Imds, ImdsError};
use crate::random;
use crate::scope::{Halt, Scope};
use crate::waits::waiting;

/// EC2 renews a role's credentials at least this long before their end.
const MARGIN: Duration = Duration::from_secs(300);
/// How long a renewal may hold up a request for which the old keys would do.
const RENEWAL: Duration = Duration::from_secs(5);
/// After a renewal that brought nothing new, the next attempt.
const AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether another thread has what it asks for.
const LOOK: Duration = Duration::from_millis(10);
const BUSY: &str = "another call is still asking for them";
const ROLES: &str = "iam/security-credentials/";

/// A pair of keys, perhaps with a session token. `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
    expires: Option<OffsetDateTime>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Keys {
    /// Keys without an end.
    pub(crate) fn new(id: &str, secret: &str, token: Option<&str>) -> Keys {
        Keys { id: id.to_owned(), secret: secret.to_owned(), token: token.map(str::to_owned), expires: None }
    }

    pub(super) fn identity(&self) -> Identity {
        Credentials::new(&*self.id, &*self.secret, self.token.clone(), None, "ec2fleetd").into()
    }

    /// A text without the session token.
    pub(super) fn hidden_in(&self, text: String) -> String {
        match &self.token {
            Some(token) if text.contains(token.as_str()) => text.replace(token.as_str(), "[session token]"),
            _ => text,
        }
    }

    fn left(&self, clock: &Clock) -> Duration {
        let Some(end) = self.expires else { return Duration::MAX };
        Duration::try_from(end - clock.corrected()).unwrap_or(Duration::ZERO)
    }
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialsError {
    /// The environment has only one half of them.
    Half(&'static str),
    /// The profile cannot be used.
    Profile(ProfileError),
    /// The metadata service does not answer.
    Imds(ImdsError),
    /// The instance has no role, or EC2 cannot assume it; `last` says which.
    Role {
        /// Why the waiting ended.
        halt: Halt,
        /// What the service said last.
        last: String,
    },
}

impl CredentialsError {
    /// The reason, if it is that the scope ended.
    pub(crate) fn halt(&self) -> Option<Halt> {
        match self {
            CredentialsError::Imds(e) => e.halt(),
            CredentialsError::Role { halt, .. } => Some(*halt),
            _ => None,
        }
    }
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsError::Half(missing) => {
                write!(f, "cannot get credentials: of the two keys in the environment {missing} is missing")
            }
            CredentialsError::Profile(e) => write!(f, "cannot get credentials: {e}"),
            CredentialsError::Imds(e) => write!(f, "cannot get credentials of the instance role: {e}"),
            CredentialsError::Role { halt, last } => {
                write!(f, "cannot get credentials of the instance role: {halt}; {last}")
            }
        }
    }
}

impl std::error::Error for CredentialsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CredentialsError::Profile(e) => Some(e),
            CredentialsError::Imds(e) => Some(e),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Keys>>,
    /// Not before then is a renewal tried again.
    not_before: Option<Tick>,
    role: Option<String>,
}

/// Where keys come from; shared by all threads.
#[derive(Debug)]
pub(crate) struct Provider {
    fixed: Option<Arc<Keys>>,
    imds: Arc<Imds>,
    clock: Arc<Clock>,
    state: Mutex<State>,
    renewing: Mutex<()>,
}

/// What the service's document says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    code: Option<String>,
    message: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
}

impl Provider {
    /// Chooses the source. The profile's region comes along, for it is in the same files.
    pub(crate) fn new(
        env: &Env,
        profile: Option<&str>,
        imds: &Arc<Imds>,
        clock: &Arc<Clock>,
    ) -> Result<(Provider, Option<String>), CredentialsError> {
        let from_env = match (env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")) {
            // A profile on the command line is more explicit than the environment.
            _ if profile.is_some() => None,
            (Some(id), Some(secret)) => Some(Keys::new(id, secret, env.get("AWS_SESSION_TOKEN"))),
            (Some(_), None) => return Err(CredentialsError::Half("AWS_SECRET_ACCESS_KEY")),
            (None, Some(_)) => return Err(CredentialsError::Half("AWS_ACCESS_KEY_ID")),
            (None, None) => None,
        };
        let Profile { keys, region } = match profile::load(env, profile) {
            // With keys in the environment the files are read for the region only.
            Err(_) if from_env.is_some() => Profile::default(),
            other => other.map_err(CredentialsError::Profile)?,
        };
        let provider = Provider {
            fixed: from_env.or(keys).map(Arc::new),
            imds: imds.clone(),
            clock: clock.clone(),
            state: Mutex::default(),
            renewing: Mutex::default(),
        };
        Ok((provider, region))
    }

    /// The keys to sign with now.
    pub(crate) fn get(&self, scope: &Scope) -> Result<Arc<Keys>, CredentialsError> {
        if let Some(keys) = &self.fixed {
            return Ok(keys.clone());
        }
        let Some(keys) = self.current() else {
            let _one = self.turn(scope).map_err(|halt| CredentialsError::Role { halt, last: BUSY.to_owned() })?;
            return match self.current() {
                Some(keys) => Ok(keys),
                None => self.fetch(scope),
            };
        };
        let due = keys.left(&self.clock) < MARGIN && self.lock().not_before.is_none_or(|t| self.clock.now() >= t);
        if !due {
            return Ok(keys);
        }
        match self.renewing.try_lock() {
            Ok(_one) => Ok(self.renew(scope, &keys)),
            // What is over is not worth a refusal; a renewal does not take long.
            Err(_) if keys.left(&self.clock).is_zero() => {
                drop(self.turn(&scope.within(RENEWAL)));
                Ok(self.current().unwrap_or(keys))
            }
            Err(_) => Ok(keys),
        }
    }

    /// AWS does not accept `used`: newer keys, if there are any.
    pub(crate) fn after_refusal(&self, scope: &Scope, used: &Arc<Keys>) -> Option<Arc<Keys>> {
        if self.fixed.is_some() {
            return None;
        }
        let _one = self.turn(scope).ok()?;
        let keys = match self.current() {
            Some(keys) if keys != *used => keys,
            _ => self.renew(scope, used),
        };
        (keys != *used).then_some(keys)
    }

    /// Waits until no other thread asks for keys: as long as this caller's own scope goes on, whatever that thread's is.
    fn turn(&self, scope: &Scope) -> Result<MutexGuard<'_, ()>, Halt> {
        loop {
            match self.renewing.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(p)) => return Ok(p.into_inner()),
                Err(TryLockError::WouldBlock) => scope.sleep(LOOK)?,
            }
        }
    }

    /// What was fetched is not used again.
    pub(crate) fn forget(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<Arc<Keys>> {
        self.lock().keys.clone()
    }

    /// Newer keys, or else the old ones.
    fn renew(&self, scope: &Scope, old: &Arc<Keys>) -> Arc<Keys> {
        let got = self.fetch(&scope.within(RENEWAL));
        let keys = match &got {
            Ok(keys) => keys.clone(),
            Err(_) => old.clone(),
        };
        if keys.left(&self.clock) < MARGIN {
            self.lock().not_before = Some(self.clock.now().after(AGAIN));
            let over = if keys.left(&self.clock).is_zero() { "over" } else { "almost over" };
            match got {
                Ok(_) => {
                    log::warn!("the metadata service has only credentials whose time is {over}; going on with them")
                }
                Err(e) => log::warn!("{e}; going on with credentials whose time is {over}"),
            }
        }
        keys
    }

    /// Waits for keys until the scope ends, with one warning.
    fn fetch(&self, scope: &Scope) -> Result<Arc<Keys>, CredentialsError> {
        let mut attempt = 0u32;
        let mut before: Option<String> = None;
        let _wait = waiting(scope, "credentials of the instance role");
        loop {
            let asked = self.ask(scope).map_err(|e| match (e.halt(), before.take()) {
                // What was missing all the time says more than where the time ran out.
                (Some(halt), Some(last)) => CredentialsError::Role { halt, last },
                _ => CredentialsError::Imds(e),
            })?;
            let last = match asked {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    self.lock().keys = Some(keys.clone());
                    if attempt > 0 {
                        log::info!("credentials of the instance role have come");
                    }
                    return Ok(keys);
                }
                Err(last) => last,
            };
            if attempt == 0 {
                log::warn!("no credentials of the instance role yet: {last}; waiting for them");
            }
            let pause = Duration::from_millis(250 << attempt.min(3)).mul_f64(0.5 + random::fraction() / 2.0);
            attempt += 1;
            before = Some(last.clone());
            scope.sleep(pause).map_err(|halt| CredentialsError::Role { halt, last })?;
        }
    }

    /// One look; the inner error says what is missing still.
    fn ask(&self, scope: &Scope) -> Result<Result<Keys, String>, ImdsError> {
        let known = self.lock().role.clone();
        let role = match known {
            Some(role) => role,
            None => {
                let list = self.imds.get(scope, ROLES)?.unwrap_or_default();
                let Some(role) = list.lines().map(str::trim).find(|l| is_role(l)) else {
                    return Ok(Err("the instance has no role (no instance profile is associated)".to_owned()));
                };
                self.lock().role = Some(role.to_owned());
                role.to_owned()
            }
        };
        let Some(text) = self.imds.get(scope, &format!("{ROLES}{role}"))? else {
            // The role was replaced, or is not there yet: the list is read again.
            self.lock().role = None;
            return Ok(Err(format!("role {role} has no credentials yet")));
        };
        let parsed = parse(&text).map_err(|e| format!("role {role}: {e}"));
        if parsed.is_err() {
            self.lock().role = None;
        }
        Ok(parsed)
    }
}

/// Role names as IAM allows them; anything else is a stray page, not a path to ask for.
fn is_role(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@-_".contains(&b))
}

/// The service answers 200 with a `Code` that says otherwise when it cannot assume the role.
fn parse(text: &str) -> Result<Keys, String> {
    let d: Document = serde_json::from_str(text).map_err(|_| "the answer is no credentials document".to_owned())?;
    if let Some(code) = d.code.filter(|c| c != "Success") {
        return Err(match d.message {
            Some(message) => format!("{code}: {message}"),
            None => code,
        });
    }
    let some = |v: Option<String>, name| v.filter(|v| !v.is_empty()).ok_or_else(|| format!("no {name} in the answer"));
    Ok(Keys {
        id: some(d.access_key_id, "AccessKeyId")?,
        secret: some(d.secret_access_key, "SecretAccessKey")?,
        token: d.token.filter(|t| !t.is_empty()),
        expires: d.expiration.and_then(|e| OffsetDateTime::parse(&e, &Rfc3339).ok()),
    })
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
