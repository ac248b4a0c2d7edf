//! `on-failure`: reboot, power-off, the end of the instance. No machine is harmed: see `src/sys/power.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::fakeaws::{Fault, FaultKind, InstanceSpec};
use crate::kit::{SHORT, bodies, on, sh, to_topic};
use crate::lab::{How, Lab, Run, Running, once};

/// A config with one domain whose `starting` command fails.
fn text(on_failure: &str) -> String {
    let fail = on(&["starting"], &[sh("exit 1")]);
    let note = on(&["failed"], &[sh("echo failed >> $LAB/order")]);
    format!(
        "{{ 'on-failure': {on_failure}, domains: {{ d: {{ exec: [{fail}, {note}], notify: [{}] }} }} }}",
        to_topic(SHORT)
    )
}

/// A program in the root of the instance that notes how it is called.
fn program(lab: &Lab, path: &str, code: u32) {
    let file = lab.root(&lab.me).join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    fs::write(&file, format!("#!/bin/sh\necho {name} \"$@\" >> $LAB/order\nexit {code}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A lab with systemd, as far as it is asked.
fn systemd() -> Lab {
    let lab = Lab::new();
    fs::create_dir_all(lab.root(&lab.me).join("run/systemd/system")).unwrap();
    program(&lab, "usr/bin/systemctl", 0);
    lab
}

fn run(lab: &Lab, on_failure: &str) -> Run {
    lab.run(&text(on_failure), once())
}

fn order(lab: &Lab) -> Vec<String> {
    lab.lines("order")
}

/// How long this machine has been up.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn the_service_manager_is_asked_after_commands_and_messages() {
    for (action, word) in [("'reboot'", "reboot"), ("{ action: 'poweroff', 'min-uptime': 0 }", "poweroff")] {
        let lab = systemd();
        let run = run(&lab, action);
        run.ends(1, &[&format!("on-failure: {word} is under way")]);
        assert_eq!(order(&lab), ["failed".to_owned(), format!("systemctl --no-block {word}")], "{run}");
        assert!(bodies(&lab)[0].contains(&format!("on-failure: {word}")), "{:?}", bodies(&lab));
    }
}

#[test]
fn without_systemd_a_program_is_asked_and_otherwise_nobody() {
    for (there, want) in [(Some("sbin/poweroff"), 2), (None, 1)] {
        let lab = Lab::new();
        there.into_iter().for_each(|path| program(&lab, path, 0));
        // It is not asked: there is no systemd.
        program(&lab, "usr/bin/systemctl", 0);
        let run = run(&lab, "{ action: 'poweroff', 'min-uptime': 0 }");
        let said = if there.is_some() { "poweroff is under way" } else { "reboot(2) is not for tests" };
        run.ends(1, &[said]);
        assert_eq!(
            order(&lab),
            ["failed", "poweroff"].map(|l| format!("{l}{}", if l == "poweroff" { " " } else { "" }).trim().to_owned())
                [..want],
            "{run}"
        );
    }
}

#[test]
fn no_program_of_the_machine_that_tests_is_ever_run() {
    let lab = Lab::new();
    fs::create_dir_all(lab.root(&lab.me).join("run/systemd/system")).unwrap();
    for action in ["'reboot'", "{ action: 'poweroff', 'min-uptime': 0 }"] {
        let run = run(&lab, action);
        run.ends(1, &["reboot(2) is not for tests", "nothing else is to be done; this instance stays as it is"]);
        assert!(!run.log.contains("running /usr") && !run.log.contains("running /bin/systemctl"), "{run}");
    }
}

#[test]
fn what_does_not_work_is_said_and_the_next_is_done() {
    let lab = systemd();
    program(&lab, "usr/bin/systemctl", 7);
    let run = run(&lab, "{ action: 'reboot', then: { action: 'terminate', 'min-uptime': 0 } }");
    run.ends(1, &["cannot reboot: ", "exit code 7", "on-failure: EC2 terminates this instance"]);
    assert_eq!(lab.server.world().instances[&lab.me].state, "terminated", "{run}");
}

#[test]
fn a_loop_of_reboots_ends_at_the_limit() {
    let lab = systemd();
    let on_failure = "{ action: 'reboot', limit: 2, then: { action: 'poweroff', 'min-uptime': 0 } }";
    for n in 1..=3 {
        let run = run(&lab, on_failure);
        if n < 3 {
            run.ends(1, &[&format!("reboot is under way ({n} of 2 within an hour)")]);
        } else {
            run.ends(1, &["no reboot: there were 2 within an hour, and the limit is 2", "poweroff is under way"]);
        }
        // That is what a reboot does.
        lab.lose_journal();
    }
    assert_eq!(order(&lab).iter().filter(|l| l.ends_with(" reboot")).count(), 2, "{:?}", order(&lab));
    // An hour later it may try again.
    lab.knobs(|k| k.clock_offset_s = 3700);
    run(&lab, on_failure).ends(1, &["reboot is under way (1 of 2 within an hour)"]);
}

#[test]
fn a_good_boot_ends_the_count() {
    let lab = systemd();
    let good = "{ 'on-failure': 'reboot', domains: { d: {} } }";
    let file = lab.root(&lab.me).join("var/lib/ec2fleetd/reboots");
    run(&lab, "'reboot'").ends(1, &["(1 of 3 within an hour)"]);
    assert!(file.exists());
    lab.run(good, once()).ends(0, &["[d] started"]);
    assert!(!file.exists());
}

/// What is done to `/var/lib`.
type Spoil = fn(&std::path::Path);

#[test]
fn no_reboot_where_nothing_would_end_a_loop_of_them() {
    let cases: [(&str, Spoil); 4] = [
        ("cannot read", |dir| fs::write(dir.join("ec2fleetd"), "").unwrap()),
        ("without it nothing would end a loop of reboots", |dir| {
            fs::create_dir_all(dir.join("ec2fleetd/reboots.journal.new")).unwrap();
        }),
        ("makes no sense", |dir| {
            fs::create_dir_all(dir.join("ec2fleetd")).unwrap();
            fs::write(dir.join("ec2fleetd/reboots"), "what is this").unwrap();
        }),
        ("it is not a plain file that only we can write", |dir| {
            fs::create_dir_all(dir.join("ec2fleetd")).unwrap();
            fs::write(dir.join("ec2fleetd/reboots"), "i-1").unwrap();
            fs::set_permissions(dir.join("ec2fleetd/reboots"), fs::Permissions::from_mode(0o666)).unwrap();
        }),
    ];
    for (want, spoil) in cases {
        let lab = systemd();
        let dir = lab.root(&lab.me).join("var/lib");
        fs::create_dir_all(&dir).unwrap();
        spoil(&dir);
        let run = run(&lab, "'reboot'");
        run.ends(1, &["no reboot: ", want]);
        assert_eq!(order(&lab), ["failed"], "{run}");
    }
}

#[test]
fn a_kill_while_the_reboot_is_written_down_asks_for_none() {
    let lab = systemd();
    // Half of the text; the text; its place.
    for step in [1, 2] {
        let run = lab.run(&text("'reboot'"), once().env("EC2FLEETD_DIE", &step.to_string()));
        assert_eq!(run.code, 137, "{run}");
    }
    assert!(!order(&lab).iter().any(|l| l.contains("systemctl")), "{:?}", order(&lab));
    run(&lab, "'reboot'").ends(1, &["reboot is under way (2 of 3 within an hour)"]);
}

/// A run that waits until the machine has been up for long enough: so many seconds more.
fn young(lab: &Lab, action: &str, seconds: u64, how: How) -> Running {
    let config = text(&format!("{{ action: '{action}', 'min-uptime': {} }}", uptime() + seconds));
    let config = config.replacen('{', r#"{ "interrupt-detection": { options: { interval: 0.02 } }, "#, 1);
    let running = lab.start(&config, how);
    running.says(lab, "min-uptime is");
    running
}

#[test]
fn what_ends_the_instance_waits_until_it_has_been_up_for_a_while() {
    let lab = Lab::new();
    let run = young(&lab, "terminate", 100, once().rate(50)).wait(&lab);
    run.ends(1, &["on-failure: terminate in ", "EC2 terminates this instance"]);
    assert_eq!(lab.count("TerminateInstances"), 1, "{run}");
}

#[test]
fn a_stop_ends_that_wait_and_nothing_is_done() {
    for how in ["TERM", "notice"] {
        let lab = Lab::new();
        let running = young(&lab, "terminate", 10_000, How::default());
        if how == "TERM" {
            running.signal("TERM");
        } else {
            lab.server.world().notice(&lab.me, "terminate", 120);
        }
        let run = running.wait(&lab);
        run.ends(1, &["on-failure: no terminate: stopped by "]);
        assert_eq!(lab.count("TerminateInstances"), 0, "{run}");
    }
}

const TERMINATE: &str = "{ action: 'terminate', 'min-uptime': 0 }";
const UNHEALTHY: &str = "{ action: 'set-unhealthy', 'min-uptime': 0 }";

#[test]
fn trouble_on_the_way_is_ridden_out() {
    for (on_failure, action) in [(TERMINATE, "EC2:TerminateInstances"), (UNHEALTHY, "AutoScaling:SetInstanceHealth")] {
        for kind in [FaultKind::Throttle, FaultKind::Status500, FaultKind::ResetAfter, FaultKind::Garbage] {
            let lab = Lab::new();
            lab.server.world().add_group("web", &[&lab.me]);
            lab.fault(Fault::nth(action, 1, kind.clone()));
            let run = lab.run(&text(on_failure), once().rate(5));
            run.ends(1, &["on-failure: "]);
            let short = action.split(':').nth(1).unwrap();
            assert!(lab.count(short) == 2 && !run.log.contains("nothing else"), "{kind:?} {run}");
        }
    }
}

#[test]
fn a_refused_termination_names_the_reason() {
    let lab = Lab::new();
    lab.server.world().deny("EC2:TerminateInstances");
    let denied = run(&lab, TERMINATE);
    denied.ends(1, &["cannot terminate this instance: UnauthorizedOperation", "allow ec2:TerminateInstances"]);
    denied.ends(1, &["nothing else is to be done; this instance stays as it is"]);
    lab.server.world().permit("EC2:TerminateInstances");
    let me = lab.me.clone();
    lab.server.world().scaling.protected.insert(me);
    run(&lab, TERMINATE).ends(1, &["OperationNotPermitted", "disableApiTermination"]);
    assert_eq!(lab.server.world().instances[&lab.me].state, "running");
}

#[test]
fn the_group_is_told_whatever_its_grace_period() {
    let lab = Lab::new();
    lab.server.world().add_group("web", &[&lab.me]);
    lab.server.world().scaling.groups.get_mut("web").unwrap().grace = true;
    let contention = FaultKind::Custom { status: 500, code: "ResourceContention".into(), message: "pending".into() };
    lab.fault(Fault::first("SetInstanceHealth", 2, contention));
    let run = run(&lab, UNHEALTHY);
    run.ends(1, &["on-failure: the Auto Scaling group knows that this instance is unhealthy"]);
    assert_eq!(lab.server.world().scaling.groups["web"].members[&lab.me].health, "Unhealthy", "{run}");
    assert_eq!(lab.count("SetInstanceHealth"), 3, "{run}");
}

#[test]
fn an_instance_of_no_group_is_left_to_what_comes_then() {
    let lab = Lab::new();
    let on_failure = format!("{{ action: 'set-unhealthy', 'min-uptime': 0, then: {TERMINATE} }}");
    run(&lab, &on_failure).ends(1, &["no Auto Scaling group has this instance", "EC2 terminates this instance"]);
    let lab = Lab::new();
    lab.server.world().deny("AutoScaling:SetInstanceHealth");
    run(&lab, UNHEALTHY).ends(1, &["AccessDenied", "allow autoscaling:SetInstanceHealth for this instance's role"]);
}

#[test]
fn an_incomplete_roll_back_goes_past_the_retry_and_keeps_its_exit_code() {
    let lab = Lab::with(InstanceSpec::default());
    let volume = lab.pool_volume("d", "p");
    lab.server.world().deny("EC2:DetachVolume");
    let directive = crate::disks::directive("p", "/dev/xvdf", r#""pool-name": "p""#, "exit 1");
    let config = format!(
        "{{ 'on-failure': {{ action: 'retry', then: {TERMINATE} }}, domains: {{ d: {{ 'attach-volume': [{directive}] }} }} }}"
    );
    let run = lab.run(&config, once());
    run.ends(3, &[&volume, "needs a look", "on-failure: EC2 terminates this instance"]);
    assert_eq!((lab.count("AttachVolume"), lab.count("TerminateInstances")), (1, 1), "{run}");
}

#[test]
fn a_config_that_cannot_be_read_ends_nothing() {
    let lab = systemd();
    let run = lab.run("{ 'on-failure': 'reboot', domains: { d: { exec: [{}] } } }", once());
    run.ends(2, &["lines: line 1", "is missing"]);
    assert!(order(&lab).is_empty() && lab.server.calls().is_empty(), "{run}");
}

#[test]
fn a_good_run_and_a_stop_end_nothing() {
    let lab = systemd();
    let config = format!("{{ 'on-failure': {TERMINATE}, domains: {{ d: {{}} }} }}");
    lab.run(&config, once()).ends(0, &["[d] started"]);
    let running = lab.start(&config, How::default());
    running.says(&lab, "watching");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["stopped"]);
    assert!(lab.server.calls().is_empty() && order(&lab).is_empty());
}

#[test]
fn a_fault_of_the_program_itself_ends_nothing() {
    // It may have been long after `started`.
    let lab = systemd();
    let run = lab.run(&text("'reboot'"), once().env("EC2FLEETD_PANIC", "a test"));
    run.ends(1, &["failed: d"]);
    assert_eq!(order(&lab), ["failed"], "{run}");
    assert!(!bodies(&lab)[0].contains("on-failure"), "{:?}", bodies(&lab));
}

#[test]
fn a_stop_while_a_launch_is_abandoned_ends_nothing() {
    let lab = systemd();
    lab.server.world().add_group("web", &[&lab.me]);
    lab.server.world().add_hook("web", "up", "launching", 60_000);
    let hook = "{ 'lifecycle-hook': { name: 'up', group: 'web', on: 'launching' }, ";
    // The group does not wait yet, and is given time to.
    let running = lab.start(&text("'reboot'").replacen('{', hook, 1), How::default());
    lab.until("a first look", || lab.count("CompleteLifecycleAction") >= 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(1, &["web does not wait for up"]);
    assert_eq!(order(&lab), ["failed"], "{run}");
}
