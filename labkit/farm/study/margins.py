"""Steps that go too far: tried on the smallest root file system, each with what it is known to break. Pure."""

from __future__ import annotations

from labkit.farm.rootfs.ladder import Step

#: The step whose files are known only once a container was watched: it keeps what a page opens.
TRACED = Step(
    name="all that serving a page does not open",
    why="tracing alone, as tools that minify images do it",
    rule="only",
    kept=("/var/lib/dpkg/*",),
    breaks="what the trace did not see: a reload, an error, a login",
)
TOO_FAR = (
    Step(
        name="libgcc_s",
        why="no file asks for it",
        rule="paths",
        words=("*/libgcc_s.so.*",),
        breaks="the C library loads it when a thread is cancelled",
    ),
    Step(
        name="a shell and its commands",
        why="apache2 is started without one",
        rule="paths",
        words=("/usr/bin/busybox",),
        breaks="apachectl is a script, and ssh starts a shell",
    ),
    Step(
        name="users and groups",
        why="who starts the container gives it a number",
        rule="paths",
        words=("/etc/passwd", "/etc/group"),
        breaks="apache2 looks www-data up, and ssh whom it lets in",
    ),
    Step(
        name="folders with nothing in them",
        why="what is mounted over them brings its own files",
        rule="paths",
        words=("/dev", "/proc", "/sys", "/run/apache2", "/run/lock/apache2"),
        breaks="whoever starts the container has to write them into it first",
    ),
    Step(
        name="the form of the host's key",
        why="used once, when the ssh server starts",
        rule="paths",
        words=("/usr/bin/dropbearconvert",),
        breaks="the ssh server has no key of its own",
    ),
    Step(
        name="the list of packages",
        why="nothing in the container reads it",
        rule="paths",
        words=("/var/lib/dpkg*",),
        breaks="nobody can say which packages, with which faults, are inside",
    ),
)  # fmt: skip
