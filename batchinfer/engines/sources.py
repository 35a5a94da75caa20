"""The user's code: finding what `module:Class` names, following its imports without running it, importing it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from batchinfer.engines.options import nearest
from batchinfer.errors import ModelError

_MARK = "__batchinfer_source__"
"""Attribute of a module that `load_class` imported: digest of the path and the source that it was imported from."""


class CodeFolder(str):
    """An entry of `sys.path` that `load_class` put there: what lies in it is a job's code, not an installed package."""

    __slots__ = ()


@dataclass(frozen=True)
class Trace:
    """The source that a module is made of, as far as it lies in the job's code folders."""

    modules: dict[str, Path]
    """Source file by module name, packages among them."""
    files: dict[str, Path]
    """The same by path relative to the code folder, with slashes."""
    installed: frozenset[str]
    """Top-level names that are imported from elsewhere: installed packages, apart from the standard library."""


def split(uri: str, where: str) -> tuple[str, str]:
    """Module and class of `module:Class`. Raises ModelError for anything else."""
    module, colon, name = uri.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ModelError(f"{where}: {uri!r} is not of the form module:Class, for example scoring.model:Scorer")
    return module, name


def is_class(uri: str) -> bool:
    """True where a uri has the form `module:Class`, and so names code rather than a file."""
    module, colon, name = uri.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find(module: str, folders: Sequence[str | Path]) -> tuple[Path, Path] | None:
    """Source file of a module and the code folder it was found in; the first folder that has it.

    None where none has.
    """
    for folder in map(Path, folders):
        base = folder.joinpath(*module.split("."))
        for candidate in (base / "__init__.py", base.with_name(base.name + ".py")):
            if candidate.is_file():
                return candidate, folder
    return None


