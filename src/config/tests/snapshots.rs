//! `snapshot` of an `attach-volume` directive: what snapshots are made.

use super::*;

fn with(snapshot: &str) -> String {
    volume(&format!("source: 'x', 'volume-id': 'v', snapshot: {snapshot}"))
}

fn read(snapshot: &str) -> Snapshot {
    ok(&with(snapshot)).domains[0].volumes[0].snapshot.clone().unwrap()
}

#[test]
fn what_it_says() {
    let s =
        read("{on: ['interrupted', 'stopping', 'interrupted'], every: 3600, keep: 7, tags: {Name: 'a', 'x-b': ''}}");
    assert_eq!(s.on, [Event::Interrupted, Event::Stopping]);
    assert_eq!((s.every, s.keep), (Some(Duration::from_secs(3600)), Some(7)));
    assert_eq!(s.tags, [("Name".to_owned(), "a".to_owned()), ("x-b".to_owned(), String::new())]);
    let s = read("{every: 60}");
    assert_eq!((s.on, s.every, s.keep, s.tags), (vec![], Some(Duration::from_secs(60)), None, vec![]));
    assert_eq!(ok(&volume("source: 'x', 'volume-id': 'v'")).domains[0].volumes[0].snapshot, None);
    // With source `s`: tags alone are what it looks for; where snapshots are made, they are only labels.
    let s = |snapshot: &str| {
        let config = ok(&volume(&format!("source: 's', 'pool-name': 'p', snapshot: {snapshot}")));
        let d = &config.domains[0].volumes[0];
        (d.snapshot.is_some(), d.snapshot_tags.len())
    };
    assert_eq!((s("{tags: {a: 'b'}}"), s("{tags: {a: 'b'}, every: 60}")), ((false, 1), (true, 0)));
}

#[test]
fn mistakes() {
    let long = "k".repeat(128);
    let value = "v".repeat(257);
    for (text, want) in [
        ("true", ": an object ({ … }) is wanted, found a boolean"),
        ("{}", ": makes none: on (events) or every (seconds) is wanted"),
        ("{on: [], keep: 3}", ": makes none: on (events) or every (seconds) is wanted"),
        ("{evry: 3600, on: ['failed']}", ".evry: unknown key: did you mean every?"),
        ("{every: 59}", ".every: 60 s at least are wanted"),
        ("{every: '1h'}", ".every: a number of seconds is wanted, found a string"),
        ("{every: 60, keep: 0}", ".keep: 1 or more is wanted; left out, all are kept"),
        ("{every: 60, keep: -1}", ".keep: 1 or more is wanted; left out, all are kept"),
        ("{every: 60, keep: 1.5}", ".keep: a whole number is wanted, found a fraction"),
        (
            "{on: ['started']}",
            ".on[0]: no snapshot is made on started: events such as interrupted are wanted, or every",
        ),
        ("{every: 60, on: 'stopping'}", ".on: an array ([ … ]) is wanted, found a string"),
        ("{every: 60, tags: ['a']}", ".tags: an object ({ … }) is wanted, found an array"),
        ("{every: 60, tags: {a: 1}}", ".tags.a: a string is wanted, found a whole number"),
        ("{every: 60, tags: {'aws:x': ''}}", ".tags.\"aws:x\": tags that begin so are AWS's own"),
        (
            "{every: 60, tags: {'user:ec2fd.owner': ''}}",
            ".tags.\"user:ec2fd.owner\": tags that begin so are ec2fleetd's own",
        ),
        (
            &format!("{{every: 60, tags: {{{long}: ''}}}}"),
            &format!(".tags.\"{}…\": the key of a tag has 1 to 127 characters", "k".repeat(60)),
        ),
        (
            &format!("{{every: 60, tags: {{a: '{value}'}}}}"),
            ".tags.a: \"vvvvvvvvvvvvvvvvvvvv\"… is too long: 256 characters at most",
        ),
    ] {
        let found = match load(&with(text)) {
            Ok(_) => panic!("no problem in {text}"),
            Err(e) if e.problems.len() == 1 => format!("{}: {}", e.problems[0].path, e.problems[0].text),
            Err(e) => panic!("{text}\n{e}"),
        };
        assert_eq!(found, format!("domains.\"a\".attach-volume[0].snapshot{want}"), "{text}");
    }
    let many: Vec<String> = (0..41).map(|n| format!("k{n}: ''")).collect();
    assert!(
        problem(&with(&format!("{{every: 60, tags: {{{}}}}}", many.join(", "))))
            .ends_with("40 tags at most are wanted")
    );
}
