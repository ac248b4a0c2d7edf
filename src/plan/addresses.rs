//! Elastic addresses: which are asked for, who has them, and in what order they are tried.

use super::tags;
use super::volumes::spread;
use crate::aws::ec2::{Address, Filter};
use crate::config::AddressChoice;

/// Where an address is, as seen from an interface and its private address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Here, by this association.
    Here(String),
    /// Nobody has it.
    Free,
    /// Somebody else has it: who.
    Held(String),
}

/// Where the address is.
pub(crate) fn place(a: &Address, interface: &str, private_ip: &str) -> Place {
    let Some(association) = &a.association_id else { return Place::Free };
    if a.interface.as_deref() == Some(interface) && a.private_ip.as_deref() == Some(private_ip) {
        return Place::Here(association.clone());
    }
    let holder = a.instance.as_deref().or(a.interface.as_deref()).unwrap_or("somebody else");
    Place::Held(format!("{} ({}) is associated with {holder}", a.public_ip, a.allocation_id))
}

/// What is asked of EC2 for a choice of domain `domain`.
pub(crate) fn filters(choice: &AddressChoice, domain: &str) -> Vec<Filter> {
    let tag = |key: &str, value: &str| Filter::exact(format!("tag:{key}"), &[value]);
    match choice {
        AddressChoice::Id(id) => vec![Filter::exact("allocation-id", &[id])],
        AddressChoice::Pool(pool) => vec![tag(tags::DOMAIN, domain), tag(tags::POOL_NAME, pool)],
        AddressChoice::Tags(tags) => tags.iter().map(|(key, value)| tag(key, value)).collect(),
    }
}

/// The free ones, in an order that differs from instance to instance.
pub(crate) fn candidates<'a>(all: &'a [Address], me: &str) -> Vec<&'a Address> {
    let free = all.iter().filter(|a| a.association_id.is_none() && !a.managed);
    let mut free: Vec<(u64, &Address)> = free.map(|a| (spread(me, &a.allocation_id), a)).collect();
    free.sort_by(|(n, a), (m, b)| (n, &a.allocation_id).cmp(&(m, &b.allocation_id)));
    free.into_iter().map(|(_, a)| a).collect()
}

/// Why there is none to be had, for people.
pub(crate) fn why_none(choice: &AddressChoice, all: &[Address]) -> String {
    let which = match choice {
        AddressChoice::Id(id) => {
            return match all.first().map(|a| (a.managed, place(a, "", ""))) {
                None => format!("there is no elastic address {id} in this account and region"),
                Some((true, _)) => format!("elastic address {id} is managed by an AWS service"),
                Some((_, Place::Held(who))) => format!("elastic address {who}"),
                Some(_) => format!("elastic address {id} was taken by others"),
            };
        }
        AddressChoice::Pool(pool) => format!("pool '{pool}'"),
        AddressChoice::Tags(tags) => {
            let tags: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("the pool {}", tags.join(", "))
        }
    };
    match all.len() {
        0 => format!("{which} has no elastic address in this account and region"),
        n => format!("all {n} elastic addresses of {which} are taken"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32, at: Option<(&str, &str)>) -> Address {
        Address {
            allocation_id: format!("eipalloc-{n}"),
            public_ip: format!("198.51.100.{n}"),
            association_id: at.map(|_| format!("eipassoc-{n}")),
            instance: at.map(|_| "i-2".to_owned()),
            interface: at.map(|(interface, _)| interface.to_owned()),
            private_ip: at.map(|(_, ip)| ip.to_owned()),
            managed: false,
        }
    }

    #[test]
    fn where_it_is() {
        assert_eq!(place(&address(1, None), "eni-1", "10.0.0.1"), Place::Free);
        let here = Place::Here("eipassoc-1".into());
        assert_eq!(place(&address(1, Some(("eni-1", "10.0.0.1"))), "eni-1", "10.0.0.1"), here);
        for at in [("eni-1", "10.0.0.2"), ("eni-2", "10.0.0.1")] {
            let held = Place::Held("198.51.100.1 (eipalloc-1) is associated with i-2".into());
            assert_eq!(place(&address(1, Some(at)), "eni-1", "10.0.0.1"), held);
        }
    }

    #[test]
    fn each_instance_begins_elsewhere() {
        let mut all: Vec<Address> = (0..20).map(|n| address(n, None)).collect();
        all[3] = address(3, Some(("eni-2", "10.0.0.2")));
        all[4].managed = true;
        let of = |all: &[Address], me: &str| -> Vec<String> {
            candidates(all, me).iter().map(|a| a.allocation_id.clone()).collect()
        };
        assert_eq!(of(&all, "i-1").len(), 18);
        assert_ne!(of(&all, "i-1"), of(&all, "i-2"));
        let reversed: Vec<Address> = all.iter().rev().cloned().collect();
        assert_eq!(of(&reversed, "i-1"), of(&all, "i-1"));
    }

    #[test]
    fn what_is_asked_and_why_there_is_none() {
        let pool = AddressChoice::Pool("game".into());
        let want =
            [Filter::exact("tag:user:ec2fd.domain", &["d"]), Filter::exact("tag:user:ec2fd.pool-name", &["game"])];
        assert_eq!(filters(&pool, "d"), want);
        let tags = AddressChoice::Tags(vec![("a".into(), "b".into())]);
        assert_eq!(filters(&tags, "d"), [Filter::exact("tag:a", &["b"])]);
        let id = AddressChoice::Id("eipalloc-1".into());
        assert_eq!(filters(&id, "d"), [Filter::exact("allocation-id", &["eipalloc-1"])]);
        let held = [address(1, Some(("eni-2", "10.0.0.2")))];
        assert_eq!(why_none(&id, &held), "elastic address 198.51.100.1 (eipalloc-1) is associated with i-2");
        assert_eq!(why_none(&id, &[]), "there is no elastic address eipalloc-1 in this account and region");
        assert_eq!(why_none(&pool, &held), "all 1 elastic addresses of pool 'game' are taken");
        assert_eq!(why_none(&tags, &[]), "the pool a=b has no elastic address in this account and region");
    }
}
