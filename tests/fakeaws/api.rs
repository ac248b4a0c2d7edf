//! One API call from its arrival to its answer: whose service it is, signature, permission, faults, throttle, latency,
//! action. Sleeping is done outside the lock, so that calls run side by side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::errors::{Refusal, SNS_NS, SQS_NS, Service, Shape, internal, refuse, refuse_with, render, throttled};
use super::http::{Request, Response};
use super::knobs::FaultKind;
use super::r53::Target;
use super::sigv4::{self, Credential};
use super::text::pairs;
use super::world::{Hidden, Late, World};
use super::{Call, Shared, autoscaling, ec2, r53_parse, sqs};

/// What the connection is to do.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Response),
    Reset,
    /// Nothing for so many milliseconds, then the end.
    Hang(u64),
}

/// What a request is, before anything is judged.
#[derive(Debug)]
struct Kind {
    service: Service,
    action: String,
    shape: Shape,
    params: BTreeMap<String, String>,
    target: Option<Target>,
    json: bool,
}

/// Tells the service by path, header and form; a `Refusal` here is one of form.
fn classify(request: &Request) -> (Kind, Option<Refusal>) {
    let mut kind = Kind {
        service: Service::Ec2,
        action: String::new(),
        shape: Shape::Ec2,
        params: BTreeMap::new(),
        target: None,
        json: false,
    };
    if request.path.starts_with("/2013-04-01") {
        kind.service = Service::Route53;
        kind.shape = Shape::Route53;
        let Some(target) = Target::find(&request.method, &request.path) else {
            return (kind, Some(refuse_with(404, "UnknownOperationException", "No such operation")));
        };
        kind.action = target.action().into();
        kind.params = pairs(&request.query, false).unwrap_or_default().into_iter().collect();
        kind.target = Some(target);
        return (kind, None);
    }
    if let Some(target) = request.header("x-amz-target") {
        kind.service = Service::Sqs;
        kind.json = true;
        kind.shape = Shape::Json(request.header("x-amzn-query-mode") == Some("true"));
        kind.action = target.strip_prefix("AmazonSQS.").unwrap_or("").into();
        if request.header("content-type") != Some("application/x-amz-json-1.0") {
            return (kind, Some(refuse("UnknownOperation", "The Content-Type must be application/x-amz-json-1.0")));
        }
        if kind.action != "SendMessage" {
            return (kind, Some(refuse("UnknownOperation", "The operation is not known")));
        }
        return match sqs::params(request, true) {
            Ok(p) => {
                kind.params = p;
                (kind, None)
            }
            Err(e) => (kind, Some(e)),
        };
    }
    let form = std::str::from_utf8(&request.body).ok().and_then(|b| pairs(b, true));
    let list = form.clone().unwrap_or_default();
    let count = list.len();
    kind.params = list.into_iter().collect();
    kind.action = kind.params.get("Action").cloned().unwrap_or_default();
    match (kind.action.as_str(), kind.params.get("Version").map(String::as_str)) {
        ("Publish", _) | (_, Some("2010-03-31")) => {
            kind.service = Service::Sns;
            kind.shape = Shape::Query(SNS_NS);
        }
        ("SendMessage", _) | (_, Some("2012-11-05")) => {
            kind.service = Service::Sqs;
            kind.shape = Shape::Query(SQS_NS);
            kind.params = sqs::params(request, false).unwrap_or_default();
        }
        (_, Some("2011-01-01")) => {
            kind.service = Service::AutoScaling;
            kind.shape = Shape::Query(autoscaling::NS);
        }
        _ => {}
    }
    let content_type = request.header("content-type").unwrap_or("");
    let problem = if request.method != "POST" {
        Some(refuse_with(405, "MethodNotAllowed", "Use POST"))
    } else if form.is_none() || kind.params.len() < count {
        Some(refuse("MalformedQueryString", "The query string contains a syntax error"))
    } else if !content_type.starts_with("application/x-www-form-urlencoded") {
        Some(refuse("InvalidQueryParameter", "The Content-Type must be application/x-www-form-urlencoded"))
    } else {
        let version = kind.params.get("Version").map(String::as_str);
        match kind.service {
            Service::Ec2 => ec2::check(&kind.params).err(),
            Service::AutoScaling => autoscaling::check(&kind.params).err(),
            Service::Sns if kind.action != "Publish" || version != Some("2010-03-31") => {
                Some(refuse("InvalidAction", "Could not find operation for the given version"))
            }
            Service::Sqs if kind.action != "SendMessage" || version != Some("2012-11-05") => {
                Some(refuse("InvalidAction", "Could not find operation for the given version"))
            }
            _ => None,
        }
    };
    (kind, problem)
}

