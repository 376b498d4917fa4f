"""A recipe as a value: read strictly, with everything merged, defaults filled in and local files hashed."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from blindbuild.assemble.recipe_files import (
    CompileRequest,
    FileRequest,
    LocalFile,
    TreeRequest,
    find_local_files,
)
from blindbuild.assemble.recipe_schema import MAX_COMMAND_BYTES, RECIPE
from blindbuild.assemble.recipe_shape import Value, did_you_mean
from blindbuild.assemble.recipe_source import RecipeSource, read_source
from blindbuild.assemble.recipe_text import render_values
from blindbuild.assemble.recipe_yaml import Items, Node, Table
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, RecipeError
from blindbuild.host.files import read_bytes
from blindbuild.manifest.statement import CHANNEL_BINDINGS

MAX_LOCAL_FILES = (
    65536  # an application has hundreds; ends the walk through a home directory named by mistake
)

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """Which kernel, with which drivers."""

    source: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """The workload and its limits (docs/spec/guest-abi.md, init.conf and gate.json)."""

    command: tuple[str, ...]
    protocol: str
    routes: tuple[str, ...]
    memory_bytes: int
    seconds: int
    concurrency: int
    max_request_bytes: int
    max_response_bytes: int
    isolation: str


@dataclass(frozen=True, slots=True)
class StaticAddress:
    """A fixed IPv4 address, the length of its network's prefix, and the router."""

    address: str
    prefix_length: int
    router: str


@dataclass(frozen=True, slots=True)
class Network:
    """The one interface.

    Attributes:
        address: None for DHCP.
        channel: what the evidence is bound to; a word of the statement's `channelBinding`.
    """

    address: StaticAddress | None
    port: int
    channel: str


@dataclass(frozen=True, slots=True)
class WaiverRequest:
    """A finding of the ledger about one file of the tree, and what makes it harmless."""

    path: str
    what: str
    control: str


@dataclass(frozen=True, slots=True)
class AllowedChannel:
    """A channel that the recipe leaves open; `where` is `file:line:column` of its name."""

    identifier: str
    where: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a recipe says.

    Attributes:
        path: the recipe file as it was named.
        directory: what `LocalFile.source` is relative to.
        suite: Debian suite of the tree's packages.
        stub_suite: Debian suite of systemd-stub.
        firmware_suite: Debian suite of OVMF.
        channels: those that the recipe leaves open.
        channels_where: `file:line:column` of the place where it names them, or would.
        local_files: all local files, sorted by target.
        sources: every recipe file read, this one first.
        text: what `render_recipe` gives.
        checksum: SHA-256 over the merged values and all local files; comments and layout do not count.
    """

    path: Path
    directory: Path
    name: str
    version: str
    sequence: int
    suite: str
    stub_suite: str
    firmware_suite: str
    partitions: str
    kernel: KernelRequest
    tree: TreeRequest
    service: Service
    network: Network
    channels: tuple[AllowedChannel, ...]
    channels_where: str
    waivers: tuple[WaiverRequest, ...]
    platforms: tuple[str, ...]
    local_files: tuple[LocalFile, ...]
    sources: tuple[Path, ...]
    text: str
    checksum: Digest


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and everything it refers to.

    Args:
        path: the recipe file, or the directory that holds a recipe.yaml.

    Raises:
        RecipeError: the first mistake, with file, line, column and what would be right.
    """
    path = path / "recipe.yaml" if path.is_dir() else path
    source = read_source(path)
    values = _table(RECIPE.read(source.table, ""))
    return _Builder(path, source, values).recipe()


def render_recipe(recipe: Recipe) -> str:
    """Return the merged recipe with all defaults, as YAML that reads as the same recipe."""
    return recipe.text


def read_local_file(recipe: Recipe, file: LocalFile) -> bytes:
    """Return a local file's bytes.

    Raises:
        BuildError: it is not there any more, or changed since the recipe was loaded.
    """
    data = read_bytes(recipe.directory / file.source, error=BuildError)
    if not Digest.sha256(data).equals(file.digest):
        raise BuildError(
            f"{recipe.directory / file.source}: changed during the build", hint="run the command again"
        )
    return data


