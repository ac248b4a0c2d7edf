//! A clock that is plainly wrong, and Amazon's time service.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use crate::early_network::{apart, succeeds};
use crate::kit::{SHORT, bodies, one, to_queue, to_topic};
use crate::lab::{How, Lab, Run, once};

/// A time service that answers with what `answer` makes of a good one; how often it was asked is what it returns.
fn time_service(answer: fn(&mut [u8; 48])) -> SocketAddr {
    time_service_at("127.0.0.1:0", answer)
}

fn time_service_at(address: &str, answer: fn(&mut [u8; 48])) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut asked = [0; 100];
        while let Ok((48, from)) = socket.recv_from(&mut asked) {
            let mut out = [0; 48];
            out[..2].copy_from_slice(&[0x24, 4]);
            out[24..32].copy_from_slice(&asked[40..48]);
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() + 2_208_988_800;
            out[40..44].copy_from_slice(&(now as u32).to_be_bytes());
            answer(&mut out);
            let _ = socket.send_to(&out, from);
        }
    });
    at
}

/// A service that is waited for ten times as long: this machine may be busy.
fn patient(answer: fn(&mut [u8; 48])) -> String {
    format!(",rate=0.1,sntp={}", time_service(answer))
}

/// A run over TLS with a clock of 2016 that asks `service`. The metadata service believes `their_offset` to be right.
fn run(service: &str, their_offset: i64, more: &[&str]) -> (Lab, Run) {
    let (lab, other) = (Lab::new(), Lab::new());
    other.server.world().knobs.clock_offset_s = their_offset;
    let text = one(&format!("notify: [{}, {}]", to_topic(SHORT), to_queue(SHORT)));
    let keys = crate::fakeaws::world::STATIC_KEY;
    let how = How { tls: true, ..once() }
        .env("AWS_ACCESS_KEY_ID", keys.0)
        .env("AWS_SECRET_ACCESS_KEY", keys.1)
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &other.server.imds_url(&other.me))
        .env("EC2FLEETD_CLOCK", &format!("offset=-315360000{service}"));
    let run = lab.run(&text, more.iter().fold(how, |how, a| how.arg(a)));
    (lab, run)
}

/// As wrong as the machine: its `Date` says nothing.
const AS_WRONG: i64 = -315_360_000;

#[test]
fn the_time_service_mends_a_clock_for_certificates_and_signatures() {
    let (lab, run) = run(&patient(|_| {}), AS_WRONG, &[]);
    run.ends(0, &["behind Amazon's time service: corrected for", "ready: d started"]);
    assert!(!run.log.contains("metadata service's: corrected"), "what it says later counts less: {run}");
    assert!(lab.server.calls().iter().all(|c| c.tls && c.status == 200), "{run}");
    assert_eq!(bodies(&lab).len(), 2, "{run}");
    assert!(!run.log.contains("the system clock"), "{run}");
}

#[test]
fn without_it_certificates_are_checked_all_the_same() {
    let (lab, run) = run(",rate=100", AS_WRONG, &[]);
    run.ends(0, &["Amazon's time service does not answer", "certificate is not valid at this time"]);
    assert!(lab.server.calls().is_empty() && bodies(&lab).is_empty(), "{run}");
}

#[test]
fn the_date_of_the_metadata_service_stays_where_nobody_tells_the_time() {
    let hostile: [fn(&mut [u8; 48]); 3] = [|a| a[24] ^= 1, |a| a[1] = 0, |a| a[40] = 0xc0];
    for answer in hostile {
        let service = time_service(answer);
        let (lab, run) = run(&format!(",sntp={service}"), 0, &[]);
        run.ends(
            0,
            &["metadata service's: corrected for", "Amazon's time service does not answer", "ready: d started"],
        );
        assert_eq!(bodies(&lab).len(), 2, "{run}");
    }
}

#[test]
fn on_request_the_system_clock_is_set_too() {
    let (_lab, run) = run(&patient(|_| {}), 0, &["--set-clock"]);
    run.ends(0, &["behind Amazon's time service: corrected for", "the system clock is set", "ready: d started"]);
    // By what the metadata service says, if need be.
    let (_lab, run) = self::run("", 0, &["--set-clock"]);
    run.ends(0, &["Amazon's time service does not answer", "the system clock is set", "ready: d started"]);
}

#[test]
fn a_clock_that_may_be_right_is_not_asked_about() {
    let service = patient(|_| {});
    let lab = Lab::new();
    let how = || once().env("EC2FLEETD_CLOCK", &format!("offset=-20.5{service}"));
    let run = lab.run(&one(""), how());
    run.ends(0, &[]);
    assert!(!run.log.contains("time service") && !run.log.contains("system clock"), "{run}");
    lab.run(&one(""), how().arg("--set-clock"))
        .ends(0, &[" s behind Amazon's time service", "the system clock is set"]);
}

/// Without a seam, and in a user namespace: there the kernel lets nobody set the clock.
#[test]
fn the_service_has_two_addresses_and_a_clock_that_cannot_be_set_is_a_warning() {
    for (address, server) in [
        ("169.254.169.123/32 dev lo", "169.254.169.123:123"),
        ("fd00:ec2::123/128 dev lo nodad", "[fd00:ec2::123]:123"),
    ] {
        apart(|| {
            // There may be no IPv6.
            if !succeeds("unshare -Ur true") || !succeeds(&format!("ip addr add {address}")) {
                return println!("skipped: no user namespaces or no {address}");
            }
            // An hour ahead.
            time_service_at(server, |a| {
                let time = u32::from_be_bytes([a[40], a[41], a[42], a[43]]) + 3600;
                a[40..44].copy_from_slice(&time.to_be_bytes());
            });
            let lab = Lab::new();
            let daemon = lab.command(&one(""), &once().arg("--set-clock"), &lab.dir.join("unused"));
            let mut command = Command::new("unshare");
            command.arg("-Ur").arg(daemon.get_program()).args(daemon.get_args()).env_clear();
            command.envs(daemon.get_envs().filter_map(|(k, v)| Some((k, v?))));
            // An answer may take a second, and this machine may be busy.
            let mut log = String::new();
            for _ in 0..5 {
                let out = command.stdin(Stdio::null()).output().unwrap();
                log = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(out.status.success(), "{log}");
                if !log.contains("does not answer") {
                    break;
                }
            }
            for said in ["s behind Amazon's time service", "cannot set the system clock: Operation not permitted"] {
                assert!(log.contains(said), "{log}");
            }
        });
    }
}
