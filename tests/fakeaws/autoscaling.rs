//! Auto Scaling: groups, lifecycle hooks, and the three calls that an instance makes about itself. And EC2's
//! TerminateInstances.

use std::collections::{BTreeMap, BTreeSet};

use super::ec2::{Ask, Params, check_id};
use super::errors::{Refusal, refuse, refuse_with};
use super::text::{element, iso_seconds};
use super::world::{ACCOUNT, World};

/// Namespace of the answers.
pub(crate) const NS: &str = "http://autoscaling.amazonaws.com/doc/2011-01-01/";
const TARGET: &str = "meta-data/autoscaling/target-lifecycle-state";

/// A lifecycle action that began.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    pub(crate) hook: String,
    pub(crate) instance: String,
    pub(crate) token: String,
    /// When its heartbeat runs out.
    pub(crate) ends_ms: u64,
    pub(crate) heartbeats: u32,
    /// `CONTINUE`, `ABANDON` or `EXPIRED`, once it is over.
    pub(crate) result: Option<String>,
}

/// A member of a group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// `Pending:Wait`, `InService`, `Terminating:Wait`, `Terminated`.
    pub(crate) state: String,
    /// `Healthy`, `Unhealthy`.
    pub(crate) health: String,
}

/// A group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) members: BTreeMap<String, Member>,
    /// Hook to its transition (`launching`, `terminating`) and heartbeat time-out.
    pub(crate) hooks: BTreeMap<String, (String, u64)>,
    pub(crate) actions: Vec<Action>,
    /// The health check grace period is not over yet.
    pub(crate) grace: bool,
}

/// All groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scaling {
    pub(crate) groups: BTreeMap<String, Group>,
    /// Instances with `DisableApiTermination`.
    pub(crate) protected: BTreeSet<String>,
}

fn invalid(text: impl Into<String>) -> Refusal {
    refuse("ValidationError", text)
}

/// The parameters that an action has; `None` for one that is not here.
fn known(action: &str) -> Option<&'static [&'static str]> {
    Some(match action {
        "SetInstanceHealth" => &["InstanceId", "HealthStatus", "ShouldRespectGracePeriod"],
        "CompleteLifecycleAction" => &[
            "AutoScalingGroupName",
            "LifecycleHookName",
            "LifecycleActionResult",
            "LifecycleActionToken",
            "InstanceId",
        ],
        "RecordLifecycleActionHeartbeat" => {
            &["AutoScalingGroupName", "LifecycleHookName", "LifecycleActionToken", "InstanceId"]
        }
        _ => return None,
    })
}

/// Checks version, action and the names of the parameters.
pub(crate) fn check(params: &Params) -> Result<(), Refusal> {
    let action = params.get("Action").map(String::as_str).unwrap_or("");
    if params.get("Version").map(String::as_str) != Some("2011-01-01") {
        return Err(refuse("InvalidAction", "Could not find operation for the given version"));
    }
    let Some(known) = known(action) else {
        return Err(refuse("InvalidAction", format!("Could not find operation {action} for version 2011-01-01")));
    };
    match params.keys().find(|k| !known.contains(&k.as_str()) && !["Action", "Version"].contains(&k.as_str())) {
        Some(k) => Err(invalid(format!("The parameter {k} is not known"))),
        None => Ok(()),
    }
}

/// The ARN that refusals of permission name.
pub(crate) fn arn(params: &Params, region: &str) -> String {
    let group = params.get("AutoScalingGroupName").map_or("*", String::as_str);
    format!("arn:aws:autoscaling:{region}:{ACCOUNT}:autoScalingGroup:*:autoScalingGroupName/{group}")
}

impl World {
    /// Adds a group with these members, in service and healthy.
    pub(crate) fn add_group(&mut self, name: &str, members: &[&str]) {
        let group = self.scaling.groups.entry(name.into()).or_default();
        for m in members {
            group.members.insert((*m).into(), Member { state: "InService".into(), health: "Healthy".into() });
        }
        for m in members {
            if let Some(state) = self.imds.get_mut(*m) {
                state.overrides.insert(TARGET.into(), "InService".into());
            }
        }
    }

    /// Adds a hook for `launching` or `terminating`.
    pub(crate) fn add_hook(&mut self, group: &str, hook: &str, transition: &str, heartbeat_ms: u64) {
        if let Some(g) = self.scaling.groups.get_mut(group) {
            g.hooks.insert(hook.into(), (transition.into(), heartbeat_ms));
        }
    }

