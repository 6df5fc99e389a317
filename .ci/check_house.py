"""House rules no linter knows: sizes of files and functions, and who may read the environment."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
TREES = ("app.py", "api", "graphs", "services", "core", "config", "domain", "benchmarks", "tests")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
READER_OF_THE_ENVIRONMENT = Path("config/settings.py")
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def main() -> int:
    """Print every breach, a line each."""
    breaches = [breach for path in _files() for breach in _breaches(path)]
    print("\n".join(breaches) or "house rules hold")
    return 1 if breaches else 0


def _files() -> Iterator[Path]:
    for tree in TREES:
        path = ROOT / tree
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _breaches(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT)
    text = path.read_text(encoding="utf-8")
    if (lines := text.count("\n")) > MAX_FILE_LINES:
        yield f"{name}: {lines} lines; stop at {MAX_FILE_LINES}"
    is_test = name.parts[0] == "tests"
    for node in ast.walk(ast.parse(text, str(name))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines; stop at {MAX_FUNCTION_LINES}"
        elif not is_test and name != READER_OF_THE_ENVIRONMENT and _reads_environment(node):
            yield f"{name}:{node.lineno}: only {READER_OF_THE_ENVIRONMENT} reads the environment"


def _reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in ENVIRONMENT and isinstance(node.value, ast.Name) and node.value.id == "os"
    return isinstance(node, ast.ImportFrom) and node.module == "os" and any(a.name in ENVIRONMENT for a in node.names)


if __name__ == "__main__":
    sys.exit(main())
