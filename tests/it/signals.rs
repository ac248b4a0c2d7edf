//! SIGTERM, SIGINT, and what systemd is told.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::fakeaws::{Fault, FaultKind};
use crate::kit::{SHORT, bodies, note_events, on, one, record, seen, sh, to_topic, zone};
use crate::lab::{How, Lab, once};

#[test]
fn a_signal_while_waiting_runs_the_stopping_commands() {
    for signal in ["TERM", "INT"] {
        let lab = Lab::new();
        let running = lab.start(&one(&format!("exec: [{}]", note_events())), How::default());
        running.says(&lab, "watching");
        running.signal(signal);
        running.wait(&lab).ends(0, &[&format!("SIG{signal}: stopping"), "stopped"]);
        assert_eq!(seen(&lab), ["d starting", "d started", "d stopping"]);
    }
}

#[test]
fn a_failed_stopping_command_is_no_failed_run() {
    let lab = Lab::new();
    let blocks =
        format!("exec: [{}, {}]", on(&["stopping"], &[sh("exit 3")]), on(&["failed"], &[sh("touch $LAB/seen")]));
    let running = lab.start(&one(&blocks), How::default());
    running.says(&lab, "watching");
    running.signal("TERM");
    running
        .wait(&lab)
        .ends(3, &["'stopping' commands: /bin/sh ended with exit code 3", "stopped, but exec[0].lines[0]"]);
    assert!(!lab.dir.join("seen").exists());
}

#[test]
fn a_stopping_command_has_60_seconds() {
    let lab = Lab::new();
    let running =
        lab.start(&one(&format!("exec: [{}]", on(&["stopping"], &[sh("sleep 900")]))), How::default().rate(100));
    running.says(&lab, "watching");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(3, &["'stopping' commands: /bin/sh was ended after "]);
    assert!((60..=80).contains(&crate::commands::seconds_of(&run.log)), "{run}");
}

#[test]
fn a_second_signal_kills() {
    let lab = Lab::new();
    let script = "echo $$ > $LAB/pid; sleep 100 & wait";
    let running = lab.start(&one(&format!("exec: [{}]", on(&["stopping"], &[sh(script)]))), How::default());
    running.says(&lab, "watching");
    running.signal("TERM");
    lab.until("the command", || lab.dir.join("pid").exists());
    running.signal("TERM");
    running.wait(&lab).ends(143, &["SIGTERM again: killed"]);
    let pid = std::fs::read_to_string(lab.dir.join("pid")).unwrap();
    std::process::Command::new("kill").args(["--", &format!("-{}", pid.trim())]).status().unwrap();
}

#[test]
fn a_signal_during_a_starting_command_ends_it() {
    let lab = Lab::new();
    let blocks = format!("exec: [{}, {}]", note_events(), on(&["starting"], &[sh("echo up; sleep 600")]));
    let running = lab.start(&one(&format!("{blocks}, notify: [{}]", to_topic(SHORT))), How::default());
    running.says(&lab, "sh: up");
    running.signal("TERM");
    running.wait(&lab).ends(0, &["/bin/sh was ended: stopped by a signal", "stopped"]);
    assert_eq!(seen(&lab), ["d starting", "d stopping"]);
    assert_eq!(bodies(&lab).len(), 1);
}

#[test]
fn a_signal_during_a_volumes_command_rolls_back() {
    let lab = Lab::new();
    let vol = lab.pool_volume("d", "p");
    let text = one(&format!(
        r#""attach-volume": [{{ device: "/dev/xvdf", source: "p", "pool-name": "p",
            exec: [{{ lines: [{}] }}] }}], exec: [{}]"#,
        sh("echo up; sleep 600"),
        note_events()
    ));
    let running = lab.start(&text, How::default());
    running.says(&lab, "sh: up");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["rolling back d", "stopped"]);
    assert!(lab.attached(&lab.me).is_empty(), "{run}");
    assert_eq!(lab.tag_keys(&vol), ["domain", "pool-name"], "{run}");
    assert_eq!(seen(&lab), ["d starting", "d stopping"], "{run}");
}

#[test]
fn a_signal_during_dns_rolls_back() {
    let lab = Lab::new();
    lab.server.world().add_zone("Z2", "example.net");
    let busy = Fault::every("ChangeResourceRecordSets", FaultKind::Throttle).with_value("Z2");
    lab.server.world().fault(busy);
    let other = r#"{ hostedzone: "Z2", name: "a.example.net", ttl: 60, critical: false }"#;
    let text = one(&format!("\"update-route53\": [{}, {other}]", record("a.example.com", "")));
    let running = lab.start(&text, How::default());
    lab.until("our record", || zone(&lab, "Z1").len() == 2);
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["a.example.com. in hosted zone Z1 put back", "stopped"]);
    assert!(zone(&lab, "Z1").is_empty(), "{run}");
}

