//! Tests of `macros`.

use super::*;

fn values() -> Values {
    let facts = Facts {
        instance_id: "i-1".into(),
        instance_type: "m7g.large".into(),
        launch_index: 3,
        region: "eu-west-1".into(),
        zone: "eu-west-1a".into(),
        hypervisor: Some("nitro".into()),
        primary_ipv4: vec!["192.0.2.1".into(), "192.0.2.2".into()],
        primary_ipv6: vec![],
        all_ipv4: vec!["192.0.2.1".into(), "192.0.2.2".into()],
        all_ipv6: vec![],
    };
    Values {
        domain: "a.example".into(),
        facts: Arc::new(facts),
        attach_op: Some(false),
        daemon_state: Some(Event::Failed),
        error: vec!["one \"x\"".into(), "two".into()],
        transaction_id: "t1".into(),
        transaction_log: vec![json!({"platform": "aws", "dry": false})],
        cwd: "/".into(),
        now: Some(OffsetDateTime::parse("2026-02-03T04:05:06.789123+09:00", &Rfc3339).unwrap()),
        pid: 42,
        ..Values::default()
    }
}

fn expand(text: &str) -> String {
    Template::parse(text).unwrap().expand(&values())
}

#[test]
fn every_macro_as_text() {
    for (name, want) in [
        ("domain", "a.example"),
        ("instance_id", "i-1"),
        ("instance_type", "m7g.large"),
        ("instance_index", "3"),
        ("ami-i", "3"),
        ("placement_region", "eu-west-1"),
        ("placement_zone", "eu-west-1a"),
        ("hypervisor", "nitro"),
        ("primary_public_ipv4", "192.0.2.1"),
        ("primary_public_ipv6", ""),
        ("public_ipv4_list", "192.0.2.1, 192.0.2.2"),
        ("public_ipv6_list", ""),
        ("static_dns_rr", ""),
        ("attach_source", ""),
        ("attach_op", "false"),
        ("volume_id", ""),
        ("volume_pool", ""),
        ("attached_device", ""),
        ("mount_path", ""),
        ("fstype", ""),
        ("daemon_state", "failed"),
        ("error", "one \"x\", two"),
        ("interrupt_time", ""),
        ("interrupt_action", ""),
        ("transaction_id", "t1"),
        ("transaction_log", r#"[{"platform":"aws","dry":false}]"#),
        ("cwd", "/"),
        ("ts", "2026-02-03T04:05:06.789+09:00"),
        ("pid", "42"),
    ] {
        assert_eq!(expand(&format!("<{{{name}}}>")), format!("<{want}>"), "{name}");
    }
}

#[test]
fn volume_macros_when_set() {
    let v = Values {
        attach_source: Some("p"),
        attach_op: Some(true),
        volume_id: Some("vol-1".into()),
        volume_pool: Some("data".into()),
        attached_device: Some("/dev/nvme1n1".into()),
        ..values()
    };
    let t = Template::parse("{attach_source}{attach_op}{volume_id}{volume_pool}{attached_device}").unwrap();
    assert_eq!(t.expand(&v), "ptruevol-1data/dev/nvme1n1");
}

#[test]
fn all_json_in_order_and_type() {
    assert_eq!(
        expand("{all_json}"),
        concat!(
            r#"{"domain":"a.example","instance_id":"i-1","instance_type":"m7g.large","instance_index":3,"#,
            r#""placement_region":"eu-west-1","placement_zone":"eu-west-1a","hypervisor":"nitro","#,
            r#""primary_public_ipv4":"192.0.2.1","primary_public_ipv6":null,"#,
            r#""public_ipv4_list":["192.0.2.1","192.0.2.2"],"public_ipv6_list":[],"static_dns_rr":[],"#,
            r#""attach_source":null,"attach_op":"false","volume_id":null,"volume_pool":null,"#,
            r#""attached_device":null,"mount_path":null,"fstype":null,"daemon_state":"failed","error":["one \"x\"","two"],"#,
            r#""interrupt_time":null,"interrupt_action":null,"transaction_id":"t1","#,
            r#""transaction_log":[{"platform":"aws","dry":false}],"cwd":"/","#,
            r#""ts":"2026-02-03T04:05:06.789+09:00","pid":42}"#
        )
    );
    let empty: Value = serde_json::from_str(&Values::default().all_json()).unwrap();
    assert_eq!(empty.as_object().unwrap().len(), NAMES.len());
    assert_eq!((&empty["domain"], &empty["ts"], &empty["error"]), (&Value::Null, &Value::Null, &json!([])));
}

#[test]
fn braces_and_unicode() {
    for (text, want) in [
        ("", ""),
        ("plain ü", "plain ü"),
        ("{{}}", "{}"),
        ("{{domain}}", "{domain}"),
        ("{{{pid}}}", "{42}"),
        ("{pid}{pid}", "4242"),
        ("é{pid}é", "é42é"),
        ("{{ x }} {domain}", "{ x } a.example"),
    ] {
        assert_eq!(expand(text), want, "{text}");
    }
}

#[test]
fn errors_are_named() {
    let literal = "(literal braces are written {{ and }})";
    for (text, want) in [
        ("{domian}", "unknown macro {domian}: did you mean {domain}?"),
        ("{instance-id}", "unknown macro {instance-id}: did you mean {instance_id}?"),
        ("{ pid }", "unknown macro {pid}: did you mean {pid}?"),
        ("{ami_i}", "unknown macro {ami_i}: did you mean {ami-i}?"),
        ("{HOME}", "unknown macro {HOME}"),
        ("{\"password\": \"hunter2\"}", "what stands between { and } is not a macro"),
        ("{print $1}", "what stands between { and } is not a macro"),
        ("{é}", "what stands between { and } is not a macro"),
        ("{}", "{} names no macro"),
        ("{pid:>8}", "{pid:…}: macros take no format: write {pid}"),
        ("{error!r}", "{error!…}: macros take no conversion: write {error}"),
        ("{error[0]}", "{error[…]}: macros take no index: write {error}"),
        ("{error.x}", "{error[…]}: macros take no index: write {error}"),
        ("{0}", "unknown macro {0}"),
        ("{pid", "a { is not closed"),
        ("{", "a { is not closed"),
        ("{pid{", "a { is not closed"),
        ("{a{pid}}", "a { is not closed"),
        ("pid}", "a } was not opened"),
        ("{pid}}", "a } was not opened"),
        ("ü}", "a } was not opened"),
    ] {
        assert_eq!(Template::parse(text).unwrap_err().to_string(), format!("{want} {literal}"), "{text}");
    }
}

#[test]
fn literal_and_uses() {
    let t = |s| Template::parse(s).unwrap();
    assert_eq!((t("").literal(), t("a{{b").literal(), t("{pid}").literal()), (Some(""), Some("a{b"), None));
    assert!(t("x {ami-i}").uses("instance_index") && !t("x {pid}").uses("ts") && t("{all_json}").uses("all_json"));
}
