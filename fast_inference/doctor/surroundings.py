"""Checks of what is around a server: its port and folders, limits of the system, locale, clock and environment."""

import errno
import locale
import os
import resource
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from fast_inference.doctor.finding import Finding, Findings, Tell, fail, ok, warn
from fast_inference.doctor.folders import why_not_writable
from fast_inference.doctor.port_owner import listeners_of
from fast_inference.settings import Settings, unused_setting_warnings
from frontend.batch_api.state_dir import StateDir
from ipc.endpoints import MAX_SOCKET_PATH_BYTES, RunDir

_MIN_DESCRIPTORS = 256
_FEW_DESCRIPTORS = 4096


def check_surroundings(settings: Settings, tell: Tell) -> Findings:
    """Port, run dir, state dir, open files, locale, clock, and settings that do nothing."""
    run_dir = RunDir(settings.run_dir) if settings.run_dir else RunDir.default(settings.port)
    num_ports = settings.frontends if settings.frontend_ports else 1
    for port in range(settings.port, settings.port + num_ports) if settings.port else [0]:
        yield _port(settings.host, port, run_dir)
    yield _run_dir(run_dir)
    yield _state_dir(settings)
    yield _open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield _locale()
    yield _clock(time.time())
    yield from _settings(settings)


def _port(host: str, port: int, run_dir: RunDir) -> Finding:
    if port == 0:
        return ok("port", "any free one")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()  # Linux lets a second socket bind where the first does not listen yet
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            return _taken_port(port, run_dir)
        if number == errno.EACCES:
            return fail("port", f"{port} needs privileges", "use --port with one above 1023")
        reason = getattr(error, "strerror", None) or str(error)
        return fail("port", f"cannot listen on {host}: {reason}", "use --host with an address of this machine")
    return ok("port", f"{port} on {host} is free")


def _taken_port(port: int, run_dir: RunDir) -> Finding:
    owners = [f"{name} (pid {pid})" for pid, name in listeners_of(port)]
    if run_dir.has_launcher():
        return ok("port", f"{port} is that of the server that runs on {run_dir.path} (see `fast-inference status`)")
    who = ", ".join(owners) or "a program of another user"
    return fail("port", f"{port} is taken by {who}", "end it, or use another --port (0 takes a free one)")


def _run_dir(run_dir: RunDir) -> Finding:
    path = run_dir.path
    if len(os.fsencode(run_dir.slot_socket(0))) > MAX_SOCKET_PATH_BYTES:
        return fail("run dir", f"{path} is too long for a socket", "use a shorter --run-dir")
    if reason := why_not_writable(path):
        return fail("run dir", f"{path}: {reason}", "make it writable, or use another --run-dir")
    if path.exists():
        found = path.stat()
        if found.st_uid != os.getuid():
            return fail("run dir", f"{path} belongs to another user", "use another --run-dir")
        if found.st_mode & 0o022:
            return fail("run dir", f"others may write to {path}", f"chmod go-w {path}")
    return ok("run dir", f"{path} ({'a server runs on it' if run_dir.has_launcher() else 'can be used'})")


def _state_dir(settings: Settings) -> Finding:
    if not settings.batch_api:
        return ok("state dir", "none: --no-batch-api")
    path = settings.state_dir or StateDir.default(settings.port).path
    if reason := why_not_writable(path):
        fix = "make it writable, use another --state-dir, or --no-batch-api"
        text = f"{path}: {reason}"
        return fail("state dir", text, fix) if settings.state_dir else warn("state dir", f"{text}: no batches", fix)
    return ok("state dir", f"{path} can be used, for files and batches")


def _open_files(soft: int, hard: int) -> Finding:
    if hard == resource.RLIM_INFINITY:
        return ok("open files", "without limit")
    text = f"at most {hard} (ulimit -Hn); a server raises its own limit of {soft} to that"
    fix = "raise it: `ulimit -n 65536`, LimitNOFILE= of systemd, or --ulimit nofile=65536 of docker"
    if hard < _MIN_DESCRIPTORS:
        return fail("open files", text, fix)
    if hard < _FEW_DESCRIPTORS:
        return warn("open files", f"{text}: as many connections, less 64 for other things", fix)
    return ok("open files", text)


def _locale() -> Finding:
    encoding = locale.getpreferredencoding(False)
    text = f"texts are {encoding}, file names {sys.getfilesystemencoding()}"
    if encoding.lower().replace("-", "") != "utf8":
        return warn("locale", text, "set LANG=C.UTF-8, so that every answer can be printed")
    return ok("locale", text)


def _clock(now: float) -> Finding:
    """A clock is wrong where it is before the files of this program were written."""
    written = Path(__file__).stat().st_mtime
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    if now < written:
        text = f"{shown} is before this program was installed ({datetime.fromtimestamp(written, UTC):%Y-%m-%d})"
        return warn("clock", text, "set it (timedatectl set-ntp true): batches expire and TLS is checked by it")
    return ok("clock", shown)


def _settings(settings: Settings) -> Findings:
    lines = unused_setting_warnings(settings)
    for line in lines:
        yield warn("settings", line, "correct or remove it")
    if not lines:
        yield ok("settings", "every one that was given has an effect")
