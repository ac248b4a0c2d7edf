//! Whatever a config, the environment or the metadata service says: requests go by TLS to a host, unless an endpoint
//! variable says otherwise.

use proptest::prelude::*;

use super::*;
use crate::properties::{settings, text, words};

const WORDS: &[&str] = &[
    "http://",
    "https://",
    "HTTP://",
    "//",
    "sqs.",
    "eu-west-1",
    "us-",
    "-1",
    "gov",
    "amazonaws.com",
    "/1/q",
    ":80",
    "@",
    "?",
    "#",
    "\\",
    "%2f",
    "..",
    "[::1]",
    "127.0.0.1",
    " ",
    "\n",
    "é",
];

fn is_safe(url: &str) -> bool {
    let host = url.strip_prefix("https://").unwrap_or_default();
    !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\', ' ', '\n'])
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_queue_is_asked_by_tls(url in prop_oneof![text(), words(WORDS, 8)], region in words(WORDS, 3)) {
        if let Some(e) = Endpoints::new(&Env::default()).unwrap().queue(&url, &region) {
            prop_assert!(is_safe(&e.url), "{}", e.url);
        }
    }

    #[test]
    fn a_service_is_asked_by_tls(
        region in "[a-z0-9-]{1,20}",
        domain in prop::option::of(prop_oneof![text(), words(WORDS, 5)]),
        fips in any::<bool>(),
        dual in any::<bool>(),
    ) {
        let mut env = Vec::new();
        env.extend(fips.then_some(("AWS_USE_FIPS_ENDPOINT", "true")));
        env.extend(dual.then_some(("AWS_USE_DUALSTACK_ENDPOINT", "true")));
        let partition = Partition::of(&region).unwrap_or(Partition::unknown(&region, domain.as_deref()));
        for service in SERVICES {
            let e = Endpoints::new(&Env::of(&env)).unwrap().resolve(service, &region, &partition);
            prop_assert!(is_safe(&e.url), "{}", e.url);
        }
    }

    #[test]
    fn a_variable_in_the_clear_is_known_for_it(value in prop_oneof![text(), words(WORDS, 6)]) {
        if let Some((url, exposed)) = check(&value) {
            let lower = url.to_ascii_lowercase();
            prop_assert!(lower.starts_with("https://") || lower.starts_with("http://"), "{}", url);
            let here = ["http://127.0.0.1", "http://[::1]", "http://localhost"].iter().any(|h| lower.starts_with(h));
            prop_assert!(exposed || lower.starts_with("https://") || here, "{}", url);
        }
    }
}
