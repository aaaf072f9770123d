"""Another commit of the current git repository as the base of a comparison: a worktree of it, and an environment for it.

The environment is this interpreter's. Folders of the repository from which it imports, such as those of editable installs, are
replaced by the same folders of the worktree, which come first on the path. Files that git ignores are not in a worktree.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipbench import errors, external, traces
from lipbench.run.against import Side
from lipbench.store.files import write_json

ORIGINS = """
import importlib.util, json, sys
def origin(name):
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
sys.path.append("")
print(json.dumps([place for name in sys.argv[1:] for place in origin(name)]))
"""
"""prints where modules would be imported from; no top-level module is run for that"""


@dataclass(frozen=True)
class Repository:
    """The git repository of the current folder."""

    root: Path

    @classmethod
    def here(cls) -> Repository:
        """That of the current folder. Raises `LipbenchError` if it is in none."""
        return cls(Path(_git(Path(), "rev-parse", "--show-toplevel")))

    def commit(self, ref: str) -> str:
        """The commit of a branch, tag or other name. Raises `LipbenchError` for an unknown one."""
        return _git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", what=ref)

    def checked_out(self) -> str:
        """The commit that is checked out, followed by "+" if tracked files differ from it."""
        changed = _git(self.root, "status", "--porcelain", "--untracked-files=no")
        return self.commit("HEAD") + ("+" if changed else "")

    @contextlib.contextmanager
    def worktree(self, commit: str, path: Path) -> Iterator[Path]:
        """A worktree of a commit at a path, which is removed after the block."""
        if str(path) in _git(self.root, "worktree", "list", "--porcelain"):
            self._remove(path)  # of a killed run
        _git(self.root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--force", "--detach", str(path), commit)
        try:
            yield path
        finally:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(errors.LipbenchError):
            _git(self.root, "worktree", "remove", "--force", str(path))

    def within(self, path: str | Path, worktree: Path) -> Path | None:
        """The path in the worktree that a path in this repository stands for; None outside."""
        found = Path(os.path.abspath(path))
        return worktree / found.relative_to(self.root) if found.is_relative_to(self.root) else None


def side(repository: Repository, worktree: Path, directory: Path, arguments: Sequence[str], names: Sequence[str]) -> Side:
    """The base: what the head's interpreter measures with the worktree in place of the repository.

    `names` are those of the measured layers and networks, which `arguments` contain. Raises `LipbenchError` if neither they nor
    lipbench are part of the repository: both versions would be the same.
    """
    folder = repository.within(Path.cwd(), worktree)
    known = [place for entry in imported_from() if (place := repository.within(entry, worktree)) and place.is_dir()]
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys([*map(str, known), *inherited]))
    text = tuple(_moved(one, repository, worktree) for one in arguments)
    found = Side(
        "base", directory, text, folder=folder if folder and folder.is_dir() else worktree,
        environment={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    places = [external.parse(name).place for name in names if external.is_external(name)]
    files = [place for place in places if place.endswith(".py") and repository.within(place, worktree)]
    modules = ["lipbench", *(place.partition(".")[0] for place in places if not place.endswith(".py"))]
    if not files and not any(Path(place).is_relative_to(worktree) for place in _origins(found, modules)):
        raise errors.nothing_of_the_commit(repository.root)
    return found


def imported_from() -> Iterator[str]:
    """Folders from which this process imports, apart from that of the script or the current one; also those of packages that
    setuptools has installed as editable."""
    yield from sys.path[0 if sys.flags.safe_path else 1 :]
    for finder in sys.meta_path:
        module = sys.modules.get(getattr(finder, "__module__", ""))
        if getattr(module, "__name__", "").startswith("__editable__"):
            yield from (os.path.dirname(place) for place in getattr(module, "MAPPING", {}).values())


def _moved(text: str, repository: Repository, worktree: Path) -> str:
    """A text with absolute paths of the repository replaced by those of the worktree."""
    return text.replace(f"{repository.root}{os.sep}", f"{worktree}{os.sep}")


def _origins(found: Side, modules: Sequence[str]) -> list[str]:
    done = subprocess.run(
        [found.python, "-c", ORIGINS, *modules], cwd=found.folder, env=found.variables, capture_output=True, text=True
    )
    return [os.path.abspath(found.folder / place) for place in json.loads(done.stdout)] if done.returncode == 0 else []


def same_base(folder: Path, base: str, head: str = "") -> None:
    """Note in the folder of both runs what base and head are. A resumed run may have another head, which is then unknown.

    Raises `LipbenchError` if a resumed run had another base.
    """
    note = folder / "against.json"
    if not note.exists():
        write_json(note, {"base": base, "head": head})
        return
    try:
        noted = json.loads(note.read_text())
        before, earlier = str(noted["base"]), str(noted.get("head", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.unreadable_file(note, traces.message(error)) from error
    if before != base:
        raise errors.another_base(folder, before, base)
    if earlier not in ("", head):
        write_json(note, {"base": base, "head": ""})


def _git(folder: Path, *arguments: str, what: str = "") -> str:
    """What git prints. Raises `LipbenchError` where it fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise errors.git_failed("git", error.strerror or str(error)) from error
    if done.returncode:
        why = traces.last_line(done.stderr) or "no such commit"
        raise errors.git_failed(what or "git " + arguments[0], why)
    return done.stdout.strip()
