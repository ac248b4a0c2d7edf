//! Where the log goes when there is nobody to read it.

use std::process::Stdio;

use crate::kit::{on, one, sh};
use crate::lab::{How, Lab, once};
use crate::secrets;

/// Runs to the end with standard error at `stderr`. What the kernel's log and the other one got.
fn run(lab: &Lab, how: How, config: &str, stderr: impl Into<Stdio>) -> (i32, String, String) {
    let log = lab.dir.join("log-early");
    let mut command = lab.command(config, &how, &log);
    let status = command.stdout(Stdio::null()).stderr(stderr).status().unwrap();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let (kernel, other) = (read(&lab.root(&lab.me).join("dev/kmsg")), read(&log));
    secrets::none_in(lab, &kernel);
    (status.code().unwrap(), kernel, other)
}

fn lab_with_kmsg() -> Lab {
    let lab = Lab::new();
    std::fs::write(lab.root(&lab.me).join("dev/kmsg"), "").unwrap();
    lab
}

#[test]
fn without_a_journal_or_a_console_the_kernel_gets_the_log() {
    let lab = lab_with_kmsg();
    let long = "x".repeat(2000);
    let text = one(&format!("exec: [{}]", on(&["started"], &[sh(&format!("echo {long}"))])));
    let (code, kernel, _) = run(&lab, once(), &text, Stdio::null());
    assert_eq!(code, 0, "{kernel}");
    assert!(kernel.contains("<6>ec2fleetd: ready: d started\n"), "{kernel}");
    assert!(kernel.contains("<6>ec2fleetd: [d] started\n"), "{kernel}");
    assert!(kernel.contains("<7>ec2fleetd: imds GET "), "{kernel}");
    assert!(kernel.lines().all(|l| l.starts_with('<') && l.len() <= 900), "{kernel}");
    assert_eq!(kernel.matches('x').count() / 1000, 2, "a long line is cut into records, not cut off: {kernel}");
}

#[test]
fn a_closed_or_unwritable_stream_is_nobody_either() {
    for (end, args, want) in [
        ("2>&-", "--enable-poll=false", "<6>ec2fleetd: ready: d started\n"),
        ("2</etc/passwd", "--enable-poll=false", "<6>ec2fleetd: ready: d started\n"),
        ("2>&-", "--banana", "<3>ec2fleetd: unknown option --banana: see --help\n"),
    ] {
        let lab = lab_with_kmsg();
        let daemon = lab.command(&one(""), &How::default().arg(args), &lab.dir.join("log-early"));
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {end}")]).arg(daemon.get_program()).args(daemon.get_args());
        shell.env_clear().envs(daemon.get_envs().filter_map(|(k, v)| Some((k, v?))));
        shell.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
        let kernel = std::fs::read_to_string(lab.root(&lab.me).join("dev/kmsg")).unwrap();
        assert!(kernel.contains(want), "{end}: {kernel}");
    }
}

#[test]
fn the_option_decides() {
    let lab = lab_with_kmsg();
    let (code, kernel, _) = run(&lab, once().arg("--log=stderr"), &one(""), Stdio::null());
    assert_eq!((code, kernel.as_str()), (0, ""));
    let file = || std::fs::File::create(lab.dir.join("log-early")).unwrap();
    let (code, kernel, other) = run(&lab, once(), &one(""), file());
    assert_eq!((code, kernel.as_str()), (0, ""), "a stream that can be written to is where the log belongs");
    assert!(other.contains(" info  ready: d started"), "{other}");
    let (code, kernel, other) = run(&lab, once().arg("--log=kmsg"), &one(""), file());
    assert_eq!((code, other.as_str()), (0, ""), "{kernel}");
    assert!(kernel.contains("<6>ec2fleetd: ready: d started\n"), "{kernel}");
}

#[test]
fn a_kernel_that_takes_no_log_is_a_warning() {
    let lab = Lab::new();
    let file = std::fs::File::create(lab.dir.join("log-early")).unwrap();
    let (code, _, other) = run(&lab, once().arg("--log=kmsg"), &one(""), file);
    assert_eq!(code, 0, "{other}");
    assert!(other.contains(" warn  cannot log to ") && other.contains(" info  ready: d started"), "{other}");
    let (code, kernel, _) = run(&lab, once(), &one(""), Stdio::null());
    assert_eq!((code, kernel.as_str()), (0, ""), "nowhere to log is no failure");
}

#[test]
fn what_goes_on_in_the_background_logs_to_the_same_place() {
    let lab = lab_with_kmsg();
    let script = "(until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.02; done; echo still here) & true";
    let text = one(&format!("exec: [{}]", on(&["started"], &[sh(script)])));
    let file = std::fs::File::create(lab.dir.join("log-early")).unwrap();
    let (code, kernel, other) = run(&lab, once().arg("--log=kmsg"), &text, file);
    assert_eq!((code, other.as_str()), (0, ""), "{kernel}");
    assert!(kernel.contains("its output is read on"), "{kernel}");
    lab.file("go", "");
    let kmsg = lab.root(&lab.me).join("dev/kmsg");
    let said = || std::fs::read_to_string(&kmsg).unwrap();
    lab.until("the line of the background", || said().contains("still here\n"));
    assert!(said().contains("<6>ec2fleetd: [d] sh: still here\n"), "{}", said());
}

/// As after a switch_root, where the old `/dev` has moved away.
#[test]
fn a_kernels_log_that_has_moved_away_is_still_written_to() {
    let lab = lab_with_kmsg();
    let dev = lab.root(&lab.me).join("dev");
    let running = lab.start(&one(""), How::default().arg("--log=kmsg"));
    let said = |name: &str| std::fs::read_to_string(dev.join(name)).unwrap();
    lab.until("readiness", || said("kmsg").contains("ready: d started"));
    std::fs::rename(dev.join("kmsg"), dev.join("moved")).unwrap();
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    assert!(said("moved").ends_with("<6>ec2fleetd: stopped\n"), "{}", said("moved"));
    assert!(!dev.join("kmsg").exists());
}
