"""Child processes that obey the permissions of files, also where the tests run as root."""

import ctypes
import os

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def obey_permissions() -> None:
    """For `preexec_fn`: root loses its right to write everywhere with the exec that follows; others never had it."""
    if os.geteuid() == 0 and _libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
