"""Checks README.md against the product: examples, policies, targets, options, macros, links, the map of the code.

`make test` runs it. EC2FLEETD names the binary under test; without one, what needs it is skipped.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import Skip, named, run_tests  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("EC2FLEETD", "")
README = (ROOT / "README.md").read_text()


def fences():
    """(language, text, line) of every fenced block."""
    found, language, start, lines = [], None, 0, []
    for number, line in enumerate(README.splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line[3:].strip(), number, []
        else:
            found.append((language, "\n".join(lines), start))
            language = None
    assert language is None, f"the block of line {start} is not closed"
    return found


def run_binary(*argv, text=""):
    if not (BINARY and os.access(BINARY, os.X_OK)):
        raise Skip("no binary: set EC2FLEETD")
    return subprocess.run([BINARY, *argv], input=text, capture_output=True, text=True, timeout=60)


def check(text, where):
    """The config is good, and nothing in it is worth a warning."""
    done = run_binary("--check", "--userdata=-", text=text)
    assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stderr}"
    assert " warn " not in done.stderr and "<4>" not in done.stderr, f"{where}:\n{done.stderr}"


def test_config_examples_are_good():
    whole = 0
    for language, text, line in fences():
        if language not in ("json5", "jsonc"):
            continue
        if text.lstrip().startswith("{"):
            whole += 1
        else:
            text = "{ domains: { 'example': {\n" + text + "\n} } }"
        check(text, f"README.md:{line}")
    assert whole >= 2, f"{whole} whole configs: the extraction is wrong"


def test_configs_within_scripts_are_good():
    count = 0
    for language, text, line in fences():
        if language == "sh":
            for config in re.findall(r"<<'CONFIG'\n(.*?)\nCONFIG\n", text, re.S):
                check(config, f"README.md:{line}")
                count += 1
    assert count >= 1


def test_scripts_parse():
    for language, text, line in fences():
        if language == "sh":
            done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"README.md:{line}: {done.stderr}"


def policies():
    return [(json.loads(text), line) for language, text, line in fences() if language == "json" and '"Version"' in text]


def test_json_parses_and_policies_have_their_form():
    for language, text, line in fences():
        if language == "json":
            try:
                json.loads(text)
            except ValueError as error:
                raise AssertionError(f"README.md:{line}: {error}") from None
    assert len(policies()) >= 5
    for policy, line in policies():
        assert policy["Version"] == "2012-10-17", line
        for statement in policy["Statement"]:
            assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, f"README.md:{line}: {statement}"
            assert {"Effect", "Action", "Resource"} <= set(statement), f"README.md:{line}: {statement}"


def test_policies_allow_what_is_called_and_no_more():
    allowed = set()
    for policy, _ in policies():
        for statement in policy["Statement"]:
            actions = statement["Action"]
            allowed.update([actions] if isinstance(actions, str) else actions)
    called = {f"ec2:{a}" for a in ["DescribeVolumes", "AttachVolume", "DetachVolume", "CreateVolume", "DeleteVolume",
                                   "CreateTags", "DeleteTags", "DescribeInstances", "TerminateInstances",
                                   "DescribeAddresses", "AssociateAddress", "DisassociateAddress",
                                   "CreateSnapshot", "DescribeSnapshots", "DeleteSnapshot"]}
    called |= {f"autoscaling:{a}" for a in ["SetInstanceHealth", "CompleteLifecycleAction",
                                           "RecordLifecycleActionHeartbeat"]}
    called |= {"route53:ListResourceRecordSets", "route53:ChangeResourceRecordSets", "sns:Publish", "sqs:SendMessage"}
    ours = {action for action in allowed if not action.startswith("kms:")}
    assert ours == called, f"missing {called - ours}, too many {ours - called}"
    # The set above is the code's: every action has its file or its call.
    source = "".join(path.read_text() for path in (ROOT / "src/aws").rglob("*.rs"))
    for action in called:
        assert action.split(":")[1] in source, action


def test_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    code = [text for language, text, _ in fences() if language == "sh"] + re.findall(r"`([^`\n]+)`", README)
    named = {name for text in code for name in re.findall(r"(?:^|\n|; )make ([a-z-]+)", text)}
    assert {"demo", "test", "static", "bench", "install"} <= named, named
    assert named <= targets, f"no such targets: {named - targets}"


def test_options_are_the_programs():
    usage = run_binary("--help").stdout
    of_program = set(re.findall(r"--[a-z][a-z_-]+", usage))
    section = README.split("\n## Command line\n")[1].split("\n## ")[0]
    of_text = set(re.findall(r"--[a-z][a-z_-]+", section))
    assert of_program == of_text, f"differ: {of_program ^ of_text}"


def test_macros_are_the_programs():
    names = re.search(r"NAMES: \[&str; \d+\] = \[(.*?)\];", (ROOT / "src/macros.rs").read_text(), re.S).group(1)
    of_program = set(re.findall(r'"([a-z0-9_]+)"', names)) | {"all_json"}
    section = README.split("\n## Macros\n")[1].split("\n## ")[0]
    of_text = set(re.findall(r"^\| `\{([a-z0-9_]+)\}`", section, re.M))
    assert of_program == of_text, f"differ: {of_program ^ of_text}"


def test_tags_are_the_programs():
    of_program = set(re.findall(r'"(user:ec2fd\.[a-z-]+)"', (ROOT / "src/plan/mod.rs").read_text()))
    section = README.split("\n## Tags\n")[1].split("\n## ")[0]
    of_text = set(re.findall(r"^\| `(user:ec2fd\.[a-z-]+)`", section, re.M))
    assert of_program == of_text and of_program, f"differ: {of_program ^ of_text}"


def test_map_is_that_of_main():
    main = (ROOT / "src/main.rs").read_text()
    of_main = re.search(r"//! ```text\n(.*?)//! ```", main, re.S).group(1).replace("//! ", "")
    assert of_main in README, "the map of the code differs from src/main.rs"


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.S), re.M)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, f"no heading for {target}"
        elif "://" not in target:
            assert (ROOT / target).exists(), f"no file {target}"


if __name__ == "__main__":
    sys.exit(run_tests(named(globals())))
