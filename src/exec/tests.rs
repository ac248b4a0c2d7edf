use std::fs;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::clock::Clock;
use crate::config::{ExecBlock, ExitCodes, OnError};
use crate::macros::{Template, Values};
use crate::model::Event;
use crate::scope::{Halt, Stop, StopReason};
use crate::sys::testing::TestDir;

const HOUR: Duration = Duration::from_secs(3600);

fn scope(rate: u32, budget: Duration, stop: Option<&Stop>) -> Scope {
    Scope::new(&Arc::new(Clock::new(Some(&format!("rate={rate}"))).unwrap()), budget, stop)
}

fn line(argv: &[&str], ec: ExitCodes) -> ExecLine {
    ExecLine {
        path: "exec[0].lines[0]".to_owned(),
        argv: argv.iter().map(|a| Template::parse(a).unwrap()).collect(),
        ec,
        timeout: None,
    }
}

fn runner() -> Runner {
    Runner::new()
}

fn zero() -> ExitCodes {
    ExitCodes::Of(vec![0..=0])
}

/// Runs `script` by sh with an hour's time.
fn sh(runner: &Runner, script: &str, ec: ExitCodes) -> Result<(), ExecError> {
    runner.run("o", &line(&[], ec), ["sh", "-c", script].map(String::from).to_vec(), &scope(1, HOUR, None))
}

/// Waits until `file` has a line, and gives it back as a number.
fn pid_in(file: &Path) -> i32 {
    let begin = Instant::now();
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            return text.trim().parse().unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn exit_codes_and_ranges() {
    let r = runner();
    sh(&r, "true", zero()).unwrap();
    sh(&r, "exit 127", ExitCodes::Of(vec![0..=127])).unwrap();
    sh(&r, "exit 99", ExitCodes::Any).unwrap();
    sh(&r, "kill -KILL $$", ExitCodes::Any).unwrap();
    sh(&r, "kill -14 $$", ExitCodes::Of(vec![0..=1, 142..=142])).unwrap();
    let error = sh(&r, "echo first; echo second >&2; exit 3", zero()).unwrap_err().to_string();
    assert_eq!(error, "sh ended with exit code 3, success is 0; its last lines: first | second");
    let error = sh(&r, "kill -TERM $$", zero()).unwrap_err().to_string();
    assert_eq!(error, "sh ended with exit code 143 (SIGTERM), success is 0");
}

#[test]
fn what_cannot_be_started_says_why_and_is_never_forgiven() {
    let t = TestDir::new();
    let mut r = runner();
    r.path = format!("/nowhere:{}", t.0.display()).into();
    let start = |argv: &[&str]| {
        let argv = argv.iter().map(|a| (*a).to_owned()).collect();
        r.run("o", &line(&[], ExitCodes::Any), argv, &scope(1, HOUR, None)).unwrap_err().to_string()
    };
    let plain = t.file("plain", "x");
    assert_eq!(start(&["absent"]), format!("cannot start absent: not found in PATH ({})", r.path.display()));
    assert_eq!(start(&["plain"]), format!("cannot start plain: {} is not executable", plain.display()));
    assert!(start(&["/absent"]).contains("No such file"));
    assert!(start(&["/tmp"]).contains("Permission denied"));
    assert_eq!(start(&[]), "cannot start : argv is empty");
    assert_eq!(start(&[""]), "cannot start : argv[0] is empty");
    assert!(start(&["/bin/echo", "a\0b"]).starts_with("cannot start /bin/echo: "));
}

#[test]
fn output_of_any_kind_and_size() {
    let r = runner();
    let error = sh(&r, "printf 'a\\377\\000b\\n'; printf 'no end'; exit 1", zero()).unwrap_err().to_string();
    assert!(error.ends_with("its last lines: a\u{fffd}\u{fffd}b | no end"), "{error}");
    let script = "head -c 10000000 /dev/zero | tr '\\0' x; echo; yes 0123456789 | head -c 1100000; exit 1";
    let error = sh(&r, script, zero()).unwrap_err().to_string();
    assert!(error.len() < 2500 && error.ends_with("0123456789"), "{error}");
    // Nothing on standard input, and the name it was called by.
    let error = sh(&r, "cat; echo \"[$0]\"; exit 1", zero()).unwrap_err().to_string();
    assert!(error.ends_with("its last lines: [sh]"), "{error}");
}

#[test]
fn a_command_that_runs_out_of_time_is_ended_with_its_group() {
    let t = TestDir::new();
    let r = runner();
    let (leader, other) = (t.0.join("leader"), t.0.join("other"));
    let script = format!(
        "trap '' TERM; echo $$ > {}; (trap '' TERM; while :; do sleep 1; done) & echo $! > {}; echo waits; wait",
        leader.display(),
        other.display()
    );
    let mut l = line(&[], ExitCodes::Any);
    l.timeout = Some(Duration::from_secs(20));
    let begin = Instant::now();
    let argv = vec!["sh".to_owned(), "-c".to_owned(), script];
    let error = r.run("o", &l, argv, &scope(20, HOUR, None)).unwrap_err().to_string();
    // 20 s and then 10 s, on a clock that runs twenty times faster.
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(1500) && took < Duration::from_secs(10), "{took:?}");
    assert!(error.starts_with("sh was ended after ") && error.ends_with("its last lines: waits"), "{error}");
    for file in [leader, other] {
        let pid = pid_in(&file);
        assert!(!alive(pid), "{}", file.display());
    }
}

