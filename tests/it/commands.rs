//! `exec`: the commands themselves.

use crate::kit::{note_events, on, one, quoted, record, seen, sh};
use crate::lab::{Lab, once};

fn exec(blocks: &[String]) -> String {
    one(&format!("exec: [{}]", blocks.join(", ")))
}

/// How long the command ran that was out of time.
pub(crate) fn seconds_of(log: &str) -> u64 {
    let (_, rest) = log.split_once("was ended after ").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

fn pid_lives(pid: &str) -> bool {
    // A zombie is gone for everybody but its parent.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| !s.contains(") Z "))
}

#[test]
fn blocks_run_in_order_of_appearance() {
    let lab = Lab::new();
    let note = |word: &str| sh(&format!("echo {word} >> $LAB/seen"));
    let blocks = [
        on(&["started"], &[note("one"), note("two")]),
        on(&[], &[note("always-{daemon_state}")]),
        on(&["failed"], &[note("never")]),
        on(&["started", "starting"], &[note("three-{daemon_state}")]),
    ];
    lab.run(&exec(&blocks), once()).ends(0, &[]);
    let want = ["always-starting", "three-starting", "one", "two", "always-started", "three-started"];
    assert_eq!(seen(&lab), want);
}

#[test]
fn which_exit_codes_count() {
    // (ec of the line, exit code, success)
    let cases = [
        ("", 0, true),
        ("", 1, false),
        ("ec: 0", 0, true),
        ("ec: 7", 7, true),
        ("ec: \"7\"", 0, false),
        ("ec: \"0,1\"", 1, true),
        ("ec: \"0-127\"", 127, true),
        ("ec: \"0-127\"", 128, false),
        ("ec: \"0-1,142\"", 142, true),
        ("ec: null", 99, true),
    ];
    for (ec, code, good) in cases {
        let lab = Lab::new();
        let line = format!(r#"{{ argv: ["/bin/sh", "-c", "exit {code}"], {ec} }}"#);
        let run = lab.run(&exec(&[on(&["starting"], &[line])]), once());
        assert_eq!(run.code == 0, good, "{ec} {code} {run}");
    }
}

#[test]
fn a_killed_command_has_128_and_the_signals_number() {
    let lab = Lab::new();
    let line = r#"{ argv: ["/bin/sh", "-c", "kill -9 $$"], ec: "137" }"#.to_owned();
    lab.run(&exec(&[on(&["starting"], &[line])]), once()).ends(0, &[]);
    let lab = Lab::new();
    lab.run(&exec(&[on(&["starting"], &[sh("kill -9 $$")])]), once()).ends(1, &["exit code 137 (SIGKILL)"]);
}

#[test]
fn the_blocks_codes_are_inherited_by_its_lines() {
    let lab = Lab::new();
    let block =
        format!(r#"{{ on: ["starting"], ec: "5", lines: [{}, {{ argv: ["/bin/true"], ec: 0 }}] }}"#, sh("exit 5"));
    lab.run(&exec(&[block]), once()).ends(0, &[]);
}

#[test]
fn null_does_not_forgive_what_cannot_be_started_or_takes_too_long() {
    let lab = Lab::new();
    let line = r#"{ argv: ["/no/such/program"], ec: null }"#.to_owned();
    lab.run(&exec(&[on(&["starting"], &[line])]), once()).ends(1, &["cannot start /no/such/program: No such file"]);
    let lab = Lab::new();
    let line = r#"{ argv: ["/bin/sleep", "60"], ec: null, timeout: 1 }"#.to_owned();
    lab.run(&exec(&[on(&["starting"], &[line])]), once().rate(20)).ends(1, &["/bin/sleep was ended after "]);
}

#[test]
fn a_program_without_a_slash_is_looked_up_in_path() {
    let lab = Lab::new();
    let script = lab.file("my-tool", "#!/bin/sh\necho found >> $LAB/seen\n");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", lab.dir.display());
    let line = r#"{ argv: ["my-tool"] }"#.to_owned();
    lab.run(&exec(&[on(&["starting"], &[line])]), once().env("PATH", &path)).ends(0, &[]);
    assert_eq!(seen(&lab), ["found"]);
    let line = r#"{ argv: ["no-such-tool"] }"#.to_owned();
    lab.run(&exec(&[on(&["starting"], &[line])]), once()).ends(1, &["cannot start no-such-tool: not found in PATH"]);
}

#[test]
fn a_command_out_of_time_gets_term() {
    let lab = Lab::new();
    let script = "trap 'echo asked; exit 0' TERM; sleep 60 & wait";
    let line = format!(r#"{{ argv: ["/bin/sh", "-c", {}], timeout: 2 }}"#, quoted(script));
    lab.run(&exec(&[on(&["starting"], &[line])]), once().rate(20))
        .ends(1, &["[d] sh: asked", "/bin/sh was ended after ", ": its time was over; its last lines: asked"]);
}

#[test]
fn its_whole_group_is_killed_when_term_does_not_help() {
    let lab = Lab::new();
    let script = "trap '' TERM; sleep 300 & echo $! > $LAB/pid; wait; wait; wait";
    let line = format!(r#"{{ argv: ["/bin/sh", "-c", {}], timeout: 1 }}"#, quoted(script));
    lab.run(&exec(&[on(&["starting"], &[line])]), once().rate(20)).ends(1, &["was ended after"]);
    let pid = std::fs::read_to_string(lab.dir.join("pid")).unwrap();
    lab.until("the child's end", || !pid_lives(&pid));
}

#[test]
fn without_a_timeout_the_one_of_init_counts() {
    let lab = Lab::new();
    let text = format!("{{ timeout: 3, domains: {{ d: {{ exec: [{}] }} }} }}", on(&["starting"], &[sh("sleep 300")]));
    lab.run(&text, once().rate(20)).ends(1, &["/bin/sh was ended after ", "failed: d"]);
}

#[test]
fn a_command_for_failed_has_60_seconds() {
    let lab = Lab::new();
    let blocks = [on(&["starting"], &[sh("exit 1")]), on(&["failed"], &[sh("sleep 300")])];
    let run = lab.run(&exec(&blocks), once().rate(100));
    run.ends(1, &["'failed' commands: /bin/sh was ended after "]);
    assert!((60..=80).contains(&seconds_of(&run.log)), "{run}");
}

#[test]
fn output_is_logged_line_by_line_and_its_end_is_in_the_error() {
    let lab = Lab::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; echo last >&2; printf 'no end'; exit 4";
    let run = lab.run(&exec(&[on(&["starting"], &[sh(script)])]), once());
    run.ends(1, &["info  [d] sh: line 1\n", "info  [d] sh: last\n", "info  [d] sh: no end\n"]);
    let error = run.log.lines().find(|l| l.contains("exit code 4")).unwrap();
    assert!(error.ends_with("line 11 | line 12 | last | no end") && !error.contains("line 2 |"), "{error}");
}

#[test]
fn output_that_is_no_text_or_very_long_does_no_harm() {
    let lab = Lab::new();
    let script = r"printf '\377\376\033[31m red\007\n'; head -c 300000 /dev/zero | tr '\0' x; echo; echo done";
    let run = lab.run(&exec(&[on(&["starting"], &[sh(script)])]), once());
    run.ends(0, &["[cut]", "[d] sh: done"]);
    assert!(!run.log.contains('\u{1b}') && !run.log.contains('\u{7}'), "control characters in the log");
    assert!(run.log.len() < 50_000);
}

#[test]
fn the_environment_is_ours_less_notify_socket_and_without_credentials() {
    let lab = Lab::new();
    // The credentials of the role are fetched for the notification.
    let text =
        one(&format!("exec: [{}], notify: [{}]", on(&["started"], &[sh("env > $LAB/env")]), crate::kit::to_topic("")));
    lab.run(&text, once().env("NOTIFY_SOCKET", "/nowhere").env("MY_OWN", "kept")).ends(0, &[]);
    let env = std::fs::read_to_string(lab.dir.join("env")).unwrap();
    assert!(env.contains("MY_OWN=kept\n"), "{env}");
    for absent in ["NOTIFY_SOCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        assert!(!env.contains(absent), "{absent} in {env}");
    }
    crate::secrets::none_in(&lab, &env);
}

#[test]
fn a_program_in_the_background_does_not_block_and_survives() {
    let lab = Lab::new();
    let run = lab.run(&exec(&[on(&["started"], &[sh("sleep 100 & echo $! > $LAB/pid; echo ready")])]), once());
    run.ends(0, &["[d] sh: ready", "ready: d started"]);
    let pid = std::fs::read_to_string(lab.dir.join("pid")).unwrap();
    assert!(pid_lives(&pid), "{run}");
    std::process::Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[test]
fn standard_input_is_empty_and_the_directory_ours() {
    let lab = Lab::new();
    let line = sh("cat; pwd >> $LAB/seen; echo {cwd} >> $LAB/seen");
    lab.run(&exec(&[on(&["started"], &[line])]), once()).ends(0, &[]);
    let dir = lab.dir.display().to_string();
    assert_eq!(seen(&lab), [dir.clone(), dir]);
}

#[test]
fn macros_are_replaced_in_argv_and_a_shell_is_not_involved() {
    let lab = Lab::new();
    let script = lab.file("args", "#!/bin/sh\nfor a in \"$@\"; do echo \"<$a>\" >> $LAB/seen; done\n");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let argv =
        ["{cwd}/args", "{domain} $HOME", "{{x}}", "", "{volume_id}", "{ami-i}", "{placement_zone}", "{instance_id}"];
    lab.run(&exec(&[format!(r#"{{ on: ["starting"], lines: [{{ argv: {argv:?} }}] }}"#)]), once()).ends(0, &[]);
    let me = format!("<{}>", lab.me);
    assert_eq!(seen(&lab), ["<d $HOME>", "<{x}>", "<>", "<>", "<0>", "<eu-west-1a>", me.as_str()]);
}

#[test]
fn without_exec_no_command_runs() {
    let lab = Lab::new();
    lab.run(&exec(&[note_events()]), once().arg("--enable-exec=false")).ends(0, &["ready: d started"]);
    assert!(seen(&lab).is_empty());
}

#[test]
fn a_background_program_outlives_the_daemon_and_its_output_is_read_on() {
    let lab = Lab::new();
    // It writes when the daemon has ended; without a reader the first line would kill it.
    let script = "(while ! test -e $LAB/over; do sleep 0.01; done; echo late; sleep 0.05; echo later; touch $LAB/alive) & exit 0";
    let config = format!(
        r#"{{ domains: {{ d: {{ exec: [{{ on: ["started"], lines: [{{ argv: ["/bin/sh", "-c", "{script}"] }}] }}] }} }} }}"#
    );
    let running = lab.start(&config, once());
    let log = running.log_file();
    let run = running.wait(&lab);
    run.ends(0, &["goes on in the background; its output is read on"]);
    lab.file("over", "");
    lab.until("the program to survive its output", || lab.dir.join("alive").exists());
    lab.until("its output in the log", || std::fs::read_to_string(&log).unwrap().contains("[d] sh: later"));
}

#[test]
fn the_commands_of_a_volume_know_the_names_of_the_domain() {
    let lab = Lab::new();
    lab.pool_volume("d", "p");
    let exec = on(&[], &[sh("echo {static_dns_rr} {domain} > $LAB/seen")]);
    let volume = format!(r#"{{ source: "p", device: "/dev/xvdf", "pool-name": "p", exec: [{exec}] }}"#);
    let records = record("A-{instance_index}.example.com.", "");
    let run = lab.run(&one(&format!(r#""attach-volume": [{volume}], "update-route53": [{records}]"#)), once());
    run.ends(0, &[]);
    assert_eq!(seen(&lab), ["A-0.example.com d"], "{run}");
}
