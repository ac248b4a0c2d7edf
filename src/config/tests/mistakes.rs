//! Tests of what is said about single mistakes.

use super::*;

#[test]
fn text_that_cannot_be_read() {
    assert_eq!(problems("{\n  'a' 1}"), "line 2, column 7: a colon is missing after the key");
    assert_eq!(problems("[]"), "line 1, column 1: an object ({ … }) is wanted, found an array");
    assert_eq!(
        problems("{domains: {a: {}, a: {b: 1}}}"),
        "domains.\"a\": line 1, column 19: this key is there twice\n\
         domains.\"a\".b: line 1, column 23: unknown key: valid are attach-volume, associate-address, update-route53, exec, notify, critical"
    );
    assert_eq!(problem("{x-a: {b: 1, b: 2}}"), "x-a.b: this key is there twice");
}

#[test]
fn mistakes_at_the_top() {
    for (text, want) in [
        (
            "{hostname: 'a', 'set-hostname': 'a'}",
            "set-hostname: hostname is there too, and both are the same: leave one out",
        ),
        ("{hostname: 5}", "hostname: a string is wanted, found a whole number"),
        ("{host_name: 'x'}", "host_name: unknown key: did you mean hostname?"),
        ("{timeout: 0}", "timeout: a number of seconds is wanted, more than 0 and at most 1000000000"),
        ("{timeout: -1}", "timeout: a number of seconds is wanted, more than 0 and at most 1000000000"),
        ("{timeout: 1e300}", "timeout: a number of seconds is wanted, more than 0 and at most 1000000000"),
        ("{timeout: 1e-300}", "timeout: a number of seconds is wanted, more than 0 and at most 1000000000"),
        ("{timeout: Infinity}", "timeout: a number of seconds is wanted, found a number that is not finite"),
        ("{timeout: NaN}", "timeout: a number of seconds is wanted, found a number that is not finite"),
        ("{timeout: '5'}", "timeout: a number of seconds is wanted, found a string"),
        ("{timeout: null}", "timeout: a number of seconds is wanted, found null"),
        ("{'interrupt-detection': 'poll'}", "interrupt-detection: an object ({ … }) is wanted, found a string"),
        (
            "{'interrupt-detection': {detect: 'pol'}}",
            "interrupt-detection.detect: unknown word \"pol\": did you mean poll?",
        ),
        (
            "{'interrupt-detection': {options: {interval: 0}}}",
            "interrupt-detection.options.interval: a number of seconds is wanted, more than 0 and at most 1000000000",
        ),
        ("{domains: []}", "domains: an object ({ … }) is wanted, found an array"),
        ("{domains: {a: null}}", "domains.\"a\": an object ({ … }) is wanted, found null"),
        ("{domains: {'': {}}}", "domains.\"\": a domain needs a name"),
        (&domain("critical: 1"), "domains.\"a\".critical: true or false is wanted, found a whole number"),
        (&domain("exec: {}"), "domains.\"a\".exec: an array ([ … ]) is wanted, found an object"),
    ] {
        assert_eq!(problem(text), want, "{text}");
    }
}

