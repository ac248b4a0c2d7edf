//! Tests of whole configs: what the keys become, and what is said about mistakes.

mod hook;
mod mistakes;
mod on_failure;
mod properties;
mod records;
mod shared;
mod snapshots;
mod way_out;

use std::time::Duration;

use super::*;

fn ok(text: &str) -> Config {
    load(text).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn problems(text: &str) -> String {
    match load(text) {
        Ok(_) => panic!("no problem in {text}"),
        Err(e) => e.to_string(),
    }
}

/// A config with one domain.
fn domain(text: &str) -> String {
    format!("{{domains: {{a: {{ {text} }}}}}}")
}

/// A config with one volume, of which `text` is a part.
fn volume(text: &str) -> String {
    domain(&format!("'attach-volume': [{{ {text} }}]"))
}

fn line(text: &str) -> String {
    domain(&format!("exec: [{{lines: [{{ {text} }}]}}]"))
}

/// Text of the only problem, without its place.
fn problem(text: &str) -> String {
    match load(text) {
        Ok(_) => panic!("no problem in {text}"),
        Err(e) if e.problems.len() == 1 => format!("{}: {}", e.problems[0].path, e.problems[0].text),
        Err(e) => panic!("{text}\n{e}"),
    }
}

const WHOLE: &str = r#"// A whole one.
{
  "$schema": "any", "x-note": {"any": [1, null]},
  "set-hostname": "node-{ami-i}.example.com",
  "timeout": 90.5,
  "on-failure": { "action": "retry", "attempts": 3, "backoff": 1.5, "then": { "action": "reboot", "limit": 2, "then": "poweroff" } },
  "lifecycle-hook": [ { "name": "up", "group": "g", "on": "launching" } ],
  "interrupt-detection": { "detect": "poll", "options": { "interval": 2 } },
  "domains": {
    "a.example": {
      "x-owner": "me",
      "attach-volume": [
        {
          "source": "xpc", "device": "/dev/xvdf", "volume-id": "vol-NNNNNNNNNNNNNNNNN", "pool-name": "data",
          "pool-pref": "least-recent-used", "critical": false,
          "create": { "Size": 0x10, "Encrypted": true, "TagSpecifications": [ { "ResourceType": "volume", "Tags": [] } ], },
          "exec": [ { "ec": "0 - 1, 32", "lines": [ { "argv": [ "mount", "{attached_device}", "/mnt" ] } ] } ],
        },
        { "source": "c", "create": {} },
      ],
      "update-route53": [ { "hostedzone": "/hostedzone/ZZZZ", "name": "node-{ami-i}.example.", "ttl": 300 } ],
      "exec": [
        {
          "on": [ "started", "failed" ], "ec": "0-127",
          "lines": [ { "argv": [ "a" ] }, { "argv": [ "b" ], "ec": null, "timeout": 0.5 }, { "argv": [ "c" ], "ec": 3 } ]
        },
        { "lines": [] },
      ],
      "notify": [
        { "backend": "aws-sns", "options": { "region": "REGION", "topic": "TOPIC_ARN" } },
        {
          "backend": "ans-sqs", "options": { "queue-url": "QUEUE_URL" },
          "envelope": { "subject": "{error}" },
          "matrix": { "starting": { "enabled": true }, "started": {}, "failed": { "enabled": true } }
        },
      ],
    },
    "b": { "critical": false },
  },
}"#;

#[test]
fn every_key_becomes_what_it_says() {
    let c = ok(WHOLE);
    assert_eq!(c.warnings, Vec::<String>::new());
    assert_eq!((c.timeout, c.poll_interval), (Duration::from_millis(90_500), Duration::from_secs(2)));
    assert!(c.hostname.unwrap().uses("instance_index"));
    let [a, b] = c.domains.as_slice() else { panic!() };
    assert_eq!((a.name.as_str(), a.critical, b.name.as_str(), b.critical), ("a.example", true, "b", false));

    let [v, w] = a.volumes.as_slice() else { panic!() };
    assert_eq!((v.path.as_str(), v.index), ("domains.\"a.example\".attach-volume[0]", 0));
    assert_eq!((w.path.as_str(), w.index), ("domains.\"a.example\".attach-volume[1]", 1));
    assert_eq!(v.sources, [Source::Existing, Source::Pool, Source::Create]);
    assert_eq!((v.device.as_deref(), v.volume_id.as_deref()), (Some("/dev/xvdf"), Some("vol-NNNNNNNNNNNNNNNNN")));
    assert_eq!((v.pool_name.as_deref(), v.pool_pref, v.critical), (Some("data"), PoolPref::LeastRecentlyUsed, false));
    let create = serde_json::to_string(v.create.as_ref().unwrap()).unwrap();
    assert_eq!(create, r#"{"Size":16,"Encrypted":true,"TagSpecifications":[{"ResourceType":"volume","Tags":[]}]}"#);
    assert_eq!(v.exec[0].lines[0].ec, ExitCodes::Of(vec![0..=1, 32..=32]));
    assert_eq!((w.device.as_deref(), w.pool_pref, w.critical), (None, PoolPref::Index, true));

    let r = &a.records[0];
    assert_eq!((r.hosted_zone.as_str(), r.ttl, r.critical), ("ZZZZ", 300, true));
    assert!(r.name.uses("instance_index"));

    let [x, y] = a.exec.as_slice() else { panic!() };
    assert_eq!(x.on, Some(vec![Event::Started, Event::Failed]));
    assert!(x.runs_on(Event::Failed) && !x.runs_on(Event::Stopping) && y.runs_on(Event::Stopping));
    let codes: Vec<_> = x.lines.iter().map(|l| l.ec.clone()).collect();
    assert_eq!(codes, [ExitCodes::Of(vec![0..=127]), ExitCodes::Any, ExitCodes::Of(vec![3..=3])]);
    assert_eq!((x.lines[0].timeout, x.lines[1].timeout), (None, Some(Duration::from_millis(500))));

    let [n, m] = a.notify.as_slice() else { panic!() };
    assert_eq!(n.backend, Backend::Sns { topic: "TOPIC_ARN".into(), region: Some("REGION".into()) });
    assert_eq!(m.backend, Backend::Sqs { queue_url: "QUEUE_URL".into(), region: None });
    assert_eq!(n.events, [Event::Started, Event::Failed, Event::Stopping, Event::Interrupted]);
    assert_eq!(m.events, [Event::Failed, Event::Stopping, Event::Interrupted]);
    assert!(n.subject.uses("instance_id") && n.body.uses("all_json"));
    assert!(m.subject.uses("error") && m.body.uses("all_json"));
}

#[test]
fn the_least_config() {
    for text in ["{}", "{domains: {}}", "\u{feff}{/* */}"] {
        let c = ok(text);
        assert_eq!((c.domains.len(), c.timeout.as_secs(), c.poll_interval.as_secs()), (0, 600, 1));
        assert!(c.hostname.is_none() && c.warnings.is_empty());
    }
    assert!(ok("{hostname: ''}").hostname.is_none());
    assert_eq!(ok("{hostname: 'x{domain}'}").hostname.unwrap().expand(&Default::default()), "x");
}

#[test]
fn ten_problems_at_once() {
    let text = r#"{
  "hostname": "{hostnam}", "timeuot": 5,
  "domains": {
    "a": {
      "attach-volume": [
        { "source": "x", "volume-id": "vol-1", "devise": "/dev/xvdf" },
        { "source": "cz", "device": "xvdg", "pool-pref": "radnom" }
      ],
      "update-route53": [ { "hostedzone": "Z", "name": "é", "ttl": "300" } ],
      "exec": [ { "on": [ "stated" ], "lines": [ { "argv": [] } ] } ],
      /* ü */ "notify": [ { "backend": "aws-snss", "options": {} } ]
    }
  }
}"#;
    assert_eq!(
        problems(text),
        "\
hostname: line 2, column 15: unknown macro {hostnam} (literal braces are written {{ and }})
timeuot: line 2, column 28: unknown key: did you mean timeout?
domains.\"a\".attach-volume[0].devise: line 6, column 48: unknown key: did you mean device?
domains.\"a\".attach-volume[1].source: line 7, column 21: \"z\" in \"cz\" is no source: one or more of x (volume-id), p (pool-name), m (move), s (snapshot), c (create) are wanted
domains.\"a\".attach-volume[1].device: line 7, column 37: \"xvdg\" is not the path of a device, such as /dev/xvdf
domains.\"a\".attach-volume[1].pool-pref: line 7, column 58: unknown word \"radnom\": did you mean random?
domains.\"a\".update-route53[0].ttl: line 9, column 68: a whole number is wanted, found a string
domains.\"a\".exec[0].on[0]: line 10, column 27: unknown word \"stated\": did you mean started?
domains.\"a\".exec[0].lines[0].argv: line 10, column 60: is empty: a command is wanted
domains.\"a\".notify[0].backend: line 11, column 40: unknown word \"aws-snss\": did you mean aws-sns?"
    );
}

#[test]
fn exit_codes() {
    let of = |ec: &str| ok(&line(&format!("argv: ['a'], ec: {ec}"))).domains[0].exec[0].lines[0].ec.clone();
    for (ec, want) in [
        ("0", vec![0..=0]),
        ("255", vec![255..=255]),
        ("'0'", vec![0..=0]),
        ("'0,1'", vec![0..=0, 1..=1]),
        ("'0-127'", vec![0..=127]),
        ("' 0 - 1 , 142 '", vec![0..=1, 142..=142]),
    ] {
        assert_eq!(of(ec), ExitCodes::Of(want), "{ec}");
    }
    assert_eq!(of("null"), ExitCodes::Any);
    assert!(of("'0-127'").contains(127) && !of("'0-127'").contains(128) && of("null").contains(137));
    let inherited = ok(&domain("exec: [{ec: null, lines: [{argv: ['a']}, {argv: ['b'], ec: 0}]}]"));
    let lines = &inherited.domains[0].exec[0].lines;
    assert_eq!((&lines[0].ec, &lines[1].ec), (&ExitCodes::Any, &ExitCodes::Of(vec![0..=0])));
}

#[test]
fn on_error_of_a_block() {
    let of = |key: &str| {
        let c = ok(&domain(&format!("exec: [{{{key} lines: [{{argv: ['a']}}]}}]")));
        let block = &c.domains[0].exec[0];
        (block.on_error, block.lines[0].path.clone())
    };
    assert_eq!(of(""), (None, "exec[0].lines[0]".to_owned()));
    assert_eq!(of("'on-error': 'continue',").0, Some(OnError::Continue));
    assert_eq!(of("'on-error': 'stop',").0, Some(OnError::Stop));
}

#[test]
fn warnings() {
    for (text, want) in [
        (
            domain("exec: [{on: ['start', 'stopping', 'started'], lines: []}]"),
            "exec[0].on[0]: line 1, column 30: \"start\" is taken for started",
        ),
        (
            domain("exec: [{on: [], lines: []}]"),
            "exec[0].on: line 1, column 29: this block is never run: it names no event",
        ),
        (
            volume("source: 'c', create: {}, exec: [{on: ['started'], lines: []}]"),
            "attach-volume[0].exec[0].on: line 1, column 74: this block is never run: those of a volume run when its disk is usable",
        ),
        (
            volume("source: 'c', create: {ClientToken: 'x'}"),
            "attach-volume[0].create.ClientToken: line 1, column 59: is overridden by our own",
        ),
        (
            volume("source: 'c', create: {AvailabilityZone: 'x'}"),
            "attach-volume[0].create.AvailabilityZone: line 1, column 59: is overridden by the instance's",
        ),
        (
            volume("source: 'c', create: {}, 'volume-id': 'vol-1'"),
            "attach-volume[0].volume-id: line 1, column 75: has no effect: source has no x",
        ),
        (
            volume("source: 'c', create: {}, timeout: 5"),
            "attach-volume[0].timeout: line 1, column 71: has no effect: the timeout of the top level bounds the whole init",
        ),
    ] {
        assert_eq!(ok(&text).warnings, [format!("domains.\"a\".{want}")], "{text}");
    }
    let c = ok(&domain("exec: [{on: ['start', 'started', 'stop', 'fail', 'interrupt'], lines: []}]"));
    let all = vec![Event::Started, Event::Stopping, Event::Failed, Event::Interrupted];
    assert_eq!((c.warnings.len(), &c.domains[0].exec[0].on), (4, &Some(all)));
    let c = ok(&volume(
        "source: 'c', create: {Size: 1, ClientToken: 'x'}, exec: [{on: ['failed'], lines: []}, {lines: []}]",
    ));
    assert_eq!((c.warnings.len(), c.domains[0].volumes[0].exec.len()), (2, 1));
    assert!(!c.domains[0].volumes[0].create.as_ref().unwrap().contains_key("ClientToken"));
    let c = ok("{'interrupt-detection': {options: {interval: 0.001}}}");
    assert_eq!((c.poll_interval, c.warnings.len()), (Duration::from_millis(10), 1));
}

#[test]
fn a_hostile_config_ends_soon() {
    let many: String = (0..60_000).map(|i| format!("k{i}:1,")).collect();
    let error = load(&format!("{{{many}}}")).unwrap_err();
    assert_eq!((error.problems.len(), error.more), (50, 59_950));
    let old = ok(&domain(&format!("exec: [{{lines: [], on: [{}]}}]", "'stop',".repeat(100_000))));
    assert_eq!((old.warnings.len(), old.warnings[50].as_str()), (51, "and 99950 more warnings"));
    let twice = "a:1,".repeat(100_000);
    assert!(load(&format!("{{domains:{{{twice}}}}}")).is_err());
}

#[test]
fn mutilated_configs_never_panic() {
    let mut state = 3u32;
    for _ in 0..3_000 {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for _ in 0..3 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let i = (state >> 8) as usize % bytes.len();
            bytes[i] = b"{}[]'\",:x0-. \xc3"[(state >> 20) as usize % 14];
        }
        let _ = load(&String::from_utf8_lossy(&bytes)).map_err(|e| e.to_string());
    }
}

