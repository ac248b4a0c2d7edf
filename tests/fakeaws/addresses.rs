//! Elastic addresses: DescribeAddresses, AssociateAddress and DisassociateAddress, and what becomes of the public
//! addresses that the metadata service tells.

use std::collections::BTreeMap;

use super::ec2::{Ask, tag_set};
use super::ec2_describe::{bad_filter, filters, passes};
use super::errors::{Refusal, refuse};
use super::text::element;
use super::world::{ACCOUNT, World};

/// Which private address it belongs to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Association {
    pub(crate) id: String,
    pub(crate) instance: String,
    pub(crate) interface: String,
    pub(crate) private_ip: String,
    /// DescribeAddresses tells of it from then on.
    pub(crate) seen_at_ms: u64,
}

/// An allocated elastic address.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) id: String,
    pub(crate) ip: String,
    pub(crate) region: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) association: Option<Association>,
    /// A service has it: nobody else may associate it.
    pub(crate) managed: bool,
}

/// A change of the public addresses of an interface that the metadata service does not know of yet.
#[derive(Debug, Clone)]
pub(crate) struct Coming {
    at_ms: u64,
    instance: String,
    private_ip: String,
    /// `None`: it has no public address any more.
    public: Option<String>,
}

const FILTERS: [&str; 10] = [
    "allocation-id",
    "association-id",
    "domain",
    "instance-id",
    "network-border-group",
    "network-interface-id",
    "network-interface-owner-id",
    "private-ip-address",
    "public-ip",
    "tag-key",
];

/// Where an address is to go.
struct Place {
    instance: String,
    interface: String,
    private_ip: String,
}

impl World {
    /// Allocates an address in eu-west-1; gives its id.
    pub(crate) fn add_address(&mut self, ip: &str, tags: &[(&str, &str)]) -> String {
        let id = self.make_id("eipalloc");
        let address = Address {
            id: id.clone(),
            ip: ip.into(),
            region: "eu-west-1".into(),
            tags: tags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            association: None,
            managed: false,
        };
        self.addresses.insert(id.clone(), address);
        id
    }

    /// Who has an address: instance and private address.
    pub(crate) fn address_of(&self, id: &str) -> Option<(String, String)> {
        let a = self.addresses.get(id)?.association.as_ref()?;
        Some((a.instance.clone(), a.private_ip.clone()))
    }

    /// Gives an address to the first interface of an instance, whoever has it, as somebody else might do.
    pub(crate) fn move_address(&mut self, id: &str, instance: &str) {
        let Some(nic) = self.instances.get(instance).and_then(|i| i.nics.first()).cloned() else { return };
        let private_ip = nic.local_ipv4s.first().cloned().unwrap_or_default();
        self.put(id, Place { instance: instance.into(), interface: nic.interface_id, private_ip });
    }

    /// Takes the addresses of an instance that is gone away from it.
    pub(crate) fn drop_addresses(&mut self, instance: &str) {
        for a in self.addresses.values_mut() {
            a.association.take_if(|a| a.instance == instance);
        }
    }

    /// Lets the metadata service know what is due.
    pub(crate) fn advance_addresses(&mut self, now: u64) {
        let (due, coming): (Vec<Coming>, Vec<Coming>) =
            std::mem::take(&mut self.coming_addresses).into_iter().partition(|c| c.at_ms <= now);
        self.coming_addresses = coming;
        for c in due {
            let nics = self.instances.get_mut(&c.instance).map(|i| i.nics.as_mut_slice()).unwrap_or_default();
            for nic in nics {
                let Some(at) = nic.local_ipv4s.iter().position(|ip| *ip == c.private_ip) else { continue };
                match &c.public {
                    Some(ip) if at < nic.public_ipv4s.len() => nic.public_ipv4s[at].clone_from(ip),
                    Some(ip) => nic.public_ipv4s.push(ip.clone()),
                    None if at < nic.public_ipv4s.len() => drop(nic.public_ipv4s.remove(at)),
                    None => {}
                }
            }
        }
    }

    fn put(&mut self, id: &str, place: Place) -> String {
        let association = format!("eipassoc-{}", self.make_id("x").trim_start_matches("x-"));
        let now = self.now_ms();
        let (seen_at_ms, at_ms) = (now + self.knobs.address_seen_ms, now + self.knobs.imds_address_ms);
        // What the address had before has none now, and what the place had is free.
        let was = self.addresses.get(id).and_then(|a| a.association.clone());
        if let Some(was) = was {
            let gone = Coming { at_ms, instance: was.instance, private_ip: was.private_ip, public: None };
            self.coming_addresses.push(gone);
        }
        for a in self.addresses.values_mut() {
            a.association.take_if(|a| a.interface == place.interface && a.private_ip == place.private_ip);
        }
        let Some(a) = self.addresses.get_mut(id) else { return association };
        let public = Some(a.ip.clone());
        self.coming_addresses.push(Coming {
            at_ms,
            instance: place.instance.clone(),
            private_ip: place.private_ip.clone(),
            public,
        });
        a.association = Some(Association {
            id: association.clone(),
            instance: place.instance,
            interface: place.interface,
            private_ip: place.private_ip,
            seen_at_ms,
        });
        self.advance_addresses(now);
        association
    }

