//! The instance metadata service, version 2 only: one listener per instance.

use std::collections::BTreeMap;

use super::http::{Request, Response};
use super::instances::{Instance, Nic};
use super::text::iso_seconds;
use super::world::{ACCOUNT, World};

/// One request that an instance's IMDS got.
#[derive(Debug, Clone)]
pub(crate) struct ImdsCall {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) at_ms: u64,
    pub(crate) connection: u64,
}

/// An interruption notice.
#[derive(Debug, Clone)]
pub(crate) struct Notice {
    pub(crate) action: String,
    /// As it is shown; may be anything.
    pub(crate) time: String,
}

/// State and behaviours of one instance's IMDS.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImdsState {
    pub(crate) port: u16,
    pub(crate) calls: Vec<ImdsCall>,
    pub(crate) connections: u64,
    /// Token to when it ends.
    pub(crate) tokens: BTreeMap<String, u64>,
    /// GETs are answered 401 until this time, though the token is good.
    pub(crate) refuse_gets_until_ms: u64,
    /// So many GETs more are answered 401.
    pub(crate) refuse_gets: u32,
    /// The service is down until this time: connections are refused, and those that there are end.
    pub(crate) down_until_ms: u64,
    /// Disabled: everything is 403.
    pub(crate) disabled: bool,
    /// So many requests more are answered 503.
    pub(crate) unavailable: u32,
    /// The next requests get no answer for so long, then the connection ends: (how many, milliseconds).
    pub(crate) hang: (u32, u64),
    /// PUTs get no answer (hop limit in a container).
    pub(crate) hop_limit: bool,
    /// Every answer takes so long.
    pub(crate) latency_ms: u64,
    /// So many connections more are reset as soon as they are made.
    pub(crate) reset_connections: u32,
    /// Tokens live no longer than this, whatever was asked (and said).
    pub(crate) token_cap_ms: Option<u64>,
    /// The connection ends after every answer.
    pub(crate) close: bool,
    /// Listing and role are 404 until this time, or for so many requests.
    pub(crate) credentials_late_until_ms: u64,
    pub(crate) credentials_late: u32,
    /// So many answers of the role have this `Code` instead of credentials.
    pub(crate) credentials_code: Option<(String, u32)>,
    pub(crate) notice: Option<Notice>,
    /// Paths with one of these in them get no answer.
    pub(crate) hanging: Vec<String>,
    /// Paths that are 404 whatever they would say ("meta-data/system").
    pub(crate) missing: Vec<String>,
    /// Paths with another content ("meta-data/services/domain").
    pub(crate) overrides: BTreeMap<String, String>,
}

impl ImdsState {
    /// All tokens are unknown from now on.
    pub(crate) fn lose_tokens(&mut self) {
        self.tokens.clear();
    }
}

const PAGE: &str = "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n <head>\n  <title>";

fn page(status: u16, title: &str) -> Response {
    let body = format!(
        "{PAGE}{status} - {title}</title>\n </head>\n <body>\n  <h1>{status} - {title}</h1>\n </body>\n</html>\n"
    );
    Response::new(status, "text/html", body).with("Server", "EC2ws")
}

fn text(body: impl Into<Vec<u8>>) -> Response {
    Response::new(200, "text/plain", body).with("Accept-Ranges", "none").with("Server", "EC2ws")
}

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Answer(Response),
    /// No answer for so long, then the end of the connection.
    Hang(u64),
}

impl World {
    /// The IMDS of an instance, to set its behaviour.
    ///
    /// # Panics
    /// If there is no such instance.
    pub(crate) fn imds(&mut self, instance: &str) -> &mut ImdsState {
        self.imds.get_mut(instance).unwrap()
    }

    /// Sets an interruption notice: `terminate`, `stop` or `hibernate`, in so many seconds by the server's clock.
    pub(crate) fn notice(&mut self, instance: &str, action: &str, seconds: i64) {
        let time = iso_seconds(self.wall() + time::Duration::seconds(seconds));
        self.imds(instance).notice = Some(Notice { action: action.into(), time });
    }

