//! The command line, and two daemons on one instance.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::kit::{config, note_events, one, seen};
use crate::lab::{How, Lab, once};

fn bare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ec2fleetd")).env_clear().args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn usage_errors_exit_2_with_one_helpful_line() {
    let cases: [(&[&str], &str); 10] = [
        (&["--userdat"], "--userdata needs a value"),
        (&["--enable"], "may be --enable-init or --enable-notify or --enable-exec or --enable-poll"),
        (&["--enable-pol=maybe"], "--enable-poll: true, false or a number is wanted"),
        (&["--user-data=x"], "unknown option --user-data: did you mean --userdata?"),
        (&["--frobnicate"], "unknown option --frobnicate: see --help"),
        (&["x.json"], "unexpected argument \"x.json\": see --help"),
        (&["--disable-all=1"], "--disable-all takes no value"),
        (&["--imds=http://x"], "--imds: HOST[:PORT][,...]"),
        (&["--imds=1.2.3.4:99999"], "--imds: HOST[:PORT][,...]"),
        (&["-x"], "unknown option -x"),
    ];
    for (args, want) in cases {
        let out = bare(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(want) && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn help_and_version() {
    for args in [["-h"], ["--help"]] {
        let out = bare(&args);
        assert!(out.status.success() && text(&out.stdout).starts_with("Usage: ec2fleetd"), "{args:?}");
    }
    for args in [["-V"], ["--version"], ["--vers"]] {
        let out = bare(&args);
        assert_eq!(text(&out.stdout), format!("ec2fleetd {}\n", env!("CARGO_PKG_VERSION")), "{args:?}");
    }
}

#[test]
fn check_says_what_is_wrong_and_touches_nothing() {
    let lab = Lab::new();
    let good = lab.file("good.json5", &one("exec: []"));
    let bad = lab.file("bad.json5", &one("exce: []"));
    let out = bare(&["--check", "--userdata", good.to_str().unwrap()]);
    assert!(out.status.success() && text(&out.stderr).contains("the config is good: 1 domain(s)"), "{out:?}");
    let out = bare(&["--check", "--userdata", bad.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("did you mean exec?"), "{}", text(&out.stderr));
    assert_eq!(bare(&["--check"]).status.code(), Some(2));
    assert!(lab.server.calls().is_empty() && lab.server.imds_calls(&lab.me).is_empty());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let lab = Lab::new();
    let out = bare(&["--check", "--userdata=/no/such/file"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("cannot read the config from /no/such/file: No such file"), "{out:?}");
    let how = How { user_data: true, ..How::default() }.arg("--userdata=/no/such/file");
    lab.run("", how).ends(2, &["cannot read the config from /no/such/file: No such file"]);
    assert!(lab.server.calls().is_empty());
}

#[test]
fn the_config_may_come_on_standard_input() {
    let lab = Lab::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ec2fleetd"))
        .env_clear()
        .env("LAB", &lab.dir)
        .env("EC2FLEETD_ROOT", lab.root(&lab.me))
        .args(["--userdata", "-", "--enable-poll=0"])
        .arg(format!("--imds={}", lab.server.imds_url(&lab.me).trim_start_matches("http://")))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(one(&format!("exec: [{}]", note_events())).as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(seen(&lab), ["d starting", "d started"]);
    assert!(!text(&out.stderr).contains("debug"), "only -v shows the requests");
}

#[test]
fn values_may_be_the_next_word_and_options_shortened() {
    let lab = Lab::new();
    let line = crate::kit::sh("echo {transaction_id} >> $LAB/seen");
    let text = one(&format!("exec: [{}]", crate::kit::on(&["started"], &[line])));
    let how = ["--transc", "tx-7", "--enable-p", "False"].iter().fold(How::default(), |h, a| h.arg(a));
    lab.run(&text, how).ends(0, &[]);
    assert_eq!(seen(&lab), ["tx-7"]);
}

#[test]
fn without_transc_id_each_run_has_its_own() {
    let lab = Lab::new();
    let line = crate::kit::sh("echo {transaction_id} >> $LAB/seen");
    let text = one(&format!("exec: [{}]", crate::kit::on(&["started"], &[line])));
    lab.run(&text, once()).ends(0, &[]);
    lab.run(&text, once()).ends(0, &[]);
    let ids = seen(&lab);
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids[0].len() == 36, "{ids:?}");
}

#[test]
fn a_second_daemon_of_a_domain_says_so() {
    let lab = Lab::new();
    let first = lab.start(&config(&["a: {}"]), How::default());
    first.says(&lab, "watching");
    let text = config(&[&format!("a: {{ exec: [{}] }}", note_events())]);
    let run = lab.run(&text, once());
    run.ends(1, &[&format!("domain 'a' is being run by process {}", first.child.id())]);
    assert!(seen(&lab).is_empty(), "{run}");
    // Another domain is normal use.
    lab.run(&config(&["b: {}"]), once()).ends(0, &["ready: b started"]);
    first.signal("TERM");
    first.wait(&lab).ends(0, &[]);
    lab.run(&config(&["a: {}"]), once()).ends(0, &["ready: a started"]);
}

#[test]
fn a_clock_that_cannot_be_read_is_a_usage_error() {
    let lab = Lab::new();
    lab.run(&one(""), once().env("EC2FLEETD_CLOCK", "fast")).ends(2, &["EC2FLEETD_CLOCK: cannot read 'fast'"]);
}
