"""Checks that the fuzz targets are whole, without building them: that needs the nightly toolchain and a network.

`make test` runs it. Each target is listed and has seeds, and the crates that its modules use are dependencies, in the
product's versions.
"""

import pathlib
import re
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from checks import named, run_tests  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
MANIFEST = tomllib.loads((HERE / "Cargo.toml").read_text())
PRODUCT = tomllib.loads((HERE.parents[1] / "Cargo.toml").read_text())
TARGETS = {b["name"]: HERE / b["path"] for b in MANIFEST["bin"]}


def crate(name):
    return name.replace("-", "_")


def modules(path, seen=None):
    """The file and those of the modules in it, but for tests."""
    seen = set() if seen is None else seen
    if path in seen:
        return seen
    seen.add(path)
    text = path.read_text()
    below = path.parent if path.name in ("mod.rs", "lib.rs") or path.parent.name == "targets" else path.with_suffix("")
    found = re.findall(r'((?:^#\[.*\]\n)*)^(?:pub(?:\(\w+\))? )?mod (\w+);', text, re.M)
    for attributes, name in found:
        if "cfg(test)" in attributes:
            continue
        explicit = re.search(r'#\[path = "(.*)"\]', attributes)
        # A path is seen from the directory of the file.
        places = [path.parent / explicit.group(1)] if explicit else [below / f"{name}.rs", below / name / "mod.rs"]
        place = next((p for p in places if p.exists()), None)
        assert place, f"{path.name}: no file for mod {name}"
        modules(place.resolve(), seen)
    return seen


def test_every_reader_has_a_target():
    assert set(TARGETS) == {"config", "user_data", "xml", "imds", "macros"}, sorted(TARGETS)
    for name, path in TARGETS.items():
        assert "fuzz_target!" in path.read_text(), path
        seeds = list((HERE / "seeds" / name).iterdir())
        assert seeds and all(s.stat().st_size for s in seeds), f"no seeds for {name}"


def test_their_modules_find_their_crates():
    crates = {crate(n): n for n in PRODUCT["dependencies"]}
    for name, path in TARGETS.items():
        files = modules(path.resolve())
        assert len(files) > 1, f"{name} includes nothing"
        text = "".join(f.read_text().split("#[cfg(test)]\nmod tests {")[0] for f in files)
        used = {c for c in re.findall(r"(?:\buse |[^\w:.])(\w+)::", text) if c in crates}
        missing = {c for c in used if crates[c] not in MANIFEST["dependencies"]}
        assert used and not missing, f"{name} needs {missing} in tests/fuzz/Cargo.toml"


def test_versions_are_the_products():
    def version(entry):
        return entry if isinstance(entry, str) else entry["version"]

    for name, entry in MANIFEST["dependencies"].items():
        if name in PRODUCT["dependencies"]:
            assert version(entry) == version(PRODUCT["dependencies"][name]), name


if __name__ == "__main__":
    sys.exit(run_tests(named(globals())))
