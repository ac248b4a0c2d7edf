"""Auto Scaling and TerminateInstances, by boto3."""
from boto3_kit import I1, I2, I3, admin, check, code, ec2, scaling, wait

GROUP = {"AutoScalingGroupName": "web"}


def group():
    return admin("GET", "/state")["groups"]["web"]


def health():
    put = lambda **k: scaling.set_instance_health(**dict({"InstanceId": I1, "HealthStatus": "Unhealthy"}, **k))
    code("no group has it", "ValidationError", put, status=400, text="No managed instance found", InstanceId=I3)
    code("no such health", "ValidationError", put, HealthStatus="Ill")
    code("no instance", "ValidationError", scaling.set_instance_health, HealthStatus="Healthy", text="InstanceId")
    put(ShouldRespectGracePeriod=False)
    check("unhealthy", group()["members"][I1] == ["InService", "Unhealthy"], group())
    put(HealthStatus="Healthy")
    admin("POST", "/deny", {"action": "AutoScaling:SetInstanceHealth"})
    code("denied", "AccessDenied", put, status=403, text="autoscaling:SetInstanceHealth")
    admin("POST", "/permit", {"action": "AutoScaling:SetInstanceHealth"})
    admin("POST", "/fault", {"action": "SetInstanceHealth", "first": 1, "kind": "Custom", "status": 500,
                             "code": "ResourceContention", "message": "pending update"})
    code("contention", "ResourceContention", put, status=500)
    admin("POST", "/fault", {"action": "SetInstanceHealth", "first": 1, "kind": "Throttle"})
    code("throttled", "Throttling", put, status=400)
    admin("POST", "/clear-faults")


def hooks():
    beat = lambda **k: scaling.record_lifecycle_action_heartbeat(
        **dict(GROUP, LifecycleHookName="down", **(k or {"InstanceId": I1})))
    end = lambda result, hook="down", **k: scaling.complete_lifecycle_action(
        **dict(GROUP, LifecycleHookName=hook, LifecycleActionResult=result, **(k or {"InstanceId": I1})))
    code("before it begins", "ValidationError", beat, text="No active Lifecycle Action found with instance ID " + I1)
    admin("POST", "/transition", {"group": "web", "instance": I1, "transition": "terminating"})
    code("neither token nor instance", "ValidationError", scaling.record_lifecycle_action_heartbeat,
         LifecycleHookName="down", **GROUP)
    code("no group", "ValidationError", scaling.complete_lifecycle_action, AutoScalingGroupName="x", InstanceId=I1,
         LifecycleHookName="down", LifecycleActionResult="CONTINUE")
    code("no hook", "ValidationError", end, result="CONTINUE", hook="up")
    code("no result", "ValidationError", end, result="STOP")
    code("other token", "ValidationError", beat, text="found with token",
         LifecycleActionToken="00000000-0000-0000-0000-000000000000")
    beat()
    token = group()["actions"][-1]["token"]
    beat(LifecycleActionToken=token)
    check("beats", group()["actions"][-1]["heartbeats"] == 2, group())
    end("CONTINUE", LifecycleActionToken=token)
    check("gone on", group()["actions"][-1]["result"] == "CONTINUE" and group()["members"][I1][0] == "Terminated", group())
    code("twice", "ValidationError", end, text="No active Lifecycle Action", result="CONTINUE")
    admin("POST", "/transition", {"group": "web", "instance": I2, "transition": "launching"})
    wait("expired", lambda: group()["actions"][-1]["result"] == "EXPIRED")
    code("too late", "ValidationError", end, text="No active", result="CONTINUE", hook="short", InstanceId=I2)
    admin("POST", "/transition", {"group": "web", "instance": I2, "transition": "launching"})
    end("ABANDON", hook="short", InstanceId=I2)
    check("abandoned", group()["members"][I2][0] == "Terminated", group())


def termination():
    code("malformed", "InvalidInstanceID.Malformed", ec2.terminate_instances, InstanceIds=["i-1"])
    code("unknown", "InvalidInstanceID.NotFound", ec2.terminate_instances, InstanceIds=["i-0ddddddddddddddd1"])
    code("none", "MissingParameter", ec2.terminate_instances, InstanceIds=[])
    admin("POST", "/protect", {"instance": I1})
    code("protected", "OperationNotPermitted", ec2.terminate_instances, InstanceIds=[I3, I1], text="disableApiTermination")
    state = lambda: ec2.describe_instances(InstanceIds=[I3])["Reservations"][0]["Instances"][0]["State"]["Name"]
    check("all or none", state() == "running", state())
    admin("POST", "/deny", {"action": "EC2:TerminateInstances/" + I3})
    code("denied", "UnauthorizedOperation", ec2.terminate_instances, status=403, InstanceIds=[I3],
         text="ec2:TerminateInstances on resource: arn:aws:ec2:eu-west-1:111122223333:instance/" + I3)
    admin("POST", "/permit", {"action": "EC2:TerminateInstances/" + I3})
    done = ec2.terminate_instances(InstanceIds=[I3])["TerminatingInstances"][0]
    check("terminating", (done["PreviousState"]["Name"], done["CurrentState"]["Name"]) == ("running", "shutting-down"), done)
    again = ec2.terminate_instances(InstanceIds=[I3])["TerminatingInstances"][0]
    check("again", again["CurrentState"] == {"Code": 48, "Name": "terminated"}, again)
