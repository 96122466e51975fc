"""Deprecated: this module is `chts_core.lab.train.checkpoint` now; its old name stays for one release."""

from chts_core.lab.train.checkpoint import *  # noqa: F403
