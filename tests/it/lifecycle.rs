//! `lifecycle-hook`: an Auto Scaling group that waits hears that the work goes on, and how it ended.

use crate::disks::{directive, id};
use crate::fakeaws::{Fault, FaultKind, InstanceSpec, VolumeSpec};
use crate::kit::{on, sh};
use crate::lab::{How, Lab, once};

const UP: &str = "{ name: 'up', group: 'web', on: 'launching' }";

/// A group with a hook of each kind.
fn lab() -> Lab {
    with(InstanceSpec::default(), 60_000)
}

fn with(spec: InstanceSpec, heartbeat_ms: u64) -> Lab {
    let lab = Lab::with(spec);
    let mut w = lab.server.world();
    w.add_group("web", &[&lab.me]);
    w.add_hook("web", "up", "launching", heartbeat_ms);
    w.add_hook("web", "down", "terminating", heartbeat_ms);
    drop(w);
    lab
}

fn begin(lab: &Lab, transition: &str) {
    lab.server.world().transition("web", &lab.me, transition);
}

/// The result of the last action of a hook.
fn result(lab: &Lab, hook: &str) -> Option<String> {
    lab.server.world().action("web", hook).and_then(|a| a.1)
}

fn beats(lab: &Lab, hook: &str) -> u32 {
    lab.server.world().action("web", hook).map_or(0, |a| a.0)
}

/// A config with hooks, more keys, and one domain with these `starting` commands.
fn text(hooks: &str, more: &str, commands: &[String]) -> String {
    let exec = on(&["starting"], commands);
    format!("{{ 'lifecycle-hook': {hooks}, {more} domains: {{ d: {{ exec: [{exec}] }} }} }}")
}

fn wait_for_go() -> String {
    sh("until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.01; done")
}

#[test]
fn a_group_that_waits_for_the_launch_hears_of_it_until_all_is_up() {
    let lab = with(InstanceSpec::default(), 3000);
    begin(&lab, "launching");
    // Every 15 s, which is less than the shortest time-out of a hook.
    let running = lab.start(&text(UP, "", &[wait_for_go()]), once().rate(30));
    lab.until("heartbeats", || beats(&lab, "up") >= 4);
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["[d] started", "web goes on with CONTINUE of up"]);
    assert_eq!(result(&lab, "up").as_deref(), Some("CONTINUE"), "{run}");
    assert_eq!(lab.server.world().scaling.groups["web"].members[&lab.me].state, "InService");
    // None comes after the end, and the other hook is not ours to touch.
    let calls = lab.server.calls();
    assert_eq!(calls.last().unwrap().action, "CompleteLifecycleAction", "{run}");
    assert!(calls.iter().all(|c| c.params["LifecycleHookName"] == "up"), "{run}");
}

#[test]
fn a_launch_that_failed_is_abandoned_after_the_last_attempt() {
    let retry = "'on-failure': { action: 'retry', attempts: 3, backoff: 1 },";
    for (more, fails, want) in [("", 1, "ABANDON"), (retry, 3, "ABANDON"), (retry, 2, "CONTINUE")] {
        let lab = lab();
        begin(&lab, "launching");
        let script = format!("echo x >> $LAB/tries; [ `wc -l < $LAB/tries` -gt {fails} ]");
        let run = lab.run(&text(UP, more, &[sh(&script)]), once().rate(20));
        run.ends(i32::from(want == "ABANDON"), &[&format!("web goes on with {want} of up")]);
        assert_eq!(result(&lab, "up").as_deref(), Some(want), "{run}");
        assert_eq!(lab.count("CompleteLifecycleAction"), 1, "{run}");
    }
}

#[test]
fn a_stop_during_init_says_nothing_of_how_it_went() {
    let lab = lab();
    begin(&lab, "launching");
    let running = lab.start(&text(UP, "", &[wait_for_go()]), How::default().rate(30));
    lab.until("a heartbeat", || beats(&lab, "up") >= 1);
    running.signal("TERM");
    running.wait(&lab).ends(0, &["stopp"]);
    assert_eq!(result(&lab, "up"), None);
}

