"""Names, versions and requirements of Python projects; the only user of `packaging`.

All of it comes from strangers (a lock, a wheel's metadata) and ends in pip's arguments: what is not plainly a
project of the package index with versions of it is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion

from blindbuild.errors import FormatError, LockError

_WHEEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl")


@dataclass(frozen=True, slots=True)
class ProjectRequirement:
    """A project by its normalised name, which versions of it will do (pip's form), and its extras."""

    name: str
    versions: str
    extras: frozenset[str]

    def __str__(self) -> str:
        """Return what pip is told; extras are resolved here, and are no business of pip's."""
        return f"{self.name}{self.versions}"


def wheel_identity(filename: str) -> tuple[str, str]:
    """Return project name and version that a wheel's file name says, both normalised.

    Raises:
        FormatError: it is not a wheel's file name.

    Source: PyPA "Binary distribution format" 1.0, "File name convention"; PEP 503; PEP 440, "Normalization".
    """
    if _WHEEL_NAME.fullmatch(filename) is None:
        raise FormatError(f"expected the name of a wheel, got {filename!r:.300}")
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise FormatError(f"expected the name of a wheel, got {filename}") from error
    return name, str(version)


def parse_requirement(
    text: str, *, wanted_by: str, extras: Collection[str] = (), python: str
) -> ProjectRequirement | None:
    """Return a requirement, or None where its environment marker says that it does not hold in an image.

    Args:
        text: as in `Requires-Dist`.
        wanted_by: the project it stands in, for messages.
        extras: of that project, as asked for.
        python: version of the image's Python, such as 3.13.

    Raises:
        LockError: malformed; or it names an address, which pip would build, or a version by `===`, where a
            path can stand.

    Source: PEP 508; PyPA "Dependency specifiers", "Environment Markers".
    """
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        raise LockError(f"{wanted_by}: malformed requirement {text!r:.200}") from error
    if found.marker is not None:
        chosen = {*extras, ""}
        environment = _environment(python)
        if not any(found.marker.evaluate({**environment, "extra": extra}) for extra in chosen):
            return None
    if found.url is not None or any(item.operator == "===" for item in found.specifier):
        raise LockError(
            f"{wanted_by}: expected a requirement with a version from the package index, got {text!r:.200}",
            hint="choose a release of it that names its dependencies by version",
        )
    name = canonicalize_name(found.name)
    return ProjectRequirement(
        name, str(found.specifier), frozenset(canonicalize_name(extra) for extra in found.extras)
    )


def _environment(python: str) -> Mapping[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
