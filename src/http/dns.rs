//! Host names: addresses as they are, names by the system, and on a system whose `/etc/resolv.conf` is missing (an
//! initramfs) or leads nowhere by the resolver that every VPC has at a link-local address.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Amazon's resolver, IPv4 and (on Nitro) IPv6:
/// <https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html>.
const VPC_RESOLVERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 253)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253))];

/// How long an address is good. ureq asks before it looks for a kept connection: without a memory, each request would
/// wait for a name server, in a thread made for it. AWS's own records live for 5 to 60 s.
const MEMORY: Duration = Duration::from_secs(10);
/// Hosts that are remembered; there are five services.
const MEMORIES: usize = 16;

#[derive(Debug, Default)]
pub(super) struct AwsResolver {
    system: DefaultResolver,
    known: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    host: String,
    port: u16,
    at: Instant,
    addresses: ResolvedSocketAddrs,
}

impl Resolver for AwsResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        if let Ok(ip) = host.parse::<IpAddr>() {
            // Without the thread that the system's resolver costs.
            return Ok(self.of(&[ip], port));
        }
        if let Some(addresses) = self.remembered(host, port) {
            return Ok(addresses);
        }
        let addresses = self.ask(uri, host, port, config, timeout)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|k| k.at.elapsed() < MEMORY && (k.host != host || k.port != port));
        if known.len() < MEMORIES {
            known.push(Known { host: host.to_owned(), port, at: Instant::now(), addresses: addresses.clone() });
        }
        Ok(addresses)
    }
}

impl AwsResolver {
    fn remembered(&self, host: &str, port: u16) -> Option<ResolvedSocketAddrs> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|k| k.host == host && k.port == port && k.at.elapsed() < MEMORY)?;
        Some(found.addresses.clone())
    }

    fn ask(
        &self,
        uri: &Uri,
        host: &str,
        port: u16,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        if host == "localhost" || has_nameserver(host) {
            return self.system.resolve(uri, config, timeout);
        }
        let budget = (*timeout.after).min(Duration::from_secs(5));
        let found = lookup(host, &VPC_RESOLVERS.map(|ip| SocketAddr::new(ip, 53)), budget).map_err(Error::Io)?;
        if found.is_empty() { Err(Error::HostNotFound) } else { Ok(self.of(&found, port)) }
    }

    fn of(&self, ips: &[IpAddr], port: u16) -> ResolvedSocketAddrs {
        let mut out = self.empty();
        for ip in ips.iter().take(8) {
            out.push(SocketAddr::new(*ip, port));
        }
        out
    }
}

/// Whether the system's resolver has somebody to ask. Read each time: boot may write the file while we wait.
fn has_nameserver(host: &str) -> bool {
    let mut text = String::new();
    let read = std::fs::File::open("/etc/resolv.conf").and_then(|f| f.take(64 << 10).read_to_string(&mut text));
    read.is_ok() && nameservers(&text).any(|ip| is_there(SocketAddr::new(ip, 53), host))
}

fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|w| *w == "nameserver")?;
        words.next()?.split('%').next()?.parse().ok()
    })
}

/// `false` for a name server of this machine that does not run (yet): the system's resolver would wait for it in vain.
fn is_there(server: SocketAddr, host: &str) -> bool {
    let local = server.ip().is_loopback() || server.ip().is_unspecified();
    let Some(query) = question([0; 2], host, 1).filter(|_| local) else { return true };
    let Ok(socket) = connected(server) else { return false };
    // From this machine the refusal is there when the packet is sent.
    socket.send(&query).is_ok() && socket.take_error().is_ok_and(|e| e.is_none())
}

/// Asks for A and AAAA records, each resolver in turn, until the time is over.
fn lookup(host: &str, resolvers: &[SocketAddr], budget: Duration) -> io::Result<Vec<IpAddr>> {
    let end = Instant::now() + budget;
    let mut last =
        io::Error::new(io::ErrorKind::NotFound, "no name server in /etc/resolv.conf and no answer of the VPC's");
    while Instant::now() < end {
        for resolver in resolvers {
            let wait = Duration::from_secs(1).min(end.saturating_duration_since(Instant::now()));
            match ask(host, 1, *resolver, wait) {
                Ok(mut ips) => {
                    ips.extend(ask(host, 28, *resolver, wait).unwrap_or_default());
                    return Ok(ips);
                }
                Err(e) => last = e,
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(last)
}

/// A socket that sees only this server's packets, and a refusal as an error at once.
fn connected(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket)
}

fn ask(host: &str, kind: u16, resolver: SocketAddr, wait: Duration) -> io::Result<Vec<IpAddr>> {
    let socket = connected(resolver)?;
    socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, "not a host name");
    socket.send(&question(id, host, kind).ok_or_else(bad)?)?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer)?;
    let answer = buffer.get(..length).unwrap_or_default();
    parse(id, kind, answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a DNS answer"))
}

/// A query for one name and type, recursion desired.
fn question(id: [u8; 2], host: &str, kind: u16) -> Option<Vec<u8>> {
    let mut out = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in host.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    (out.len() <= 271).then_some(out)
}

/// The addresses in an answer; CNAMEs on the way are passed over, the resolver has followed them.
fn parse(id: [u8; 2], kind: u16, answer: &[u8]) -> Option<Vec<IpAddr>> {
    let word = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    if answer.get(..2)? != id || answer.get(2)? & 0x80 == 0 {
        return None;
    }
    match answer.get(3)? & 0xf {
        0 => {}
        // The name does not exist: an answer too.
        3 => return Some(Vec::new()),
        _ => return None,
    }
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(answer, at)? + 4;
    }
    let mut out = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(answer, at)?;
        let (this, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if this == kind {
            if let Ok(v4) = <[u8; 4]>::try_from(data) {
                out.push(IpAddr::from(v4));
            } else if let Ok(v6) = <[u8; 16]>::try_from(data) {
                out.push(IpAddr::from(v6));
            }
        }
        at += 10 + length;
    }
    Some(out)
}

