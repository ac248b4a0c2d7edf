//! The command line: what was typed ([`Low`]) and what it means ([`Args`]).
//!
//! It is the original's, so its oddities are kept: unique prefixes of long options, an underscore in `--transc_id`,
//! booleans that may be numbers, and an order that counts for `--disable-all`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::log::Place;
use crate::suggest::closest;

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
Usage: ec2fleetd [OPTIONS]

Gives this EC2 instance its volumes, DNS records and running services as its config says, and waits for an
interruption. The config is the instance's user data, or a file.

Options:
  -h, --help                     this text
  -V, --version                  the version
  -v, --verbose                  log every request
      --log=auto|stderr|kmsg     where the log goes; auto: to standard error, or to the kernel where that is lost
      --set-clock                ask Amazon's time service for the time and set the system clock
      --check                    read the config, say what is wrong with it, and touch nothing
      --userdata=FILE            read the config from FILE (- is standard input)
      --imds=HOST[:PORT][,...]   metadata service, the first that answers
      --transc_id=STR            name of this run's transactions
      --profile=STR              profile of the AWS configuration files
      --disable-all              as the four below with false; later ones count
      --enable-init=BOOL         volumes, DNS and host name
      --enable-notify=BOOL       notifications
      --enable-exec=BOOL         commands
      --enable-poll=BOOL         wait for an interruption (false: exit once started)

A value may also be the next word, and a long option may be shortened as long as it is unique.
BOOL is true, false or a number (0 is false).

Exit codes:
  0  done, interrupted or stopped
  1  failed; what was in flight is rolled back
  2  wrong usage or config; nothing was touched
  3  something could not be rolled back, released or done in a shutdown: the last lines name it

The README describes the config.
";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// `--help`: print [`USAGE`].
    Help,
    /// `--version`: print [`version`].
    Version,
    /// `--check`: load the config and print what is to be said about it; exit 0 or 2.
    Check(Args),
    /// The daemon.
    Run(Args),
}

/// What `--version` prints.
pub(crate) fn version() -> String {
    format!("ec2fleetd {}\n", env!("CARGO_PKG_VERSION"))
}

/// Where the config is, if not in the user data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// `-`.
    Stdin,
    /// Any other value of `--userdata`.
    File(PathBuf),
}

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    /// `--verbose`: debug messages.
    pub(crate) verbose: bool,
    /// `--log`.
    pub(crate) log: Place,
    /// `--set-clock`.
    pub(crate) set_clock: bool,
    /// `--imds`: endpoints such as `http://169.254.169.254` and `http://[fd00:ec2::254]:80`; empty: the usual ones.
    pub(crate) imds: Vec<String>,
    /// `--userdata`; `None`: the instance's user data.
    pub(crate) userdata: Option<Input>,
    /// `--transc_id`; `None`: one is made up.
    pub(crate) transaction_id: Option<String>,
    /// `--profile`.
    pub(crate) profile: Option<String>,
    /// `--enable-init`: volumes, DNS and host name.
    pub(crate) init: bool,
    /// `--enable-notify`.
    pub(crate) notify: bool,
    /// `--enable-exec`.
    pub(crate) exec: bool,
    /// `--enable-poll`.
    pub(crate) poll: bool,
}

/// Options, by their long names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opt {
    Help,
    Version,
    Verbose,
    Log,
    SetClock,
    Check,
    Imds,
    Userdata,
    TranscId,
    Profile,
    DisableAll,
    EnableInit,
    EnableNotify,
    EnableExec,
    EnablePoll,
}

const OPTIONS: [(&str, Opt); 15] = [
    ("help", Opt::Help),
    ("version", Opt::Version),
    ("verbose", Opt::Verbose),
    ("log", Opt::Log),
    ("set-clock", Opt::SetClock),
    ("check", Opt::Check),
    ("imds", Opt::Imds),
    ("userdata", Opt::Userdata),
    ("transc_id", Opt::TranscId),
    ("profile", Opt::Profile),
    ("disable-all", Opt::DisableAll),
    ("enable-init", Opt::EnableInit),
    ("enable-notify", Opt::EnableNotify),
    ("enable-exec", Opt::EnableExec),
    ("enable-poll", Opt::EnablePoll),
];

impl Opt {
    fn has_value(self) -> bool {
        !matches!(self, Opt::Help | Opt::Version | Opt::Verbose | Opt::SetClock | Opt::Check | Opt::DisableAll)
    }

    fn name(self) -> &'static str {
        OPTIONS.iter().find(|(_, o)| *o == self).map_or("", |(n, _)| n)
    }
}

/// What was typed: options with their values, in order.
#[derive(Debug, Default)]
struct Low(Vec<(Opt, OsString)>);

/// Reads the command line (without the program's name).
pub(crate) fn parse<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<Command, UsageError> {
    high(&low(args)?)
}

fn low<I: IntoIterator<Item: Into<OsString>>>(args: I) -> Result<Low, UsageError> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(args);
    let mut low = Low::default();
    while let Some(arg) = parser.next().map_err(misuse)? {
        let opt = match arg {
            Short('h') => Opt::Help,
            Short('V') => Opt::Version,
            Short('v') => Opt::Verbose,
            Short(c) => return Err(UsageError::Unknown { option: format!("-{c}"), closest: None }),
            Long(name) => resolve(name)?,
            Value(word) => return Err(UsageError::Positional(lossy(&word))),
        };
        let value = if opt.has_value() {
            parser.value().ok().filter(|v| !v.is_empty()).ok_or(UsageError::Missing(opt.name()))?
        } else {
            OsString::new()
        };
        low.0.push((opt, value));
    }
    Ok(low)
}