#[test]
fn mistakes_in_volumes() {
    for (part, want) in [
        ("device: '/dev/xvdf'", "source: is missing"),
        (
            "source: ''",
            "source: is empty: one or more of x (volume-id), p (pool-name), m (move), s (snapshot), c (create) are wanted",
        ),
        ("source: 'cc', create: {}", "source: c is there twice"),
        ("source: ['c'], create: {}", "source: a string is wanted, found an array"),
        ("source: 'x'", "volume-id: is missing: source has x"),
        ("source: 'p'", "pool-name: is missing: source has p"),
        ("source: 'c'", "create: is missing: source has c"),
        ("source: 's'", "pool-name: is missing: source has s, and snapshot.tags are not there either"),
        (
            "source: 's', 'pool-name': 'q', create: {SnapshotId: 'snap-1'}",
            "create.SnapshotId: sources s and m choose the snapshot: leave it out",
        ),
        (
            "source: 's', 'pool-name': 'q', 'initialization-rate': 100, create: {VolumeInitializationRate: 200}",
            "create.VolumeInitializationRate: initialization-rate is there too, and both are the same: leave one out",
        ),
        (
            "source: 's', 'pool-name': 'q', 'initialization-rate': '100'",
            "initialization-rate: a whole number is wanted, found a string",
        ),
        (
            "source: 'mp', 'pool-name': 'q'",
            "source: m without p before it: only what is not in this zone is moved here",
        ),
        ("source: 's', snapshot: {}", "snapshot.tags: is missing"),
        (
            "source: 's', snapshot: {tags: {}}",
            "snapshot.tags: is empty: without tags every snapshot of the account would fit",
        ),
        ("source: 's', snapshot: {tags: {k: 1}}", "snapshot.tags.k: a string is wanted, found a whole number"),
        ("source: 's', snapshot: {tag: {k: 'v'}, tags: {k: 'v'}}", "snapshot.tag: unknown key: did you mean tags?"),
        ("source: 'x', 'volume-id': ''", "volume-id: is empty"),
        ("source: 'p', 'pool-name': 5", "pool-name: a string is wanted, found a whole number"),
        ("source: 'c', create: []", "create: an object of CreateVolume's parameters is wanted, found an array"),
        ("source: 'c', create: {Iops: Infinity}", "create.Iops: a finite number is wanted"),
        ("source: 'c', create: {Tags: [{a: 1, a: 1}]}", "create.Tags[0].a: this key is there twice"),
        (
            "source: 'c', create: {}, device: '/dev/'",
            "device: \"/dev/\" is not the path of a device, such as /dev/xvdf",
        ),
        (
            "source: 'c', create: {}, device: '/dev/a/../b'",
            "device: \"/dev/a/../b\" is not the path of a device, such as /dev/xvdf",
        ),
        ("source: 'c', create: {}, critical: 'no'", "critical: true or false is wanted, found a string"),
        (
            "source: 'c', create: {}, 'pool-pref': 'lru'",
            "pool-pref: unknown word \"lru\": valid are index, random, least-recently-used, most-recently-used, sticky",
        ),
    ] {
        assert_eq!(problem(&volume(part)), format!("domains.\"a\".attach-volume[0].{want}"), "{part}");
    }
}

#[test]
fn devices_are_asked_for_once() {
    let two = |a: &str, b: &str| {
        format!(
            "{{domains: {{a: {{'attach-volume': [{{source: 'c', create: {{}}, {a}}}]}}, \
             b: {{'attach-volume': [{{source: 'c', create: {{}}, {b}}}]}}}}}}"
        )
    };
    for (a, b) in [("/dev/xvdf", "/dev/xvdf"), ("/dev/sdf", "/dev/xvdf"), ("/dev/xvdba", "/dev/sdba")] {
        assert_eq!(
            problem(&two(&format!("device: '{a}'"), &format!("device: '{b}'"))),
            format!(
                "domains.\"b\".attach-volume[0].device: \"{b}\" is what domains.\"a\".attach-volume[0].device asks for too"
            )
        );
    }
    ok(&two("device: '/dev/xvdf'", "device: '/dev/xvdg'"));
    // Left out: one per domain and pool.
    ok(&two("'pool-name': 'p'", "'pool-name': 'p'"));
    let here = |list: &str| domain(&format!("'attach-volume': [{list}]"));
    assert_eq!(
        problem(&here("{source: 'p', 'pool-name': 'q'}, {source: 'c', create: {}, 'pool-name': 'q'}")),
        "domains.\"a\".attach-volume[1].device: is missing, as in domains.\"a\".attach-volume[0]: \
         only one directive of pool \"q\" in a domain may leave it out"
    );
    assert!(
        problem(&here("{source: 'c', create: {}}, {source: 'c', create: {}}")).contains("directive without a pool")
    );
    ok(&here("{source: 'p', 'pool-name': 'q'}, {source: 'p', 'pool-name': 'r'}, {source: 'c', create: {}}"));
    ok(&here("{source: 'x', 'volume-id': 'vol-1'}, {source: 'x', 'volume-id': 'vol-2'}"));
}

