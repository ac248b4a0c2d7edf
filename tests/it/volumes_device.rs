//! Directives that leave their device out: a free name is chosen.

use crate::disks::{HOLD, config, directive, id, volume};
use crate::fakeaws::{InstanceSpec, VolumeSpec};
use crate::lab::{Lab, once};

fn p() -> String {
    volume("p", "", r#""pool-name": "p""#)
}

#[test]
fn the_first_free_name_is_chosen_and_found_again() {
    let lab = Lab::new();
    let all = lab.pool_of(1);
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdba")], &run);
    assert_eq!(lab.seen(), [format!("{} true p p", all[0])]);
    lab.server.reset_calls();
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    assert!(lab.server.writes().is_empty(), "{run}");
    assert_eq!(lab.seen()[1], format!("{} false p p", all[0]));
}

#[test]
fn names_that_are_in_use_requested_or_cooling_down_are_passed_by() {
    let lab = Lab::new();
    let all = lab.pool_of(2);
    let squatter = lab.volume(VolumeSpec::default().attached(&lab.me, "/dev/sdba"));
    let far = lab.server.world().now_ms() + 1_000_000;
    lab.server.world().instances.get_mut(&lab.me).unwrap().cooling.push(("/dev/xvdbc".into(), far));
    let named = volume("p", "/dev/xvdbb", r#""pool-name": "p""#);
    let run = lab.run(&config(&format!("{}, {named}", p())), once());
    run.ends(0, &["/dev/xvdbc is in use; trying the next name"]);
    let devices: Vec<String> = lab.attached(&lab.me).into_iter().filter(|a| a.0 != squatter).map(|a| a.1).collect();
    let mut sorted = devices.clone();
    sorted.sort();
    assert_eq!(sorted, ["/dev/xvdbb", "/dev/xvdbd"], "{run}");
    assert_eq!(lab.attached(&lab.me).iter().filter(|a| all.contains(&a.0)).count(), 2);
}

#[test]
fn a_name_that_the_machine_has_a_disk_for_is_passed_by() {
    let lab = Lab::with(InstanceSpec { hypervisor: "xen".into(), ..InstanceSpec::default() });
    let all = lab.pool_of(1);
    std::fs::write(lab.root(&lab.me).join("dev/xvdba"), "an instance store").unwrap();
    let run = lab.run(&config(&p()), once());
    run.ends(0, &[]);
    lab.has(&[(&all[0], "/dev/xvdbb")], &run);
    assert_eq!(lab.count("AttachVolume"), 1, "{run}");
}

#[test]
fn two_daemons_at_once_choose_different_names() {
    let lab = Lab::new();
    let domain = |name: &str| config(&p()).replace("d: {", &format!("{name}: {{"));
    let mut volumes = Vec::new();
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        volumes.push(lab.volume(VolumeSpec::pool(name, "p").id(&id(n as u32 + 1))));
    }
    // Each call takes a while, so that the three overlap.
    lab.knobs(|k| k.latency_ms = 60);
    let runs: Vec<_> = ["one", "two", "three"].map(|n| lab.start(&domain(n), once())).into_iter().collect();
    for run in runs {
        run.wait(&lab).ends(0, &[]);
    }
    let attached = lab.attached(&lab.me);
    assert_eq!(attached.iter().map(|a| a.0.clone()).collect::<Vec<_>>(), volumes);
    let mut devices: Vec<&str> = attached.iter().map(|a| a.1.as_str()).collect();
    devices.sort_unstable();
    assert_eq!(devices, ["/dev/xvdba", "/dev/xvdbb", "/dev/xvdbc"]);
    assert_eq!(lab.count("AttachVolume"), 3, "no name was tried twice");
}

#[test]
fn a_second_daemon_of_the_same_domain_is_refused() {
    let lab = Lab::new();
    lab.pool_of(2);
    let text = config(&directive("p", "", r#""pool-name": "p""#, HOLD));
    let first = lab.start(&text, once());
    lab.until_file("first");
    let run = lab.run(&text, once());
    run.ends(1, &[&format!("domain 'd' is being run by process {}", first.child.id())]);
    std::fs::write(lab.dir.join("go"), "").unwrap();
    first.wait(&lab).ends(0, &[]);
    assert_eq!(lab.count("AttachVolume"), 1);
}
