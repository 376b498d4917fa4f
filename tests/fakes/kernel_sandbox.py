"""A sandbox that does what `tar` and `make` do in a kernel build, in a moment and without a compiler."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from blindbuild.assemble.kernel_config import parse_config, render_config
from blindbuild.assemble.kernel_policy import load_policy
from blindbuild.errors import ToolError
from blindbuild.host.process import Completed
from blindbuild.host.sandbox import Bind

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "kernel.config"


class FakeKernelSandbox:
    """Has the signature of `run_in_sandbox`; keeps what it was asked to do.

    Args:
        changes: symbols that this Kconfig sets whatever was asked for.
        compiler_fails: make the compile step fail after it has written objects.
        plant: called with the object tree after each step of make.
    """

    def __init__(
        self,
        *,
        changes: Mapping[str, str] | None = None,
        compiler_fails: bool = False,
        plant: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.changes = dict(changes or {})
        self.compiler_fails = compiler_fails
        self.plant = plant
        self.calls: list[tuple[str, ...]] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(
        self,
        root: Path,
        argv: Sequence[str],
        *,
        binds: Sequence[Bind],
        cwd: str,
        env: Mapping[str, str],
        timeout_s: float | None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        self.calls.append(tuple(argv))
        self.environments.append(env)
        places = {bind.target: bind for bind in binds}
        if argv[0] == "tar":
            self._unpack(places)
        elif argv[-1] == "allnoconfig":
            self._configure(places["/objects"].source)
        else:
            self._compile(places["/objects"].source, on_line)
        if argv[0] == "make":
            self.plant(places["/objects"].source)
        return Completed(b"", b"", 0)

    def _unpack(self, places: Mapping[str, Bind]) -> None:
        if not places["/archive"].source.read_bytes() or not places["/source"].writable:
            raise ToolError("fake tar: nothing to unpack")
        rules = load_policy(debug=True).rules
        symbols = sorted(
            {rule.symbol for rule in rules} | {member for rule in rules for member in rule.members}
        )
        kconfig = "".join(f"config {symbol}\n\tbool\n" for symbol in symbols)
        (places["/source"].source / "Kconfig").write_text(kconfig)

    def _configure(self, objects: Path) -> None:
        asked = parse_config((objects / "asked.config").read_text("ascii"), where="asked")
        base = parse_config(GOLDEN.read_text("ascii"), where="golden")
        resolved = {**base, **asked, **self.changes}
        (objects / ".config").write_text(render_config(resolved), "ascii")

    def _compile(self, objects: Path, on_line: Callable[[str], None] | None) -> None:
        for number in range(120):
            if on_line is not None:
                on_line(f"  CC      kernel/{number}.o")
        (objects / "vmlinux.o").write_text("object")
        if self.compiler_fails:
            raise ToolError("fake make: failed")
        config = (objects / ".config").read_bytes()
        for name in ("arch/x86/boot/bzImage", "System.map", "include/config/kernel.release"):
            (objects / name).parent.mkdir(parents=True, exist_ok=True)
        (objects / "arch/x86/boot/bzImage").write_bytes(b"kernel of " + config)
        (objects / "System.map").write_text("0 T start\n")
        (objects / "include/config/kernel.release").write_text("6.12.0-blindbuild\n")