def find_installed(name: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of an installed top-level module or package, found without importing it, never in the current folder.

    The empty entry of `sys.path`, and a first entry that is the current folder (`python -m` puts it there), are left
    out.
    """
    given = [path for path in sys.path if not isinstance(path, CodeFolder)]
    paths = [path for at, path in enumerate(given) if path and (at or Path(path) != Path.cwd())]
    spec = importlib.machinery.PathFinder.find_spec(name, paths)
    # Editable installs and frozen modules have finders of their own, which don't look at sys.path.
    others = (finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder)
    while spec is None and (finder := next(others, None)) is not None:
        spec = finder.find_spec(name, None)
    return spec


def find_source(module: str, code: Sequence[str], where: str) -> tuple[Path | None, Path | None]:
    """Source file of a module and its code folder; no folder where it is installed, no file where it has no source.

    Raises ModelError where it is in neither place.
    """
    found = find(module, code)
    if found is not None:
        return found
    top, *rest = module.split(".")
    spec = find_installed(top)
    if spec is not None:
        if not rest:
            path = Path(spec.origin) if spec.origin else None
            return (path if path is not None and path.suffix == ".py" else None), None
        for folder in map(Path, spec.submodule_search_locations or ()):
            inside = find(".".join(rest), [folder])
            if inside is not None:
                return inside[0], None
            if any(folder.joinpath(*rest[:-1], rest[-1] + suffix).is_file() for suffix in EXTENSION_SUFFIXES):
                return None, None
    folders = ", ".join(code) or "none given"
    raise ModelError(
        f"{where}: there is no module {module} among the installed packages or in the code folders ({folders}); "
        "the folder that holds it goes in the job's `code` list"
    )


def check_class(uri: str, code: Sequence[str], where: str) -> None:
    """Check, without importing, that `module:Class` names a module that exists and a name that it has at its top level.

    Raises ModelError; the name is taken on trust where the module has no source or imports names by `*`.
    """
    module, name = split(uri, where)
    path, _ = find_source(module, code, where)
    if path is None:
        return
    names = set(_top_level_names(_parse(path)))
    if name not in names and not names & {"*", "__getattr__"}:
        raise ModelError(f"{where}: {path} has no {name}; {nearest(name, (n for n in names if not n.startswith('_')))}")


def trace(module: str, code: Sequence[str]) -> Trace:
    """Follow a module's imports through the code folders, wherever in the source they stand, and run nothing.

    Takes in the packages above each module, relative imports, and `import_module` with a literal name; an import whose
    name is computed can't be seen. Raises ModelError for source that doesn't parse.
    """
    modules: dict[str, Path] = {}
    files: dict[str, Path] = {}
    installed: set[str] = set()
    names = [module]
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        package = name.rpartition(".")[0]
        if package:
            names.append(package)
        found = find(name, code)
        if found is None:
            top = name.partition(".")[0]
            if not any(Path(folder, top).is_dir() for folder in code) and find(top, code) is None:
                installed.add(top)
            continue
        path, folder = found
        modules[name] = path
        files[path.relative_to(folder).as_posix()] = path
        inside = name if path.name == "__init__.py" else package
        names.extend(_imports(_parse(path), inside))
    return Trace(modules, files, frozenset(installed - sys.stdlib_module_names))


def load_class(uri: str, code: Sequence[str], where: str) -> type:
    """The class that `module:Class` names, see `load_named`. Raises ModelError where it is none, too."""
    loaded = load_named(uri, code, where)
    if not isinstance(loaded, type):
        raise ModelError(f"{where}: {uri} is no class")
    return loaded


def load_named(uri: str, code: Sequence[str], where: str) -> Any:
    """Import what `module:Class` or `module:function` names, as its source is now.

    The code folders go to the front of `sys.path` and stay there: imports inside the class's methods run long after
    this returns, and `pickle` and `multiprocessing` look modules up again. Modules of the code folders that this
    process imported before from other or older sources are imported anew, so that a notebook which edits its code and
    runs again doesn't run the old one.

    Raises ModelError where the module or what is named in it is missing, importing fails in one of the usual ways (the exception
    is the cause), or the module has the name of an installed one.
    """
    module, name = split(uri, where)
    find_source(module, code, where)
    modules = trace(module, code).modules
    digests = _digests(modules)
    _forget_other_sources(modules, digests, code, where)
    sys.path[:] = [
        *map(CodeFolder, code),
        *(path for path in sys.path if not (isinstance(path, CodeFolder) and path in code)),
    ]
    importlib.invalidate_caches()
    try:
        imported = importlib.import_module(module)
    except (ImportError, SyntaxError, ValueError, AttributeError, NameError, TypeError, OSError, RuntimeError) as error:
        raise ModelError(f"{where}: importing {module} failed: {type(error).__name__}: {error}") from error
    for traced in digests.keys() & sys.modules.keys():
        setattr(sys.modules[traced], _MARK, digests[traced])
    if not hasattr(imported, name):
        raise ModelError(f"{where}: {module} has no {name}")
    return getattr(imported, name)


def _forget_other_sources(
    modules: Mapping[str, Path], digests: Mapping[str, str], code: Sequence[str], where: str
) -> None:
    """Drop modules from `sys.modules`, unless `load_class` imported all of them from just these sources."""
    present = [name for name in digests if name in sys.modules]
    if all(getattr(sys.modules[name], _MARK, None) == digests[name] for name in present):
        return
    for name, path in modules.items():
        top = name.partition(".")[0]
        origin: str | None = getattr(sys.modules.get(top), "__file__", None)
        if origin is not None and not any(Path(origin).is_relative_to(folder) for folder in code):
            spec = find_installed(top)
            if spec is not None and spec.origin == origin:
                raise ModelError(f"{where}: {path} has the name of the installed module {top}: give it another name")
        sys.modules.pop(name, None)
        # Python's cache goes by size and whole seconds, too coarse for a file that was edited just now.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def _digests(modules: Mapping[str, Path]) -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{path}\0".encode() + path.read_bytes()).hexdigest() for name, path in modules.items()
    }


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"{path} is no valid Python: {error}") from error


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names of modules that may be imported; `from a import b` gives a and a.b, of which one may be no module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                name = first.value
                if isinstance(name, str) and name and not name.startswith("."):
                    yield name


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module binds at its top level, also inside `if` and `try`; `*` for a star import."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
        elif isinstance(node, ast.If | ast.Try | ast.With):
            pending.extend(child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node)
