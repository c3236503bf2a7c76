"""The engine as a part of somebody's own program; see `engine`."""
