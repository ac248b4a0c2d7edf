//! The stand-in for AWS as a program, for the demo, the benchmarks and the checks with boto3.
//!
//! `fakeaws --dir DIR [--latency-ms N] [--seed FILE.json] [--net ADDRESS]` prints one JSON line with its addresses and
//! serves until its standard input ends or it is killed. See `seed.rs` for the seed, `admin.rs` for the control of a
//! running one. With `--net`, a network of real guests finds it at that address of this machine, on ports 80 and 443, and
//! as the metadata service on 169.254.169.254, which must be an address of this machine too.

use std::io::{Read, Write};
use std::process::ExitCode;

#[path = "admin.rs"]
mod admin;
#[path = "mod.rs"]
mod fakeaws;
#[path = "seed.rs"]
mod seed;

use fakeaws::{Options, Server};

fn main() -> ExitCode {
    match start() {
        Ok(_server) => {
            let mut rest = Vec::new();
            let _ = std::io::stdin().read_to_end(&mut rest);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("fakeaws: {e}");
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<Server, String> {
    let (mut dir, mut latency, mut seed_file, mut net) = (None, 0, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--dir" => dir = Some(value()?),
            "--latency-ms" => latency = value()?.parse::<u64>().map_err(|_| "--latency-ms: not a number")?,
            "--seed" => seed_file = Some(value()?),
            "--net" => net = Some(value()?.parse().map_err(|_| "--net: not an address")?),
            other => {
                let usage = "use --dir DIR [--latency-ms N] [--seed FILE] [--net ADDRESS]";
                return Err(format!("unknown option '{other}': {usage}"));
            }
        }
    }
    let dir = dir.ok_or("--dir DIR is missing")?;
    let dir = std::path::absolute(dir).map_err(|e| e.to_string())?;
    let server = Server::start(Options { net, ..Options::new(&dir) });
    let seed_text = match &seed_file {
        Some(f) => std::fs::read_to_string(f).map_err(|e| format!("{f}: {e}"))?,
        None => "{}".into(),
    };
    seed::plant(&server, &dir, &seed_text)?;
    if latency > 0 {
        server.world().knobs.latency_ms = latency;
    }
    let admin = admin::start(&server);
    let ids: Vec<String> = server.world().instances.keys().cloned().collect();
    let mut instances = serde_json::Map::new();
    for id in ids {
        let imds = server.imds_url(&id);
        let world = server.world();
        let i = &world.instances[&id];
        instances.insert(
            id,
            serde_json::json!({ "imds": imds, "root": i.spec.root, "zone": i.spec.zone, "ip": i.nics[0].local_ipv4s[0],
                                "mac": i.nics[0].mac }),
        );
    }
    let (key, secret) = fakeaws::world::STATIC_KEY;
    let line = serde_json::json!({
        "http": server.http_url(), "https": server.https_url(), "ca": server.ca_pem(), "admin": admin,
        "access_key": key, "secret_key": secret, "instances": instances
    });
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| e.to_string())?;
    Ok(server)
}