#[test]
fn a_machine_that_is_faster_than_its_group_waits_for_it() {
    let lab = lab();
    let running = lab.start(&text(UP, "", &[sh("true")]), once().rate(20));
    lab.until("a first look", || lab.count("CompleteLifecycleAction") >= 1);
    assert!(running.log().contains("[d] started"));
    begin(&lab, "launching");
    running.wait(&lab).ends(0, &["web goes on with CONTINUE of up"]);
    assert_eq!(result(&lab, "up").as_deref(), Some("CONTINUE"));
}

#[test]
fn a_group_that_does_not_wait_is_left_alone() {
    let lab = lab();
    let run = lab.run(&text(UP, "", &[sh("true")]), once().rate(200));
    run.ends(0, &["web does not wait for up"]);
    assert!(!run.log.contains("error"), "{run}");
}

#[test]
fn a_stop_does_not_wait_for_a_group_that_may_never_come() {
    let lab = lab();
    let running = lab.start(&text(UP, "", &[sh("true")]), How::default());
    running.says(&lab, "watching for interruptions");
    lab.until("a first look", || lab.count("CompleteLifecycleAction") >= 1);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["web does not wait for up", "stopped"]);
    // Every 5 s there would be one more, for a minute.
    assert!(lab.count("CompleteLifecycleAction") <= 3, "{run}");
}

#[test]
fn what_goes_wrong_on_the_way_is_ridden_out_or_said() {
    let contention = FaultKind::Custom { status: 500, code: "ResourceContention".into(), message: "later".into() };
    for kind in [contention, FaultKind::Throttle, FaultKind::Status503, FaultKind::ResetBefore, FaultKind::Garbage] {
        let lab = lab();
        begin(&lab, "launching");
        lab.fault(Fault::first("RecordLifecycleActionHeartbeat", 1, kind.clone()));
        lab.fault(Fault::first("CompleteLifecycleAction", 2, kind));
        let run = lab.run(&text(UP, "", &[sh("true")]), once().rate(10));
        run.ends(0, &[]);
        assert_eq!(result(&lab, "up").as_deref(), Some("CONTINUE"), "{run}");
    }
    // The answer of the first is lost; the second finds that it is done.
    let lab = lab();
    begin(&lab, "launching");
    lab.fault(Fault::nth("CompleteLifecycleAction", 1, FaultKind::ResetAfter));
    let run = lab.run(&text(UP, "", &[sh("true")]), once());
    run.ends(0, &["web goes on with CONTINUE of up"]);
    assert_eq!((result(&lab, "up").as_deref(), lab.count("CompleteLifecycleAction")), (Some("CONTINUE"), 2), "{run}");
}

#[test]
fn what_is_refused_names_the_permission_and_fails_nothing() {
    let lab = lab();
    begin(&lab, "launching");
    lab.server.world().deny("AutoScaling:*");
    let run = lab.run(&text(UP, "", &[sh("true")]), once());
    run.ends(0, &["[d] started", "AccessDenied", "allow autoscaling:CompleteLifecycleAction for this instance's role"]);
    run.ends(0, &["the group goes on when the time-out of the hook is over"]);
}

#[test]
fn a_hook_or_a_group_that_is_not_there_is_said() {
    let cases = [
        ("{ name: 'upp', group: 'web', on: 'launching' }", "No Lifecycle Hook found with name: upp"),
        ("{ name: 'up', group: 'wob', on: 'launching' }", "AutoScalingGroup name not found"),
    ];
    for (hook, want) in cases {
        let lab = lab();
        begin(&lab, "launching");
        lab.run(&text(hook, "", &[sh("true")]), once()).ends(0, &[want]);
    }
}