class _Builder:
    """Turns checked values into a Recipe, with the checks that concern more than one value."""

    def __init__(self, path: Path, source: RecipeSource, values: Values) -> None:
        self._path = path
        self._source = source
        self._values = values

    def recipe(self) -> Recipe:
        values = self._values
        service, boot = self._service(), _table(values["boot"])
        suite = str(values["suite"])
        tree = self._tree(_table(values["tree"]))
        files = find_local_files(tree, self._source.directory, self._naming, self._mistake)
        self._check_command(service.command[0], tree, files)
        text = render_values({**values, "boot": {key: value or suite for key, value in boot.items()}})
        return Recipe(
            path=self._path,
            directory=self._source.directory,
            name=str(values["name"]),
            version=str(values["version"]),
            sequence=cast(int, values["sequence"]),
            suite=suite,
            stub_suite=str(boot["stub"] or suite),
            firmware_suite=str(boot["firmware"] or suite),
            partitions=str(boot["partitions"]),
            kernel=self._kernel(),
            tree=tree,
            service=service,
            network=self._network(),
            channels=self._allowed(),
            channels_where=self._where("channels", "allow"),
            waivers=tuple(
                WaiverRequest(str(item["path"]), str(item["what"]), str(item["control"]))
                for item in _tables(_table(values["channels"])["waive"] or ())
            ),
            platforms=_words(values["platforms"]),
            local_files=files,
            sources=self._source.files,
            text=text,
            checksum=_checksum(text, files),
        )

    def _allowed(self) -> tuple[AllowedChannel, ...]:
        words = _words(_table(self._values["channels"])["allow"])
        return tuple(
            AllowedChannel(word, self._where("channels", "allow", index)) for index, word in enumerate(words)
        )

    def _kernel(self) -> KernelRequest:
        kernel = _table(self._values["kernel"])
        return KernelRequest(str(kernel["source"]), tuple(sorted(_words(kernel["features"]))))

    def _tree(self, tree: Values) -> TreeRequest:
        return TreeRequest(
            debian=_words(tree["debian"]),
            wheels=_words(tree["wheels"]),
            files=tuple(
                FileRequest(
                    _normal(item["from"]),
                    str(item["to"]),
                    int(str(item["mode"]), 8) if item["mode"] else None,
                )
                for item in _tables(tree["files"])
            ),
            compile=tuple(
                CompileRequest(_normal(item["from"]), str(item["to"])) for item in _tables(tree["compile"])
            ),
        )

    def _service(self) -> Service:
        service = _table(self._values["service"])
        command = _words(service["command"])
        if re.fullmatch(r"(/[!-.0-~]+)+", command[0]) is None:
            raise self._mistake(
                f"service.command[0]: expected an absolute path, got {command[0]!r}", "service", "command"
            )
        if sum(len(word) for word in command) > MAX_COMMAND_BYTES:
            raise self._mistake(
                f"service.command: expected at most {MAX_COMMAND_BYTES} bytes in all", "service", "command"
            )
        return Service(
            command=command,
            protocol=str(service["protocol"]),
            routes=_words(service["routes"]),
            memory_bytes=cast(int, service["memory"]),
            seconds=cast(int, service["seconds"]),
            concurrency=cast(int, service["concurrency"]),
            max_request_bytes=cast(int, service["max_request"]),
            max_response_bytes=cast(int, service["max_response"]),
            isolation=str(service["isolation"]),
        )

    def _network(self) -> Network:
        network = _table(self._values["network"])
        port, channel = cast(int, network["port"]), str(network["channel"] or CHANNEL_BINDINGS[0])
        if network["address"] == "dhcp":
            return Network(None, port, channel)
        static = _table(network["address"])
        address, _, prefix = str(static["address"]).partition("/")
        self._check_static(address, int(prefix), str(static["router"]))
        return Network(StaticAddress(address, int(prefix), str(static["router"])), port, channel)

    def _check_static(self, address: str, prefix: int, router: str) -> None:
        own, other = _ipv4(address), _ipv4(router)
        host_mask = (1 << (32 - prefix)) - 1
        for name, value in (("address", own), ("router", other)):
            if value >> 24 in (0, 127) or value >> 28 >= 0xE or value & host_mask in (0, host_mask):
                text = address if name == "address" else router
                raise self._mistake(
                    f"network.address.{name}: expected a host's address, got {text}",
                    "network",
                    "address",
                    name,
                )
        if own & ~host_mask != other & ~host_mask or own == other:
            raise self._mistake(
                f"network.address.router: expected another address in {address}/{prefix}, got {router}",
                "network",
                "address",
                "router",
            )

    def _check_command(self, program: str, tree: TreeRequest, files: tuple[LocalFile, ...]) -> None:
        targets = {file.target for file in files}
        if tree.debian or tree.wheels or program in targets:
            return
        raise self._mistake(
            f"service.command[0]: expected a program that `tree` brings, got {program}",
            *("service", "command"),
            hint=did_you_mean(program, targets) or "name it under tree.compile or tree.files",
        )

    def _naming(self, *keys: str | int) -> Path:
        return Path(_find(self._source.table, keys).where.file).parent

    def _mistake(self, message: str, *keys: str | int, hint: str | None = None) -> RecipeError:
        return RecipeError(message, where=self._where(*keys), hint=hint)

    def _where(self, *keys: str | int) -> str:
        return str(_find(self._source.table, keys).where)


def _find(node: Node, keys: tuple[str | int, ...]) -> Node:
    for key in keys:
        if isinstance(node, Table) and key in node.entries:
            node = node.entries[str(key)].node
        elif isinstance(node, Items) and isinstance(key, int):
            node = node.items[key]
    return node


def _checksum(text: str, files: tuple[LocalFile, ...]) -> Digest:
    lines = [
        f"{'c' if file.compiled else 'f'} {file.mode:04o} {file.size} {file.digest.hex} "
        f"{file.target} {file.source}\n"
        for file in files
    ]
    return Digest.sha256(("blindbuild-recipe 1\n" + text + "---\n" + "".join(lines)).encode())


def _normal(value: Value) -> str:
    return posixpath.normpath(str(value))


def _ipv4(text: str) -> int:
    return int.from_bytes(bytes(int(part) for part in text.split(".")), "big")


def _table(value: Value) -> Values:
    return cast(Values, value)


def _tables(value: Value) -> tuple[Values, ...]:
    return cast(tuple[Values, ...], value)


def _words(value: Value) -> tuple[str, ...]:
    return cast(tuple[str, ...], value)