    /// A member begins a transition, and with it the actions of its hooks.
    pub(crate) fn transition(&mut self, group: &str, instance: &str, transition: &str) {
        let now = self.now_ms();
        let hooks: Vec<(String, u64)> = self.scaling.groups.get(group).map_or_else(Vec::new, |g| {
            let of = g.hooks.iter().filter(|(_, h)| h.0 == transition);
            of.map(|(n, h)| (n.clone(), h.1)).collect()
        });
        let tokens: Vec<String> = hooks.iter().map(|_| self.random.uuid()).collect();
        let Some(g) = self.scaling.groups.get_mut(group) else { return };
        for ((hook, ms), token) in hooks.into_iter().zip(tokens) {
            let instance = instance.to_owned();
            g.actions.push(Action { hook, instance, token, ends_ms: now + ms, heartbeats: 0, result: None });
        }
        let (state, target) = match transition {
            "launching" => ("Pending:Wait", "InService"),
            _ => ("Terminating:Wait", "Terminated"),
        };
        if let Some(m) = g.members.get_mut(instance) {
            m.state = state.into();
        }
        if let Some(imds) = self.imds.get_mut(instance) {
            imds.overrides.insert(TARGET.into(), target.into());
        }
    }

    /// A group takes one of its members down.
    pub(crate) fn scale_in(&mut self, group: &str, instance: &str) {
        self.transition(group, instance, "terminating");
    }

    /// The result of the last action of a hook: how often it beat, and how it ended.
    pub(crate) fn action(&mut self, group: &str, hook: &str) -> Option<(u32, Option<String>)> {
        self.expire_actions();
        let g = self.scaling.groups.get(group)?;
        g.actions.iter().rev().find(|a| a.hook == hook).map(|a| (a.heartbeats, a.result.clone()))
    }

    fn expire_actions(&mut self) {
        let now = self.now_ms();
        for a in self.scaling.groups.values_mut().flat_map(|g| &mut g.actions) {
            if a.result.is_none() && a.ends_ms <= now {
                a.result = Some("EXPIRED".into());
            }
        }
    }

    /// Carries out a call; gives the whole body of the answer.
    pub(crate) fn autoscaling(&mut self, action: &str, params: &Params, region: &str) -> Result<String, Refusal> {
        self.expire_actions();
        let need = |name: &str| match params.get(name).filter(|v| !v.is_empty()) {
            Some(v) => Ok(v.as_str()),
            None => Err(invalid(format!(
                "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
            ))),
        };
        let result = match action {
            "SetInstanceHealth" => {
                let (id, health) = (need("InstanceId")?, need("HealthStatus")?);
                if !["Healthy", "Unhealthy"].contains(&health) {
                    return Err(invalid(format!(
                        "Instance Health Status \"{health}\" is not valid: either Healthy or Unhealthy"
                    )));
                }
                let respects = match params.get("ShouldRespectGracePeriod").map(String::as_str) {
                    None | Some("true") => true,
                    Some("false") => false,
                    Some(v) => return Err(invalid(format!("\"{v}\" is not a boolean"))),
                };
                let here = self.instances.get(id).is_some_and(|i| i.region == region);
                let group = self.scaling.groups.values_mut().find(|g| here && g.members.contains_key(id));
                let Some(group) = group else {
                    return Err(invalid(format!(
                        "Instance Id not found - No managed instance found for instance ID: {id}"
                    )));
                };
                // Within the grace period it is taken, and changes nothing.
                if let Some(m) = group.members.get_mut(id).filter(|_| !(respects && group.grace)) {
                    m.health = health.into();
                }
                String::new()
            }
            _ => {
                let (group, hook) = (need("AutoScalingGroupName")?, need("LifecycleHookName")?);
                let complete = action == "CompleteLifecycleAction";
                let result = if complete { Some(need("LifecycleActionResult")?) } else { None };
                if result.is_some_and(|r| !["CONTINUE", "ABANDON"].contains(&r)) {
                    return Err(invalid("Lifecycle Action Result must be one of CONTINUE, ABANDON"));
                }
                let (token, id) = (params.get("LifecycleActionToken"), params.get("InstanceId"));
                let Some(g) = self.scaling.groups.get_mut(group) else {
                    return Err(invalid(format!(
                        "AutoScalingGroup name not found - AutoScalingGroup {group} not found"
                    )));
                };
                let Some((_, ms)) = g.hooks.get(hook).cloned() else {
                    return Err(invalid(format!("No Lifecycle Hook found with name: {hook}")));
                };
                let named = match (token, id) {
                    (Some(t), _) => format!("token {t}"),
                    (None, Some(i)) => format!("instance ID {i}"),
                    (None, None) => return Err(invalid("Either instanceId or lifecycleActionToken must be given")),
                };
                let now = self.start.elapsed().as_millis() as u64;
                let found = g.actions.iter_mut().find(|a| {
                    a.hook == hook
                        && a.result.is_none()
                        && token.is_none_or(|t| *t == a.token)
                        && id.is_none_or(|i| *i == a.instance)
                });
                let Some(a) = found else {
                    return Err(invalid(format!("No active Lifecycle Action found with {named}")));
                };
                match result {
                    None => {
                        a.heartbeats += 1;
                        a.ends_ms = now + ms;
                    }
                    Some(r) => a.result = Some(r.into()),
                }
                let instance = a.instance.clone();
                if complete {
                    self.go_on(group, &instance);
                }
                format!("  <{action}Result/>\n")
            }
        };
        Ok(format!(
            "<{action}Response xmlns=\"{NS}\">\n{result}  <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata>\n</{action}Response>",
            self.random.uuid()
        ))
    }

