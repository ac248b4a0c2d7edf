//! What two directives have together.

use super::*;

fn warnings(a: &str, b: &str, key: &str) -> Vec<String> {
    let two = ok(&format!("{{domains: {{a: {{{key}: [{a}]}}, b: {{{key}: [{b}]}}}}}}"));
    let one = ok(&domain(&format!("{key}: [{a}, {b}]")));
    let said =
        |c: Config| c.warnings.iter().map(|w| w.split_once(", column ").unwrap().1.to_owned()).collect::<Vec<_>>();
    let (two, one) = (said(two), said(one));
    assert_eq!(two.len(), one.len(), "{two:?} {one:?}");
    two.into_iter().map(|w| w.split_once(": ").unwrap().1.to_owned()).collect()
}

#[test]
fn a_volume_of_two_directives_is_warned_of() {
    let x = |more: &str| format!("{{source: 'x', 'volume-id': 'vol-1', {more}}}");
    let first = "\"vol-1\" is what domains.\"a\".attach-volume[0] asks for too: ";
    for (a, b, want) in [
        ("", "", "whichever comes first attaches it, and it is released with the last"),
        ("device: '/dev/sdf'", "", "whichever comes first attaches it, and it is released with the last"),
        ("device: '/dev/sdf'", "device: '/dev/sdg'", "under another device name: only one of them can have it"),
        ("mount: {path: '/a'}", "mount: {path: '/b'}", "and both mount it: only one of them can"),
    ] {
        assert_eq!(warnings(&x(a), &x(b), "'attach-volume'"), [format!("{first}{want}")], "{a} {b}");
    }
    let other = "{source: 'x', 'volume-id': 'vol-2'}";
    assert!(warnings(&x(""), other, "'attach-volume'").is_empty());
    // Where the id is not asked for, it is nobody's.
    let unused = "{source: 'p', 'pool-name': 'q', 'volume-id': 'vol-1'}";
    assert_eq!(warnings(&x(""), unused, "'attach-volume'"), ["has no effect: source has no x"]);
}

#[test]
fn a_record_of_two_directives_is_warned_of() {
    let r = |zone: &str, name: &str, ttl: u32| format!("{{hostedzone: '{zone}', name: '{name}', ttl: {ttl}}}");
    let first = "\"a.example.com\" is what domains.\"a\".update-route53[0] writes too: ";
    let key = "'update-route53'";
    let a = r("Z1", "a.example.com", 60);
    assert_eq!(
        warnings(&a, &r("/hostedzone/Z1", "A.example.com.", 60), key),
        [format!("{first}it goes with the last of them")]
    );
    let lost = format!("{first}with ttl 60: one of the two is lost");
    assert_eq!(warnings(&a, &r("Z1", "a.example.com", 90), key), [lost]);
    for other in [r("Z2", "a.example.com", 60), r("Z1", "b.example.com", 60)] {
        assert!(warnings(&a, &other, key).is_empty(), "{other}");
    }
    let of_domain = r("Z1", "{domain}.example.com", 60);
    let both = format!("{{domains: {{a: {{{key}: [{of_domain}]}}, b: {{{key}: [{of_domain}]}}}}}}");
    assert!(ok(&both).warnings.is_empty());
}