#[test]
fn a_signal_during_a_started_command_keeps_the_holds() {
    let lab = Lab::new();
    let text = one(&format!(
        "\"update-route53\": [{}], exec: [{}, {}]",
        record("a.example.com", ""),
        note_events(),
        on(&["started"], &[sh("echo up; sleep 600")])
    ));
    let running = lab.start(&text, How::default());
    running.says(&lab, "sh: up");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped"]);
    assert_eq!(zone(&lab, "Z1").len(), 2, "{run}");
    assert_eq!(seen(&lab), ["d starting", "d started", "d stopping"], "{run}");
}

#[test]
fn a_signal_while_the_metadata_service_is_waited_for_is_no_failure() {
    let lab = Lab::new();
    lab.server.world().imds(&lab.me).unavailable = 100_000;
    let running = lab.start(&one(""), How::default());
    running.says(&lab, "does not give");
    running.signal("TERM");
    let run = running.wait(&lab);
    run.ends(0, &["stopped"]);
}

/// A manager's socket, and all that it was told so far.
struct Manager(UnixDatagram, Vec<String>);

impl Manager {
    fn new(socket: UnixDatagram) -> Manager {
        socket.set_nonblocking(true).unwrap();
        Manager(socket, Vec::new())
    }

    fn told(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(n) = self.0.recv(&mut buffer) {
            self.1.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        &self.1
    }

    fn place(&mut self, text: &str) -> Option<usize> {
        self.told().iter().position(|t| t.contains(text))
    }
}

#[test]
fn the_manager_is_told_how_it_goes() {
    let lab = Lab::new();
    let path = lab.dir.join("notify");
    let mut manager = Manager::new(UnixDatagram::bind(&path).unwrap());
    let wait = sh("i=0; while [ ! -e $LAB/go ]; do i=$((i+1)); [ $i -lt 2000 ] || exit 1; sleep 0.01; done");
    let text = one(&format!("exec: [{}]", on(&["started"], &[wait])));
    let running = lab.start(&text, How::default().env("NOTIFY_SOCKET", &path.display().to_string()));
    running.says(&lab, "running /bin/sh");
    assert_eq!(manager.place("READY=1"), None, "{:?}", manager.1);
    lab.file("go", "");
    running.says(&lab, "watching");
    running.signal("TERM");
    running.wait(&lab).ends(0, &[]);
    let order = [
        "EXTEND_TIMEOUT_USEC=",
        "STATUS=starting 1 domain",
        "READY=1",
        "STATUS=ready: d started",
        "STOPPING=1",
        "STATUS=stopped",
    ];
    let places: Vec<_> = order.iter().map(|t| manager.place(t)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {:?}", manager.1);
    // Init may take 600 s, and a roll-back after it.
    let most = |t: &String| t.strip_prefix("EXTEND_TIMEOUT_USEC=").and_then(|n| n.parse::<u64>().ok());
    assert!(manager.1.iter().filter_map(most).max() > Some(Duration::from_secs(600).as_micros() as u64));
    assert_eq!(manager.1.iter().filter(|t| *t == "READY=1").count(), 1);
}

#[test]
fn an_abstract_socket_and_a_failed_run() {
    let lab = Lab::new();
    let name = format!("ec2fleetd-it-{}-notify", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    let text = one(&format!("exec: [{}]", on(&["starting"], &[sh("exit 1")])));
    lab.run(&text, once().env("NOTIFY_SOCKET", &format!("@{name}"))).ends(1, &[]);
    assert!(manager.place("STATUS=failed: d").is_some(), "{:?}", manager.1);
    assert_eq!(manager.place("READY=1"), None, "{:?}", manager.1);
}

#[test]
fn a_manager_that_knows_files_only_is_told_when_all_stands() {
    for (event, code, there) in [("started", 0, true), ("starting", 1, false)] {
        let lab = Lab::new();
        let ready = lab.dir.join("ready");
        let line = sh(&format!("test ! -e $EC2FLEETD_READY_FILE || exit 9; exit {code}"));
        let text = one(&format!("exec: [{}]", on(&[event], &[line])));
        lab.run(&text, once().env("EC2FLEETD_READY_FILE", &ready.display().to_string())).ends(code, &[]);
        assert_eq!(ready.exists(), there, "{event}");
    }
    // It could not be written: said, and nothing more.
    let lab = Lab::new();
    let how = once().env("EC2FLEETD_READY_FILE", "/nowhere/ready");
    lab.run(&one("exec: []"), how).ends(0, &["cannot write EC2FLEETD_READY_FILE=/nowhere/ready: No such file"]);
}
