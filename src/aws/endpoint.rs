//! Where each service is and for which region its requests are signed: all partitions, FIPS, dual stack, and the
//! standard variables that say otherwise.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>

use std::fmt;

use super::env::Env;

/// The services that are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ec2,
    Route53,
    Sns,
    Sqs,
    AutoScaling,
}

impl Service {
    /// Its name in signatures, host names and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Ec2 => "ec2",
            Service::Route53 => "route53",
            Service::Sns => "sns",
            Service::Sqs => "sqs",
            Service::AutoScaling => "autoscaling",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Service::Ec2 => "AWS_ENDPOINT_URL_EC2",
            Service::Route53 => "AWS_ENDPOINT_URL_ROUTE_53",
            Service::Sns => "AWS_ENDPOINT_URL_SNS",
            Service::Sqs => "AWS_ENDPOINT_URL_SQS",
            Service::AutoScaling => "AWS_ENDPOINT_URL_AUTO_SCALING",
        }
    }
}

/// Where to send a request, and the region to sign it for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host, port and perhaps a path; no slash at the end.
    pub(crate) url: String,
    /// The region in the signature.
    pub(crate) region: String,
}

/// An endpoint variable that is no URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadUrl {
    variable: &'static str,
    value: String,
}

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.contains('@') {
            return write!(f, "{}: no user or password can stand in the URL", self.variable);
        }
        write!(f, "{}: '{}' is no http:// or https:// URL", self.variable, self.value)
    }
}

impl std::error::Error for BadUrl {}

/// A group of regions with host names of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    suffix: String,
    dual_suffix: String,
    /// Where Route 53 is signed for.
    global_region: String,
    route53: Route53Hosts,
}

/// How the hosts of Route 53 are made; it has one for each partition, by three rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route53Hosts {
    /// `route53`, dual stack `route53.global`, with FIPS too.
    Global,
    /// The same, but `route53-fips` without `global`.
    GlobalPlain,
    /// `route53.us-gov` for everything.
    Gov,
    /// `route53` and `route53-fips` in any suffix.
    Plain,
}

impl Partition {
    fn new(suffix: &str, dual_suffix: &str, global_region: &str, route53: Route53Hosts) -> Partition {
        let (suffix, dual_suffix) = (suffix.to_owned(), dual_suffix.to_owned());
        Partition { suffix, dual_suffix, global_region: global_region.to_owned(), route53 }
    }

    /// The partition of a region by its name; `None` for one that is newer than this program.
    pub(crate) fn of(region: &str) -> Option<Partition> {
        use Route53Hosts::{Global, GlobalPlain, Gov, Plain};
        let parts: Vec<&str> = region.split('-').collect();
        Some(match parts.as_slice() {
            ["cn", _, _] => {
                Partition::new("amazonaws.com.cn", "api.amazonwebservices.com.cn", "cn-northwest-1", GlobalPlain)
            }
            ["us", "gov", ..] => Partition::new("amazonaws.com", "api.aws", "us-gov-west-1", Gov),
            ["us", "iso", ..] => Partition::new("c2s.ic.gov", "api.aws.ic.gov", "us-iso-east-1", Plain),
            ["us", "isob", ..] => Partition::new("sc2s.sgov.gov", "api.aws.scloud", "us-isob-east-1", Plain),
            ["eu", "isoe", ..] => Partition::new("cloud.adc-e.uk", "api.cloud-aws.adc-e.uk", "eu-isoe-west-1", Plain),
            ["us", "isof", ..] => Partition::new("csp.hci.ic.gov", "api.aws.hci.ic.gov", "us-isof-south-1", Plain),
            ["eusc", ..] => Partition::new("amazonaws.eu", "api.amazonwebservices.eu", "eusc-de-east-1", GlobalPlain),
            ["us" | "eu" | "ap" | "sa" | "ca" | "me" | "af" | "il" | "mx", _, _] => {
                Partition::new("amazonaws.com", "api.aws", "us-east-1", Global)
            }
            _ => return None,
        })
    }

    /// What can be known of an unknown one: the domain that the metadata service names (`services/domain`).
    pub(crate) fn unknown(region: &str, domain: Option<&str>) -> Partition {
        match domain.map(str::trim).filter(|d| is_host(d)) {
            Some("amazonaws.com") | None => {
                Partition::new("amazonaws.com", "api.aws", "us-east-1", Route53Hosts::Global)
            }
            Some(domain) => Partition::new(domain, domain, region, Route53Hosts::Plain),
        }
    }
}