#[test]
fn the_group_is_in_the_tags_of_the_instance() {
    for metadata_tags in [true, false] {
        let tags = vec![("aws:autoscaling:groupName".to_owned(), "web".to_owned())];
        let lab = with(InstanceSpec { metadata_tags, tags, ..InstanceSpec::default() }, 60_000);
        begin(&lab, "launching");
        let run = lab.run(&text("{ name: 'up', on: 'launching' }", "", &[sh("true")]), once());
        run.ends(0, &[]);
        if metadata_tags {
            assert_eq!(result(&lab, "up").as_deref(), Some("CONTINUE"), "{run}");
        } else {
            run.ends(0, &["cannot tell the group of the lifecycle hook up: ", "write group, or allow tags"]);
            assert!(lab.server.calls().is_empty(), "{run}");
        }
    }
}

#[test]
fn several_hooks_are_all_told() {
    let lab = lab();
    lab.server.world().add_hook("web", "up2", "launching", 60_000);
    begin(&lab, "launching");
    let hooks = format!("[{UP}, {}, {{ name: 'down', group: 'web' }}]", UP.replace("'up'", "'up2'"));
    lab.run(&text(&hooks, "", &[sh("true")]), once()).ends(0, &[]);
    let all = (result(&lab, "up"), result(&lab, "up2"), result(&lab, "down"));
    assert_eq!(all, (Some("CONTINUE".into()), Some("CONTINUE".into()), None));
}

const DOWN: &str = "{ name: 'down', group: 'web' }";

/// A config with a hook on `terminating`, a volume that is released then (after `command`), and a fast poll.
fn leaving(more: &str, command: &str) -> String {
    let release = format!(r#""volume-id": "{}", release: ["terminating"]"#, id(1));
    let volume = directive("x", "/dev/xvdf", &release, more);
    let exec = on(&["terminating"], &[sh(command)]);
    format!(
        r#"{{ "lifecycle-hook": {DOWN}, "interrupt-detection": {{ options: {{ interval: 0.02 }} }},
            domains: {{ d: {{ "attach-volume": [{volume}], exec: [{exec}] }} }} }}"#
    )
}

fn lab_with_volume(heartbeat_ms: u64) -> Lab {
    let lab = with(InstanceSpec::default(), heartbeat_ms);
    lab.volume(VolumeSpec::default().id(&id(1)));
    lab
}

#[test]
fn a_group_that_scales_in_waits_for_the_way_out() {
    let lab = lab_with_volume(3000);
    let running = lab.start(&leaving("true", &wait_script()), How::default().rate(30));
    running.says(&lab, "watching for interruptions");
    assert_eq!(lab.count("RecordLifecycleActionHeartbeat"), 0);
    begin(&lab, "terminating");
    lab.until("heartbeats", || beats(&lab, "down") >= 4);
    assert_eq!((result(&lab, "down"), lab.count("DetachVolume")), (None, 0));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["terminating: done", "web goes on with CONTINUE of down"]);
    assert_eq!(result(&lab, "down").as_deref(), Some("CONTINUE"), "{run}");
    lab.nothing_left(&run);
    let calls: Vec<String> = lab.server.calls().into_iter().map(|c| c.action).collect();
    assert_eq!(calls.last().unwrap(), "CompleteLifecycleAction", "{run}");
    assert!(lab.count("DetachVolume") == 1 && lab.count("CompleteLifecycleAction") == 1, "{run}");
    assert_eq!(lab.server.world().instances[&lab.me].state, "terminated", "{run}");
}

fn wait_script() -> String {
    "until [ -e $LAB/go ] || [ ! -d $LAB ]; do sleep 0.01; done".to_owned()
}

#[test]
fn a_way_out_that_fails_is_abandoned() {
    for command in [true, false] {
        let lab = lab_with_volume(60_000);
        if !command {
            lab.server.world().deny("EC2:DetachVolume");
        }
        let running = lab.start(&leaving("true", if command { "exit 1" } else { "true" }), How::default().rate(20));
        running.says(&lab, "watching for interruptions");
        begin(&lab, "terminating");
        let run = running.wait(&lab);
        run.ends(3, &["web goes on with ABANDON of down", "terminating, but "]);
        assert_eq!(result(&lab, "down").as_deref(), Some("ABANDON"), "{run}");
    }
}