/// The regions that a service takes in a signature of this key.
fn regions(world: &World, service: Service, key: &Credential, params: &BTreeMap<String, String>) -> Vec<String> {
    let all = || {
        let mut list: Vec<String> = world.availability_zones.values().map(|z| z.0.clone()).collect();
        list.dedup();
        list
    };
    match service {
        Service::Route53 => vec!["us-east-1".into()],
        Service::Ec2 | Service::AutoScaling => match key.instance.as_ref().and_then(|i| world.instances.get(i)) {
            Some(i) => vec![i.region.clone()],
            None => all(),
        },
        Service::Sns => {
            let arn = params.get("TopicArn").or(params.get("TargetArn"));
            arn.and_then(|a| a.split(':').nth(3)).map(|r| vec![r.to_string()]).unwrap_or_else(all)
        }
        Service::Sqs => {
            let url = params.get("QueueUrl");
            let host = url.and_then(|u| u.split('/').nth(2)).and_then(sqs::region_of_host);
            host.map(|r| vec![r]).unwrap_or_else(all)
        }
    }
}

/// The refusal of a permission, in the words of the service.
fn denied(world: &mut World, kind: &Kind, key: &Credential) -> Refusal {
    let arn = world.caller_arn(key);
    let text = |verb: &str, resource: String| {
        format!(
            "User: {arn} is not authorized to perform: {verb} on resource: {resource} because no identity-based policy allows the {verb} action"
        )
    };
    match kind.service {
        Service::Ec2 => ec2::unauthorized(world, key, &kind.action, &kind.params),
        Service::AutoScaling => {
            let region = key.instance.as_ref().and_then(|i| world.instances.get(i)).map_or("eu-west-1", |i| &i.region);
            let resource = autoscaling::arn(&kind.params, region);
            refuse_with(403, "AccessDenied", text(&format!("autoscaling:{}", kind.action), resource))
        }
        Service::Route53 => {
            let id = kind.target.as_ref().map(Target::id).unwrap_or("");
            let resource = format!("arn:aws:route53:::hostedzone/{id}");
            refuse_with(403, "AccessDenied", text(&format!("route53:{}", kind.action), resource))
        }
        Service::Sns => {
            let topic = kind.params.get("TopicArn").cloned().unwrap_or_default();
            refuse_with(403, "AuthorizationError", text("SNS:Publish", topic))
        }
        Service::Sqs => {
            let name = kind.params.get("QueueUrl").and_then(|u| u.rsplit('/').next()).unwrap_or("").to_string();
            refuse_with(
                403,
                "AccessDenied",
                text("sqs:sendmessage", format!("arn:aws:sqs:eu-west-1:111122223333:{name}")),
            )
        }
    }
}

/// The action itself, under the lock.
fn act(world: &mut World, kind: &Kind, key: &Credential, region: &str, body: &[u8]) -> Result<Response, Refusal> {
    world.advance();
    let xml = |text: String| Response::new(200, "text/xml", text);
    match kind.service {
        Service::Ec2 => {
            let inner = ec2::run(world, &kind.action, &kind.params, region)?;
            let id = world.random.uuid();
            let a = &kind.action;
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{a}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{id}</requestId>{inner}</{a}Response>"
            );
            Ok(Response::new(200, "text/xml;charset=UTF-8", body).with("x-amzn-requestid", id))
        }
        Service::Route53 => match kind.target.as_ref() {
            Some(Target::List(zone)) => world.list_records(zone, &kind.params).map(xml),
            Some(Target::GetChange(id)) => world.get_change(id).map(xml),
            Some(Target::Change(zone)) => {
                let changes = r53_parse::parse(body)?;
                world.change_records(zone, &changes).map(xml)
            }
            None => Err(refuse_with(404, "UnknownOperationException", "No such operation")),
        },
        Service::AutoScaling => world.autoscaling(&kind.action, &kind.params, region).map(xml),
        Service::Sns => world.publish(&kind.params, key, region).map(xml),
        Service::Sqs => {
            let body = world.send_message(&kind.params, key, region, kind.json)?;
            Ok(if kind.json { Response::new(200, "application/x-amz-json-1.0", body) } else { xml(body) })
        }
    }
}