    /// Answers one request.
    pub(crate) fn imds_answer(&mut self, id: &str, request: &Request) -> Reply {
        let now = self.now_ms();
        let token = self.random.hex(54) + "==";
        let rate = u64::from(self.knobs.clock_rate);
        let state = self.imds(id);
        if state.hang.0 > 0 {
            state.hang.0 -= 1;
            return Reply::Hang(state.hang.1);
        }
        if state.hanging.iter().any(|h| request.path.contains(h)) {
            return Reply::Hang(600_000);
        }
        if state.disabled {
            return Reply::Answer(page(403, "Forbidden"));
        }
        if state.unavailable > 0 {
            state.unavailable -= 1;
            return Reply::Answer(page(503, "Service Unavailable"));
        }
        if request.method == "PUT" {
            if state.hop_limit {
                return Reply::Hang(600_000);
            }
            return Reply::Answer(Self::put_token(state, request, token, now, rate));
        }
        if request.method != "GET" && request.method != "HEAD" {
            return Reply::Answer(page(405, "Method Not Allowed"));
        }
        let good = request
            .header("x-aws-ec2-metadata-token")
            .and_then(|t| state.tokens.get(t))
            .is_some_and(|until| *until > now);
        let refused = state.refuse_gets > 0 || now < state.refuse_gets_until_ms;
        state.refuse_gets = state.refuse_gets.saturating_sub(1);
        if !good || refused {
            return Reply::Answer(page(401, "Unauthorized"));
        }
        let Some(rest) = request.path.strip_prefix("/latest/") else {
            return Reply::Answer(page(404, "Not Found"));
        };
        Reply::Answer(self.leaf(id, rest).unwrap_or_else(|| page(404, "Not Found")))
    }

    fn put_token(state: &mut ImdsState, request: &Request, token: String, now: u64, rate: u64) -> Response {
        if request.path != "/latest/api/token" {
            return page(403, "Forbidden");
        }
        if request.header("x-forwarded-for").is_some() {
            return page(403, "Forbidden");
        }
        let ttl = request.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|t| t.parse::<u64>().ok());
        let Some(ttl) = ttl.filter(|t| (1..=21600).contains(t)) else { return page(400, "Bad Request") };
        let life = (ttl * 1000 / rate).min(state.token_cap_ms.unwrap_or(u64::MAX));
        state.tokens.insert(token.clone(), now + life);
        text(token).with("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl.to_string())
    }

    fn leaf(&mut self, id: &str, path: &str) -> Option<Response> {
        let state = self.imds.get(id)?;
        if state.missing.iter().any(|m| m == path) {
            return None;
        }
        if let Some(body) = state.overrides.get(path) {
            return Some(text(body.clone()));
        }
        let i = self.instances.get(id)?.clone();
        if path == "user-data" {
            let data = i.spec.user_data.clone()?;
            return Some(Response::new(200, "application/octet-stream", data).with("Server", "EC2ws"));
        }
        if path == "dynamic/instance-identity/document" {
            let doc = serde_json::json!({
                "accountId": ACCOUNT, "architecture": "x86_64", "availabilityZone": i.spec.zone,
                "imageId": "ami-0123456789abcdef0", "instanceId": i.id, "instanceType": i.spec.instance_type,
                "privateIp": i.nics.first().and_then(|n| n.local_ipv4s.first()), "region": i.region,
                "version": "2017-09-30"
            });
            return Some(text(doc.to_string()));
        }
        let path = path.strip_prefix("meta-data")?.trim_start_matches('/');
        if path.starts_with("iam/") {
            return self.role_leaf(id, path.strip_prefix("iam/")?);
        }
        if let Some(rest) = path.strip_prefix("network/interfaces/macs/") {
            return mac_leaf(&i, rest).map(text);
        }
        if let Some(rest) = path.strip_prefix("tags/instance") {
            let key = rest.trim_start_matches('/');
            if !i.spec.metadata_tags {
                return None;
            }
            if key.is_empty() {
                return Some(text(i.spec.tags.iter().map(|t| t.0.clone()).collect::<Vec<_>>().join("\n")));
            }
            return i.spec.tags.iter().find(|t| t.0 == key).map(|t| text(t.1.clone()));
        }
        let main = i.nics.iter().find(|n| n.device_number == 0 && n.network_card.unwrap_or(0) == 0);
        let first = |f: fn(&Nic) -> &Vec<String>| main.and_then(|n| f(n).first().cloned());
        let private = first(|n| &n.local_ipv4s);
        let dns = |ip: String, tail: &str| format!("{}.{}.{tail}", ip.replace('.', "-"), i.region);
        let body = match path {
            "" => "ami-launch-index\nhostname\niam/\ninstance-id\ninstance-life-cycle\ninstance-type\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\nplacement/\nservices/\nsystem".into(),
            "instance-id" => i.id.clone(),
            "instance-type" => i.spec.instance_type.clone(),
            "ami-id" => "ami-0123456789abcdef0".into(),
            "ami-launch-index" => i.spec.launch_index.to_string(),
            "instance-life-cycle" => i.spec.life_cycle.clone(),
            "mac" => main?.mac.clone(),
            "hostname" | "local-hostname" => format!("ip-{}", dns(private?, "compute.internal")),
            "local-ipv4" => private?,
            "public-ipv4" => first(|n| &n.public_ipv4s)?,
            "public-hostname" => format!("ec2-{}", dns(first(|n| &n.public_ipv4s)?, "compute.amazonaws.com")),
            "ipv6" => first(|n| &n.ipv6s)?,
            "placement/region" => i.region.clone(),
            "placement/availability-zone" => i.spec.zone.clone(),
            "placement/availability-zone-id" => i.zone_id.clone(),
            "placement/" => "availability-zone\navailability-zone-id\nregion".into(),
            "services/domain" => "amazonaws.com".into(),
            "services/partition" => "aws".into(),
            "system" => if i.spec.hypervisor == "xen" { "xen" } else { "nitro" }.into(),
            "events/maintenance/scheduled" => "[]".into(),
            "spot/instance-action" => {
                let n = self.imds.get(id)?.notice.clone()?;
                serde_json::json!({ "action": n.action, "time": n.time }).to_string()
            }
            "spot/termination-time" => {
                let n = self.imds.get(id)?.notice.clone().filter(|n| n.action == "terminate")?;
                n.time
            }
            _ => return None,
        };
        Some(text(body))
    }