/// The rules of this process.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    fips: bool,
    dual_stack: bool,
    overrides: [Option<String>; SERVICES.len()],
}

const SERVICES: [Service; 5] = [Service::Ec2, Service::Route53, Service::Sns, Service::Sqs, Service::AutoScaling];

impl Endpoints {
    /// Reads the environment. Warns of requests that would go over a network in the clear.
    pub(crate) fn new(env: &Env) -> Result<Endpoints, BadUrl> {
        let ignore = env.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
        let mut overrides = [const { None }; SERVICES.len()];
        let mut warned = Vec::new();
        for (slot, service) in overrides.iter_mut().zip(SERVICES) {
            let variable = if env.get(service.variable()).is_some() { service.variable() } else { "AWS_ENDPOINT_URL" };
            let Some(value) = env.get(variable).filter(|_| !ignore) else { continue };
            let (url, exposed) = check(value).ok_or(BadUrl { variable, value: value.to_owned() })?;
            if exposed && !warned.contains(&variable) {
                warned.push(variable);
                log::warn!(
                    "{variable} is a plain http:// URL: requests are signed, but anybody on the way can read them"
                );
            }
            *slot = Some(url);
        }
        let (fips, dual_stack) = (env.is_true("AWS_USE_FIPS_ENDPOINT"), env.is_true("AWS_USE_DUALSTACK_ENDPOINT"));
        Ok(Endpoints { fips, dual_stack, overrides })
    }

    /// Whether this service's endpoint is given.
    pub(crate) fn is_overridden(&self, service: Service) -> bool {
        self.overridden(service).is_some()
    }

    fn overridden(&self, service: Service) -> Option<&String> {
        SERVICES.iter().zip(&self.overrides).find(|(s, _)| **s == service).and_then(|(_, o)| o.as_ref())
    }

    /// Where requests of this service for this region go.
    pub(crate) fn resolve(&self, service: Service, region: &str, partition: &Partition) -> Endpoint {
        let signing = if service == Service::Route53 { partition.global_region.as_str() } else { region };
        let url = self.overridden(service).cloned().unwrap_or_else(|| {
            let suffix = if self.dual_stack { &partition.dual_suffix } else { &partition.suffix };
            format!("https://{}.{suffix}", self.label(service, region, partition))
        });
        Endpoint { url, region: signing.to_owned() }
    }

    fn label(&self, service: Service, region: &str, partition: &Partition) -> String {
        let fips = if self.fips { "-fips" } else { "" };
        if service != Service::Route53 {
            // GovCloud's plain hosts are FIPS hosts.
            let gov = partition.route53 == Route53Hosts::Gov && !self.dual_stack;
            return format!("{}{}.{region}", service.name(), if gov { "" } else { fips });
        }
        match partition.route53 {
            Route53Hosts::Gov => "route53.us-gov".to_owned(),
            Route53Hosts::Global if self.dual_stack => format!("route53{fips}.global"),
            Route53Hosts::GlobalPlain if self.dual_stack && !self.fips => "route53.global".to_owned(),
            _ => format!("route53{fips}"),
        }
    }

