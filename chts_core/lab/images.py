"""Deprecated: this module is `chts_core.lab.train.images` now; its old name stays for one release."""

from chts_core.lab.train.images import *  # noqa: F403
