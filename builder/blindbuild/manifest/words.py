"""The spelling of names, versions and numbers in what is signed."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]{0,63}")
# names of files, packages and wheels, as the lock has them
INPUT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_:@/-]{0,199}")
ATTRIBUTES = re.compile(r"0x[0-9a-f]{8}")
DEFAULT_CHANNEL = "stable"  # the line of releases that is meant when none is named; its name is a NAME
MAX_SEQUENCE = 2**53 - 1  # RFC 8785: the largest integer every JSON reader agrees on
