//! Where the metadata service is: `--imds`, the SDKs' variables, or its two well-known addresses.

use std::fmt;

const V4: &str = "http://169.254.169.254";
const V6: &str = "http://[fd00:ec2::254]";

/// An endpoint that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadEndpoint {
    /// The option or variable that names it.
    pub(crate) name: &'static str,
    /// Its value.
    pub(crate) value: String,
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: '{}' is no address of a metadata service: write HOST[:PORT], comma separated",
            self.name, self.value
        )
    }
}

impl std::error::Error for BadEndpoint {}

/// The endpoints in the order in which they are tried: those of `--imds=HOST[:PORT][,...]`, else
/// `AWS_EC2_METADATA_SERVICE_ENDPOINT`, else the address of `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE`, else IPv4, then
/// IPv6 (which is there only where it was switched on).
pub(crate) fn endpoints(
    option: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, BadEndpoint> {
    let set = |name: &str| env(name).filter(|v| !v.is_empty());
    let (name, value) = if let Some(value) = option {
        ("--imds", value.to_owned())
    } else if let Some(value) = set("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", value)
    } else {
        return match set("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE") {
            None => Ok(vec![V4.to_owned(), V6.to_owned()]),
            Some(mode) if mode.eq_ignore_ascii_case("ipv4") => Ok(vec![V4.to_owned()]),
            Some(mode) if mode.eq_ignore_ascii_case("ipv6") => Ok(vec![V6.to_owned()]),
            Some(value) => Err(BadEndpoint { name: "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", value }),
        };
    };
    let bad = || BadEndpoint { name, value: value.clone() };
    let all: Option<Vec<String>> = value.split(',').map(|one| endpoint(one.trim())).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(bad)
}

/// `HOST`, `HOST:PORT`, an IPv6 address with or without brackets, or a URL of one of them.
fn endpoint(text: &str) -> Option<String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return None,
        None => ("http", text),
    };
    let rest = rest.trim_end_matches('/');
    let url = if rest.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("{scheme}://[{rest}]")
    } else {
        format!("{scheme}://{rest}")
    };
    let uri: ureq::http::Uri = url.parse().ok()?;
    // `http` takes any digits for a port.
    let authority = uri.authority()?.as_str();
    if authority.rsplit(']').next()?.contains(':') && uri.port_u16().is_none() {
        return None;
    }
    let plain = uri.host().is_some_and(|h| !h.is_empty()) && uri.query().is_none() && !rest.contains('@');
    // Certificates of the metadata service do not exist.
    (plain && scheme == "http").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(option: Option<&str>, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let get = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        endpoints(option, &get).map_err(|e| e.to_string())
    }

    #[test]
    fn the_option_wins_over_the_variable_over_the_mode() {
        let env =
            [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://h:1/"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")];
        assert_eq!(of(None, &[]).unwrap(), [V4, V6]);
        assert_eq!(of(None, &env).unwrap(), ["http://h:1"]);
        assert_eq!(of(None, &env[1..]).unwrap(), [V6]);
        assert_eq!(
            of(Some("127.0.0.1:81, fd00:ec2::254,[::1]:82"), &env).unwrap(),
            ["http://127.0.0.1:81", "http://[fd00:ec2::254]", "http://[::1]:82"]
        );
    }

    #[test]
    fn what_is_no_endpoint_is_named() {
        let text = of(Some("a b"), &[]).unwrap_err();
        assert_eq!(text, "--imds: 'a b' is no address of a metadata service: write HOST[:PORT], comma separated");
        for bad in ["", "ftp://x", "x:99999x", "https://x", "u@h", "a,,b"] {
            assert!(of(Some(bad), &[]).is_err(), "{bad}");
        }
        assert!(of(None, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "v5")]).is_err());
    }
}
