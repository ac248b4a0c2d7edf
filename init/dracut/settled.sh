#!/bin/sh
# With systemd-networkd there is no hook for an interface that is up.
if [ ! -e /run/ec2fleetd-attached ] && [ -x /usr/lib/systemd/systemd-networkd-wait-online ]; then
	/usr/lib/systemd/systemd-networkd-wait-online --any --timeout=60 && /sbin/ec2fleetd-attach
fi
