#!/bin/sh
# An interface is up.
/sbin/ec2fleetd-attach