#[test]
fn one_that_heeds_sigterm_gets_no_sigkill() {
    let r = runner();
    let begin = Instant::now();
    let argv = ["sh", "-c", "sleep 100"].map(String::from).to_vec();
    let end = r.run("o", &line(&[], zero()), argv, &scope(1, Duration::from_millis(200), None));
    assert!(matches!(end, Err(ExecError::TimedOut { .. })));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_stop_ends_it_and_none_begins_after_it() {
    let r = runner();
    let stop = Stop::new();
    let scope = scope(1, HOUR, Some(&stop));
    let sleep = || vec!["sleep".to_owned(), "100".to_owned()];
    std::thread::scope(|s| {
        let runs = s.spawn(|| r.run("o", &line(&[], zero()), sleep(), &scope));
        std::thread::sleep(Duration::from_millis(100));
        stop.request(StopReason::Interrupted);
        let error = runs.join().unwrap().unwrap_err().to_string();
        assert_eq!(error, "sleep was ended: stopped by an interruption notice");
    });
    let error = r.run("o", &line(&[], zero()), sleep(), &scope).unwrap_err();
    assert!(matches!(error, ExecError::NotStarted { halt: Halt::Stopped(_), .. }));
}

#[test]
fn a_background_program_is_not_waited_for_keeps_its_output_and_can_be_ended() {
    let t = TestDir::new();
    let r = runner();
    let (server, go, written) = (t.0.join("server"), t.0.join("go"), t.0.join("written"));
    // It would be killed by SIGPIPE, or block, if nobody read its output.
    let script = format!(
        "(trap '' TERM; while ! [ -e {} ]; do sleep 0.02; done; head -c 300000 /dev/zero || exit; echo 1 > {}; \
         while :; do sleep 1; done) & echo $! > {}",
        go.display(),
        written.display(),
        server.display()
    );
    // Comes back although the server cannot end yet.
    sh(&r, &script, zero()).unwrap();
    fs::write(&go, "").unwrap();
    let server = pid_in(&server);
    pid_in(&written);
    assert!(alive(server));
    let fast = scope(50, HOUR, None);
    assert!(r.end_group("another owner", &fast));
    assert!(alive(server));
    assert!(r.end_group("o", &fast));
    assert!(!alive(server));
    assert!(r.end_group("o", &fast));
}

#[test]
fn a_group_is_ended_even_if_the_scope_is_over() {
    let t = TestDir::new();
    let r = runner();
    let server = t.0.join("server");
    sh(&r, &format!("sleep 100 & echo $! > {}", server.display()), zero()).unwrap();
    assert!(r.end_group("o", &scope(1, Duration::ZERO, None)));
    assert!(!alive(pid_in(&server)));
}

#[test]
fn no_zombie_is_left() {
    let r = runner();
    for _ in 0..5 {
        sh(&r, "exit 0", zero()).unwrap();
    }
    assert_eq!(r.unreaped().len(), 0);
    // A group that is gone is forgotten when the next one is added.
    assert!(format!("{:?}", r.groups).matches("Group(").count() <= 2, "{:?}", r.groups);
}

#[test]
fn blocks_run_in_order_for_their_event_until_the_first_failure() {
    let t = TestDir::new();
    let r = runner();
    let log = t.0.join("log");
    let says = |text: &str| line(&["sh", "-c", &format!("echo {text} >> {}", log.display())], zero());
    let block = |on: Option<Vec<Event>>, lines| ExecBlock { on, on_error: None, lines };
    let blocks = [
        block(Some(vec![Event::Started]), vec![says("1-{domain}"), says("2")]),
        block(Some(vec![Event::Failed]), vec![says("3")]),
        block(None, vec![says("4"), line(&["false"], zero()), says("5")]),
        block(None, vec![says("6")]),
    ];
    let values = Values { domain: "app".to_owned(), ..Values::default() };
    let scope = scope(10, HOUR, None);
    let work = |event| Work {
        owner: "o",
        event,
        values: &values,
        scope: &scope,
        default_timeout: None,
        in_shares: false,
        is_mounted: &|_, _| false,
    };
    let run = |event| {
        let _ = fs::remove_file(&log);
        let end = r.run_blocks(&blocks, &work(event));
        let texts: Vec<String> = end.iter().map(ToString::to_string).collect();
        (texts.join("; "), fs::read_to_string(&log).unwrap())
    };
    let started = run(Some(Event::Started));
    let skips = "; skipped: exec[0].lines[0] (sh), exec[0].lines[0] (sh)";
    assert_eq!(started, (format!("false ended with exit code 1, success is 0{skips}"), "1-app\n2\n4\n".into()));
    // A shutdown goes on with the next block.
    let failed = run(Some(Event::Failed));
    let skips = "; skipped: exec[0].lines[0] (sh)";
    assert_eq!(failed, (format!("false ended with exit code 1, success is 0{skips}"), "3\n4\n6\n".into()));
    assert_eq!(run(None).1, "1-app\n2\n3\n4\n");

    let slow = [block(None, vec![line(&["sleep", "100"], zero())])];
    let end = r.run_blocks(&slow, &Work { default_timeout: Some(Duration::from_secs(1)), ..work(None) });
    assert!(matches!(end[0].error, ExecError::TimedOut { .. }));
}

#[test]
fn on_error_says_what_a_failure_ends() {
    let t = TestDir::new();
    let r = runner();
    let log = t.0.join("log");
    let says = |text: &str| line(&["sh", "-c", &format!("echo {text} >> {}", log.display())], zero());
    for (on_error, shutdown, other) in [
        (None, "1\n3\n", "1\n"),
        (Some(OnError::Continue), "1\n2\n3\n", "1\n2\n3\n"),
        (Some(OnError::Stop), "1\n", "1\n"),
    ] {
        let lines = vec![says("1"), line(&["/no/such"], ExitCodes::Any), says("2")];
        let blocks =
            [ExecBlock { on: None, on_error, lines }, ExecBlock { on: None, on_error: None, lines: vec![says("3")] }];
        for (event, wanted) in [(Event::Stopping, shutdown), (Event::Starting, other)] {
            let _ = fs::remove_file(&log);
            let work = Work {
                owner: "o",
                event: Some(event),
                values: &Values::default(),
                scope: &scope(1, HOUR, None),
                default_timeout: None,
                in_shares: true,
                is_mounted: &|_, _| false,
            };
            assert_eq!(r.run_blocks(&blocks, &work).len(), 1);
            assert_eq!(fs::read_to_string(&log).unwrap(), wanted, "{on_error:?} {event:?}");
        }
    }
}

#[test]
fn a_block_has_its_share_of_a_short_time() {
    let t = TestDir::new();
    let r = runner();
    let log = t.0.join("log");
    let hangs = || line(&["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], zero());
    let says = line(&["sh", "-c", &format!("echo here >> {}", log.display())], zero());
    let blocks = [vec![hangs()], vec![hangs()], vec![says]];
    let blocks = blocks.map(|lines| ExecBlock { on: None, on_error: None, lines });
    let scope = scope(20, Duration::from_secs(60), None);
    let work = Work {
        owner: "o",
        event: Some(Event::Interrupted),
        values: &Values::default(),
        scope: &scope,
        default_timeout: None,
        in_shares: true,
        is_mounted: &|_, _| false,
    };
    assert_eq!(r.run_blocks(&blocks, &work).len(), 2);
    assert_eq!(fs::read_to_string(&log).unwrap(), "here\n");
}

/// Does something only when the test below runs it in a process of its own.
#[test]
fn process_with_an_environment() {
    if std::env::var_os("EC2FLEETD_TEST_CHILD").is_none() {
        return;
    }
    let error = sh(&runner(), "echo \"$KEPT-$NOTIFY_SOCKET-$$-$(ps -o pgid= -p $$ || echo)\"; exit 1", zero());
    println!("{}", error.unwrap_err());
    let error = sh(&runner(), "env | grep -c NOTIFY_SOCKET; exit 1", zero()).unwrap_err();
    println!("{error}");
    let mut defaulted = runner();
    defaulted.path = DEFAULT_PATH.into();
    sh(&defaulted, "true", zero()).unwrap();
}

#[test]
fn the_environment_is_ours_without_notify_socket() {
    let mut me = Command::new(std::env::current_exe().unwrap());
    me.args(["--exact", "exec::tests::process_with_an_environment", "--nocapture"]);
    me.env("EC2FLEETD_TEST_CHILD", "1").env("NOTIFY_SOCKET", "/run/notify").env("KEPT", "kept").env_remove("PATH");
    let out = me.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("its last lines: kept--"), "{text}");
    assert!(text.contains("its last lines: 0\n"), "{text}");
}

/// As in a container, and as PID 1 of an initramfs sees it: our session is 0.
#[test]
fn where_our_session_has_no_number() {
    let unshare = |args: &[&str]| {
        let mut c = std::process::Command::new("unshare");
        c.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]).args(args);
        c.output().ok().filter(|o| !String::from_utf8_lossy(&o.stderr).contains("unshare:"))
    };
    if unshare(&["true"]).is_none_or(|o| !o.status.success()) {
        println!("skipped: no namespaces here");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let me = me.to_str().unwrap();
    let ends = "exec::tests::a_group_is_ended_even_if_the_scope_is_over";
    let end = unshare(&["sh", "-c", &format!("cut -d' ' -f6 /proc/self/stat; exec {me} --exact {ends}")]).unwrap();
    let text = String::from_utf8_lossy(&end.stdout);
    assert!(end.status.success() && text.starts_with("0\n") && text.contains("1 passed"), "{text}");
}