    /// Which address a call is about.
    fn address_asked(&self, ask: &Ask<'_>) -> Result<Address, Refusal> {
        let found = match (ask.get("AllocationId"), ask.get("PublicIp")) {
            (Some(_), Some(_)) => {
                let text = "You may specify public IP or allocation id, but not both in the same call";
                return Err(refuse("InvalidParameterCombination", text));
            }
            (Some(id), None) => {
                let found = self.addresses.get(id).filter(|a| a.region == ask.region);
                found.ok_or_else(|| no_allocation(id))?
            }
            (None, Some(ip)) => {
                let mut all = self.addresses.values();
                let found = all.find(|a| a.ip == ip && a.region == ask.region);
                found.ok_or_else(|| refuse("InvalidAddress.NotFound", format!("Address '{ip}' not found.")))?
            }
            (None, None) => {
                let text = "Either public IP or allocation id must be specified";
                return Err(refuse("MissingParameter", text));
            }
        };
        Ok(found.clone())
    }

    fn place_asked(&self, ask: &Ask<'_>) -> Result<Place, Refusal> {
        let place = match (ask.get("InstanceId"), ask.get("NetworkInterfaceId")) {
            (Some(_), Some(_)) => {
                let text = "You may specify an instance or a network interface, but not both in the same call";
                return Err(refuse("InvalidParameterCombination", text));
            }
            (None, None) => {
                return Err(refuse("MissingParameter", "Either instance ID or network interface id must be specified"));
            }
            (Some(id), None) => {
                let Some(i) = self.instances.get(id).filter(|i| !i.unknown && i.region == ask.region) else {
                    return Err(refuse("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist")));
                };
                if i.nics.len() > 1 {
                    let text = format!(
                        "There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for the operation instead."
                    );
                    return Err(refuse("InvalidInstanceID", text));
                }
                (i, i.nics.first())
            }
            (None, Some(id)) => {
                let has = |i: &&super::instances::Instance| i.nics.iter().any(|n| n.interface_id == id);
                let Some(i) = self.instances.values().find(has).filter(|i| i.region == ask.region) else {
                    let text = format!("The networkInterface ID '{id}' does not exist");
                    return Err(refuse("InvalidNetworkInterfaceID.NotFound", text));
                };
                (i, i.nics.iter().find(|n| n.interface_id == id))
            }
        };
        let (i, Some(nic)) = place else {
            return Err(refuse("InvalidInstanceID", "The instance has no network interface"));
        };
        if i.state == "pending" {
            let text = format!("The pending instance '{}' is not in a valid state for this operation.", i.id);
            return Err(refuse("IncorrectInstanceState", text));
        }
        let first = nic.local_ipv4s.first().cloned().unwrap_or_default();
        let private_ip = ask.get("PrivateIpAddress").map_or(first, String::from);
        if !nic.local_ipv4s.contains(&private_ip) {
            let text =
                format!("Invalid value '{private_ip}' for PrivateIpAddress. It is not an address of the interface.");
            return Err(refuse("InvalidParameterValue", text));
        }
        Ok(Place { instance: i.id.clone(), interface: nic.interface_id.clone(), private_ip })
    }

    pub(crate) fn associate_address(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let address = self.address_asked(ask)?;
        let place = self.place_asked(ask)?;
        // In a VPC, what is not said means yes.
        let may_take = ask.get("AllowReassociation").is_none() || ask.flag("AllowReassociation")?;
        if address.managed {
            let text = format!("The address with allocation id [{}] is managed by a service.", address.id);
            return Err(refuse("OperationNotPermitted", text));
        }
        let here = |a: &Association| a.interface == place.interface && a.private_ip == place.private_ip;
        if let Some(a) = &address.association {
            if here(a) {
                return Ok(answer(&a.id.clone()));
            }
            if !may_take {
                let text = format!("resource {} is already associated with associate-id {}", address.id, a.id);
                return Err(refuse("Resource.AlreadyAssociated", text));
            }
        }
        let other = self.addresses.values().find(|a| a.association.as_ref().is_some_and(here));
        if let Some(other) = other.filter(|_| !may_take) {
            let text = format!(
                "resource {} and {} is already associated with public address {}",
                place.interface, place.private_ip, other.ip
            );
            return Err(refuse("Resource.AlreadyAssociated", text));
        }
        let association = self.put(&address.id, place);
        Ok(answer(&association))
    }

    pub(crate) fn disassociate_address(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let missing = |text: String| refuse("InvalidAssociationID.NotFound", text);
        let found = match (ask.get("AssociationId"), ask.get("PublicIp")) {
            (Some(_), Some(_)) => {
                let text = "You may specify public IP or association id, but not both in the same call";
                return Err(refuse("InvalidParameterCombination", text));
            }
            (Some(id), None) => {
                let with = |a: &&Address| a.association.as_ref().is_some_and(|a| a.id == id);
                let found = self.addresses.values().find(with).filter(|a| a.region == ask.region);
                found.ok_or_else(|| missing(format!("The association ID '{id}' does not exist")))?.id.clone()
            }
            (None, Some(_)) => self.address_asked(ask)?.id,
            (None, None) => {
                let text = "Either public IP or association id must be specified";
                return Err(refuse("MissingParameter", text));
            }
        };
        let at_ms = self.now_ms() + self.knobs.imds_address_ms;
        if let Some(was) = self.addresses.get_mut(&found).and_then(|a| a.association.take()) {
            let gone = Coming { at_ms, instance: was.instance, private_ip: was.private_ip, public: None };
            self.coming_addresses.push(gone);
        }
        Ok("<return>true</return>".into())
    }

    pub(crate) fn describe_addresses(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let now = self.now_ms();
        let (ids, ips) = (ask.list("AllocationId"), ask.list("PublicIp"));
        let here: Vec<Address> = self.addresses.values().filter(|a| a.region == ask.region).cloned().collect();
        if let Some(id) = ids.iter().find(|id| !here.iter().any(|a| a.id == **id)) {
            return Err(no_allocation(id));
        }
        if let Some(ip) = ips.iter().find(|ip| !here.iter().any(|a| a.ip == **ip)) {
            return Err(refuse("InvalidAddress.NotFound", format!("Address '{ip}' not found.")));
        }
        let filters = filters(ask)?;
        if let Some((name, _)) = filters.iter().find(|(n, _)| !FILTERS.contains(&n.as_str()) && !n.starts_with("tag:"))
        {
            return Err(bad_filter(name));
        }
        let seen = |a: &Address| a.association.clone().filter(|s| s.seen_at_ms <= now);
        let values = |a: &Address, filter: &str| -> Vec<String> {
            let of = |f: fn(&Association) -> &String| seen(a).iter().map(f).cloned().collect();
            match filter {
                "allocation-id" => vec![a.id.clone()],
                "association-id" => of(|s| &s.id),
                "domain" => vec!["vpc".into()],
                "instance-id" => of(|s| &s.instance),
                "network-border-group" => vec![a.region.clone()],
                "network-interface-id" => of(|s| &s.interface),
                "network-interface-owner-id" => seen(a).iter().map(|_| ACCOUNT.to_string()).collect(),
                "private-ip-address" => of(|s| &s.private_ip),
                "public-ip" => vec![a.ip.clone()],
                "tag-key" => a.tags.keys().cloned().collect(),
                _ => filter.strip_prefix("tag:").and_then(|k| a.tags.get(k)).cloned().into_iter().collect(),
            }
        };
        let asked = |a: &&Address| (ids.is_empty() || ids.contains(&a.id)) && (ips.is_empty() || ips.contains(&a.ip));
        let mut shown: Vec<&Address> =
            here.iter().filter(asked).filter(|a| passes(&filters, |name| values(a, name))).collect();
        self.random.shuffle(&mut shown);
        let item = |a: &&Address| {
            let s = seen(a).map_or(String::new(), |s| {
                element("instanceId", s.instance)
                    + &element("associationId", s.id)
                    + &element("networkInterfaceId", s.interface)
                    + &element("networkInterfaceOwnerId", ACCOUNT)
                    + &element("privateIpAddress", s.private_ip)
            });
            let managed = if a.managed { element("serviceManaged", "nlb") } else { String::new() };
            format!(
                "<item>{}{}{}{s}{}{}{managed}{}</item>",
                element("publicIp", &a.ip),
                element("allocationId", &a.id),
                element("domain", "vpc"),
                tag_set(&a.tags),
                element("publicIpv4Pool", "amazon"),
                element("networkBorderGroup", &a.region),
            )
        };
        Ok(format!("<addressesSet>{}</addressesSet>", shown.iter().map(item).collect::<String>()))
    }
}

fn answer(association: &str) -> String {
    format!("<return>true</return>{}", element("associationId", association))
}

fn no_allocation(id: &str) -> Refusal {
    refuse("InvalidAllocationID.NotFound", format!("The allocation ID '{id}' does not exist"))
}
