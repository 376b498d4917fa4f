"""What a client pays before it does anything: the verifier's import, beside that of its one large library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

REPEATS = 9
_TIMED = "import time; began = time.process_time(); {}; print(time.process_time() - began)"


def seconds_to(statement: str) -> float:
    """Processor time, the least of several fresh interpreters: what else runs on the machine only adds."""
    command = [sys.executable, "-c", _TIMED.format(statement)]
    runs = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(REPEATS)
    )
    return min(map(float, runs))


def bench_imports(say: Callable[..., None]) -> None:
    """Print the times of fresh interpreters, and the ratio to X.509 of `cryptography`."""
    peer = seconds_to("import cryptography.x509")
    for module, aim in (("blindbuild.verify", "150 ms"), ("blindbuild.client", "")):
        took = seconds_to(f"import {module}")
        say(f"import {module}", f"{took * 1000:.0f} ms", aim)
        say(f"import {module}, relative to cryptography.x509", f"{took / peer:.2f} x")


if __name__ == "__main__":
    from tests.benchmarks.__main__ import say

    bench_imports(say)
