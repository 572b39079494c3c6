"""Rules that the source code keeps: which room may import which, and the shape of functions."""

import ast
import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "divprune_hf"
# What each room of the package may import of the others: rooms, or single modules of a room.
ARROWS = {
    "common": set(),
    "remote_code": set(),
    "checkpoints": {"common", "remote_code"},
    "cards": {"common", "remote_code", "checkpoints"},
    "publishing": {"common", "remote_code", "checkpoints", "cards"},
    "inference": {"common", "remote_code", "checkpoints"},
    "evaluation": {"common", "remote_code", "inference", "cards.flops"},
    "engines": {"common", "remote_code", "checkpoints", "inference", "evaluation"},
    "benchmarks": {
        *("common", "remote_code", "inference", "registration"),
        *("cards.flops", "checkpoints.families", "publishing.convert"),
    },
    "cli": {path.stem for path in PACKAGE.iterdir()},
    "registration": {"checkpoints.families", "remote_code"},
    "version": set(),
    "__init__": {"remote_code", "checkpoints", "publishing", "inference", "registration"},
}
FOREIGN = {*sys.stdlib_module_names, "torch", "transformers", "PIL"}
GUARDED = {"triton", "torchvision"}  # imported only where a missing one is caught
MOST_PARAMETERS = 6
MORE_PARAMETERS = {
    "DivPruneProcessorMixin.__init__": "transformers reads the parts of a processor off the signature",
    "DivPruneLlavaNextVideoProcessor.__init__": "transformers reads the parts of a processor off the signature",
    "DivPruneLlavaOnevisionProcessor.__init__": "transformers reads the parts of a processor off the signature",
    "distances_program": "a Triton program takes every tensor and size by position",
    "max_min_program": "a Triton program takes every tensor and size by position",
}

SOURCES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES[Path("cli/console.py")] = ast.parse((ROOT / "src" / "divprune_hf_console.py").read_text())
TESTS = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}


def room_of(path):
    """The room that a file is in; a file beside the rooms is one by itself."""
    return path.parts[0].removesuffix(".py")


def imports_of(tree):
    """Yield (level, module, names) of every import in a file, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)


def modules_of(tree):
    """Yield the modules of this package that a file imports, without `divprune_hf.`; `""` is the package itself."""
    for _, module, names in imports_of(tree):
        if module.split(".")[0] == "divprune_hf":
            inner = module.removeprefix("divprune_hf").removeprefix(".")
            is_room = inner and (PACKAGE / inner.replace(".", "/")).is_dir()
            yield from (f"{inner}.{name}" for name in names) if is_room else [inner]


def functions_of(tree, scope=""):
    """Yield (qualified name, function) of every function in a file."""
    for node in ast.iter_child_nodes(tree):
        name = f"{scope}{node.name}" if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) else ""
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield name or f"{scope}lambda", node
        yield from functions_of(node, f"{name}." if name else scope)


def test_the_table_lists_every_room():
    assert set(map(room_of, SOURCES)) == set(ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_what_the_table_allows(room):
    allowed = {room, "version", *ARROWS[room]}
    wrong = [
        f"{path} imports divprune_hf.{module}"
        for path, tree in SOURCES.items()
        for module in modules_of(tree)
        if path.parts[0].removesuffix(".py") == room
        and not any(f"{module}.".startswith(f"{name}.") for name in allowed)
    ]
    assert wrong == []


def test_nothing_imports_the_package_itself():
    assert [str(path) for path, tree in SOURCES.items() if "" in modules_of(tree)] == []


def test_remote_code_imports_siblings_and_the_others_full_names():
    siblings = {path.stem for path in SOURCES if room_of(path) == "remote_code"}
    relative = [(path, *found) for path, tree in SOURCES.items() for found in imports_of(tree) if found[0]]
    assert [
        f"{path}: from {'.' * level}{module} import {', '.join(names)}"
        for path, level, module, names in relative
        if room_of(path) != "remote_code" or level > 1 or module not in siblings
    ] == []


def test_remote_code_needs_only_torch_transformers_and_pillow():
    wrong = []
    for path, tree in SOURCES.items():
        if room_of(path) == "remote_code":
            tried = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
            guarded = {found for node in tried for inner in node.body for found in imports_of(inner)}
            allowed = FOREIGN | {module.split(".")[0] for _, module, _ in guarded} & GUARDED
            absolute = {module for level, module, _ in imports_of(tree) if not level}
            wrong += [f"{path} imports {module}" for module in absolute if module.split(".")[0] not in allowed]
    assert wrong == []


def test_functions_have_few_positional_parameters():
    many = set()
    for tree in SOURCES.values():
        for name, function in functions_of(tree):
            names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
            if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_PARAMETERS:
                many.add(name)
    assert many == set(MORE_PARAMETERS)


def test_names_of_attributes_are_not_put_together():
    nodes = [(path, node) for path, tree in SOURCES.items() for node in ast.walk(tree)]
    calls = [(path, node) for path, node in nodes if isinstance(node, ast.Call) and len(node.args) > 1]
    built = [f"{path}: {ast.unparse(call)}" for path, call in calls if isinstance(call.args[1], ast.JoinedStr)]
    assert [call for call in built if re.search(r": (get|set|has|del)attr\(", call)] == []


def test_no_test_imports_another():
    imports = [(path.name, *found) for path, tree in TESTS.items() for found in imports_of(tree)]
    parts = [(name, part) for name, _, module, names in imports for part in (*module.split("."), *names)]
    assert [f"{name} imports {part}" for name, part in parts if part.startswith("test_")] == []