#[test]
fn mistakes_in_addresses() {
    for (part, want) in [
        ("", ": one of allocation-id, pool-name, pool is wanted"),
        (
            "'allocation-id': 'eipalloc-1', 'pool-name': 'p'",
            ": one of allocation-id, pool-name, pool is wanted, found allocation-id, pool-name",
        ),
        ("'allocation-id': ''", ".allocation-id: is empty"),
        ("'allocationid': 'a', 'pool-name': 'p'", ".allocationid: unknown key: did you mean allocation-id?"),
        ("pool: 'p'", ".pool: an object ({ … }) is wanted, found a string"),
        ("pool: {}", ".pool.tags: is missing"),
        ("pool: {tags: {}}", ".pool.tags: is empty: at least one tag is wanted"),
        ("pool: {tags: {a: 1}}", ".pool.tags.a: a string is wanted, found a whole number"),
        ("'pool-name': 'p', wait: 0", ".wait: a number of seconds is wanted, more than 0 and at most 1000000000"),
        (
            "'pool-name': 'p', release: ['starting']",
            ".release[0]: nothing is released on starting: interrupted, stopping, failed, maintenance and terminating are \
             possible",
        ),
    ] {
        let text = domain(&format!("'associate-address': [{{ {part} }}]"));
        assert_eq!(problem(&text), format!("domains.\"a\".associate-address[0]{want}"), "{part}");
    }
    // There is one place for one of them, whoever asks.
    let two = "{'pool-name': 'p'}, {'pool-name': 'q'}";
    assert_eq!(
        problem(&domain(&format!("'associate-address': [{two}]"))),
        "domains.\"a\".associate-address[1]: is one too many: the address of the first network interface is what \
         domains.\"a\".associate-address[0] asks for"
    );
    let text =
        "{domains: {a: {'associate-address': [{'pool-name': 'p'}]}, b: {'associate-address': [{'pool-name': 'q'}]}}}";
    assert!(problem(text).starts_with("domains.\"b\".associate-address[0]: is one too many"));

    let of =
        |part: &str| ok(&domain(&format!("'associate-address': [{{ {part} }}]"))).domains[0].address.clone().unwrap();
    let a = of("'allocation-id': 'eipalloc-1', critical: false, wait: 30, release: ['interrupted']");
    assert_eq!((a.choice, a.critical), (AddressChoice::Id("eipalloc-1".into()), false));
    assert_eq!((a.wait, a.release), (Some(std::time::Duration::from_secs(30)), vec![Event::Interrupted]));
    let a = of("'pool-name': 'p'");
    assert_eq!((a.choice, a.critical, a.wait), (AddressChoice::Pool("p".into()), true, None));
    let tags = vec![("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())];
    assert_eq!(of("pool: {tags: {a: 'b', c: ''}}").choice, AddressChoice::Tags(tags));
    assert!(ok(&domain("'associate-address': []")).domains[0].address.is_none());
}

#[test]
fn mistakes_in_exec() {
    const EC: &str = "codes such as 0, \"0-1,142\" or null (all) are wanted";
    for (part, want) in [
        ("", "argv: is missing".to_owned()),
        ("argv: 'ls'", "argv: an array ([ … ]) is wanted, found a string".into()),
        ("argv: ['']", "argv[0]: is empty: a command is wanted".into()),
        ("argv: ['sleep', 5]", "argv[1]: a string is wanted, found a whole number".into()),
        ("argv: ['a\\0b']", "argv[0]: has a NUL character, which no command can be given".into()),
        ("argv: ['a', '{']", "argv[1]: a { is not closed (literal braces are written {{ and }})".into()),
        ("argv: ['a'], ec: ''", format!("ec: cannot read \"\": {EC}")),
        ("argv: ['a'], ec: '0,,1'", format!("ec: cannot read \"0,,1\": {EC}")),
        ("argv: ['a'], ec: '5-1'", format!("ec: cannot read \"5-1\": {EC}")),
        ("argv: ['a'], ec: '+1'", format!("ec: cannot read \"+1\": {EC}")),
        ("argv: ['a'], ec: '0-'", format!("ec: cannot read \"0-\": {EC}")),
        ("argv: ['a'], ec: '99999999999'", format!("ec: cannot read \"99999999999\": {EC}")),
        ("argv: ['a'], ec: -9", format!("ec: cannot read -9: {EC}")),
        ("argv: ['a'], ec: 1.5", format!("ec: {EC}, found a fraction")),
        ("argv: ['a'], ec: [0]", format!("ec: {EC}, found an array")),
        (
            "argv: ['a'], timeout: 0",
            "timeout: a number of seconds is wanted, more than 0 and at most 1000000000".into(),
        ),
        ("argv: ['a'], critical: false", "critical: unknown key: valid are argv, ec, timeout".into()),
    ] {
        assert_eq!(problem(&line(part)), format!("domains.\"a\".exec[0].lines[0].{want}"), "{part}");
    }
    assert_eq!(problem(&domain("exec: [{on: ['started']}]")), "domains.\"a\".exec[0].lines: is missing");
    assert_eq!(
        problem(&domain("exec: [{on: 'started', lines: []}]")),
        "domains.\"a\".exec[0].on: an array ([ … ]) is wanted, found a string"
    );
}

#[test]
fn regions_of_back_ends() {
    let notify = |backend: &str, key: &str, target: &str, region: &str| {
        let region = if region.is_empty() { String::new() } else { format!("region: '{region}'") };
        domain(&format!("notify: [{{backend: '{backend}', options: {{'{key}': '{target}', {region}}}}}]"))
    };
    let region_of = |text: &str| match ok(text).domains[0].notify[0].backend.clone() {
        Backend::Sns { region, .. } | Backend::Sqs { region, .. } => region,
    };
    for (url, want) in [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", Some("eu-west-1")),
        ("https://sqs-fips.us-gov-east-1.amazonaws.com/1/q", Some("us-gov-east-1")),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", Some("cn-north-1")),
        ("https://eu-west-1.queue.amazonaws.com/1/q", Some("eu-west-1")),
        ("https://queue.amazonaws.com/1/q", Some("us-east-1")),
        ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q", Some("eu-west-1")),
        ("http://127.0.0.1:4566/1/q", None),
        ("http://[::1]:4566/1/q", None),
        ("https://sqs.REGION.amazonaws.com/1/q", None),
        ("QUEUE_URL", None),
    ] {
        assert_eq!(region_of(&notify("aws-sqs", "queue-url", url, "")).as_deref(), want, "{url}");
        if let Some(region) = want {
            assert_eq!(region_of(&notify("aws-sqs", "queue-url", url, region)).as_deref(), want, "{url}");
            assert_eq!(
                problem(&notify("aws-sqs", "queue-url", url, "ap-east-1")),
                format!("domains.\"a\".notify[0].options.region: is \"ap-east-1\", but the queue is in {region}")
            );
        } else {
            assert_eq!(region_of(&notify("aws-sqs", "queue-url", url, "REGION")).as_deref(), Some("REGION"));
        }
    }
    for (arn, want) in [("arn:aws:sns:eu-west-1:1:t", Some("eu-west-1")), ("arn:aws:sns", None), ("TOPIC_ARN", None)] {
        assert_eq!(region_of(&notify("aws-sns", "topic", arn, "")).as_deref(), want, "{arn}");
    }
    assert_eq!(
        problem(&notify("aws-sns", "topic", "arn:aws:sns:eu-west-1:1:t", "eu-west-2")),
        "domains.\"a\".notify[0].options.region: is \"eu-west-2\", but the topic is in eu-west-1"
    );
}

#[test]
fn mistakes_in_notify() {
    for (part, want) in [
        ("options: {}", "backend: is missing"),
        ("backend: 'aws-sns'", "options: is missing"),
        ("backend: 'smtp', options: {}", "backend: unknown word \"smtp\": valid are aws-sns, aws-sqs"),
        ("backend: 'aws-sns', options: {region: 'r'}", "options.topic: is missing"),
        ("backend: 'aws-sqs', options: {'queue-url': ''}", "options.queue-url: is empty"),
        ("backend: 'aws-sns', options: {topic: 't', topik: 't'}", "options.topik: unknown key: did you mean topic?"),
        (
            "backend: 'aws-sns', options: {topic: 't'}, envelope: {subjet: ''}",
            "envelope.subjet: unknown key: did you mean subject?",
        ),
        (
            "backend: 'aws-sns', options: {topic: 't'}, envelope: {body: '{}'}",
            "envelope.body: {} names no macro (literal braces are written {{ and }})",
        ),
        (
            "backend: 'aws-sns', options: {topic: 't'}, matrix: {faild: {}}",
            "matrix.faild: unknown word \"faild\": did you mean failed?",
        ),
        (
            "backend: 'aws-sns', options: {topic: 't'}, matrix: {failed: true}",
            "matrix.failed: an object ({ … }) is wanted, found a boolean",
        ),
        (
            "backend: 'aws-sns', options: {topic: 't'}, matrix: {failed: {enabled: 1}}",
            "matrix.failed.enabled: true or false is wanted, found a whole number",
        ),
        (
            "backend: 'aws-sns', options: {topic: 't'}, matrix: {fail: {}, failed: {}}",
            "matrix.failed: failed is there twice",
        ),
    ] {
        let text = domain(&format!("notify: [{{ {part} }}]"));
        assert_eq!(problem(&text), format!("domains.\"a\".notify[0].{want}"), "{part}");
    }
}

/// A text of 1 MB (1 KB as gzip) for which each wrong key once cost its whole path: gigabytes.
#[test]
fn many_mistakes_at_long_paths_stay_small() {
    let long = "\u{10ffff}".repeat(60);
    let deep = format!("{{'{long}':").repeat(60);
    let text = format!("{{x-a: {deep}{{{}}}{}}}", "a:0,".repeat(200_000), "}".repeat(60));
    let e = load(&text).unwrap_err();
    assert_eq!(e.problems.len() + e.more, 199_999);
    assert!(e.problems.iter().all(|p| p.path.len() < 1500 && p.path.ends_with('…')), "{}", e.problems[0].path);
}

#[test]
fn mistakes_in_waiting() {
    let x = "source: 'x', 'volume-id': 'v'";
    for (part, want) in [
        ("wait: 0", "wait: a number of seconds is wanted, more than 0 and at most 1000000000"),
        ("wait: '60'", "wait: a number of seconds is wanted, found a string"),
        ("waits: 60", "waits: unknown key: did you mean wait?"),
        ("fence: 'terminate'", "fence: unknown word \"terminate\": did you mean terminated?"),
        ("fence: true", "fence: one of never, terminated is wanted, found a boolean"),
    ] {
        let text = volume(&format!("{x}, {part}"));
        assert_eq!(problem(&text), format!("domains.\"a\".attach-volume[0].{want}"), "{part}");
    }
    for (part, want) in [
        ("'max-per-instance': 0", "max-per-instance: is less than 1"),
        ("'max-per-instance': -1", "max-per-instance: is less than 1"),
        ("'max-per-instance': 1.5", "max-per-instance: a whole number is wanted, found a fraction"),
    ] {
        let text = volume(&format!("source: 'p', 'pool-name': 'q', {part}"));
        assert_eq!(problem(&text), format!("domains.\"a\".attach-volume[0].{want}"), "{part}");
    }
    let two = |a: u32, b: u32| {
        let d = |device: &str, n: u32| {
            format!("{{source: 'p', 'pool-name': 'q', device: '/dev/{device}', 'max-per-instance': {n}}}")
        };
        domain(&format!("'attach-volume': [{}, {}]", d("sdf", a), d("sdg", b)))
    };
    assert_eq!(
        problem(&two(2, 3)),
        "domains.\"a\".attach-volume[1].max-per-instance: is not what domains.\"a\".attach-volume[0] says of pool \
         \"q\": 2"
    );
    assert!(load(&two(2, 2)).unwrap().warnings.is_empty());
    let warnings = load(&two(1, 1)).unwrap().warnings;
    let want = "max-per-instance: line 1, column ";
    assert!(warnings.len() == 1 && warnings[0].contains(want), "{warnings:?}");
    assert!(warnings[0].ends_with("is less than the 2 directives of pool \"q\": not all can succeed"), "{warnings:?}");
}

#[test]
fn waiting_that_has_no_effect() {
    for (text, want) in [
        ("{source: 'c', create: {}, wait: 5}", "wait: has no effect: source has no x, no p and no s"),
        ("{source: 'c', create: {}, fence: 'terminated'}", "fence: has no effect: source has no x and no p"),
        ("{source: 'x', 'volume-id': 'v', 'max-per-instance': 5}", "max-per-instance: has no effect: source has no p"),
        (
            "{source: 'x', 'volume-id': 'v', wait: 600}",
            "wait: is not shorter than timeout (600 s): init is over before it is",
        ),
    ] {
        let config = load(&domain(&format!("'attach-volume': [{text}]"))).unwrap();
        assert_eq!(config.warnings.len(), 1, "{text}");
        let (key, said) = want.split_once(": ").unwrap();
        let warning = &config.warnings[0];
        assert!(warning.contains(&format!("[0].{key}: ")) && warning.ends_with(said), "{warning}");
    }
    let good = "{source: 'xpc', 'volume-id': 'v', 'pool-name': 'q', create: {}, wait: 599, fence: 'terminated', \
                'max-per-instance': 3}";
    let config = load(&domain(&format!("'attach-volume': [{good}]"))).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let claiming = &config.domains[0].volumes[0].claiming;
    assert_eq!((claiming.wait, claiming.fence, claiming.most), (Some(Duration::from_secs(599)), true, Some(3)));
}
