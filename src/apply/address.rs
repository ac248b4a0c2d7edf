//! The `associate-address` directive: an elastic address claimed for the first network interface, and given up again.
//!
//! The claim is AssociateAddress with re-association off: EC2 lets exactly one instance win. It is made beside the volumes
//! and before DNS, which then has it from here: the metadata service tells of it only later. An address is put back and
//! released after everything else: with its last public address an instance may lose its way to EC2.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::hold::{AddressHold, Done, Hold};
use super::restore::DECIDED as RECORD_DECIDED;
use super::{DomainRun, Failure, Shared, lock};
use crate::aws::Class;
use crate::aws::ec2::{Address, Filter};
use crate::aws::route53::{Change, address};
use crate::config::{AddressChoice, AddressDirective};
use crate::imds::{ImdsError, Interface};
use crate::model::Event;
use crate::plan::addresses::{self, Place};
use crate::random;
use crate::scope::Scope;
use crate::waits::waiting;

/// How often it is looked whether an address has come free.
const LOOK: Duration = Duration::from_secs(5);
/// How long one claim may take, while the instance is not running yet or no answer is clear.
const CLAIM: Duration = Duration::from_secs(120);
/// How long a claim that is throttled is tried before it is looked again whether the address is to be had.
const DECIDED: Duration = Duration::from_secs(15);
/// How long it may take to give an address up.
const GIVE_UP: Duration = Duration::from_secs(60);
/// How often an association that reads do not show yet is looked for.
const LOOKS: u32 = 5;

/// What a claim came to.
enum Claim {
    /// It is ours, by this association.
    Ours(String),
    /// Somebody else has it, or it is gone.
    Lost(String),
}

fn of_imds(e: ImdsError) -> Failure {
    Failure { halt: e.halt(), text: e.to_string() }
}

impl Shared {
    /// `new` is a public address of the first interface from now on, and `old` are none any more.
    fn change_address(&self, old: &[String], new: Option<&str>) {
        let mut facts = self.facts.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut changed = (**facts).clone();
        for list in [&mut changed.primary_ipv4, &mut changed.all_ipv4] {
            list.retain(|a| !old.contains(a) && Some(a.as_str()) != new);
            if let Some(new) = new {
                list.insert(0, new.to_owned());
            }
        }
        *facts = changed.into();
        let mut given_up = lock(&self.given_up);
        given_up.extend(old.iter().map(|a| address(a)));
        new.map(|new| given_up.remove(&address(new)));
        drop(given_up);
        new.map(|new| lock(&self.given_back).remove(&address(new)));
        new.iter().for_each(|new| self.may_move(&[(*new).to_owned()]));
        // What stands was made with the old one.
        self.aws.forget_connections();
    }

    /// Waits until no domain of this process is about to give the instance another address.
    pub(super) fn addresses_have_come(&self, scope: &Scope) -> Result<(), Failure> {
        let _wait = waiting(scope, "the elastic address of this instance");
        while self.addresses_to_come.load(Ordering::Relaxed) > 0 {
            let wait = scope.sleep(Duration::from_millis(20));
            wait.map_err(|h| Failure::halted("the elastic address of this instance has not come", h))?;
        }
        Ok(())
    }
}

impl DomainRun {
    /// Has an address associated.
    pub(super) fn associate(&self, d: &AddressDirective, scope: &Scope) -> Result<(), Failure> {
        let shared = &self.shared;
        let (imds, facts) = (&shared.imds, shared.facts());
        let at = imds.first_interface(scope).map_err(of_imds)?;
        let old = imds.replaced(scope, &at, &facts.primary_ipv4).map_err(of_imds)?;
        let filters = addresses::filters(&d.choice, &self.config.name);
        let waiting = d.wait.map(|wait| scope.within(wait));
        let mut said = false;
        let _wait = crate::waits::waiting(scope, format!("the address of {}", d.path));
        loop {
            let all = self.addresses(&filters, scope)?;
            let here = |a: &&Address| matches!(addresses::place(a, &at.id, &at.private_ip), Place::Here(_));
            if let Some(a) = all.iter().find(here) {
                log::info!("{}: {} ({}) is here already", d.path, a.public_ip, a.allocation_id);
                self.take_up_address(d, a);
                self.has_address(d, a, &at, a.association_id.clone().unwrap_or_default(), &old);
                return Ok(());
            }
            let mut lost = false;
            for a in addresses::candidates(&all, &facts.instance_id) {
                match self.claim_address(d, a, &at, &all, scope)? {
                    Claim::Ours(association) => {
                        let what = format!("{} ({}) is associated with {}", a.public_ip, a.allocation_id, at.id);
                        log::info!("{}: {what}", d.path);
                        self.has_address(d, a, &at, association, &old);
                        return Ok(());
                    }
                    Claim::Lost(why) => {
                        log::info!("{}: {}: {why}", d.path, a.allocation_id);
                        lost = true;
                    }
                }
            }
            let why = addresses::why_none(&d.choice, &all);
            if lost {
                let pause = Duration::from_millis(500).mul_f64(0.5 + random::fraction());
                scope.sleep(pause).map_err(|h| Failure::halted(&why, h))?;
                continue;
            }
            let Some(waiting) = &waiting else { return Err(Failure::new(why)) };
            if !std::mem::replace(&mut said, true) {
                log::info!("{}: {why}; waiting for up to {} s", d.path, waiting.remaining().as_secs());
            }
            let pause = LOOK.mul_f64(0.75 + random::fraction() / 2.0);
            waiting.sleep(pause).map_err(|h| Failure::halted(format!("{why}; it was waited for"), h))?;
        }
    }