#[test]
fn keys_of_others_are_passed_over_but_names_are_names() {
    let c = ok("{$a: 1, 'x-b': 2, domains: {$c: 3, 'x-d': {$e: 4, 'x-f': [], exec: [{$g: 1, lines: []}]}}}");
    assert_eq!((c.domains.len(), c.domains[0].name.as_str()), (1, "x-d"));
    let c = ok(&volume("source: 'c', create: {Size: 1, $note: 'n', 'x-n': 1, T: [{'x-n': 1, Key: 'k'}]}, $n: 1"));
    let create = c.domains[0].volumes[0].create.clone();
    assert_eq!(serde_json::to_string(&create).unwrap(), r#"{"Size":1,"T":[{"Key":"k"}]}"#);
}

/// The two usual kinds: a volume of one's own, and one of a pool.
#[test]
fn usual_configs_are_read_without_a_word() {
    for volume in ["source: 'x', 'volume-id': 'vol-NNNNNNNNNNNNNNNNN'", "source: 'p', 'pool-name': 'nodes'"] {
        let text = format!(
            r#"{{
  "$schema": "http://example.com/schema", // for the editor
  "hostname": "n{{ami-i}}.example",
  "domains": {{
    "n.example": {{
      "attach-volume": [ {{ device: "/dev/xvdf", {volume}, exec: [ {{ lines: [ {{ argv: [ "mount", "/data" ] }} ] }} ] }} ],
      /* A CNAME
         points to these. */
      "update-route53": [ {{ "hostedzone": "ZZZZZZZZZZZZZ", "name": "n{{ami-i}}.example", "ttl": 60 }} ],
      "exec": [
        {{ "on": [ "started" ], "lines": [ {{ "argv": [ "systemctl", "start", "app" ] }} ] }},
        {{ "on": [ "interrupted" ], "lines": [ {{ "argv": [ "systemctl", "stop", "app" ] }}, {{ "argv": [ "umount", "/data" ] }} ] }}
      ],
      "notify": [ {{ "backend": "aws-sns", "options": {{ "region": "REGION", "topic": "TOPIC_ARN" }} }} ]
    }}
  }}
}}
"#
        );
        let c = ok(&text);
        assert_eq!((c.domains.len(), c.warnings.len()), (1, 0));
        assert_eq!(c.domains[0].volumes[0].device.as_deref(), Some("/dev/xvdf"));
    }
}

