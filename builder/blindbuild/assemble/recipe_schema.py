"""The keys of a recipe: the one table behind the reader, schema.json and recipes/README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import cast

from blindbuild.assemble.recipe_shape import (
    Choice,
    Field,
    Integer,
    Kind,
    ListOf,
    Record,
    Schema,
    Size,
    Text,
    WordOr,
    write_size,
)
from blindbuild.manifest.ledger import CHANNEL
from blindbuild.manifest.statement import CHANNEL_BINDINGS

PARTITIONS = ("none", "gpt")
SUITES = ("trixie", "bookworm")
KERNEL_SOURCE = "linux-source-6.12"
# One kernel and its modules, built by Debian: the name says which, so that a lock never moves to another.
PREBUILT_KERNEL = r"linux-image-[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\+deb13(?:\.[0-9]{1,3})?-(?:cloud-)?amd64"
KERNEL_FEATURES = ("tpm-crb", "virtio-net")
MAX_SEQUENCE = (1 << 53) - 1  # canonical JSON: what every reader holds exactly
MAX_COMMAND_BYTES = 3072  # init.conf is at most 4095 bytes as a whole (guest-abi.md)
MAX_BODY_BYTES = 256 << 20  # the gate holds a request or an answer in memory as a whole

_NAME = Text(
    "a name of lower-case letters, digits and hyphens",
    "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    "such as hello",
)
_VERSION = Text(
    "a version such as 1.0.0", "[0-9A-Za-z](?:[0-9A-Za-z.+~-]{0,62}[0-9A-Za-z])?", 'such as 1.0.0 or "1.0"'
)
_KERNEL_SOURCE = Text(
    f"`{KERNEL_SOURCE}`, or a kernel that Debian built",
    f"{re.escape(KERNEL_SOURCE)}|{PREBUILT_KERNEL}",
    f"write {KERNEL_SOURCE}; another kernel, such as linux-image-6.12.117+deb13-cloud-amd64, opens channels",
)
_CHANNEL = Text("the id of a channel", CHANNEL.pattern, "an id of channels.json, such as kernel-log")
_DEBIAN_NAME = Text("a Debian package name", "[a-z0-9][a-z0-9+.-]{1,63}", "such as libstdc++6; no version")
_WHEEL = Text(
    "a PyPI project with its version",
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,100}[A-Za-z0-9])?==[0-9A-Za-z.+!_-]{1,64}",
    "name one version, such as ctranslate2==4.8.5",
)
_SOURCE = Text(
    "a path relative to the file it stands in",
    r"(?!/)[ -~]{0,510}[!-~]",
    "such as files/hello.c; an absolute path would not be there on another machine",
)
_TARGET = Text(
    "an absolute path inside the workload's root, without `.`, `..` or spaces",
    r"(?:/(?!\.{1,2}(?:/|$))[!-.0-~]{1,200}){1,16}",
    "such as /app/hello",
)
_ARGUMENT = Text("an argument of printable ASCII characters", "[ -~]{1,1024}")
_ROUTE = Text(
    "a path below /v1/ of lower-case letters, digits, `-` and `_`",
    "/v1(?:/[a-z0-9_-]{1,64}){1,8}",
    "such as /v1/hello",
)
_DOTTED = r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$|/)|(?=$|/))){4}"
_ADDRESS = Text(
    "an IPv4 address with its prefix", f"{_DOTTED}/(?:[1-9]|[12][0-9]|30)", "such as 10.0.2.15/24"
)
_ROUTER = Text("an IPv4 address", _DOTTED, "such as 10.0.2.2")
_MODE = Text('file permissions in octal, in quotes: "0444" or "0555"', "0[0-7]{3}", 'such as "0444"')

_FILE = Record(
    (
        Field("from", _SOURCE, "A file, or a directory with all that is in it.", required=True),
        Field("to", _TARGET, "Where it is in the workload's root.", required=True),
        Field(
            "mode",
            _MODE,
            "Permissions of the file, or of all files in the directory.",
            default_text="`0555` for what is executable here, else `0444`",
        ),
    )
)
_COMPILED = Record(
    (
        Field("from", _SOURCE, "One C source file.", required=True),
        Field("to", _TARGET, "Where the program is in the workload's root.", required=True),
    )
)
_BOOT = Record(
    (
        Field(
            "stub",
            Choice(SUITES),
            "Debian suite whose systemd-stub starts the kernel.",
            default_text="`suite`",
        ),
        Field(
            "firmware",
            Choice(SUITES),
            "Debian suite whose OVMF the image is measured for, and run on.",
            default_text="`suite`",
        ),
        Field(
            "partitions",
            Choice(PARTITIONS),
            "Partition table of the disk image; a table is measured into PCR 5.",
            default="none",
        ),
    )
)
_KERNEL = Record(
    (
        Field(
            "source",
            _KERNEL_SOURCE,
            "Debian source package, or a kernel that Debian built; the ledger says what that one opens.",
            default=KERNEL_SOURCE,
        ),
        Field(
            "features",
            ListOf(Choice(KERNEL_FEATURES)),
            "Drivers to build in; each opens the channels that the ledger names.",
            default=KERNEL_FEATURES,
        ),
    )
)
_TREE = Record(
    (
        Field(
            "debian", ListOf(_DEBIAN_NAME), "Debian packages; the lock adds what they depend on.", default=()
        ),
        Field("wheels", ListOf(_WHEEL), "PyPI wheels; the lock adds what they depend on.", default=()),
        Field("files", ListOf(_FILE), "Local files, as they are.", default=()),
        Field(
            "compile",
            ListOf(_COMPILED),
            "C programs, compiled statically with the locked compiler.",
            default=(),
        ),
    ),
    later={
        "oci": "unpack what you need, and name it in `tree.files`",
        "keep": "list in `tree.files` just what the workload needs",
    },
)
_SERVICE = Record(
    (
        Field(
            "command",
            ListOf(_ARGUMENT, 1, 16, distinct=False),
            "Program, by its absolute path in the workload's root, and arguments.",
            required=True,
        ),
        Field(
            "protocol",
            Choice(("frames",), later=("http",)),
            "What the gate speaks to it: `frames` is a 4-byte length and the bytes, each way.",
            default="frames",
        ),
        Field("routes", ListOf(_ROUTE, 1, 32), "Paths that clients may POST to.", required=True),
        Field("memory", Size(1 << 20, 1 << 40), "Address space of one request's process.", required=True),
        Field("seconds", Integer(1, 86400), "How long one request's process may live.", default=30),
        Field("concurrency", Integer(1, 16), "Requests served at once.", default=4),
        Field(
            "max_request", Size(1, MAX_BODY_BYTES), "Largest request.", default=1 << 20, default_text="`1M`"
        ),
        Field(
            "max_response", Size(1, MAX_BODY_BYTES), "Largest answer.", default=1 << 20, default_text="`1M`"
        ),
        Field(
            "isolation",
            Choice(("per-request",), later=("resident",)),
            "`per-request`: a process for each request, so that nothing passes from one to the next.",
            default="per-request",
        ),
    )
)
_STATIC = Record(
    (
        Field("address", _ADDRESS, "Its address.", required=True),
        Field("router", _ROUTER, "The router, in the same network.", required=True),
    )
)
_NETWORK = Record(
    (
        Field(
            "address",
            WordOr("dhcp", _STATIC),
            "`dhcp` (one exchange at boot), or a table with address and router.",
            required=True,
        ),
        Field("port", Integer(1, 65535), "TCP port of the service; everything else is closed.", default=443),
        # None and not the default word, so that recipes without one keep the checksum that their locks have.
        Field(
            "channel",
            Choice(CHANNEL_BINDINGS),
            "What evidence is bound to: the image's TLS key, or an HPKE key where somebody else ends TLS.",
            default_text=f"`{CHANNEL_BINDINGS[0]}`",
        ),
    )
)
_WAIVER = Record(
    (
        Field("path", _TARGET, "The file, in the workload's root.", required=True),
        Field(
            "what",
            Text("an imported symbol or a kind of file", "[A-Za-z_][A-Za-z0-9_-]{0,63}", "such as socket"),
            "What the ledger finds in it: a symbol, `interpreter`, `pickle`, or a check of file names.",
            required=True,
        ),
        Field(
            "control",
            Text("a sentence of printable ASCII", "[!-~][ -~]{9,199}", "such as filter F0 refuses socket"),
            "What makes it harmless; the ledger shows it.",
            required=True,
        ),
    )
)
_CHANNELS = Record(
    (
        Field(
            "allow",
            ListOf(_CHANNEL),
            "Channels that are left open, each by its id; the ledger shows them, and a client may refuse.",
            default=(),
        ),
        # None and not an empty list, so that recipes without one keep the checksum that their locks have.
        Field(
            "waive",
            ListOf(_WAIVER, 1),
            "Findings of the ledger about files of the tree that a control makes harmless.",
            default_text="nothing",
        ),
    )
)

RECIPE = Record(
    (
        Field("name", _NAME, "Name of the image.", required=True),
        Field("version", _VERSION, "Version of the image.", required=True),
        Field(
            "sequence",
            Integer(1, MAX_SEQUENCE),
            "Grows by one with every release: a client refuses one lower than it has seen.",
            required=True,
        ),
        Field(
            "suite",
            Choice(SUITES),
            "Debian suite of `tree.debian`; the toolchain and the kernel are always trixie's.",
            default="trixie",
        ),
        Field("boot", _BOOT, "What comes before the kernel."),
        Field("kernel", _KERNEL, "The kernel."),
        Field("tree", _TREE, "What the workload sees as its root file system."),
        Field("service", _SERVICE, "The workload, and its limits."),
        Field("network", _NETWORK, "The one network interface."),
        Field("channels", _CHANNELS, "Exceptions from the rule that every channel is closed."),
        Field(
            "platforms",
            ListOf(
                Choice(
                    ("uefi-tpm",),
                    later=("qemu-direct", "sev-snp", "tdx", "nitro-eif", "nitro-tpm", "gcp", "azure"),
                ),
                1,
            ),
            "Platforms whose measurements the statement predicts.",
            default=("uefi-tpm",),
        ),
    )
)
EXTENDS = Text("a path relative to this file", _SOURCE.pattern, "such as ../base/recipe.yaml")
VARIABLE_NAME = "[a-z][a-z0-9_]{0,31}"

ABOUT_EXTENDS = (
    "Another recipe, whose keys hold where this one says nothing; tables are merged, lists replaced."
)
ABOUT_VARS = "Variables: `{{ name }}` in a quoted value is replaced (Jinja2, sandboxed, no undefined names)."


def json_schema() -> Schema:
    """Return the JSON Schema (2020-12) of recipe.yaml."""
    shape = RECIPE.schema()
    variables: Schema = {
        "type": "object",
        "description": ABOUT_VARS,
        "propertyNames": {"pattern": f"^{VARIABLE_NAME}$"},
        "additionalProperties": {"type": ["string", "integer", "boolean"]},
    }
    extends: Schema = {"type": "string", "pattern": f"^(?:{EXTENDS.pattern})$", "description": ABOUT_EXTENDS}
    properties = cast(Schema, shape["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:blindbuild:recipe:v1",
        "title": "blindbuild recipe",
        "$defs": {"template": {"type": "string", "pattern": r"\{[{%#]", "description": ABOUT_VARS}},
        **shape,
        "properties": {"extends": extends, "vars": variables, **properties},
        "if": {"not": {"required": ["extends"]}},
        "then": RECIPE.requirements(),
    }


def schema_text() -> str:
    """Return recipes/schema.json as it must be."""
    return json.dumps(json_schema(), indent=2) + "\n"


def reference_text() -> str:
    """Return the table of all keys, in Markdown, as recipes/README.md must hold it."""
    lines = ["| key | is | default | about |", "|---|---|---|---|"]
    lines.append(f"| `extends` | a path | | {ABOUT_EXTENDS} |")
    lines.append(f"| `vars` | a table of words, numbers, true or false | | {ABOUT_VARS} |")
    for path, item in _all_fields(RECIPE, ""):
        kind = "" if isinstance(item.kind, Record) else item.kind.describe()
        lines.append(f"| `{path}` | {kind} | {_default(item)} | {item.about} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _all_fields(record: Record, prefix: str) -> Iterator[tuple[str, Field]]:
    for item in record.fields:
        yield prefix + item.name, item
        inner, mark = _record_in(item.kind)
        if inner is not None:
            yield from _all_fields(inner, f"{prefix}{item.name}{mark}.")


def _record_in(kind: Kind) -> tuple[Record | None, str]:
    if isinstance(kind, Record):
        return kind, ""
    if isinstance(kind, WordOr):
        return kind.record, ""
    if isinstance(kind, ListOf) and isinstance(kind.item, Record):
        return kind.item, "[]"
    return None, ""


def _default(item: Field) -> str:
    if item.default_text:
        return item.default_text
    if isinstance(item.kind, Record):
        return ""
    if item.required:
        return "**required**"
    if isinstance(item.default, tuple):
        return f"`[{', '.join(str(word) for word in item.default)}]`"
    if isinstance(item.kind, Size) and isinstance(item.default, int):
        return f"`{write_size(item.default)}`"
    return f"`{item.default}`"
