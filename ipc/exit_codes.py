"""The exit statuses of every process of this program; `engine_core`, `frontend` and the launcher agree on them here."""

EXIT_CONFIG_ERROR = 1
"""Wrong settings, files or model. The process has said why in one line on stderr; starting it again would not help."""
EXIT_USAGE = 2
"""Wrong usage of a command line, as argparse has it."""
EXIT_INTERNAL_ERROR = 70
"""A bug: there is a trace in the log."""
SIGNAL_EXIT_BASE = 128
"""Plus the number of the signal that ended a command."""
