//! Metadata services that answer anything: the facts of the instance, and the notice.
//!
//! The input is cut at each 0xff; the pieces are the answers, in their order. An empty piece is a 404.
#![no_main]
#![allow(dead_code, unreachable_pub)]

// In place of ../../../src/imds.rs.
#[path = "service.rs"]
mod imds;
#[path = "../../../src/model.rs"]
mod model;
// In place of ../../../src/scope.rs.
mod scope {
    pub struct Scope;
}

use std::net::{Ipv4Addr, Ipv6Addr};

use imds::Imds;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let service = Imds::new(data);
    let facts = service.facts(&scope::Scope);
    assert!(service.asked() <= 6 + 4 * 64, "an answer leads to questions without an end");
    if let Ok(facts) = facts {
        // They go into requests, records and logs.
        for text in [&facts.instance_id, &facts.instance_type, &facts.region, &facts.zone] {
            assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
        }
        assert!(facts.all_ipv4.iter().all(|a| a.parse::<Ipv4Addr>().is_ok()));
        assert!(facts.all_ipv6.iter().all(|a| a.parse::<Ipv6Addr>().is_ok()));
        assert!(facts.primary_ipv4.iter().all(|a| facts.all_ipv4.contains(a)));
    }
    if let Ok(Some(notice)) = Imds::new(data).notice(&scope::Scope) {
        assert!(["terminate", "stop", "hibernate"].contains(&notice.action.as_str()));
        assert!(!notice.time_text.contains('\n'));
    }
});
