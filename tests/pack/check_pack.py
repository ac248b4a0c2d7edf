"""Checks what is installed: units, `make install`, cloud-init examples, scripts.

`make test` runs it. EC2FLEETD names the binary under test; without one, what needs it is skipped.
"""

import configparser
import email
import email.policy
import gzip
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import Skip, named, run_tests  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("EC2FLEETD", "")
UNITS = ["ec2fleetd.service", "ec2fleetd@.service"]
CLOUD = ROOT / "cloud-init"


def run(*argv, **more):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **more)


def ok(*argv, **more):
    done = run(*argv, **more)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def tool(name):
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not found:
        raise Skip(f"no {name} here")
    return found


def binary():
    if not (BINARY and os.access(BINARY, os.X_OK)):
        raise Skip("no binary: set EC2FLEETD")
    if not run(BINARY, "--version").stdout:
        raise Skip("the binary does nothing yet")
    return BINARY


def unit(path):
    """A unit as {section: {key: value}}. Keys that occur twice in a section are an error: none of ours needs that."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(path if isinstance(path, str) else path.read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def installed(tmp, prefix="/usr/local", *more):
    """`make install` with DESTDIR; the binary is a stand-in where there is no real one."""
    ok("make", "-s", "-C", ROOT, "install", f"DESTDIR={tmp}", f"PREFIX={prefix}", f"BIN={BINARY or '/bin/true'}", *more)


def parts():
    with open(CLOUD / "multipart.mime", "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    assert message.is_multipart() and not message.defects, message.defects
    return {part.get_content_type(): part.get_content() for part in message.iter_parts()}


def cloud_configs():
    texts = {name: (CLOUD / name).read_text() for name in ["runcmd.yaml", "image.yaml"]}
    texts["multipart.mime"] = parts()["text/cloud-config"]
    return {name: (text, yaml.safe_load(text)) for name, text in texts.items()}


def written(name):
    """The files that runcmd.yaml writes, one of them by the end of its path."""
    files = cloud_configs()["runcmd.yaml"][1]["write_files"]
    return next(file["content"] for file in files if file["path"].endswith(name))


# --- units ---


def test_units_say_what_the_daemon_relies_on(tmp):
    for name in UNITS:
        service = unit(ROOT / "init/systemd" / name)["Service"]
        expected = {
            "Type": "notify",
            "NotifyAccess": "main",
            "KillMode": "mixed",
            "EnvironmentFile": "-/etc/ec2fleetd/ec2fleetd.env",
            "RuntimeDirectory": "ec2fleetd",
            "RuntimeDirectoryMode": "0700",
            "RuntimeDirectoryPreserve": "yes",
            "Restart": "no",
            "RestartPreventExitStatus": "2 3",
            "OOMPolicy": "continue",
        }
        for key, value in expected.items():
            assert service.get(key) == value, f"{name}: {key}={service.get(key)}"
    assert unit(ROOT / "init/systemd" / UNITS[0])["Service"]["ExecStart"] == "/usr/local/bin/ec2fleetd"
    start = unit(ROOT / "init/systemd" / UNITS[1])["Service"]["ExecStart"]
    assert start == "/usr/local/bin/ec2fleetd --userdata=/etc/ec2fleetd/%i.jsonc", start


def test_units_limits_are_above_the_daemons(tmp):
    analyze = tool("systemd-analyze")
    for name in UNITS:
        service = unit(ROOT / "init/systemd" / name)["Service"]
        for key, least in {"TimeoutStartSec": 600 + 60 + 120, "TimeoutStopSec": 120 + 60 + 10}.items():
            said = ok(analyze, "timespan", service[key]).stdout
            micros = int(next(line for line in said.splitlines() if "s:" in line and "Human" not in line).split(":")[1])
            assert micros / 1e6 > least, f"{name}: {key}={service[key]}, at least {least} s"


def test_units_leave_commands_their_freedom(tmp):
    """Whatever makes a mount namespace or takes rights away would be inherited by the commands of a config."""
    banned = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "MountFlags", "NoNewPrivileges", "Restrict",
              "SystemCall", "Capability", "Device", "Ambient", "DynamicUser", "User", "Group", "Temporary", "Bind",
              "Root", "OOMScore", "UMask", "Nice")
    for name in UNITS:
        for key in unit(ROOT / "init/systemd" / name)["Service"]:
            assert not (key.startswith(banned) and key != "RestartPreventExitStatus"), f"{name}: {key}="


def test_units_differ_only_in_where_the_config_is(tmp):
    plain, instance = (unit(ROOT / "init/systemd" / name) for name in UNITS)
    for one in (plain, instance):
        del one["Service"]["ExecStart"], one["Unit"]["Description"]
    assert plain == instance


def test_units_pass_systemd_analyze_verify(tmp):
    analyze = tool("systemd-analyze")
    # Installed under a prefix of its own, so that ExecStart= names a file that is there.
    units = tmp / "units"
    installed("", str(tmp / "usr"), f"UNITDIR={units}", f"CONFDIR={tmp / 'etc'}")
    shutil.copy(units / UNITS[1], units / "ec2fleetd@my-app.service")
    for name in [UNITS[0], "ec2fleetd@my-app.service"]:
        said = ok(analyze, "verify", "--man=no", units / name)
        ours = [line for line in (said.stdout + said.stderr).splitlines() if "ec2fleetd" in line]
        assert not ours, "\n".join(ours)


# --- make install ---


def test_install_puts_everything_in_its_place(tmp):
    installed(tmp)
    lib = tmp / "usr/local/lib/systemd/system"
    for path, mode in {
        tmp / "usr/local/bin/ec2fleetd": 0o755,
        lib / UNITS[0]: 0o644,
        lib / UNITS[1]: 0o644,
        tmp / "etc/ec2fleetd": 0o700,
        tmp / "usr/local/share/doc/ec2fleetd/LICENSE": 0o644,
        tmp / "usr/local/share/doc/ec2fleetd/cloud-init/runcmd.yaml": 0o644,
        tmp / "usr/local/share/ec2fleetd/init/install-image.sh": 0o755,
        tmp / "usr/local/share/ec2fleetd/init/packer/ec2fleetd.pkr.hcl": 0o644,
    }.items():
        assert path.exists(), path
        assert stat.S_IMODE(path.stat().st_mode) == mode, f"{path}: {oct(path.stat().st_mode)}"
    for name in UNITS:
        assert (lib / name).read_text() == (ROOT / "init/systemd" / name).read_text()


def test_install_writes_the_prefix_into_the_units(tmp):
    installed(tmp, "/usr")
    for name in UNITS:
        assert unit(tmp / "usr/lib/systemd/system" / name)["Service"]["ExecStart"].startswith("/usr/bin/ec2fleetd")
    # systemd looks for no units under /opt.
    installed(tmp / "b", "/opt/fleet")
    for name in UNITS:
        start = unit(tmp / "b/etc/systemd/system" / name)["Service"]["ExecStart"]
        assert start.startswith("/opt/fleet/bin/ec2fleetd"), start


def test_uninstall_leaves_configs_and_nothing_else(tmp):
    installed(tmp)
    (tmp / "etc/ec2fleetd/my-app.jsonc").write_text("{}")
    ok("make", "-s", "-C", ROOT, "uninstall", f"DESTDIR={tmp}")
    left = [path.relative_to(tmp).as_posix() for path in tmp.rglob("*") if not path.is_dir()]
    assert left == ["etc/ec2fleetd/my-app.jsonc"], left


def test_install_without_a_binary_says_what_to_do(tmp):
    env = {**os.environ, "CARGO_TARGET_DIR": str(tmp / "none")}
    done = run("make", "-s", "-C", ROOT, "install", f"DESTDIR={tmp}", env=env)
    assert done.returncode != 0 and "make build" in done.stderr, done.stderr
    assert not (tmp / "usr").exists()


# --- cloud-init ---


def test_cloud_configs_are_cloud_configs(tmp):
    for name, (text, parsed) in cloud_configs().items():
        assert text.startswith("#cloud-config\n"), name
        assert set(parsed) <= {"write_files", "runcmd"}, f"{name}: {set(parsed)}"
        for file in parsed.get("write_files", []):
            assert set(file) <= {"path", "content", "owner", "permissions"}, file
            assert isinstance(file["permissions"], str), f"{file['path']}: a number would be read as decimal"


def test_cloud_configs_pass_cloud_inits_schema(tmp):
    schema = tool("cloud-init")
    for name, (text, _) in cloud_configs().items():
        (tmp / name).write_text(text)
        ok(schema, "schema", "--config-file", tmp / name)


def test_runcmd_returns_at_once(tmp):
    """Every `systemctl start` says --no-block, and nothing runs the daemon itself."""
    for name, (_, parsed) in cloud_configs().items():
        lines = [" ".join(line) if isinstance(line, list) else line for line in parsed["runcmd"]]
        lines += [line for file in parsed.get("write_files", []) for line in file["content"].splitlines()
                  if file["path"].startswith("/usr/local/sbin")]
        starts = [line for line in lines if "systemctl start" in line]
        assert len(starts) == 1 and "--no-block" in starts[0], f"{name}: {starts}"
        assert not [line for line in lines if line.strip().startswith(("/usr/local/bin/ec2fleetd", "ec2fleetd"))], name


def test_runcmd_writes_the_unit_that_we_ship(tmp):
    assert unit(written("ec2fleetd@.service")) == unit(ROOT / "init/systemd" / UNITS[1])


def fetch(tmp, served, expected, machine="x86_64"):
    """Runs the script that runcmd.yaml writes, in a folder instead of /usr/local/bin, with its network and systemd played
    by stand-ins. Returns the finished process and what the stand-ins were called with."""
    import hashlib

    (tmp / "bin").mkdir(parents=True)
    (tmp / "fake").mkdir()
    (tmp / "served").write_bytes(served)
    text = written("fetch-ec2fleetd").replace("/usr/local/bin", str(tmp / "bin"))
    for digit in "01":
        text = text.replace(digit * 64, hashlib.sha256(expected).hexdigest())
    (tmp / "script").write_text(text)
    stubs = {
        "curl": f'while [ "$1" != --output ]; do shift; done; cp {tmp}/served "$2"; echo "curl $3" >>{tmp}/calls',
        "systemctl": f'echo "systemctl $*" >>{tmp}/calls',
        "uname": f"echo {machine}",
    }
    for name, body in stubs.items():
        (tmp / "fake" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp / "fake" / name).chmod(0o755)
    done = run("sh", tmp / "script", env={"PATH": f"{tmp}/fake:/usr/bin:/bin"})
    calls = (tmp / "calls").read_text().splitlines() if (tmp / "calls").exists() else []
    return done, calls


def test_fetch_installs_and_starts_what_has_the_right_sum(tmp):
    for machine in ["x86_64", "aarch64"]:
        done, calls = fetch(tmp / machine, b"binary", b"binary", machine)
        assert done.returncode == 0, done.stderr
        file = tmp / machine / "bin/ec2fleetd"
        assert file.read_bytes() == b"binary" and file.stat().st_mode & 0o777 == 0o755
        assert os.listdir(tmp / machine / "bin") == ["ec2fleetd"]
        assert calls[0].startswith("curl https://") and calls[0].endswith(machine), calls
        assert calls[-1] == "systemctl start --no-block ec2fleetd@my-app.service", calls


def test_fetch_starts_nothing_that_has_another_sum(tmp):
    done, calls = fetch(tmp, b"binary", b"another")
    assert done.returncode != 0
    assert os.listdir(tmp / "bin") == [] and not [call for call in calls if "systemctl" in call], calls


def test_fetch_knows_its_processors(tmp):
    done, calls = fetch(tmp, b"binary", b"binary", "riscv64")
    assert done.returncode != 0 and "riscv64" in done.stderr and calls == []


def test_multipart_has_one_part_for_each(tmp):
    assert list(parts()) == ["text/cloud-config", "text/x-ec2fleetd"]
    assert len((CLOUD / "multipart.mime").read_bytes()) < 16384, "EC2 takes 16 KB of user data"


# --- configs, by the binary ---


def check(tmp, content, name="config"):
    (tmp / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return run(binary(), "--check", f"--userdata={tmp / name}")


def test_configs_in_the_examples_are_valid(tmp):
    for text in [written("my-app.jsonc"), parts()["text/x-ec2fleetd"]]:
        done = check(tmp, text)
        assert done.returncode == 0, done.stderr


def test_multipart_is_read_as_it_is_and_compressed(tmp):
    raw = (CLOUD / "multipart.mime").read_bytes()
    for content in [raw, gzip.compress(raw), raw.replace(b"\n", b"\r\n")]:
        done = check(tmp, content)
        assert done.returncode == 0, done.stderr


def test_check_finds_a_wrong_config(tmp):
    done = check(tmp, '{ "domains": { "a": { "attach-volum": [] } } }')
    assert done.returncode == 2 and "attach-volume" in done.stderr, f"exit {done.returncode}\n{done.stderr}"


# --- scripts ---


def scripts():
    files = [*ROOT.glob("tests/*.sh"), *ROOT.glob("init/*.sh"), *ROOT.glob("tests/*/*.sh"), ROOT / ".ci/run"]
    files += [ROOT / "init/package/postinst", ROOT / "init/package/prerm"]
    return [file for file in files if file.exists()]


def test_scripts_parse(tmp):
    (tmp / "fetch").write_text(written("fetch-ec2fleetd"))
    for file in [*scripts(), tmp / "fetch"]:
        shell = file.read_text().splitlines()[0].removeprefix("#!")
        assert shell in ("/bin/sh", "/bin/bash"), f"{file}: {shell}"
        ok(shell, "-n", file)


def test_scripts_pass_shellcheck(tmp):
    shellcheck = tool("shellcheck")
    (tmp / "fetch").write_text(written("fetch-ec2fleetd"))
    ok(shellcheck, "--severity=warning", *scripts(), tmp / "fetch")


def with_directory(test):
    def alone():
        with tempfile.TemporaryDirectory() as tmp:
            test(pathlib.Path(tmp))
    return alone


if __name__ == "__main__":
    sys.exit(run_tests([(name, with_directory(test)) for name, test in named(globals())]))