#[test]
fn whatever_names_an_event_has_it_watched() {
    let names = |text: &str| ok(&domain(text)).domains[0].names(crate::model::Event::Terminating);
    let volume = "'attach-volume': [{ source: 'x', 'volume-id': 'vol-1', device: '/dev/xvdf', ";
    for (text, named) in [
        ("exec: [{ lines: [] }]".to_owned(), false),
        ("exec: [{ on: ['terminating'], lines: [] }]".to_owned(), true),
        ("notify: [{ backend: 'aws-sns', options: { topic: 't' } }]".to_owned(), false),
        (
            "notify: [{ backend: 'aws-sns', options: { topic: 't' }, matrix: { terminating: { enabled: true } } }]"
                .into(),
            true,
        ),
        (format!("{volume} release: ['interrupted'] }}]"), false),
        (format!("{volume} release: ['terminating'] }}]"), true),
        (format!("{volume} snapshot: {{ on: ['terminating'] }} }}]"), true),
        ("'update-route53': [{ hostedzone: 'Z', name: 'a', ttl: 1, release: ['terminating'] }]".to_owned(), true),
        ("'associate-address': [{ 'allocation-id': 'eipalloc-1', release: ['terminating'] }]".to_owned(), true),
    ] {
        assert_eq!(names(&text), named, "{text}");
    }
}