    /// Where messages for a queue go: to the host in its URL, unless the endpoint is given.
    pub(crate) fn queue(&self, queue_url: &str, region: &str) -> Option<Endpoint> {
        let region = region.to_owned();
        if let Some(url) = self.overridden(Service::Sqs) {
            return Some(Endpoint { url: url.clone(), region });
        }
        let rest = queue_url.split_once("://").map_or(queue_url, |(_, rest)| rest);
        let host = rest.split('/').next().filter(|h| is_host(h))?;
        Some(Endpoint { url: format!("https://{host}"), region })
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

/// The URL without a slash at its end, and whether requests to it can be read on the way.
fn check(value: &str) -> Option<(String, bool)> {
    let uri: ureq::http::Uri = value.parse().ok()?;
    let host = uri.host().filter(|h| !h.is_empty())?;
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let loopback = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    let exposed = match uri.scheme_str()? {
        "https" => false,
        "http" => !loopback,
        _ => return None,
    };
    (uri.query().is_none() && !value.contains(['@', '#'])).then(|| (value.trim_end_matches('/').to_owned(), exposed))
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(region: &str, fips: bool, dual: bool) -> Vec<String> {
        let mut env = Vec::new();
        env.extend(fips.then_some(("AWS_USE_FIPS_ENDPOINT", "true")));
        env.extend(dual.then_some(("AWS_USE_DUALSTACK_ENDPOINT", "true")));
        let partition = Partition::of(region).unwrap();
        let endpoints = Endpoints::new(&Env::of(&env)).unwrap();
        let all = [Service::Ec2, Service::Route53].map(|s| endpoints.resolve(s, region, &partition));
        let mut out: Vec<String> = all.iter().map(|e| e.url.trim_start_matches("https://").to_owned()).collect();
        out.push(all[1].region.clone());
        out
    }

    /// Made with botocore 1.44: region, plain, dual stack, FIPS, both.
    const GOLDEN: &str = "
eu-west-1 us-east-1 ec2.eu-west-1.amazonaws.com route53.amazonaws.com ec2.eu-west-1.api.aws route53.global.api.aws ec2-fips.eu-west-1.amazonaws.com route53-fips.amazonaws.com ec2-fips.eu-west-1.api.aws route53-fips.global.api.aws
cn-north-1 cn-northwest-1 ec2.cn-north-1.amazonaws.com.cn route53.amazonaws.com.cn ec2.cn-north-1.api.amazonwebservices.com.cn route53.global.api.amazonwebservices.com.cn ec2-fips.cn-north-1.amazonaws.com.cn route53-fips.amazonaws.com.cn ec2-fips.cn-north-1.api.amazonwebservices.com.cn route53-fips.api.amazonwebservices.com.cn
us-gov-east-1 us-gov-west-1 ec2.us-gov-east-1.amazonaws.com route53.us-gov.amazonaws.com ec2.us-gov-east-1.api.aws route53.us-gov.api.aws ec2.us-gov-east-1.amazonaws.com route53.us-gov.amazonaws.com ec2-fips.us-gov-east-1.api.aws route53.us-gov.api.aws
us-iso-east-1 us-iso-east-1 ec2.us-iso-east-1.c2s.ic.gov route53.c2s.ic.gov ec2.us-iso-east-1.api.aws.ic.gov route53.api.aws.ic.gov ec2-fips.us-iso-east-1.c2s.ic.gov route53-fips.c2s.ic.gov ec2-fips.us-iso-east-1.api.aws.ic.gov route53-fips.api.aws.ic.gov
us-isob-east-1 us-isob-east-1 ec2.us-isob-east-1.sc2s.sgov.gov route53.sc2s.sgov.gov ec2.us-isob-east-1.api.aws.scloud route53.api.aws.scloud ec2-fips.us-isob-east-1.sc2s.sgov.gov route53-fips.sc2s.sgov.gov ec2-fips.us-isob-east-1.api.aws.scloud route53-fips.api.aws.scloud
eusc-de-east-1 eusc-de-east-1 ec2.eusc-de-east-1.amazonaws.eu route53.amazonaws.eu ec2.eusc-de-east-1.api.amazonwebservices.eu route53.global.api.amazonwebservices.eu ec2-fips.eusc-de-east-1.amazonaws.eu route53-fips.amazonaws.eu ec2-fips.eusc-de-east-1.api.amazonwebservices.eu route53-fips.api.amazonwebservices.eu
";

    #[test]
    fn hosts_are_those_of_the_sdks() {
        for line in GOLDEN.lines().filter(|l| !l.is_empty()) {
            let want: Vec<&str> = line.split(' ').collect();
            for (n, (fips, dual)) in
                [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
            {
                let got = hosts(want[0], fips, dual);
                assert_eq!(got, [want[2 + 2 * n], want[3 + 2 * n], want[1]], "{} {fips} {dual}", want[0]);
            }
        }
        assert_eq!(hosts("eu-isoe-west-1", false, false)[0], "ec2.eu-isoe-west-1.cloud.adc-e.uk");
        assert_eq!(hosts("us-isof-south-1", true, false)[1], "route53-fips.csp.hci.ic.gov");
    }

    #[test]
    fn an_unknown_region_is_where_the_metadata_service_says() {
        assert_eq!(Partition::of("xx-new-1"), None);
        assert_eq!(Partition::of("us-west"), None);
        let endpoints = Endpoints::new(&Env::default()).unwrap();
        let ec2 = |domain| endpoints.resolve(Service::Ec2, "xx-new-1", &Partition::unknown("xx-new-1", domain)).url;
        assert_eq!(ec2(None), "https://ec2.xx-new-1.amazonaws.com");
        assert_eq!(ec2(Some("aws.example\n")), "https://ec2.xx-new-1.aws.example");
        assert_eq!(ec2(Some("evil/path")), "https://ec2.xx-new-1.amazonaws.com");
    }

    #[test]
    fn auto_scaling_is_where_the_sdks_find_it() {
        let host = |region, fips, dual| {
            let env = [("AWS_USE_FIPS_ENDPOINT", fips), ("AWS_USE_DUALSTACK_ENDPOINT", dual)];
            let endpoints = Endpoints::new(&Env::of(&env)).unwrap();
            let to = endpoints.resolve(Service::AutoScaling, region, &Partition::of(region).unwrap());
            assert_eq!(to.region, region);
            to.url
        };
        let cases = [
            ("eu-west-1", "false", "false", "https://autoscaling.eu-west-1.amazonaws.com"),
            ("eu-west-1", "false", "true", "https://autoscaling.eu-west-1.api.aws"),
            ("us-east-1", "true", "false", "https://autoscaling-fips.us-east-1.amazonaws.com"),
            ("us-gov-west-1", "true", "false", "https://autoscaling.us-gov-west-1.amazonaws.com"),
            ("us-gov-west-1", "true", "true", "https://autoscaling-fips.us-gov-west-1.api.aws"),
            ("cn-north-1", "false", "false", "https://autoscaling.cn-north-1.amazonaws.com.cn"),
        ];
        for (region, fips, dual, url) in cases {
            assert_eq!(host(region, fips, dual), url);
        }
        let env = [("AWS_ENDPOINT_URL_AUTO_SCALING", "http://127.0.0.1:9")];
        let endpoints = Endpoints::new(&Env::of(&env)).unwrap();
        let partition = Partition::of("eu-west-1").unwrap();
        assert_eq!(endpoints.resolve(Service::AutoScaling, "eu-west-1", &partition).url, "http://127.0.0.1:9");
        assert!(!endpoints.is_overridden(Service::Ec2));
    }

    #[test]
    fn variables_win_the_services_own_first() {
        let env = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1/p/"), ("AWS_ENDPOINT_URL_ROUTE_53", "https://r")];
        let e = Endpoints::new(&Env::of(&env)).unwrap();
        let partition = Partition::of("eu-west-1").unwrap();
        let to = |s| e.resolve(s, "eu-west-1", &partition);
        assert_eq!(to(Service::Sns), Endpoint { url: "http://127.0.0.1:1/p".into(), region: "eu-west-1".into() });
        assert_eq!(to(Service::Route53), Endpoint { url: "https://r".into(), region: "us-east-1".into() });
        assert_eq!(
            e.queue("https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1").unwrap().url,
            "http://127.0.0.1:1/p"
        );
        let ignored = [env[0], ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        assert!(!Endpoints::new(&Env::of(&ignored)).unwrap().is_overridden(Service::Ec2));
    }

    #[test]
    fn what_is_no_url_is_named() {
        for bad in ["localhost:1", "ftp://x", "http://", "https://h/?q"] {
            let e = Endpoints::new(&Env::of(&[("AWS_ENDPOINT_URL_EC2", bad)])).unwrap_err();
            assert_eq!(e.to_string(), format!("AWS_ENDPOINT_URL_EC2: '{bad}' is no http:// or https:// URL"));
        }
        assert_eq!(check("http://10.0.0.1"), Some(("http://10.0.0.1".into(), true)));
        assert_eq!(check("http://[::1]:5"), Some(("http://[::1]:5".into(), false)));
    }

    #[test]
    fn a_message_goes_to_the_host_of_its_queue() {
        let e = Endpoints::new(&Env::default()).unwrap();
        let to = |url| e.queue(url, "us-east-1").map(|e| e.url);
        assert_eq!(to("https://sqs.us-east-1.amazonaws.com/1/q").unwrap(), "https://sqs.us-east-1.amazonaws.com");
        assert_eq!(to("http://queue.amazonaws.com/1/q").unwrap(), "https://queue.amazonaws.com");
        assert_eq!(to("QUEUE_URL").as_deref(), None);
        assert_eq!(to("https://u@h/1/q"), None);
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_shown() {
        let env = Env::of(&[("AWS_ENDPOINT_URL", "https://me:hidden@host")]);
        let text = Endpoints::new(&env).unwrap_err().to_string();
        assert_eq!(text, "AWS_ENDPOINT_URL: no user or password can stand in the URL");
    }
}
