"""The version of this program, here and nowhere else.

pyproject.toml reads it when a wheel is built, the processes read it when they run: in a checkout it is the version of
the code as it lies there, whatever was installed before.
"""

__version__ = "0.1.0"
