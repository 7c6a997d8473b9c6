"""No module writes a file in place: all go through `imaging.atomic`, or into a temporary folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import loupe

SOURCE = Path(loupe.__file__).parent
WRITING_METHODS = frozenset((
    "write_text", "write_bytes", "to_parquet", "to_json", "to_csv", "to_pickle", "to_html", "savefig", "save",
    "savez", "savez_compressed", "savetxt", "tofile", "write_table", "ParquetWriter", "pngsave", "jpegsave",
    "tiffsave", "write_to_file", "copyfile", "copy2", "copytree", "move", "rename", "renames", "link", "symlink",
    "hardlink_to", "symlink_to", "touch", "mkstemp", "NamedTemporaryFile",
))  # fmt: skip
# Blocks that yield a temporary path.
BLOCKS = frozenset(
    ("write_atomically", "create_partial", "create_file", "TemporaryDirectory", "_create_temporary_file")
)
# Functions that write to a path of their caller, which is temporary, or a file that needs no final state.
ALLOWED = {
    "imaging/atomic.py": None,  # the one place
    "imaging/writer.py": "write_photo calls its functions with a temporary path",
    "imaging/avif.py": "as imaging/writer.py",
    "imaging/gif.py": "as imaging/writer.py",
    "cli/streams.py:write": "opens /dev/null",
    "data/download.py:_append": "continues an incomplete file, which gets its final name in `download`",
    "tracking/photo_model.py:_upscale": "receives its folder, a temporary one",
    "models/onnx_export.py:_convert": "register calls it with a path in a temporary folder",
    "imaging/file_locks.py:lock_file": "a lock file without content",
}


def get_name(node: ast.expr) -> str:
    """Return the last part of a function's name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_write(call: ast.Call) -> bool:
    """Whether a call writes to a file."""
    name = get_name(call.func)
    if name == "open":
        position = 1 if isinstance(call.func, ast.Name) else 0
        modes = [*call.args[position : position + 1], *(word.value for word in call.keywords if word.arg == "mode")]
        constants = (
            part for mode in modes for part in ([mode.body, mode.orelse] if isinstance(mode, ast.IfExp) else [mode])
        )
        return any(isinstance(part, ast.Constant) and set(str(part.value)) & set("wax+") for part in constants)
    if name == "replace":  # of a path; that of a text has two arguments
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    return name in WRITING_METHODS and bool(call.args or call.keywords)


def find_writes(text: str) -> Iterator[tuple[str, int]]:
    """Yield the function and line of each call that writes to a file that is not temporary."""

    def visit(node: ast.AST, function: str, in_block: bool, streams: frozenset[str]) -> Iterator[tuple[str, int]]:
        if isinstance(node, ast.FunctionDef):
            function, in_block = node.name, False
            streams = frozenset(
                name.id
                for part in ast.walk(node)
                if isinstance(part, ast.Assign) and "BytesIO" in ast.unparse(part.value)
                for target in part.targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name)
            )
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            in_block = in_block or any(get_name(call.func) in BLOCKS for call in calls)
        if isinstance(node, ast.Call) and is_write(node) and not in_block:
            in_memory = any(isinstance(word, ast.Name) and word.id in streams for word in node.args)
            yield from () if in_memory else ((function, node.lineno),)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, in_block, streams)

    yield from visit(ast.parse(text), "", False, frozenset())


def test_every_file_is_written_under_a_temporary_name() -> None:
    found, used = [], set()
    for file in sorted(SOURCE.rglob("*.py")):
        module = file.relative_to(SOURCE).as_posix()
        for function, line in find_writes(file.read_text(encoding="utf-8")):
            keys = {module, f"{module}:{function}"} & ALLOWED.keys()
            used |= keys
            if not keys:
                found.append(f"{module}:{line} in {function}")
    assert not found, "write these with imaging.atomic.write_file or write_atomically"
    assert used == ALLOWED.keys(), "remove the exceptions that nothing needs"


def test_text_files_are_read_and_written_as_utf_8() -> None:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_text = isinstance(node, ast.Call) and get_name(node.func) in ("read_text", "write_text")
            if is_text and "encoding" not in {word.arg for word in node.keywords}:
                found.append(f"{file.relative_to(SOURCE)}:{node.lineno}")
    assert not found, "the locale of the process would decide"


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')", "path.open('ab')", "path.write_text(text)", "path.write_bytes(data)",
        "np.save(path, array)",
        "figure.savefig(path)", "table.to_parquet(path)", "part.rename(path)", "part.replace(path)",
        "with open(path, mode='x') as stream: pass",
    ],
)  # fmt: skip
def test_a_direct_write_is_found(line: str) -> None:
    assert list(find_writes(f"def work():\n    {line}\n")) == [("work", 2)]


@pytest.mark.parametrize(
    "line",
    [
        "open(path)", "path.open('rb')", "text.replace('a', 'b')",
        "with write_atomically(path) as partial: partial.write_text(text)",
        "with TemporaryDirectory() as folder: np.save(folder, array)",
        "stream = io.BytesIO(); np.save(stream, array)",
    ],
)  # fmt: skip
def test_a_read_or_a_temporary_file_is_not_a_direct_write(line: str) -> None:
    assert not list(find_writes(f"def work():\n    {line}\n"))
