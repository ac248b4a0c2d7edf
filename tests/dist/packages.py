"""The packages: what is in them, and what they leave behind. They are installed into copies of a small Debian."""
import stat

from kit import ARCHES, CONFIG, ROOT, UNITS, VERSION, Image, deb, installed, named, ok, rpm, run, tool


def mode_of(text):
    """-rwxr-xr-x → 0o755."""
    return sum(1 << (8 - n) for n, letter in enumerate(text[1:10]) if letter != "-")


def test_deb_says_what_it_is():
    for arch, name in ARCHES.items():
        field = {line.split(": ")[0]: line.split(": ", 1)[1] for line in
                 ok("dpkg-deb", "--field", deb(arch)).splitlines() if ": " in line}
        assert (field["Package"], field["Version"], field["Architecture"]) == ("ec2fleetd", f"{VERSION}-1", name), field
        assert field["Maintainer"] == "ec2fleetd maintainers" and not field.get("Depends"), field


def test_deb_has_its_files_and_no_other():
    for arch in ARCHES:
        found = {}
        for line in ok("dpkg-deb", "--contents", deb(arch)).splitlines():
            mode, owner, _, _, _, path = line.split(maxsplit=5)
            assert owner == "root/root" or owner == "0/0", line
            if mode[0] != "d":
                found[path.removeprefix(".")] = mode_of(mode)
        assert found.pop("/usr/share/doc/ec2fleetd/copyright") == 0o644
        assert found == installed(), set(found.items()) ^ set(installed().items())


def test_rpm_says_what_it_is_and_has_its_files_and_no_other():
    query = tool("rpm", "rpm")
    for arch in ARCHES:
        said = ok(query, "-qp", "--nosignature", "--qf", "%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE}", rpm(arch))
        assert said == f"ec2fleetd {VERSION} 1 {arch} Apache-2.0", said
        # No library: the binary is static.
        needs = ok(query, "-qp", "--nosignature", "--requires", rpm(arch)).split("\n")
        assert not [n for n in needs if n and not n.startswith(("rpmlib(", "/bin/sh", "config("))], needs
        lines = ok(query, "-qp", "--nosignature", "--qf", "[%{FILEMODES:octal} %{FILEUSERNAME} %{FILENAMES}\n]", rpm(arch))
        found = {}
        for mode, owner, path in (line.split(" ", 2) for line in lines.splitlines()):
            assert owner == "root", path
            if not stat.S_ISDIR(int(mode, 8)):
                found[path] = int(mode, 8) & 0o7777
        assert found.pop("/usr/share/doc/ec2fleetd/LICENSE") == 0o644
        assert found == installed(), set(found.items()) ^ set(installed().items())
        assert ok(query, "-qp", "--nosignature", "--configfiles", rpm(arch)).split() == ["/etc/ec2fleetd/ec2fleetd.env"]


def lives_and_leaves(image, install, upgrade, remove):
    """One package from its installation to its end: what is there, what the admin wrote, what is left."""
    before = set(image.files())
    install()
    for path, mode in installed().items():
        assert image.mode(path) == mode, f"{path}: {oct(image.mode(path))}"
    assert image.path("usr/bin/ec2fleetd").read_bytes() == named("x86_64").read_bytes()
    # The first installation closes the folder; its mode is the admin's from then on.
    assert image.mode("etc/ec2fleetd") == 0o700
    assert VERSION in image.inside("/usr/bin/ec2fleetd", "--version")
    wants = "etc/systemd/system/multi-user.target.wants"
    assert not image.path(wants).exists() or not list(image.path(wants).glob("ec2fleetd*")), "nothing is enabled by itself"
    image.units_are_good(UNITS[0], "ec2fleetd@my-app.service")

    image.path("etc/ec2fleetd/my-app.jsonc").write_text(CONFIG)
    image.path("etc/ec2fleetd/ec2fleetd.env").write_text("AWS_REGION=eu-west-1\n")
    image.path("etc/ec2fleetd").chmod(0o750)
    image.inside("systemctl", "enable", UNITS[0], "ec2fleetd@my-app.service")
    assert len(list(image.path(wants).glob("ec2fleetd*"))) == 2
    upgrade()
    assert image.mode("etc/ec2fleetd") == 0o750
    assert image.path("etc/ec2fleetd/ec2fleetd.env").read_text() == "AWS_REGION=eu-west-1\n"
    assert len(list(image.path(wants).glob("ec2fleetd*"))) == 2, "an upgrade disables nothing"

    remove()
    assert image.path("etc/ec2fleetd/my-app.jsonc").read_text() == CONFIG
    left = {path for path in set(image.files()) - before if "ec2fleetd" in path}
    # What dpkg and rpm keep for a changed file of theirs, and their own lists.
    kept = {path for path in left if path.startswith(("etc/ec2fleetd/", "var/lib/dpkg/info/"))}
    assert left == kept, f"left behind: {left - kept}"
    assert "AWS_REGION=eu-west-1\n" in [p.read_text() for p in image.path("etc/ec2fleetd").glob("ec2fleetd.env*")]


def test_deb_is_installed_upgraded_and_removed():
    with Image() as image:
        def dpkg(*argv):
            ok("dpkg", f"--root={image.at}", "--force-not-root", "--force-confold", *argv)

        lives_and_leaves(image, lambda: dpkg("--install", deb("x86_64")), lambda: dpkg("--install", deb("x86_64")),
                         lambda: dpkg("--remove", "ec2fleetd"))
        dpkg("--purge", "ec2fleetd")
        assert [p.name for p in image.path("etc/ec2fleetd").iterdir()] == ["my-app.jsonc"], "what we did not install stays"


def test_rpm_is_installed_upgraded_and_removed():
    manager = tool("rpm", "rpm")
    with Image() as image:
        def root(*argv):
            # Debian's rpm knows nothing of what dpkg has installed: hence --nodeps, for /bin/sh.
            ok(manager, f"--root={image.at}", "--nodeps", "--nosignature", *argv)

        lives_and_leaves(image, lambda: root("-i", rpm("x86_64")), lambda: root("-U", "--force", rpm("x86_64")),
                         lambda: root("-e", "ec2fleetd"))


def test_scripts_of_packages_do_nothing_on_an_upgrade():
    """Neither is allowed to stop what runs: `upgrade` of dpkg, and the 1 that rpm says when a version is left."""
    for word in ("upgrade", "1", "failed-upgrade", "deconfigure"):
        done = run("/bin/sh", "-x", ROOT / "init/package/prerm", word, env={"PATH": "/nowhere"})
        assert done.returncode == 0 and "systemctl" not in done.stderr, done.stderr
