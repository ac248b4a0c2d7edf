//! What the service says about this instance, in as few requests as it takes.
//!
//! Six with one network interface: the identity document (region, zone, id, type), the launch index, the list of
//! interfaces, two lists of addresses, the hypervisor. Each further interface costs three.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

use super::{Imds, ImdsError};
use crate::model::Facts;
use crate::scope::Scope;

const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
/// No instance type has that many interfaces; an answer that says so is not followed.
const MAX_INTERFACES: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    region: Option<String>,
    availability_zone: Option<String>,
    instance_id: Option<String>,
    instance_type: Option<String>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Interface {
    mac: String,
    device: u64,
    ipv4: Vec<String>,
    ipv6: Vec<String>,
}

impl Imds {
    /// All facts.
    pub(crate) fn facts(&self, scope: &Scope) -> Result<Facts, ImdsError> {
        // Images of old kinds of clouds give no document, or one without a field: then the leaves are asked.
        let document = self.text(scope, DOCUMENT)?.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        let Document { region, availability_zone, instance_id, instance_type } = document;
        let mut facts = Facts {
            instance_id: self.or_leaf(scope, instance_id, "instance-id")?,
            instance_type: self.or_leaf(scope, instance_type, "instance-type")?,
            region: self.or_leaf(scope, region, "placement/region")?,
            zone: self.or_leaf(scope, availability_zone, "placement/availability-zone")?,
            hypervisor: self.get(scope, "system")?.map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()),
            ..Facts::default()
        };
        let index = self.get(scope, "ami-launch-index")?;
        facts.launch_index = index.and_then(|i| i.trim().parse().ok()).unwrap_or(0);
        self.refresh_public_addresses(scope, &mut facts)?;
        Ok(facts)
    }

    /// Reads the public addresses again: an Elastic IP address may be associated late. Says whether they changed.
    pub(crate) fn refresh_public_addresses(&self, scope: &Scope, facts: &mut Facts) -> Result<bool, ImdsError> {
        let before = facts.clone();
        let mut interfaces = self.interfaces(scope)?;
        let primary = if interfaces.len() > 1 { self.primary(scope, &interfaces)? } else { 0 };
        if primary < interfaces.len() {
            interfaces[..=primary].rotate_right(1);
        }
        if let Some(first) = interfaces.first() {
            facts.primary_ipv4.clone_from(&first.ipv4);
            facts.primary_ipv6.clone_from(&first.ipv6);
        }
        facts.all_ipv4 = interfaces.iter().flat_map(|i| i.ipv4.clone()).collect();
        facts.all_ipv6 = interfaces.iter().flat_map(|i| i.ipv6.clone()).collect();
        Ok(*facts != before)
    }

    fn or_leaf(&self, scope: &Scope, known: Option<String>, leaf: &str) -> Result<String, ImdsError> {
        let plain = |v: &String| !v.is_empty() && v.bytes().all(|b| b.is_ascii_graphic());
        if let Some(value) = known.filter(plain) {
            return Ok(value);
        }
        let value = self.get(scope, leaf)?.map(|v| v.trim().to_owned());
        value.filter(plain).ok_or_else(|| ImdsError::Unexpected {
            path: format!("/latest/meta-data/{leaf}"),
            what: "neither there nor in the identity document".to_owned(),
        })
    }

    /// All interfaces with their addresses, by device number.
    fn interfaces(&self, scope: &Scope) -> Result<Vec<Interface>, ImdsError> {
        let list = self.get(scope, "network/interfaces/macs/")?.unwrap_or_default();
        let macs: Vec<&str> = list.lines().map(|l| l.trim().trim_end_matches('/')).filter(|m| is_mac(m)).collect();
        let mut out = Vec::new();
        for mac in macs.iter().take(MAX_INTERFACES) {
            let leaf = |name: &str| self.get(scope, &format!("network/interfaces/macs/{mac}/{name}"));
            let device = match macs.len() {
                1 => 0,
                _ => leaf("device-number")?.and_then(|n| n.trim().parse().ok()).unwrap_or(u64::MAX),
            };
            out.push(Interface {
                mac: (*mac).to_owned(),
                device,
                ipv4: addresses::<Ipv4Addr>(leaf("public-ipv4s")?),
                ipv6: addresses::<Ipv6Addr>(leaf("ipv6s")?),
            });
        }
        out.sort_by_key(|i| i.device);
        Ok(out)
    }

    /// Which one is interface 0. Instances with several network cards have a device 0 on each: then the service's own
    /// `mac` decides.
    fn primary(&self, scope: &Scope, sorted: &[Interface]) -> Result<usize, ImdsError> {
        let first = sorted.first().map(|i| i.device);
        if sorted.iter().filter(|i| Some(i.device) == first).count() == 1 {
            return Ok(0);
        }
        let mac = self.get(scope, "mac")?.unwrap_or_default();
        Ok(sorted.iter().position(|i| i.mac.eq_ignore_ascii_case(mac.trim())).unwrap_or(0))
    }
}

fn is_mac(text: &str) -> bool {
    text.len() == 17 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
}

/// One address a line, each once; what is none that an instance can be reached at is passed over.
fn addresses<A: FromStr + PartialEq + Into<IpAddr> + Copy>(text: Option<String>) -> Vec<String> {
    let mut seen: Vec<A> = Vec::new();
    let mut out = Vec::new();
    for line in text.unwrap_or_default().lines().map(str::trim) {
        let Some(address) = line.parse::<A>().ok().filter(|a| is_reachable((*a).into())) else { continue };
        if !seen.contains(&address) {
            seen.push(address);
            out.push(line.to_owned());
        }
    }
    out
}

/// Whether others may reach an instance at this address. Private ones count: there are private hosted zones.
fn is_reachable(address: IpAddr) -> bool {
    let nowhere = |a: Ipv4Addr| {
        // "This network", and what is reserved, with the broadcast address.
        a.octets()[0] == 0 || a.octets()[0] >= 240 || a.is_loopback() || a.is_link_local() || a.is_multicast()
    };
    match address {
        IpAddr::V4(a) => !nowhere(a),
        IpAddr::V6(a) => {
            let mapped = a.to_ipv4_mapped().is_some();
            !(mapped || a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod properties;