fn skip_name(answer: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*answer.get(at)?) {
            0 => return Some(at + 1),
            // A pointer ends the name.
            n if n & 0xc0 == 0xc0 => return Some(at + 2),
            n => at += n + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_asked_for_and_its_addresses_are_found() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..2 {
                let mut buffer = [0; 512];
                let (n, from) = server.recv_from(&mut buffer).unwrap();
                let mut answer = buffer[..n].to_vec();
                answer[2] = 0x81;
                answer[7] = 2;
                // A CNAME of 2 bytes, then the record asked for.
                answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12]);
                if buffer[n - 3] == 1 {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                } else {
                    answer[7] = 1;
                }
                server.send_to(&answer, from).unwrap();
            }
        });
        let found = lookup("ec2.eu-west-1.amazonaws.com", &[at], Duration::from_secs(5)).unwrap();
        assert_eq!(found, [IpAddr::from([192, 0, 2, 7])]);
    }

    #[test]
    fn the_first_resolver_that_answers_counts() {
        let server = UdpSocket::bind("[::1]:0").unwrap();
        let at = server.local_addr().unwrap();
        let dead = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr()).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((n, from)) = server.recv_from(&mut buffer) {
                buffer[2] = 0x81;
                server.send_to(&buffer[..n], from).unwrap();
            }
        });
        // No records of that name: an answer too.
        assert!(lookup("a.b", &[dead, at], Duration::from_secs(5)).unwrap().is_empty());
        assert!(lookup("a.b", &[dead], Duration::from_millis(120)).is_err());
    }

    #[test]
    fn name_servers_of_a_file() {
        let text = "# c\nsearch a.b\nnameserver 10.0.0.2\n nameserver\tfe80::1%eth0 x\nnameserver\nnameserver x\noptions edns0";
        let all: Vec<IpAddr> = nameservers(text).collect();
        assert_eq!(all, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
        assert_eq!(nameservers("").count(), 0);
    }

    #[test]
    fn a_name_server_of_this_machine_that_does_not_run_is_nobody() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).unwrap();
            let at = server.local_addr().unwrap();
            assert!(is_there(at, "a.b"), "{at}");
            drop(server);
            assert!(!is_there(at, "a.b"), "{at}");
        }
        // Others are not asked.
        assert!(is_there("192.0.2.1:53".parse().unwrap(), "a.b"));
    }

    #[test]
    fn an_address_is_remembered_for_a_while() {
        let resolver = AwsResolver::default();
        let addresses = resolver.of(&[IpAddr::from([192, 0, 2, 7])], 443);
        let put = |age: Duration| {
            let at = Instant::now().checked_sub(age).unwrap();
            *resolver.known.lock().unwrap() =
                vec![Known { host: "a".into(), port: 443, at, addresses: addresses.clone() }];
        };
        put(Duration::ZERO);
        assert_eq!(resolver.remembered("a", 443).map(|a| a.len()), Some(1));
        assert!(resolver.remembered("a", 80).is_none() && resolver.remembered("b", 443).is_none());
        put(MEMORY);
        assert!(resolver.remembered("a", 443).is_none());
    }

    #[test]
    fn nothing_that_comes_back_can_hurt() {
        let id = [1, 2];
        let query = question(id, "a.b", 1).unwrap();
        assert!(parse(id, 1, &query).is_none(), "a query is no answer");
        for n in 0..64u8 {
            let junk: Vec<u8> = [1, 2, 0x81, 0, 0, 1, 0xff, 0xff].into_iter().chain((0..n).map(|i| i ^ 0xc1)).collect();
            let _ = parse(id, 1, &junk);
        }
        assert!(question(id, "a..b", 1).is_none() && question(id, &"x".repeat(64), 1).is_none());
    }
}
