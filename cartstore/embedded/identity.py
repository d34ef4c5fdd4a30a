"""Owns who the private database runs as. PostgreSQL refuses to run as root, containers often are root.

Root has two ways, tried in this order:

1. A user namespace of the child's own, in which we appear as an unprivileged user. Files keep their
   owner, so nothing is handed over. Many container runtimes forbid it.
2. The user `nobody` with the data folder given to it. It keeps one capability, to pass folders that it
   may not read (a checkout below /root), which is no more than the root that it was had.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cartstore.embedded.process import check_libc, prctl
from cartstore.errors import ConfigurationError

_CLONE_NEWUSER = 0x10000000
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)

Become = Callable[[], None]


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySet(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def database_identity(folder: Path) -> Become | None:
    """What a child does to be a user that PostgreSQL accepts on `folder`; None when we are one already.

    As root and without a namespace, `folder` must exist and is given to `nobody` here.
    ConfigurationError when root can become nobody else.
    """
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    # A folder that `nobody` got once stays with it: seen from a namespace it would be a stranger's.
    if not _belongs_to(folder, nobody.pw_uid) and _works(_in_namespace()):
        return _in_namespace()
    become = _as_user(nobody.pw_uid, nobody.pw_gid)
    if not _works(become):
        raise ConfigurationError(
            "PostgreSQL does not run as root, and this machine lets root neither make a user namespace nor "
            "become the user nobody. Run cartstore as another user, or set CARTSTORE_DATABASE_URL."
        )
    _give(folder, nobody.pw_uid, nobody.pw_gid)
    return become


def _belongs_to(folder: Path, uid: int) -> bool:
    return folder.exists() and folder.stat().st_uid == uid


def _give(folder: Path, uid: int, gid: int) -> None:
    if _belongs_to(folder, uid):
        return
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, gid, follow_symlinks=False)


def _works(become: Become) -> bool:
    """Whether a child can take this identity; found by trying, since rules differ from host to host."""
    try:
        return subprocess.run(["/bin/true"], preexec_fn=become, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@cache
def _in_namespace() -> Become:
    uid, gid = os.geteuid(), os.getegid()
    # PostgreSQL looks its user up, so the number must be one that has a name. `nobody` is what the
    # kernel shows for everybody who is not in the namespace, so it is the last choice.
    users = sorted(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in (0, 65534))
    inside = users[0] if users else 65534

    def become() -> None:
        check_libc(_libc.unshare(_CLONE_NEWUSER), "unshare")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{inside} {uid} 1"),
            ("gid_map", f"{inside} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)

    return become


@cache
def _as_user(uid: int, gid: int) -> Become:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    bit = 1 << _CAP_DAC_OVERRIDE
    sets = (_CapabilitySet * 2)(_CapabilitySet(bit, bit, bit), _CapabilitySet(0, 0, 0))

    def become() -> None:
        prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        check_libc(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")
        # Ambient capabilities are the only ones that survive the exec of a plain program.
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)

    return become