    fn addresses(&self, filters: &[Filter], scope: &Scope) -> Result<Vec<Address>, Failure> {
        let all = self.shared.aws.describe_addresses(scope, filters);
        all.map_err(|e| Failure::api("look for elastic addresses", &e))
    }

    /// Where an address is now; it counts as held where EC2 does not know it any more.
    pub(super) fn place_of(
        &self,
        allocation: &str,
        interface: &str,
        private_ip: &str,
        scope: &Scope,
    ) -> Result<Place, Failure> {
        let all = self.addresses(&[Filter::exact("allocation-id", &[allocation])], scope)?;
        let gone = || Place::Held(format!("{allocation} is gone"));
        Ok(all.first().map_or_else(gone, |a| addresses::place(a, interface, private_ip)))
    }

    fn claim_address(
        &self,
        d: &AddressDirective,
        a: &Address,
        at: &Interface,
        all: &[Address],
        scope: &Scope,
    ) -> Result<Claim, Failure> {
        let id = a.allocation_id.as_str();
        let what = format!("associate {} ({id}) with {}", a.public_ip, at.id);
        self.note_call(
            "associate_address",
            json!({
                "AllocationId": id, "NetworkInterfaceId": at.id, "PrivateIpAddress": at.private_ip,
                "AllowReassociation": false,
            }),
        );
        self.replace_address(d, hold(d, a, at, None));
        let scope = &scope.within(CLAIM);
        let mut pause = Duration::from_millis(250);
        loop {
            // Not longer than what was read of the address can count.
            let sent = &scope.within(DECIDED);
            let e = match self.shared.aws.associate_address(sent, id, &at.id, &at.private_ip) {
                Ok(association) => {
                    self.replace_address(d, hold(d, a, at, Some(association.clone())));
                    self.shared.aws.forget_connections();
                    return self.read_back(d, a, at, association, scope);
                }
                Err(e) => e,
            };
            match e.class() {
                Class::TooEarly => log::debug!("{}: {e}", d.path),
                Class::Conflict | Class::Ambiguous => {
                    // No answer: it may have gone the way of the old address.
                    self.shared.aws.forget_connections();
                    match self.place_of(id, &at.id, &at.private_ip, scope)? {
                        Place::Here(association) => {
                            self.replace_address(d, hold(d, a, at, Some(association.clone())));
                            return Ok(Claim::Ours(association));
                        }
                        Place::Held(why) => {
                            self.drop_hold(&d.path);
                            return Ok(Claim::Lost(why));
                        }
                        Place::Free if e.class() == Class::Conflict => {
                            self.drop_hold(&d.path);
                            self.our_place_is_free(d, at, all, scope)?;
                            return Ok(Claim::Lost(e.to_string()));
                        }
                        Place::Free => log::debug!("{}: {e}: trying again", d.path),
                    }
                }
                Class::Gone => {
                    self.drop_hold(&d.path);
                    return Ok(Claim::Lost(e.to_string()));
                }
                // It was throttled all the time: whether it is still to be had is looked at anew.
                Class::Halted(_) if !e.unsure && scope.check().is_ok() => {
                    self.drop_hold(&d.path);
                    return Ok(Claim::Lost(e.to_string()));
                }
                _ => {
                    if !e.may_have_worked() {
                        self.drop_hold(&d.path);
                    }
                    return Err(Failure::api(&what, &e));
                }
            }
            scope.sleep(pause).map_err(|h| Failure::halted(format!("cannot {what}: {e}"), h))?;
            pause = (pause * 2).min(Duration::from_secs(4));
        }
    }

