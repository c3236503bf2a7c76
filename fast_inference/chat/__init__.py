"""`fast-inference chat`: a conversation with a running server in a terminal, or line by line through a pipe.

Reading order: `session` (what happens with a line), `commands` (lines that begin with `/`), `conversation` (what is
sent and saved), `screen` (what is printed, and how), `line_editor` (history and editing; the only user of
prompt_toolkit, so that a pipe does not load it).
"""
