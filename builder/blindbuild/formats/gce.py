"""Which machine Google Compute Engine certified a TPM for.

Source: github.com/google/go-attestation and go-tpm-tools, which read the same extension; the layout was
checked on a real machine's certificate.
"""

from __future__ import annotations

import re

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import unknown_extensions
from blindbuild.formats.der import INTEGER, SEQUENCE, Element, read_members, read_only, require

INSTANCE_INFO = "1.3.6.1.4.1.11129.2.1.21"
_UTF8_STRING = 0x0C
_NAME = re.compile(rb"[!-.0-~]{1,128}")  # names of zones, projects and machines have at most 63
_MAX_NUMBER = 8  # bytes: both numbers are of 64 bits


def has_instance(certificate: Certificate) -> bool:
    """Return whether the certificate says which machine it is for."""
    return INSTANCE_INFO in unknown_extensions(certificate)


def instance_name(certificate: Certificate) -> str | None:
    """Return `gce:PROJECT-NUMBER/PROJECT/ZONE/NAME/INSTANCE-ID`, or None if the certificate does not say.

    Raises:
        FormatError: the extension is malformed.
    """
    raw = unknown_extensions(certificate).get(INSTANCE_INFO)
    if raw is None:
        return None
    members = read_members(require(read_only(raw), SEQUENCE, "instance information"))
    if len(members) < 5:
        raise FormatError(f"instance information: expected at least 5 members, got {len(members)}")
    zone, project_number, project, instance_id, name = members[:5]
    parts = (_number(project_number), _text(project), _text(zone), _text(name), _number(instance_id))
    return "gce:" + "/".join(parts)


def _text(element: Element) -> str:
    content = require(element, _UTF8_STRING, "text").content
    # a separator or a control character inside a name would make one machine look like another
    if not _NAME.fullmatch(content):
        raise FormatError(f"instance information: expected a name, got {content[:80]!r}")
    return content.decode("ascii")


def _number(element: Element) -> str:
    content = require(element, INTEGER, "a number").content
    if not 0 < len(content) <= _MAX_NUMBER + 1:
        raise FormatError(f"instance information: expected a number of 64 bits, got {len(content)} bytes")
    return str(int.from_bytes(content, "big", signed=True) % (1 << 64))