    /// Without re-association EC2 refuses any address where one stands. One that the directive may have is found by its
    /// next look; another one is not ours to take away.
    fn our_place_is_free(
        &self,
        d: &AddressDirective,
        at: &Interface,
        all: &[Address],
        scope: &Scope,
    ) -> Result<(), Failure> {
        let there = self.addresses(&[Filter::exact("network-interface-id", &[&at.id])], scope)?;
        let here = |a: &&Address| matches!(addresses::place(a, &at.id, &at.private_ip), Place::Here(_));
        match there.iter().find(here) {
            Some(o) if !all.iter().any(|a| a.allocation_id == o.allocation_id) => Err(Failure::new(format!(
                "cannot associate an elastic address with {}: it has {} ({}), which is none of those that {} may have: \
                 disassociate it first",
                at.id, o.public_ip, o.allocation_id, d.path
            ))),
            _ => Ok(()),
        }
    }

    /// Looks whether it is ours indeed: somebody may re-associate it by force.
    fn read_back(
        &self,
        d: &AddressDirective,
        a: &Address,
        at: &Interface,
        association: String,
        scope: &Scope,
    ) -> Result<Claim, Failure> {
        let mut pause = Duration::from_millis(100);
        for _ in 0..LOOKS {
            match self.place_of(&a.allocation_id, &at.id, &at.private_ip, scope)? {
                Place::Here(_) => return Ok(Claim::Ours(association)),
                Place::Held(why) => {
                    self.drop_hold(&d.path);
                    return Ok(Claim::Lost(why));
                }
                Place::Free => {}
            }
            if scope.sleep(pause).is_err() {
                break;
            }
            pause *= 2;
        }
        // EC2's own answer counts for more than reads that lag behind.
        Ok(Claim::Ours(association))
    }

    fn has_address(&self, d: &AddressDirective, a: &Address, at: &Interface, association: String, old: &[String]) {
        self.shared.change_address(old, Some(&a.public_ip));
        *lock(&self.address) = Some(hold(d, a, at, Some(association)));
    }

    /// What a roll-back gives up is not there to be released.
    pub(super) fn forget_address(&self) {
        *lock(&self.address) = None;
    }

    /// The hold of the directive is this one, and what is inherited of the address counts no more.
    fn replace_address(&self, d: &AddressDirective, hold: AddressHold) {
        self.ledger(|l| {
            l.inherited.retain(|h| !is_address(h, &hold.allocation_id));
            l.held.retain(|h| h.key() != d.path);
            l.held.push(Hold::Address(hold));
        });
    }

    /// Takes up what a run that was cut off had.
    fn take_up_address(&self, d: &AddressDirective, a: &Address) {
        self.ledger(|l| {
            let inherited = l.inherited.extract_if(.., |h| is_address(h, &a.allocation_id)).next();
            if let Some(Hold::Address(h)) = inherited {
                let association_id = a.association_id.clone();
                l.held.push(Hold::Address(AddressHold {
                    key: d.path.clone(),
                    associated: Done::Yes,
                    association_id,
                    ..h
                }));
            }
        });
    }

    /// Whether a directive may take the address of an inherited hold up.
    pub(super) fn wants_address(&self, h: &AddressHold) -> bool {
        match self.config.address.as_ref().map(|d| &d.choice) {
            Some(AddressChoice::Id(id)) => *id == h.allocation_id,
            // Whether it is of the pool, the directive's own look tells.
            Some(_) => true,
            None => false,
        }
    }

    /// Whether the directive names this address by its id.
    pub(super) fn names_address(&self, id: &str) -> bool {
        matches!(self.config.address.as_ref().map(|d| &d.choice), Some(AddressChoice::Id(own)) if own == id)
    }

    /// Whether `event` releases the address.
    pub(crate) fn releases_address(&self, event: Event) -> bool {
        self.config.address.as_ref().is_some_and(|d| d.release.contains(&event))
    }

    /// Gives the address up, if it has one. What could not be given up, in words.
    pub(crate) fn release_address(&self, scope: &Scope) -> Option<String> {
        let held = lock(&self.address).clone()?;
        let left = self.disassociate(&held, scope).err();
        left.iter().for_each(|what| log::error!("not released: {what}"));
        left
    }