    /// What follows once an action is over: all hooks were told to go on, or one not to.
    fn go_on(&mut self, group: &str, instance: &str) {
        let Some(g) = self.scaling.groups.get_mut(group) else { return };
        let of = |a: &&Action| a.instance == instance;
        let launching = g.members.get(instance).is_some_and(|m| m.state == "Pending:Wait");
        let abandoned = g.actions.iter().rfind(of).is_some_and(|a| a.result.as_deref() == Some("ABANDON"));
        if g.actions.iter().filter(of).any(|a| a.result.is_none()) && !abandoned {
            return;
        }
        let lives = launching && !abandoned;
        if let Some(m) = g.members.get_mut(instance) {
            m.state = if lives { "InService" } else { "Terminated" }.into();
        }
        if !lives {
            self.terminate(instance);
        }
    }

    /// EC2's TerminateInstances; gives the inner XML of the answer.
    pub(crate) fn terminate_instances(&mut self, ask: &Ask<'_>) -> Result<String, Refusal> {
        let ids = ask.list("InstanceId");
        for (flag, name) in [("Force", "force"), ("SkipOsShutdown", "skipOsShutdown")] {
            if ask.flag(flag)? {
                return Err(refuse("UnsupportedOperation", format!("{name} is not for these tests")));
            }
        }
        if ids.is_empty() {
            ask.need("InstanceId")?;
        }
        for id in &ids {
            check_id(id, "i")?;
            let known = self.instances.get(id).is_some_and(|i| i.region == ask.region && !i.unknown);
            if !known {
                return Err(refuse("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist")));
            }
        }
        if let Some(id) = ids.iter().find(|id| self.scaling.protected.contains(*id)) {
            let text = format!(
                "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
            );
            return Err(refuse_with(400, "OperationNotPermitted", text));
        }
        let state = |name: &str| {
            let code = match name {
                "pending" => 0,
                "running" => 16,
                "shutting-down" => 32,
                "terminated" => 48,
                "stopping" => 64,
                _ => 80,
            };
            element("code", code) + &element("name", name)
        };
        let mut items = String::new();
        for id in &ids {
            let before = self.instances[id].state.clone();
            let over = before == "terminated";
            let now = if over { "terminated" } else { "shutting-down" };
            items += &format!(
                "<item>{}<currentState>{}</currentState><previousState>{}</previousState></item>",
                element("instanceId", id),
                state(now),
                state(&before)
            );
            if !over {
                self.terminate(id);
            }
        }
        Ok(format!("<instancesSet>{items}</instancesSet>"))
    }

    /// What the control of a running stand-in shows of the groups.
    pub(crate) fn groups_state(&mut self) -> serde_json::Value {
        self.expire_actions();
        let at = |ms: u64| iso_seconds(self.wall_at(ms));
        let of = |g: &Group| {
            let members: BTreeMap<_, _> = g.members.iter().map(|(i, m)| (i, [&m.state, &m.health])).collect();
            let actions: Vec<_> = g
                .actions
                .iter()
                .map(|a| {
                    serde_json::json!({ "hook": a.hook, "instance": a.instance, "token": a.token,
                        "heartbeats": a.heartbeats, "result": a.result, "ends": at(a.ends_ms) })
                })
                .collect();
            serde_json::json!({ "members": members, "actions": actions })
        };
        self.scaling.groups.iter().map(|(n, g)| (n.clone(), of(g))).collect()
    }
}
