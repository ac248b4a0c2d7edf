//! A network that is not there yet, and one without a name server: in a namespace of its own.

use std::net::UdpSocket;
use std::process::Command;

use crate::kit::{SHORT, bodies, one, to_topic};
use crate::lab::{How, Lab, Running, once};

/// Runs `f` in a thread with networks, mounts and nothing else of its own; so have all threads and processes that it
/// starts. Only root may; anybody else skips the test.
pub(crate) fn apart(f: impl FnOnce() + Send) {
    let inside = || {
        let flags = rustix::thread::UnshareFlags::NEWNET | rustix::thread::UnshareFlags::NEWNS;
        // What is unsafe about it concerns tables of descriptors, which are not unshared.
        #[allow(deprecated)]
        let apart = rustix::thread::unshare(flags).is_ok();
        if !apart || !succeeds("mount --make-rprivate /") || !succeeds("ip link set lo up") {
            return println!("skipped: no namespaces here");
        }
        let_go_of_others_disks();
        f();
    };
    std::thread::scope(|s| s.spawn(inside).join()).unwrap_or_else(|e| std::panic::resume_unwind(e));
}

/// A copy of what other tests have mounted would hold their disks for as long as this namespace is there.
fn let_go_of_others_disks() {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    for point in mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| p.contains("/ec2fleetd-it-")) {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}

pub(crate) fn succeeds(line: &str) -> bool {
    let mut words = line.split(' ');
    Command::new(words.next().unwrap()).args(words).status().is_ok_and(|s| s.success())
}

#[track_caller]
fn do_it(line: &str) {
    assert!(succeeds(line), "{line}");
}

/// Hundredths of a second of processor time.
fn processor_time(running: &Running) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A lab whose servers listen.
fn ready() -> Lab {
    let lab = Lab::new();
    lab.server.imds_url(&lab.me);
    lab
}

#[test]
fn a_link_or_an_address_that_comes_late_is_waited_for() {
    apart(|| {
        for (away, back) in
            [("ip link set lo down", "ip link set lo up"), ("ip addr flush dev lo", "ip addr add 127.0.0.1/8 dev lo")]
        {
            let lab = ready();
            do_it(away);
            let running = lab.start(&one(""), How { user_data: true, ..once() });
            running.says(&lab, "does not give");
            let before = processor_time(&running);
            std::thread::sleep(std::time::Duration::from_millis(500));
            let used = processor_time(&running) - before;
            assert!(used <= 10, "{used} of 50 hundredths of a second: a busy loop");
            do_it(back);
            let run = running.wait(&lab);
            run.ends(0, &["the instance metadata service answers again", "ready: d started"]);
            assert_eq!(run.log.matches("does not give").count(), 1, "{run}");
        }
    });
}

#[test]
fn a_network_that_never_comes_ends_with_one_message() {
    apart(|| {
        let lab = ready();
        do_it("ip addr flush dev lo");
        let run = lab.run(&one(""), once().rate(500));
        run.ends(1, &["cannot read the instance's metadata", "unreachable"]);
        assert_eq!(run.log.lines().filter(|l| l.contains("Z error ")).count(), 1, "{run}");
    });
}

/// Answers any question for an A record with 127.0.0.1.
fn name_server(at: &str) {
    let socket = UdpSocket::bind(at).unwrap();
    let serve = move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..n].to_vec();
            answer[2] = 0x81;
            if buffer[n - 3] == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    };
    std::thread::spawn(serve);
}

#[test]
fn names_are_found_by_the_resolver_of_the_vpc() {
    for (address, server) in
        [("169.254.169.253/32 dev lo", "169.254.169.253:53"), ("fd00:ec2::253/128 dev lo nodad", "[fd00:ec2::253]:53")]
    {
        apart(|| {
            // There may be no IPv6.
            if !succeeds(&format!("ip addr add {address}")) {
                return println!("skipped: no {address}");
            }
            name_server(server);
            let lab = Lab::new();
            let file = lab.file("resolv.conf", "");
            if !succeeds(&format!("mount --bind {} /etc/resolv.conf", file.display())) {
                return println!("skipped: no mounts here");
            }
            let url = lab.server.http_url().replace("127.0.0.1", "sns.aws.test");
            let text = one(&format!("notify: [{}]", to_topic(SHORT)));
            let files = ["", "# nothing yet\nsearch example.com\n", "nameserver 127.0.0.53\noptions edns0\n"];
            for content in files {
                std::fs::write(&file, content).unwrap();
                let how = How { user_data: true, ..once() }.env("AWS_ENDPOINT_URL", &url);
                lab.run(&text, how).ends(0, &["told arn"]);
            }
            do_it("umount /etc/resolv.conf");
            assert_eq!(bodies(&lab).len(), files.len());
        });
    }
}