/// The option called `name`, or the only one that begins so.
fn resolve(name: &str) -> Result<Opt, UsageError> {
    if let Some((_, opt)) = OPTIONS.iter().find(|(n, _)| *n == name) {
        return Ok(*opt);
    }
    let begun: Vec<(&'static str, Opt)> = OPTIONS.into_iter().filter(|(n, _)| n.starts_with(name)).collect();
    match begun.as_slice() {
        [(_, opt)] => Ok(*opt),
        [] => {
            let names = OPTIONS.map(|(n, _)| n);
            Err(UsageError::Unknown { option: format!("--{name}"), closest: closest(name, &names) })
        }
        several => Err(UsageError::Ambiguous {
            option: format!("--{name}"),
            candidates: several.iter().map(|(n, _)| *n).collect(),
        }),
    }
}

fn high(low: &Low) -> Result<Command, UsageError> {
    let mut check = false;
    let mut a = Args {
        verbose: false,
        log: Place::Auto,
        set_clock: false,
        imds: Vec::new(),
        userdata: None,
        transaction_id: None,
        profile: None,
        init: true,
        notify: true,
        exec: true,
        poll: true,
    };
    for (opt, raw) in &low.0 {
        let wrong = UsageError::Value { option: opt.name(), wanted: "UTF-8 text" };
        let value = match opt {
            // The name of a file may be anything.
            Opt::Userdata => "",
            _ => raw.to_str().ok_or(wrong)?,
        };
        match opt {
            Opt::Help => return Ok(Command::Help),
            Opt::Version => return Ok(Command::Version),
            Opt::Verbose => a.verbose = true,
            Opt::Log => {
                let wrong = UsageError::Value { option: opt.name(), wanted: "auto, stderr or kmsg" };
                a.log = Place::of(value).ok_or(wrong)?;
            }
            Opt::SetClock => a.set_clock = true,
            Opt::Check => check = true,
            Opt::Imds => a.imds = endpoints(value)?,
            Opt::Userdata => a.userdata = Some(if raw == "-" { Input::Stdin } else { Input::File(raw.into()) }),
            Opt::TranscId => a.transaction_id = Some(value.to_owned()),
            Opt::Profile => a.profile = Some(value.to_owned()),
            Opt::DisableAll => (a.init, a.notify, a.exec, a.poll) = (false, false, false, false),
            Opt::EnableInit => a.init = boolean(*opt, value)?,
            Opt::EnableNotify => a.notify = boolean(*opt, value)?,
            Opt::EnableExec => a.exec = boolean(*opt, value)?,
            Opt::EnablePoll => a.poll = boolean(*opt, value)?,
        }
    }
    Ok(if check { Command::Check(a) } else { Command::Run(a) })
}

fn boolean(opt: Opt, value: &str) -> Result<bool, UsageError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        number => match number.parse::<i64>() {
            Ok(n) => Ok(n != 0),
            Err(_) => Err(UsageError::Value { option: opt.name(), wanted: "true, false or a number" }),
        },
    }
}

fn endpoints(list: &str) -> Result<Vec<String>, UsageError> {
    let wrong = UsageError::Value { option: "imds", wanted: "HOST[:PORT][,...], an IPv6 address in brackets" };
    list.split(',').map(|one| endpoint(one.trim())).collect::<Option<_>>().ok_or(wrong)
}

/// `http://` and the host with its port, if both are of their form.
fn endpoint(text: &str) -> Option<String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("http://[{text}]"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (&text[..address.len() + 2], port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let fits = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            (fits.then_some(host)?, port)
        }
    };
    if port.is_empty() {
        return Some(format!("http://{host}"));
    }
    let digits = port.strip_prefix(':').filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let port: u16 = digits.parse().ok().filter(|p| *p != 0)?;
    Some(format!("http://{host}:{port}"))
}

/// The mistakes that lexopt finds.
fn misuse(e: lexopt::Error) -> UsageError {
    match e {
        lexopt::Error::UnexpectedValue { option, .. } => UsageError::NoValue(option),
        // The others concern values, which are asked for with `value()`.
        other => UsageError::Other(other.to_string()),
    }
}

fn lossy(word: &OsStr) -> String {
    word.to_string_lossy().into_owned()
}

/// Why the command line makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UsageError {
    /// No such option.
    Unknown {
        /// As typed.
        option: String,
        /// The long name that was probably meant.
        closest: Option<&'static str>,
    },
    /// The beginning of several options.
    Ambiguous {
        /// As typed.
        option: String,
        /// Their long names.
        candidates: Vec<&'static str>,
    },
    /// A word that belongs to no option.
    Positional(String),
    /// An option without its value.
    Missing(&'static str),
    /// A value for an option that has none.
    NoValue(String),
    /// A value that is not of its form.
    Value {
        /// Long name.
        option: &'static str,
        /// The form.
        wanted: &'static str,
    },
    /// Anything else.
    Other(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::Unknown { option, closest: Some(c) } => {
                write!(f, "unknown option {option}: did you mean --{c}?")
            }
            UsageError::Unknown { option, closest: None } => write!(f, "unknown option {option}: see --help"),
            UsageError::Ambiguous { option, candidates } => {
                write!(f, "{option} may be --{}", candidates.join(" or --"))
            }
            UsageError::Positional(word) => write!(f, "unexpected argument {word:?}: see --help"),
            UsageError::Missing(option) => write!(f, "--{option} needs a value"),
            UsageError::NoValue(option) => write!(f, "{option} takes no value"),
            UsageError::Value { option, wanted } => write!(f, "--{option}: {wanted} is wanted"),
            UsageError::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