    /// The same for a roll-back. If this domain is not critical the others go on: what of theirs leads to the address would
    /// lead to whoever takes it next, and is deleted as long as it can only be this instance's.
    pub(super) fn give_back_address(&self, h: &AddressHold, scope: &Scope) -> Result<(), String> {
        if !self.config.critical {
            lock(&self.shared.given_back).insert(address(&h.public_ip));
            self.leads_no_more(h, scope);
        }
        self.disassociate(h, scope)
    }

    /// Deletes the records of other domains that lead to an address which is about to be given back.
    fn leads_no_more(&self, h: &AddressHold, scope: &Scope) {
        for (zone, set, domain) in self.shared.names.leading_to(&h.public_ip, &self.config.name) {
            let what = format!("{} of domain {domain}", set.name);
            let why = format!("leads to {}, which {} gives back, for it has failed", h.public_ip, self.config.name);
            let changes = vec![Change::delete(set.clone())];
            self.note_changes(&zone, &changes);
            // The address has some of the time, whatever becomes of the records.
            let sent = scope.within(RECORD_DECIDED.min(scope.remaining() / 4));
            match self.shared.zones.submit(&self.shared.aws, &zone, vec![changes], &sent).pop() {
                Some(Ok(())) => {
                    log::error!(
                        "{what} {why}: the record is deleted; with \"follow\" it is written when there is an address"
                    );
                    self.shared.names.gone(&zone, &set.name, std::slice::from_ref(&set));
                }
                Some(Err(e)) => log::error!("{what} {why}, and the record is there still: {e}"),
                None => {}
            }
        }
    }

    /// Ends the association of a hold, if there is one still.
    pub(super) fn disassociate(&self, h: &AddressHold, scope: &Scope) -> Result<(), String> {
        let what = format!("{} ({})", h.public_ip, h.allocation_id);
        let scope = &scope.within(GIVE_UP);
        let association = match &h.association_id {
            Some(id) if h.associated == Done::Yes => Some(id.clone()),
            _ => self.association_of(h, scope).map_err(|f| format!("{what}, which may be associated: {f}"))?,
        };
        let Some(association) = association else {
            log::info!("{what} is not associated with {}", h.interface);
            return Ok(());
        };
        self.note_call("disassociate_address", json!({ "AssociationId": association }));
        let end = self.shared.aws.disassociate_address(scope, &association);
        let unsure = end.as_ref().is_err_and(|e| e.may_have_worked());
        match end {
            Ok(()) => log::info!("{what} is disassociated"),
            Err(e) if e.class() == Class::Gone => log::info!("{what} is not associated here any more: left alone"),
            Err(e) => {
                let maybe = match unsure {
                    true => " (or it worked: with its last public address an instance may lose its way to EC2)",
                    false => "",
                };
                let why = Failure::api("disassociate it", &e);
                return Err(format!("{what} stays associated with {}: {why}{maybe}", h.interface));
            }
        }
        self.shared.change_address(std::slice::from_ref(&h.public_ip), None);
        self.forget_address();
        Ok(())
    }

    /// The association of a hold of which nobody knows whether it came to be. One with another id is somebody else's.
    fn association_of(&self, h: &AddressHold, scope: &Scope) -> Result<Option<String>, Failure> {
        let mut pause = Duration::from_millis(250);
        for _ in 0..LOOKS {
            match self.place_of(&h.allocation_id, &h.interface, &h.private_ip, scope)? {
                Place::Here(id) if h.association_id.as_ref().is_none_or(|ours| *ours == id) => return Ok(Some(id)),
                Place::Here(_) | Place::Held(_) => return Ok(None),
                // It may be an old picture.
                Place::Free => {}
            }
            scope.sleep(pause).map_err(|h| Failure::halted("no time left to look", h))?;
            pause *= 2;
        }
        Ok(None)
    }
}

/// The hold of an address: with its association, once that is known.
fn hold(d: &AddressDirective, a: &Address, at: &Interface, association_id: Option<String>) -> AddressHold {
    AddressHold {
        key: d.path.clone(),
        allocation_id: a.allocation_id.clone(),
        public_ip: a.public_ip.clone(),
        interface: at.id.clone(),
        private_ip: at.private_ip.clone(),
        associated: if association_id.is_some() { Done::Yes } else { Done::Maybe },
        association_id,
    }
}

fn is_address(h: &Hold, allocation: &str) -> bool {
    matches!(h, Hold::Address(a) if a.allocation_id == allocation)
}
