//! `update-route53`: what the keys become, and what is said about mistakes.

use super::*;

#[test]
fn mistakes_in_records() {
    for (part, want) in [
        ("name: 'a', ttl: 1", "hostedzone: is missing"),
        ("hostedzone: '/hostedzone/', name: 'a', ttl: 1", "hostedzone: names no zone"),
        ("hostedzone: 'Z', ttl: 1", "name: is missing"),
        ("hostedzone: 'Z', name: '', ttl: 1", "name: is empty"),
        ("hostedzone: 'Z', name: '{nam}', ttl: 1", "name: unknown macro {nam} (literal braces are written {{ and }})"),
        ("hostedzone: 'Z', name: 'a'", "ttl: is missing"),
        ("hostedzone: 'Z', name: 'a', ttl: 1.5", "ttl: a whole number is wanted, found a fraction"),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, type: 'A'",
            "type: unknown key: valid are hostedzone, name, ttl, critical, policy, sweep, wait, follow, release",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, release: ['started']",
            "release[0]: nothing is released on started: interrupted, stopping, failed, maintenance and terminating are possible",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, release: {on: ['stoping']}",
            "release.on[0]: unknown word \"stoping\": did you mean stopping?",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, release: {on: [], lazy: true}",
            "release.lazy: unknown key: valid are on",
        ),
        ("hostedzone: 'Z', name: 'a', ttl: 1, release: {}", "release.on: is missing"),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, policy: 'multi-value'",
            "policy: unknown word \"multi-value\": did you mean multivalue?",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, policy: 'multivalue', sweep: true",
            "sweep: one of terminated, missing, never is wanted, found a boolean",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, policy: 'multivalue', sweep: 'dead'",
            "sweep: unknown word \"dead\": valid are terminated, missing, never",
        ),
        ("hostedzone: 'Z', name: 'a', ttl: 1, follow: 1", "follow: true or false is wanted, found a whole number"),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, wait: 0",
            "wait: a number of seconds is wanted, more than 0 and at most 1000000000",
        ),
        (
            "hostedzone: 'Z', name: 'a', ttl: 1, release: 'failed'",
            "release: an array of events, such as [\"interrupted\"], is wanted, found a string",
        ),
    ] {
        let text = domain(&format!("'update-route53': [{{ {part} }}]"));
        assert_eq!(problem(&text), format!("domains.\"a\".update-route53[0].{want}"), "{part}");
    }
    // The range of a ttl is for Route 53 to judge; `hostedzone/` may be in front of the id.
    let c = ok(&domain("'update-route53': [{hostedzone: 'hostedzone/Z', name: 'a', ttl: -5, critical: false}]"));
    assert_eq!((c.domains[0].records[0].hosted_zone.as_str(), c.domains[0].records[0].ttl), ("Z", -5));
    let r = &c.domains[0].records[0];
    assert!(r.release.is_empty() && r.policy == RecordPolicy::Simple && r.sweep == Sweep::Terminated);
    let of = |more: &str| ok(&domain(&format!("'update-route53': [{{hostedzone: 'Z', name: 'a', ttl: 5, {more}}}]")));
    let c = of("policy: 'multivalue', sweep: 'missing'");
    assert_eq!(
        (c.domains[0].records[0].policy, c.domains[0].records[0].sweep),
        (RecordPolicy::Multivalue, Sweep::Missing)
    );
    assert_eq!(c.warnings, Vec::<String>::new());
    let r = &c.domains[0].records[0];
    assert!(r.follow && r.wait.is_none());
    let c = of("wait: 20, follow: false");
    let r = &c.domains[0].records[0];
    assert_eq!((r.follow, r.wait, c.warnings.len()), (false, Some(std::time::Duration::from_secs(20)), 0));
    let c = of("wait: 600");
    assert!(c.warnings[0].contains("update-route53[0].wait: "), "{:?}", c.warnings);
    let two = |a: &str, b: &str| {
        let of = |more: &str| format!("{{'update-route53': [{{hostedzone: 'Z', {more}}}]}}");
        ok(&format!("{{domains: {{a: {}, b: {}}}}}", of(a), of(b))).warnings
    };
    let warned = two("name: 'n.e', ttl: 60", "name: 'N.e.', ttl: 61");
    assert!(warned[0].contains("domains.\"b\".update-route53[0]") && warned[0].contains("with ttl 60"), "{warned:?}");
    assert!(two("name: '{domain}.e', ttl: 60", "name: '{domain}.e', ttl: 61").is_empty());
    let c = of("sweep: 'never'");
    assert!(c.warnings[0].contains("update-route53[0].sweep") && c.warnings[0].contains("has no effect"));
    for release in ["['interrupted', 'failed', 'failed']", "{on: ['interrupted', 'failed']}"] {
        let c = ok(&domain(&format!("'update-route53': [{{hostedzone: 'Z', name: 'a', ttl: 5, release: {release}}}]")));
        assert_eq!(c.domains[0].records[0].release, [Event::Interrupted, Event::Failed]);
    }
}
