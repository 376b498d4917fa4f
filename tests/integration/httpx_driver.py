"""Every way to send a request with httpx or httpx2 through their attested transports, as one interface."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2

LIBRARIES: dict[str, ModuleType] = {"httpx": httpx, "httpx2": httpx2}
DRIVERS = ("httpx", "httpx async", "httpx2", "httpx2 async")
SECRET = b"the patient's name"


class Driver:
    """One way to send requests: a library, and whether it is awaited."""

    def __init__(self, name: str, *, awaited: bool) -> None:
        self.library: Any = LIBRARIES[name]
        self.module = importlib.import_module(f"blindbuild.client.{name}_transport")
        self.awaited = awaited

    @classmethod
    def named(cls, name: str) -> Driver:
        """Return one of `DRIVERS`."""
        library, _, kind = name.partition(" ")
        return cls(library, awaited=bool(kind))

    def client(self, url: str, expecting, **options) -> Any:
        make = self.module.attested_async_client if self.awaited else self.module.attested_client
        return make(url, expecting, **options)

    def run(self, client: Any, *calls: Callable[[Any], Any]) -> list[Any]:
        """Make calls one after the other with one client, which is closed at the end."""
        if not self.awaited:
            with client:
                return [call(client) for call in calls]

        async def all_of_them() -> list[Any]:
            async with client:
                return [await call(client) for call in calls]

        return asyncio.run(all_of_them())


def post(body: bytes = SECRET, path: str = "/v1/hello", **more) -> Callable[[Any], Any]:
    return lambda client: client.post(path, content=body, **more)


def failing(driver: Driver) -> Callable[[Any], Any]:
    """Send a request whose body is of another stream, and ends with an error of its network."""
    core = httpcore if driver.library is httpx else httpcore2

    def parts() -> Iterator[bytes]:
        yield SECRET
        raise core.WriteError("of another stream")

    async def awaited() -> Any:
        for part in parts():
            yield part

    body = awaited() if driver.awaited else parts()
    return post(body, headers={"Content-Length": str(2 * len(SECRET))})  # type: ignore[arg-type]
