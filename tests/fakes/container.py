"""A process as a container would run it: its own root, read only but for /app/data, another user, no rights, PID 1."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

SYSTEM = ("/bin", "/etc", "/lib", "/lib32", "/lib64", "/sbin", "/usr")
PROGRAMS = ("unshare", "mount", "chroot", "setpriv", "env")

_BEGIN = """
set -e
mount -t tmpfs -o mode=755 tmpfs "$NEW"
for path in $PATHS; do
    if [ -L "$path" ]; then
        cp -P "$path" "$NEW$path"
    elif [ -d "$path" ] && [ ! -d "$NEW$path" ]; then
        mkdir -p "$NEW$path"
        mount --bind "$path" "$NEW$path"
        mount -o remount,bind,ro "$NEW$path"
    fi
done
mkdir -p "$NEW/proc" "$NEW/dev" "$NEW/tmp" "$NEW/app/data"
chmod 1777 "$NEW/tmp"
mount -t proc proc "$NEW/proc"
mount --rbind /dev "$NEW/dev"
mount --bind "$DATA" "$NEW/app/data"
mount -o remount,ro "$NEW"
exec chroot "$NEW" setpriv --reuid "$ID" --regid "$ID" --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all "$@"
"""


def confined(
    command: Sequence[str], *, data: Path, project: Path, uid: int, env: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """The command line and environment that run ``command`` confined, with ``data`` as its /app/data.

    ``command`` and ``env`` hold in there; ``project`` is what Python may import. Skips the test where this user may not
    confine anything.
    """
    _require_rights()
    os.chown(data, uid, uid)
    new_root = data.with_name(f"{data.name}-root")
    new_root.mkdir(exist_ok=True)
    needed = {*SYSTEM, sys.base_prefix, sys.prefix, str(project), *filter(os.path.isdir, sys.path)}
    outside = {
        "PATH": os.environ["PATH"],
        "NEW": str(new_root),
        "DATA": str(data),
        "PATHS": " ".join(sorted(needed)),  # a folder goes before those in it
        "ID": str(uid),
    }
    variables = [f"{name}={value}" for name, value in env.items()]
    return [
        *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private"),
        *("sh", "-c", _BEGIN, "container"),
        *("env", "--ignore-environment", "--chdir=/app", *variables, *command),
    ], outside


def first_process(unshare: int) -> int:
    """As which process the system knows the one that is PID 1 in there."""
    (child,) = Path(f"/proc/{unshare}/task/{unshare}/children").read_text(encoding="ascii").split()
    return int(child)


def _require_rights() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"nothing can be confined without {', '.join(missing)} (Debian: util-linux, mount)")
    attempt = ["unshare", "--pid", "--fork", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"]
    if subprocess.run(attempt, check=False, capture_output=True).returncode:  # noqa: S603
        pytest.skip("nothing can be confined: this user may not make namespaces and mounts (root may)")
