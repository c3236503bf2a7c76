"""API keys on the launcher's side: files with keys, and who is warned when nobody is asked for one.

`settings.py` reads the file while it resolves the settings; `cli.py` prints the warning. The keys themselves are gone
after that: see `ipc/api_keys.py`.
"""

from pathlib import Path

from ipc.api_keys import digests_of
from ipc.config import AccessConfig, LauncherConfig
from ipc.errors import ConfigError


def read_key_file(path: Path) -> tuple[str, ...]:
    """Digests of the keys in a file, one key per line; empty lines and those that begin with `#` do not count.

    Raises:
        ConfigError: it cannot be read, or holds no key: a server that was to ask for keys must not start without.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file: cannot read {path}: {_reason(error)}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"--api-key-file: there is no key in {path}")
    try:
        return digests_of(keys)
    except ValueError as error:
        raise ConfigError(f"--api-key-file: {path}: {error}") from None


def exposure_warning(launcher: LauncherConfig, access: AccessConfig) -> str | None:
    """What to say loudly before a server listens for everybody and asks nobody for a key."""
    if launcher.is_local or access.api_key:
        return None
    return (
        f"WARNING: listening on {launcher.host} and no API key protects this server: everybody who reaches this "
        "machine can use it. --api-key-file FILE asks for keys, --host 127.0.0.1 keeps it local."
    )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "error" if isinstance(error, OSError) else "it is not ASCII"
