//! Tests of `cli`.

use std::os::unix::ffi::OsStrExt;

use super::*;

fn run(args: &str) -> Args {
    match parse(args.split_whitespace()) {
        Ok(Command::Run(a)) => a,
        other => panic!("{args}: {other:?}"),
    }
}

fn error(args: &[&str]) -> String {
    parse(args.iter().copied()).unwrap_err().to_string()
}

#[test]
fn defaults() {
    let a = run("");
    assert!(a.init && a.notify && a.exec && a.poll && !a.verbose && !a.set_clock);
    assert!(run("--set-clock").set_clock && run("--s -v").set_clock);
    assert_eq!((a.imds, a.userdata, a.transaction_id, a.profile), (vec![], None, None, None));
}

#[test]
fn every_option_and_every_way_to_write_it() {
    for args in [
        "-v --userdata=f --transc_id=t --profile=p --imds=h",
        "--verbose --userdata f --transc_id t --profile p --imds h",
        "--verb --user=f --t=t --p p --im h",
        "--profile=p --imds=x --imds=h --userdata=g --userdata=f -v -v --transc_id=t",
    ] {
        let a = run(args);
        assert!(a.verbose, "{args}");
        assert_eq!(a.userdata, Some(Input::File("f".into())), "{args}");
        assert_eq!((a.transaction_id.as_deref(), a.profile.as_deref()), (Some("t"), Some("p")), "{args}");
        assert_eq!(a.imds, ["http://h"], "{args}");
    }
    assert_eq!(run("--userdata -").userdata, Some(Input::Stdin));
    assert_eq!(run("--userdata=-").userdata, Some(Input::Stdin));
    assert_eq!(run("--userdata --x").userdata, Some(Input::File("--x".into())));
    assert!(matches!(parse(["--check", "-v"]), Ok(Command::Check(a)) if a.verbose));
    for args in [&["-h"][..], &["--help"], &["--he"], &["-vh"], &["--check", "-h"]] {
        assert_eq!(parse(args.iter().copied()), Ok(Command::Help), "{args:?}");
    }
    for args in [&["-V"][..], &["--version"], &["--vers"]] {
        assert_eq!(parse(args.iter().copied()), Ok(Command::Version), "{args:?}");
    }
    assert!(version().starts_with("ec2fleetd "));
    for (name, _) in OPTIONS {
        assert!(USAGE.contains(&format!("--{name}")), "{name}");
    }
}

#[test]
fn booleans() {
    for (value, want) in [("true", true), ("FALSE", false), ("True", true), ("0", false), ("1", true), ("-2", true)] {
        assert_eq!(run(&format!("--enable-poll={value}")).poll, want, "{value}");
        assert_eq!(run(&format!("--enable-poll {value}")).poll, want, "{value}");
    }
    assert_eq!(error(&["--enable-poll=yes"]), "--enable-poll: true, false or a number is wanted");
}

#[test]
fn disable_all_counts_from_its_place() {
    let on = |args: &str| {
        let a = run(args);
        (a.init, a.notify, a.exec, a.poll)
    };
    assert_eq!(on("--disable-all"), (false, false, false, false));
    assert_eq!(on("--disable-all --enable-exec=true"), (false, false, true, false));
    assert_eq!(on("--enable-exec=true --disable-all --enable-init 1"), (true, false, false, false));
    assert_eq!(on("--enable-notify=0 --enable-n=true --enable-p=0"), (true, true, true, false));
}

#[test]
fn the_place_of_the_log() {
    for (args, want) in
        [("", Place::Auto), ("--log=kmsg", Place::Kmsg), ("--l stderr", Place::Stderr), ("--lo=auto", Place::Auto)]
    {
        assert_eq!(run(args).log, want, "{args}");
    }
    assert_eq!(error(&["--log=syslog"]), "--log: auto, stderr or kmsg is wanted");
    assert_eq!(error(&["--log"]), "--log needs a value");
}

#[test]
fn metadata_endpoints() {
    for (list, want) in [
        ("169.254.169.254", "http://169.254.169.254"),
        ("127.0.0.1:1338", "http://127.0.0.1:1338"),
        ("[fd00:ec2::254]:80", "http://[fd00:ec2::254]:80"),
        ("[fd00:ec2::254]", "http://[fd00:ec2::254]"),
        ("fd00:ec2::254", "http://[fd00:ec2::254]"),
        ("a.example,b:1", "http://a.example http://b:1"),
    ] {
        assert_eq!(run(&format!("--imds={list}")).imds.join(" "), want, "{list}");
    }
    for list in ["a,", "http://a", "a:", "a:0", "a:65536", "a:+1", "a:b", "[a]:1", "[::1]1", "[::1", "a b", "é", ":1"]
    {
        assert_eq!(
            error(&["--imds", list]),
            "--imds: HOST[:PORT][,...], an IPv6 address in brackets is wanted",
            "{list}"
        );
    }
}

#[test]
fn mistakes() {
    for (args, want) in [
        (&["--enable-int=1"][..], "unknown option --enable-int: did you mean --enable-init?"),
        (&["--user-data=f"], "unknown option --user-data: did you mean --userdata?"),
        (&["--transc-id", "x"], "unknown option --transc-id: did you mean --transc_id?"),
        (&["--banana"], "unknown option --banana: see --help"),
        (&["-x"], "unknown option -x: see --help"),
        (&["--ver"], "--ver may be --version or --verbose"),
        (&["--enable"], "--enable may be --enable-init or --enable-notify or --enable-exec or --enable-poll"),
        (&["file"], "unexpected argument \"file\": see --help"),
        (&["--", "-v"], "unexpected argument \"-v\": see --help"),
        (&["-"], "unexpected argument \"-\": see --help"),
        (&["--userdata"], "--userdata needs a value"),
        (&["--userdata="], "--userdata needs a value"),
        (&["--profile", ""], "--profile needs a value"),
        (&["--verbose=1"], "--verbose takes no value"),
        (&["--disable-all=true"], "--disable-all takes no value"),
        (&["--verb=1"], "--verb takes no value"),
    ] {
        assert_eq!(error(args), want, "{args:?}");
    }
    let bad = OsStr::from_bytes(b"\xff").to_owned();
    assert_eq!(
        parse([OsString::from("--profile"), bad.clone()]).unwrap_err().to_string(),
        "--profile: UTF-8 text is wanted"
    );
    assert!(parse([bad.clone()]).is_err());
    assert!(parse([OsStr::from_bytes(b"--\xff=1").to_owned()]).is_err());
    // The name of a file may be anything.
    let file = parse([OsString::from("--userdata"), bad.clone()]);
    assert!(matches!(file, Ok(Command::Run(a)) if a.userdata == Some(Input::File(bad.into()))));
}
