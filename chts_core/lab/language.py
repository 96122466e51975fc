"""Deprecated: this module is `chts_core.lab.train.language` now; its old name stays for one release."""

from chts_core.lab.train.language import *  # noqa: F403