/// Adds the changes of a batch to what the log of calls shows.
fn logged_params(kind: &Kind, body: &[u8]) -> BTreeMap<String, String> {
    let mut map = kind.params.clone();
    if let Some(t) = &kind.target {
        map.insert("Id".into(), t.id().into());
    }
    if matches!(kind.target, Some(Target::Change(_))) {
        for (i, c) in r53_parse::parse(body).unwrap_or_default().iter().enumerate() {
            let base = format!("Change.{}", i + 1);
            map.insert(format!("{base}.Action"), c.action.clone());
            map.insert(format!("{base}.Name"), c.set.name.clone());
            map.insert(format!("{base}.Type"), c.set.kind.clone());
            map.insert(format!("{base}.Values"), c.set.values.join(" "));
            if let Some(t) = c.set.ttl {
                map.insert(format!("{base}.TTL"), t.to_string());
            }
        }
    }
    map
}

/// Serves one request.
pub(crate) fn serve(shared: &Shared, request: &Request, connection: u64, tls: bool) -> Outcome {
    let (mut kind, problem) = classify(request);
    let name = format!("{}:{}", kind.service.name(), kind.action);
    let mut world = shared.world();
    let begin = Instant::now();
    if kind.service == Service::Route53 && world.knobs.bare_batch_errors {
        kind.shape = Shape::BareBatch;
    }
    let signed = sigv4::verify(
        request,
        kind.service,
        |k| world.keys.get(k).cloned(),
        |key| regions(&world, kind.service, key, &kind.params),
        world.wall(),
        time::Duration::seconds(world.knobs.signature_window_s),
    );
    let id = world.random.uuid();
    let call = Call {
        service: kind.service.name().into(),
        action: kind.action.clone(),
        access_key: request.header("authorization").and_then(sigv4::parse).map(|a| a.access_key),
        instance: signed.as_ref().ok().and_then(|(k, _)| k.instance.clone()),
        params: logged_params(&kind, &request.body),
        status: 0,
        code: None,
        at_ms: world.now_ms(),
        ms: 0,
        fault: None,
        connection,
        tls,
        seq: 0,
    };
    let params = call.params.clone();
    let index = shared.log(call);
    let latency = world.knobs.latency(&name);
    let mut result: Result<Response, Refusal>;
    let mut fault: Option<FaultKind> = None;
    let mut changing = None;
    match signed.and_then(|s| problem.map_or(Ok(s), Err)) {
        Err(r) => {
            drop(world);
            sleep(latency);
            result = Err(r);
        }
        Ok((key, region)) => {
            // All lines of the script count this call; the first that hits decides.
            for f in &mut world.faults {
                if f.take(&name, key.instance.as_deref(), &params) && fault.is_none() {
                    fault = Some(f.kind.clone());
                }
            }
            shared.edit(index, |c| c.fault = fault.as_ref().map(|f| format!("{f:?}")));
            let now = world.now_ms();
            let throttle = world.buckets.iter_mut().any(|(a, b)| super::knobs::same_action(a, &name) && !b.take(now));
            let refusal = refusal_of(&mut world, &kind, &name, &key, &fault, throttle);
            if refusal.is_none()
                && let Some(Target::Change(zone)) = &kind.target
                && !matches!(fault, Some(FaultKind::ResetBefore | FaultKind::Hang(_) | FaultKind::Garbage))
            {
                match world.begin_change(zone) {
                    Ok(()) => changing = Some(zone.clone()),
                    Err(r) => {
                        drop(world);
                        sleep(latency);
                        return finish(shared, index, begin, Err(r), &kind, &id, None);
                    }
                }
            }
            drop(world);
            sleep(latency / 2);
            match (&fault, refusal) {
                (_, Some(r)) => result = Err(r),
                (Some(FaultKind::ResetBefore), _) => {
                    shared.finish(index, 0, Some("reset".into()), begin.elapsed());
                    return Outcome::Reset;
                }
                (Some(FaultKind::Hang(ms)), _) => {
                    shared.finish(index, 0, Some("hang".into()), begin.elapsed());
                    return Outcome::Hang(*ms);
                }
                (Some(FaultKind::Late(ms)), _) => {
                    let mut world = shared.world();
                    let due = world.now_ms() + ms;
                    let late = Late { action: kind.action.clone(), params: kind.params.clone(), region };
                    world.late.push((due, late));
                    shared.finish(index, 0, Some("reset".into()), begin.elapsed());
                    return Outcome::Reset;
                }
                (Some(FaultKind::Garbage), _) => {
                    result = Ok(Response::new(200, "text/html", "<html><body>It works!</body>"));
                }
                _ => {
                    let mut world = shared.world();
                    world.hidden = match &fault {
                        Some(FaultKind::Empty) => Hidden::All,
                        Some(FaultKind::Without(id)) => Hidden::One(id.clone()),
                        _ => Hidden::Nothing,
                    };
                    result = act(&mut world, &kind, &key, &region, &request.body);
                    if let Some(FaultKind::ThenDeleted(id)) = &fault {
                        world.somebody_deletes(id);
                    }
                    if let Some(zone) = changing.take() {
                        world.end_change(&zone);
                    }
                }
            }
            sleep(latency - latency / 2);
        }
    }
    if matches!(fault, Some(FaultKind::ErrorAfter500)) {
        result = Err(internal(kind.service, 500));
    }
    finish(shared, index, begin, result, &kind, &id, fault)
}

