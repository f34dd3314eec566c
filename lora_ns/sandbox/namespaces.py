"""The walls of the Linux kernel around a process: namespaces, a file system of its own, no privileges.

Runs in the child process, which imports as little as possible: the start of each program waits for it.
"""

from __future__ import annotations

import ctypes
import os
import sys

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = (
    *(0x00020000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE, _RELATIME = 1, 2, 4, 32, 4096, 16384, 1 << 18, 1 << 21
_ST_RELATIME = 4096
_KEPT = 2 | 4 | 8 | 1024 | 2048
"""Flags of a mount that have the same value in `statvfs` and `mount`, and that a user namespace must keep."""

_DETACH = 2
_PDEATHSIG, _SET_DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION = 0x20080522

WORK = "/tmp"
"""Working folder, home and temporary folder of the program, in its own file system."""

ENVIRONMENT = {
    "HOME": WORK,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TMPDIR": WORK,
}
"""All variables of the program. Sets of texts have the same order each time."""

INSIDE = 1000
"""User and group inside of a user namespace."""

_NOBODY = 65534
_ABOVE_ACCOUNTS = 0x60000000
"""First of the user ids that root gives to programs, one for each, so that processes are counted apart."""

_MOUNT_POINTS = ("/sys", "/mnt", "/proc")
"""Folders that hold nothing the program needs. One is covered, within the namespace, while its root is built."""

_SHOWN = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

_libc = ctypes.CDLL(None, use_errno=True)


class WallError(Exception):
    """The kernel refuses a wall."""

    def __init__(self, wall: str, why: str) -> None:
        super().__init__(wall, why)
        self.wall, self.why = wall, why


def _call(name: str, *arguments: object) -> None:
    """Call the C library. Raises `OSError`."""
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def leave() -> int:
    """Enter new namespaces; children of this process are in a new process namespace, too. Returns their user id.

    Root needs no user namespace: it creates the others itself, and becomes a user without an account later. Others, and
    a root that can become nobody else, create a user namespace first. Raises `WallError`.
    """
    rest = {"network": NEW_NET, "processes": NEW_PIDS | NEW_IPC | NEW_UTS, "files": NEW_MOUNTS}
    if os.geteuid() == 0 and (user := _user_without_account()):
        try:
            for flags in rest.values():
                _call("unshare", flags)
        except OSError:
            _become(user)
        else:
            return user
    _user_namespace()
    for wall, flags in rest.items():
        _try(wall, "unshare", flags)
    return INSIDE


def _user_without_account() -> int | None:
    """A user id that only this program has; in a container with few ids, the one for nobody, or None without it."""
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123
        ranges = [list(map(int, line.split())) for line in file]
    for user in (_ABOVE_ACCOUNTS + os.getpid() % 2**20, _NOBODY):
        if any(first <= user < first + count for first, _, count in ranges):
            return user
    return None


def _user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    _try("network", "unshare", NEW_USER)
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{INSIDE} {user} 1"),
            ("gid_map", f"{INSIDE} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
                file.write(text)
    except OSError as error:
        raise WallError("network", f"user namespace: {error.strerror}") from error


def _try(wall: str, name: str, *arguments: object) -> None:
    try:
        _call(name, *arguments)
    except OSError as error:
        raise WallError(wall, f"{name}: {error.strerror}") from error


def build_root(user: int, disk: int) -> None:
    """Make a new root that has the system's programs, read-only, and an empty working folder of `disk` bytes.

    Raises `WallError`.
    """
    try:
        root = next(folder for folder in _MOUNT_POINTS if os.path.isdir(folder))  # noqa: PTH112
        _mount("none", "/", None, _REC | _PRIVATE)
        options = f"size={disk},nr_inodes=4096,mode=755,uid={user},gid={user}"
        _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, options)
        for path in dict.fromkeys((*_SHOWN, *_library())):
            _show(path, root)
        for device in _DEVICES:
            _bind(device, root + device)
        _mount_proc(root)
        for folder in (WORK, "/dev/shm"):
            os.makedirs(root + folder, mode=0o777, exist_ok=True)  # noqa: PTH103
            os.chown(root + folder, user, user)
        os.chdir(root)
        _call("pivot_root", b".", b".")
        _call("umount2", b".", _DETACH)
    except OSError as error:
        raise WallError("files", f"{error.filename or 'root'}: {error.strerror}") from error
    os.chdir(WORK)


def _library() -> list[str]:
    """The folders of this Python's standard library, and of the shared libraries beside it."""
    return [os.path.join(sys.base_prefix, "lib"), *filter(None, sys.path)]  # noqa: PTH118


def _show(path: str, root: str) -> None:
    """Show a file or folder of the system read-only, or the link that it is."""
    target = root + path
    if os.path.islink(path):  # noqa: PTH114
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        if not os.path.lexists(target):
            os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
    elif os.path.exists(path) and not os.path.exists(target):  # noqa: PTH110
        _bind(path, target)
        seen = os.statvfs(target).f_flag
        kept = seen & _KEPT | (_RELATIME if seen & _ST_RELATIME else 0)
        _mount("none", target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | kept)


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):  # noqa: PTH112
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    try:
        _mount(path, target, None, _BIND)
    except OSError:  # a user namespace may not leave out what is mounted below
        _mount(path, target, None, _BIND | _REC)


def _mount_proc(root: str) -> None:
    """Show the processes of the namespace. A container that hides parts of its own `/proc` does not allow it."""
    os.makedirs(f"{root}/proc", exist_ok=True)  # noqa: PTH103
    try:
        _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | 8)
    except OSError:
        os.rmdir(f"{root}/proc")  # noqa: PTH106


def give_up_privileges(user: int) -> None:
    """Become a user without capabilities that no program can add to. Raises `WallError`."""
    try:
        if user != INSIDE:
            _become(user)
        header, empty = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        _call("capset", header, empty)
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError as error:
        raise WallError("privileges", f"{error.filename}: {error.strerror}") from error


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _call("prctl", _SET_DUMPABLE, 1, 0, 0, 0)  # else its files in /proc belong to root


def die_with_parent(signal_number: int) -> None:
    """Receive a signal when the thread that started this process ends."""
    _call("prctl", _PDEATHSIG, signal_number, 0, 0, 0)


def hide_memory() -> None:
    """Refuse access to this process's memory to others of the same user."""
    _call("prctl", _SET_DUMPABLE, 0, 0, 0, 0)
