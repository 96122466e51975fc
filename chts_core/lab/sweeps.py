"""Deprecated: this module is `chts_core.lab.train.sweeps` now; its old name stays for one release."""

from chts_core.lab.train.sweeps import *  # noqa: F403
