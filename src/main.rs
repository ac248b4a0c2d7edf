//! `ec2fleetd` gives an EC2 instance, at boot, what a stateful application needs: its data volume, its DNS name, its
//! running services, and an orderly way out when the capacity is taken back.
//!
//! The README is the manual. The modules form layers; each uses only those below it (a test checks that):
//!
//! ```text
//! 8  main
//! 7  daemon                        the story of a run
//! 6  apply  notify  poll           what it does; none of them uses another
//! 5  plan  exec
//! 4  aws::{ec2, route53, sns, sqs, autoscaling}   one small file per action
//! 3  aws                           the client, with its keys from where they are
//! 2  imds                          the other client
//! 1  config  http  sntp  sys
//! 0  clock  scope  log  waits  parallel  random  model  suggest  macros  cli
//! ```
//!
//! Files called `properties.rs` try a module with many inputs; `properties` here is what these tests share.

mod apply;
mod aws;
mod cli;
mod clock;
mod config;
mod daemon;
mod exec;
mod http;
mod imds;
mod log;
mod macros;
mod model;
mod notify;
mod parallel;
mod plan;
mod poll;
#[cfg(test)]
mod properties;
mod random;
mod scope;
mod sntp;
mod suggest;
mod sys;
mod waits;

use std::process::ExitCode;

use cli::Command;
use daemon::Outcome;

/// 0: done, interrupted or stopped. 1: failed and rolled back. 2: usage or config. 3: something could not be rolled back
/// or released, or a command of a shutdown failed.
fn main() -> ExitCode {
    clock::note_local_offset();
    let code = run();
    log::flush();
    code
}

fn run() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    if name == sys::freeze::THAW {
        start_log(false, log::Place::Auto);
        sys::freeze::thaw_all(&sys::Root::from_env());
        return ExitCode::SUCCESS;
    }
    // Three helpers that are this executable under another name.
    if name == exec::READER || name == sys::freeze::GUARD || name == sys::mkfs::GUARD {
        let place = args.next().and_then(|place| log::Place::of(place.to_str()?));
        start_log(false, place.unwrap_or_default());
        if name == sys::mkfs::GUARD {
            return sys::mkfs::guard(args);
        }
        if name == exec::READER {
            exec::read_on(args)
        } else {
            sys::freeze::guard(args)
        }
        return ExitCode::SUCCESS;
    }
    let outcome = match cli::parse(args) {
        Ok(Command::Help) => print(cli::USAGE),
        Ok(Command::Version) => print(&cli::version()),
        Ok(Command::Check(args)) => {
            start_log(args.verbose, args.log);
            daemon::check(&args)
        }
        Ok(Command::Run(args)) => {
            start_log(args.verbose, args.log);
            daemon::rescue::install();
            daemon::run(args)
        }
        Err(e) => {
            start_log(false, log::Place::Auto);
            // With a usage error the reader is mostly a person at a terminal: no date.
            if log::is_kernels() {
                ::log::error!("{e}")
            } else {
                eprintln!("ec2fleetd: {e}")
            }
            Outcome::Usage
        }
    };
    ExitCode::from(match outcome {
        Outcome::Done => 0,
        Outcome::Failed => 1,
        Outcome::Usage => 2,
        Outcome::Incomplete => 3,
    })
}

fn start_log(verbose: bool, place: log::Place) {
    log::init(verbose, place, &sys::Root::from_env().path("/dev/kmsg"));
}

fn print(text: &str) -> Outcome {
    use std::io::Write;
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Outcome::Done
}