    fn role_leaf(&mut self, id: &str, path: &str) -> Option<Response> {
        let role = self.instances.get(id)?.role.clone()?;
        if path == "info" {
            let doc = serde_json::json!({ "Code": "Success", "InstanceProfileArn": format!("arn:aws:iam::{ACCOUNT}:instance-profile/{role}") });
            return Some(text(doc.to_string()));
        }
        let rest = path.strip_prefix("security-credentials")?;
        if rest.starts_with('-') {
            return None;
        }
        let now = self.now_ms();
        let state = self.imds.get_mut(id)?;
        if state.credentials_late > 0 || now < state.credentials_late_until_ms {
            state.credentials_late = state.credentials_late.saturating_sub(1);
            return None;
        }
        let asked = rest.trim_start_matches('/');
        if asked.is_empty() {
            return Some(text(role));
        }
        if asked != role {
            return None;
        }
        let updated = iso_seconds(self.wall());
        let state = self.imds.get_mut(id)?;
        if let Some((code, left)) = state.credentials_code.clone().filter(|(_, n)| *n > 0) {
            state.credentials_code = Some((code.clone(), left - 1));
            let doc =
                serde_json::json!({ "Code": code, "Message": "EC2 cannot assume the role", "LastUpdated": updated });
            return Some(text(doc.to_string()));
        }
        let (ends, before) = self.instances.get(id).map(|i| (i.credential.expires, i.rotate_before_ms))?;
        if before > 0 && ends.is_some_and(|e| e - self.wall() < time::Duration::milliseconds(before as i64)) {
            self.rotate_credentials(id);
        }
        let key = self.instances.get(id)?.credential.clone();
        let doc = serde_json::json!({
            "Code": "Success", "LastUpdated": updated, "Type": "AWS-HMAC", "AccessKeyId": key.access_key,
            "SecretAccessKey": key.secret, "Token": key.token, "Expiration": key.expires.map(iso_seconds)
        });
        Some(text(serde_json::to_string_pretty(&doc).unwrap_or_default()))
    }
}

fn mac_leaf(i: &Instance, path: &str) -> Option<String> {
    if path.is_empty() {
        let mut macs: Vec<String> = i.nics.iter().map(|n| format!("{}/", n.mac)).collect();
        macs.sort();
        return Some(macs.join("\n"));
    }
    let (mac, leaf) = path.split_once('/').unwrap_or((path, ""));
    let n = i.nics.iter().find(|n| n.mac == mac)?;
    let lines = |v: &[String]| (!v.is_empty()).then(|| v.join("\n"));
    match leaf {
        "" => {
            let mut names = vec!["device-number", "interface-id", "local-hostname", "local-ipv4s", "mac", "owner-id"];
            if n.network_card.is_some() {
                names.push("network-card");
            }
            if !n.ipv6s.is_empty() {
                names.push("ipv6s");
            }
            if !n.public_ipv4s.is_empty() {
                names.extend(["ipv4-associations/", "public-hostname", "public-ipv4s"]);
            }
            Some(names.join("\n"))
        }
        "device-number" => Some(n.device_number.to_string()),
        "network-card" => n.network_card.map(|c| c.to_string()),
        "interface-id" => Some(n.interface_id.clone()),
        "mac" => Some(n.mac.clone()),
        "owner-id" => Some(ACCOUNT.into()),
        "subnet-id" => Some("subnet-0123456789abcdef0".into()),
        "vpc-id" => Some("vpc-0123456789abcdef0".into()),
        "local-ipv4s" => lines(&n.local_ipv4s),
        "public-ipv4s" => lines(&n.public_ipv4s),
        "ipv6s" => lines(&n.ipv6s),
        "ipv4-associations/" => lines(&n.public_ipv4s),
        _ => {
            let public = leaf.strip_prefix("ipv4-associations/")?;
            n.public_ipv4s.iter().position(|p| p == public).and_then(|at| n.local_ipv4s.get(at).cloned())
        }
    }
}