#[test]
fn a_scale_in_during_init_comes_after_the_roll_back() {
    for (denied, code, want) in [(false, 0, "CONTINUE"), (true, 3, "ABANDON")] {
        let lab = lab_with_volume(60_000);
        if denied {
            lab.server.world().deny("EC2:DetachVolume");
        }
        let running =
            lab.start(&leaving(&format!("touch $LAB/up; {}", wait_script()), "true"), How::default().rate(20));
        lab.until_file("up");
        begin(&lab, "terminating");
        let run = running.wait(&lab);
        run.ends(code, &[&format!("web goes on with {want} of down")]);
        assert_eq!(result(&lab, "down").as_deref(), Some(want), "{run}");
    }
}

#[test]
fn a_run_after_a_kill_in_the_way_out_lets_the_group_go_on() {
    let lab = lab_with_volume(60_000);
    let config = leaving("true", &format!("touch $LAB/out; {}", wait_script()));
    let mut running = lab.start(&config, How::default().rate(20));
    running.says(&lab, "watching for interruptions");
    begin(&lab, "terminating");
    lab.until_file("out");
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    assert_eq!(result(&lab, "down"), None);
    let run = lab.run(&config, How::default().rate(20));
    run.ends(0, &["Auto Scaling ends this instance: nothing is started", "web goes on with CONTINUE of down"]);
    lab.file("go", "");
}

#[test]
fn a_hook_that_nothing_is_bound_to_is_warned_of_and_the_group_goes_on() {
    let lab = lab();
    let text = format!(
        r#"{{ "lifecycle-hook": {DOWN}, "terminating-timeout": 60,
            "interrupt-detection": {{ options: {{ interval: 0.02 }} }}, domains: {{ d: {{}} }} }}"#
    );
    let running = lab.start(&text, How::default().rate(20));
    running.says(&lab, "watching for interruptions");
    begin(&lab, "terminating");
    let run = running.wait(&lab);
    run.ends(0, &["no command, message or release is for terminating: the group will go on at once"]);
    assert!(!run.log.contains("has no effect"), "{run}");
    assert_eq!(result(&lab, "down").as_deref(), Some("CONTINUE"), "{run}");
}

#[test]
fn a_heartbeat_that_ran_out_is_the_end_of_the_wait() {
    let lab = lab_with_volume(200);
    lab.server.world().deny("AutoScaling:RecordLifecycleActionHeartbeat");
    let running = lab.start(&leaving("true", &wait_script()), How::default().rate(20));
    running.says(&lab, "watching for interruptions");
    begin(&lab, "terminating");
    lab.until("the end of the action", || result(&lab, "down").as_deref() == Some("EXPIRED"));
    lab.file("go", "");
    let run = running.wait(&lab);
    run.ends(0, &["allow autoscaling:RecordLifecycleActionHeartbeat", "web does not wait for down"]);
}

#[test]
fn into_a_warm_pool_and_out_of_it_are_two_launches() {
    let lab = lab();
    lab.server.world().target_state(&lab.me.clone(), Some("Warmed:Running"));
    begin_in_pool(&lab);
    let hooks = format!("[{UP}, {DOWN}]");
    let text = text(&hooks, "'interrupt-detection': { options: { interval: 0.02 } },", &[sh("true")]);
    let running = lab.start(&text, How::default().rate(20));
    lab.until("the first", || result(&lab, "up").as_deref() == Some("CONTINUE"));
    assert!(!running.log().contains("[d] started"), "{}", running.log());
    begin(&lab, "launching");
    running.says(&lab, "web goes on with CONTINUE of up");
    running.says(&lab, "watching for interruptions");
    lab.until("the second", || lab.count("CompleteLifecycleAction") == 2);
    running.signal("TERM");
    running.wait(&lab).ends(0, &["[d] started"]);
    assert_eq!(result(&lab, "up").as_deref(), Some("CONTINUE"));
}

/// The launch hook waits while the target is still the pool.
fn begin_in_pool(lab: &Lab) {
    begin(lab, "launching");
    lab.server.world().target_state(&lab.me.clone(), Some("Warmed:Running"));
}
