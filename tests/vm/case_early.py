"""As early as can be: the daemon is started before there is a link, with no time, no names and nobody to read its log."""
import time

import cloud as region
from case_initramfs import DATA, FIRST, USE, seed
from cloud import Cloud
from texts import UDHCPC

# The network comes while the daemon waits for it.
RUN = """\
export AWS_CA_BUNDLE=/ca.pem
(
	sleep 3
	echo "bench: the network comes"
	ip link set eth0 up
	udhcpc -q -n -i eth0 -s /udhcpc >/dev/null
) &
ip link set lo up
ec2fleetd --set-clock >/dev/null 2>&1
echo "bench: ec2fleetd ended with $?"
"""


def test_early_boot(images, scratch):
    """Started before the network, in 1970, without resolv.conf, over TLS to AWS's own names; the log is the kernel's."""
    region.NAMES.clear()
    region.TIMES.clear()
    with Cloud(scratch, seed()) as cloud:
        # The only thing that the bench cannot have as on EC2 is a certificate that the built-in roots vouch for.
        authority = open(cloud.where["ca"], "rb").read()
        image = images.minimal("early", RUN, {"use.sh": USE, "udhcpc": UDHCPC, "ca.pem": authority})
        image["append"] = image["append"].replace("quiet", "loglevel=7 printk.devkmsg=on")
        guest = cloud.launch(FIRST, images, year=1970, **image)
        _, up = guest.says("bench: the network comes")
        _, ready = guest.says(r"\] ec2fleetd: .*ready: ")
        yield f"started {ready - up:.1f} s after the link came up; the kernel's log says so"

        assert region.TIMES and set(region.TIMES) == {cloud.where["instances"][FIRST]["ip"]}, region.TIMES
        off = abs(int(guest.run("date +%s")) - time.time())
        assert off < 30, off
        yield f"the time service was asked {len(region.TIMES)} time(s), and the clock is right"

        calls = cloud.ask("/calls")["api"]
        assert calls and all(c["tls"] and c["status"] == 200 for c in calls), calls
        assert {"ec2.eu-west-1.amazonaws.com", "route53.amazonaws.com"} <= set(region.NAMES), region.NAMES
        yield f"{len(calls)} calls over TLS, none refused; the VPC's resolver was asked for AWS's names"
        assert guest.run("cat /mnt/data/who").strip() == f"first used by {FIRST}"
        assert cloud.attached(FIRST) == {DATA: "attached"}

        cloud.interrupt(FIRST)
        guest.says(r"bench: ec2fleetd ended with 0")
        guest.ended()
        assert not cloud.problems, cloud.problems