/// What is refused before it is done.
fn refusal_of(
    world: &mut World,
    kind: &Kind,
    name: &str,
    key: &Credential,
    fault: &Option<FaultKind>,
    throttle: bool,
) -> Option<Refusal> {
    match fault {
        Some(FaultKind::Status500) => return Some(internal(kind.service, 500)),
        Some(FaultKind::Status503) => return Some(internal(kind.service, 503)),
        Some(FaultKind::Throttle) => return Some(throttled(kind.service)),
        Some(FaultKind::Denied) => return Some(denied(world, kind, key)),
        Some(FaultKind::Custom { status, code, message }) => return Some(refuse_with(*status, code, message.clone())),
        _ => {}
    }
    if throttle {
        return Some(throttled(kind.service));
    }
    let mut resources = ec2::resources(&kind.params);
    resources.extend(kind.target.as_ref().map(|t| t.id().to_string()));
    resources.extend(["TopicArn", "QueueUrl"].iter().filter_map(|n| kind.params.get(*n).cloned()));
    if !world.policy.permits(name, &resources) {
        return Some(denied(world, kind, key));
    }
    // Tags given at creation need the permission to create tags, too.
    let creates = ["EC2:CreateVolume", "EC2:CreateSnapshot"].contains(&name);
    let tagging = creates && kind.params.keys().any(|k| k.starts_with("TagSpecification."));
    if tagging && !world.policy.permits("EC2:CreateTags", &[]) {
        return Some(ec2::unauthorized(world, key, "CreateTags", &BTreeMap::new()));
    }
    None
}

fn finish(
    shared: &Shared,
    index: u64,
    begin: Instant,
    result: Result<Response, Refusal>,
    kind: &Kind,
    id: &str,
    fault: Option<FaultKind>,
) -> Outcome {
    let code = result.as_ref().err().map(|r| r.code.clone());
    let mut answer = match result {
        Ok(r) => r,
        Err(r) => render(&r, kind.shape, id),
    };
    if !answer.headers.iter().any(|(n, _)| n == "x-amzn-requestid") {
        answer = answer.with("x-amzn-requestid", id);
    }
    shared.finish(index, answer.status, code, begin.elapsed());
    match fault {
        Some(FaultKind::ResetAfter) => Outcome::Reset,
        Some(FaultKind::HangAfter(ms)) => Outcome::Hang(ms),
        Some(FaultKind::Slow(ms)) => {
            sleep(ms);
            Outcome::Answer(answer)
        }
        Some(FaultKind::Truncated) => {
            answer.body.truncate(answer.body.len() / 2);
            Outcome::Answer(answer)
        }
        _ => Outcome::Answer(answer),
    }
}

fn sleep(ms: u64) {
    if ms > 0 {
        std::thread::sleep(Duration::from_millis(ms));
    }
}
