"""The release files are made a second time, elsewhere and under other circumstances, and must be the same bytes."""
import os
import pathlib
import shutil
import tarfile

from kit import DIST, ROOT, TARGET, named, ok


def test_another_directory_gives_the_same_bytes():
    elsewhere = TARGET / "dist-test/a-second-time"
    shutil.rmtree(elsewhere, ignore_errors=True)
    source = elsewhere / "deeper/source"
    files = ok("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    # cargo under another name of its own folder, with the same crates.
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    (elsewhere / "crates").mkdir()
    for entry in home.iterdir():
        (elsewhere / "crates" / entry.name).symlink_to(entry)
    with tarfile.open(f"{named('x86_64')}.tar.gz") as tar:
        date = tar.getmembers()[0].mtime
    env = {**os.environ, "CARGO_TARGET_DIR": str(elsewhere / "out"), "CARGO_HOME": str(elsewhere / "crates"),
           "SOURCE_DATE_EPOCH": str(date), "DIST_TOOLS": str(TARGET / "tools"), "TZ": "Pacific/Apia", "LANG": "C.UTF-8"}
    env.pop("MAKEFLAGS", None)
    ok("sh", "-c", "umask 077; exec init/dist.sh x86_64", cwd=source, env=env, timeout=1800)
    made = {path.name: path.read_bytes() for path in (elsewhere / "out/dist").iterdir()}
    assert len(made) == 6, sorted(made)
    differ = [name for name, data in made.items() if (DIST / name).read_bytes() != data]
    assert not differ, f"{differ}; compare {DIST} and {elsewhere}/out/dist"
    shutil.rmtree(elsewhere)
