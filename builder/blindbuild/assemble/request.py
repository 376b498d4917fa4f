"""What to build, and the one digest that says whether it was built already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.lock import Lock, render_lock
from blindbuild.assemble.recipe import Recipe
from blindbuild.digest import Digest

IMAGE_STAGE = "image"
PACKAGE_DIRECTORY = Path(__file__).resolve().parents[1]
SOURCE_SUFFIXES = (".py", ".c", ".h", ".go", ".mod", ".config", ".txt")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build, and how.

    Attributes:
        recipe: from `load_recipe`.
        lock: the lock that belongs to it, already checked.
        debug: an image to look into; its statement says so.
        variant: `product`, or `probe` for the test image whose programs try to break out, or `leaky` for the
            one with every door open, its kernel's too.
        jobs: compilers at once.
        command_line: another command line than the product's, for tests that need another kernel.
        keep_objects: keep the kernel's objects so that such a kernel can be relinked.
    """

    recipe: Recipe
    lock: Lock
    debug: bool = False
    variant: str = "product"
    jobs: int = 2
    keep_objects: bool = False

    @property
    def leaky(self) -> bool:
        """Whether it is the control image, on which every check is seen to fire."""
        return self.variant == "leaky"

    @property
    def version(self) -> str:
        """The version under which the image is stored; what is no product says so in it."""
        suffixes = (["debug"] if self.debug else []) + ([self.variant] if self.variant != "product" else [])
        return self.recipe.version + "".join(f"+{suffix}" for suffix in suffixes)

    def components(self) -> dict[str, Digest]:
        """The digests of everything that decides about the image's bytes, by a name for people."""
        return {
            "the recipe or a file it names": self.recipe.checksum,
            "the lock": Digest.sha256(render_lock(self.lock)),
            "blindbuild itself": hash_sources(PACKAGE_DIRECTORY),
            "the kind of image": Digest.sha256(f"debug={self.debug} variant={self.variant}".encode()),
        }

    def key(self) -> Digest:
        """One digest over all components."""
        lines = (f"{name} {digest}\n" for name, digest in sorted(self.components().items()))
        return Digest.sha256("".join(lines).encode())


def hash_sources(directory: Path) -> Digest:
    """Hash every source file below a directory, by relative path and content."""
    paths = sorted(path for path in directory.rglob("*") if path.suffix in SOURCE_SUFFIXES)
    lines = (f"{path.relative_to(directory)} {Digest.sha256(path.read_bytes())}\n" for path in paths)
    return Digest.sha256("".join(lines).encode())
