//! Configs that are wrong: all problems at once, each with its place, and nothing touched.

use crate::kit::{SHORT, bodies, note_events, one, seen, to_topic};
use crate::lab::{How, Lab, once};

/// The log of a run that is refused because of its config.
fn refused(text: &str) -> String {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let run = lab.run(text, once());
    run.ends(2, &["is not a config, nothing was touched:"]);
    assert!(lab.server.calls().is_empty(), "{run}");
    assert!(seen(&lab).is_empty() && bodies(&lab).is_empty(), "{run}");
    run.log
}

#[test]
fn all_problems_are_said_with_path_line_column_and_the_closest_spelling() {
    let text = r#"{
  "hostnam": "x",
  "timeout": "soon",
  "domains": {
    "a": {
      "attach-volumes": [],
      "attach-volume": [
        { "device": "/dev/xvdf", "source": "q" },
        { "source": "p", "pool-pref": "indx", "pool_name": "x" }
      ],
      "update-route53": [ { "hostedzone": "Z1", "name": "{instanceid}.example.com" } ],
      "exec": [ { "on": [ "startd" ], "lines": [ { "argv": [] } ] } ],
      "notify": [ { "backend": "aws-sms", "options": {} } ]
    }
  }
}"#;
    let log = refused(text);
    let wanted = [
        r#"hostnam: line 2, column 3: "#,
        "did you mean hostname?",
        "timeout: line 3, column 14: ",
        r#"domains."a".attach-volumes: line 6, column 7: "#,
        "did you mean attach-volume?",
        r#"domains."a".attach-volume[0].source: line 8, column "#,
        r#"domains."a".attach-volume[1].pool-pref: line 9, column 39: "#,
        "did you mean index?",
        r#"domains."a".attach-volume[1].pool_name: line 9, column "#,
        "did you mean pool-name?",
        r#"domains."a".update-route53[0]"#,
        "did you mean {instance_id}?",
        "ttl",
        r#"domains."a".exec[0].on[0]: line 12, column 27: "#,
        "did you mean started?",
        r#"domains."a".exec[0].lines[0].argv: line 12, column "#,
        r#"domains."a".notify[0].backend: line 13, column 32: "#,
        "did you mean aws-sns",
    ];
    for w in wanted {
        assert!(log.contains(w), "'{w}' is missing in\n{log}");
    }
}

#[test]
fn what_is_no_json5_has_its_place_too() {
    for (text, want) in [
        ("{ domains: { d: { } }", "line 1, column "),
        ("{\n  domains: {\n    d: { exec: [ }\n  }\n}", "line 3, column "),
        ("[]", "line 1, column 1: "),
        ("{ domains: { d: {}, d: {} } }", "line 1, column 21: "),
        ("\"text\"", "line 1, column 1: "),
    ] {
        let log = refused(text);
        assert!(log.contains(want), "{text}: {log}");
    }
}

#[test]
fn deep_nesting_and_great_size_are_refused() {
    let deep = format!("{{ domains: {}{} }}", "[".repeat(70), "]".repeat(70));
    assert!(refused(&deep).contains("64"), "the limit is named");
    let lab = Lab::new();
    let big = format!("{{ \"x-pad\": \"{}\" }}", "x".repeat(1 << 20));
    lab.run(&big, once()).ends(2, &["too large: a config has at most 1048576 bytes"]);
    // A bomb: a small body that unpacks to a large one.
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut e, &vec![b' '; 64 << 20]).unwrap();
    let user_data = Some(e.finish().unwrap());
    let lab = Lab::with(crate::fakeaws::InstanceSpec { user_data, ..Default::default() });
    lab.run_user_data(once()).ends(2, &["too large"]);
}

#[test]
fn contradictions_are_found_ahead() {
    let cases = [
        (
            format!(
                r#"notify: [{{ backend: "aws-sns", options: {{ topic: "{}", region: "us-east-1" }} }}]"#,
                crate::lab::TOPIC
            ),
            r#"is "us-east-1", but the topic is in eu-west-1"#,
        ),
        (r#"exec: [{ lines: [{ argv: ["/bin/true"], ec: "5-1" }] }]"#.to_owned(), r#"cannot read "5-1""#),
        (r#"exec: [{ lines: [{ argv: ["{x:>10}"] }] }]"#.to_owned(), "domains.\"d\".exec[0].lines[0].argv[0]"),
        (r#"exec: [{ lines: [{ argv: ["{domain!r}"] }] }]"#.to_owned(), "domains.\"d\".exec[0].lines[0].argv[0]"),
        (r#"exec: [{ lines: [{ argv: ["{"] }] }]"#.to_owned(), "domains.\"d\".exec[0].lines[0].argv[0]"),
        (r#""attach-volume": [{ source: "x", device: "/dev/xvdf" }]"#.to_owned(), "volume-id"),
        (r#""attach-volume": [{ source: "c", device: "/dev/xvdf" }]"#.to_owned(), "create"),
    ];
    for (domain, want) in cases {
        let log = refused(&one(&domain));
        assert!(log.contains(want), "{domain}: {log}");
    }
    assert!(refused(r#"{ hostname: "a", "set-hostname": "b" }"#).contains("both are the same"));
}

#[test]
fn foreign_keys_and_comments_are_let_pass() {
    let lab = Lab::new();
    let text = format!(
        "// comment\n{{ $schema: 'http://x', 'x-mine': [1, {{}}], /* c */ domains: {{ d: {{ 'x-y': 1, exec: [{}], }}, }}, }}",
        note_events()
    );
    let run = lab.run(&text, once());
    run.ends(0, &["ready: d started"]);
    assert!(!run.log.contains("warn"), "{run}");
}

#[test]
fn placeholders_parse_and_fail_at_run_time() {
    let lab = Lab::new();
    let text = one(r#"notify: [{ backend: "ans-sqs", options: { region: "REGION", "queue-url": "QUEUE_URL" } },
            { backend: "aws-sns", options: { region: "REGION", topic: "TOPIC_ARN" } }]"#);
    lab.run(&text, once())
        .ends(0, &["ready: d started", "cannot tell QUEUE_URL 'started': ", "cannot tell TOPIC_ARN 'started': "]);
}

#[test]
fn warnings_are_said_and_the_run_goes_on() {
    let lab = Lab::new();
    let text = one(&format!(
        r#"exec: [{{ on: ["start"], lines: [{{ argv: ["/bin/sh", "-c", "echo x >> $LAB/seen"] }}] }}], notify: [{}]"#,
        to_topic(SHORT)
    ));
    lab.run(&text, once()).ends(0, &["\"start\" is taken for started"]);
    assert_eq!(seen(&lab), ["x"]);
}

#[test]
fn nothing_of_the_metadata_is_needed_to_refuse_a_config() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).unavailable = 100_000;
    lab.run("{ domain: {} }", How::default()).ends(2, &["did you mean domains?"]);
}

#[test]
fn an_empty_file_is_no_config() {
    for text in ["", " \n\t"] {
        let lab = Lab::new();
        lab.run(text, How::default()).ends(0, &["there is no config: nothing to do"]);
    }
}
