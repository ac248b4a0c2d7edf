//! AWS as this program uses it: EC2 volumes, Route 53 records, SNS and SQS messages, Auto Scaling.
//!
//! [`Aws`] is made once and shared by all threads. Every call takes a scope and is tried until it has an answer that
//! counts or the scope ends; the actions' own modules hold what is pure: the request and the reading of the answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::clock::Clock;
use crate::http::{CaError, Http, Roots};
use crate::imds::Imds;
use crate::scope::Scope;

mod autoscaling;
mod client;
mod credentials;
pub(crate) mod ec2;
mod endpoint;
pub(crate) mod env;
mod error;
mod profile;
mod query;
mod retry;
pub(crate) mod route53;
mod sign;
mod sns;
mod sqs;
mod still;
mod xml;

pub(crate) use credentials::CredentialsError;
pub(crate) use endpoint::BadUrl;
pub(crate) use env::Env;
pub(crate) use error::{ApiError, Class};
pub(crate) use still::{Lapsed, Still};

/// What [`Aws::new`] goes by.
#[derive(Debug, Clone)]
pub(crate) struct AwsConfig {
    /// The environment.
    pub(crate) env: Env,
    /// `--profile`.
    pub(crate) profile: Option<String>,
}

/// Why there is no way to AWS. All of these are mistakes in the set-up.
#[derive(Debug)]
pub(crate) enum AwsError {
    /// `AWS_CA_BUNDLE`.
    Ca(CaError),
    /// An endpoint variable.
    Endpoint(BadUrl),
    /// The environment's keys or the profile.
    Credentials(CredentialsError),
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AwsError::Ca(e) => e.fmt(f),
            AwsError::Endpoint(e) => e.fmt(f),
            AwsError::Credentials(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for AwsError {}

/// What a FIFO topic or queue wants to know of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fifo {
    /// Messages of one group keep their order.
    pub(crate) group: String,
    /// A message with the same one within 5 minutes is the same message.
    pub(crate) deduplication: String,
}

/// The way to AWS.
#[derive(Debug)]
pub(crate) struct Aws {
    client: client::Client,
    /// How small pages must be, as far as it has shown: the place in the sizes of `ec2::pages`.
    page: AtomicUsize,
}

impl Aws {
    /// Reads the environment and the shared files; sends nothing.
    pub(crate) fn new(config: &AwsConfig, clock: &Arc<Clock>, imds: &Arc<Imds>) -> Result<Aws, AwsError> {
        let env = &config.env;
        let roots = env.get("AWS_CA_BUNDLE").map_or(Roots::Web, |path| Roots::Pem(path.into()));
        let http = Http::for_aws(clock, &roots).map_err(AwsError::Ca)?;
        let endpoints = endpoint::Endpoints::new(env).map_err(AwsError::Endpoint)?;
        let (provider, region) =
            credentials::Provider::new(env, config.profile.as_deref(), imds, clock).map_err(AwsError::Credentials)?;
        let named = env.get("AWS_REGION").or_else(|| env.get("AWS_DEFAULT_REGION")).map(str::to_owned);
        let region = named.or(region);
        let client = client::Client::new(http, provider, endpoints, region, clock, imds);
        Ok(Aws { client, page: AtomicUsize::new(0) })
    }

    /// The region of EC2's calls.
    pub(crate) fn region(&self) -> &str {
        self.client.region()
    }

    /// This machine's public address has changed: connections that stand lead nowhere any more.
    pub(crate) fn forget_connections(&self) {
        self.client.forget_connections();
    }

    /// The instance's region, for when nothing else names one.
    pub(crate) fn set_instance_region(&self, region: &str) {
        self.client.set_instance_region(region);
    }

    /// The credentials that were fetched are not used again.
    pub(crate) fn forget_credentials(&self) {
        self.client.forget_credentials();
    }

    /// Fetches the credentials ahead of the first call.
    pub(crate) fn warm_up(&self, scope: &Scope) -> Result<(), CredentialsError> {
        self.client.warm_up(scope)
    }
}
