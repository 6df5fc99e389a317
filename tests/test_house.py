"""What the house promises of its own files."""

import ast
import re
from pathlib import Path

from config.settings import Settings

ROOT = Path(__file__).parent.parent


def test_the_example_environment_names_every_setting_with_its_default_and_nothing_else() -> None:
    shown = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    fields = {_variable(name): field.default for name, field in Settings.model_fields.items()}
    assert shown.keys() == fields.keys()
    for name, default in fields.items():
        if isinstance(default, int | float) and shown[name]:
            assert float(shown[name]) == float(default), name
        elif isinstance(default, str) and shown[name]:
            assert shown[name] == default, name
        elif default in (None, ()):
            assert shown[name] == "", name


def test_requirements_are_exact_hashed_and_name_no_index() -> None:
    for file in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / file).read_text()
        entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE | re.IGNORECASE)
        for entry in filter(str.strip, entries):
            assert re.match(r"[\w.\[\]-]+==\S+", entry), entry
            assert "--hash=sha256:" in entry, entry
        assert not re.search(r"https?://|file://|^--?(i|f|extra|index|find)", text, re.MULTILINE)


def test_every_error_is_drawn_in_the_tree_and_has_its_own_code() -> None:
    module = ast.parse((ROOT / "domain" / "errors.py").read_text())
    drawing = ast.get_docstring(module) or ""
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    codes = []
    for node in classes:
        assert node.name in drawing, f"{node.name} is missing from the tree"
        codes += [
            statement.value.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id == "code"
            and isinstance(statement.value, ast.Constant)
        ]
    assert (
        len(codes)
        == len(set(codes))
        == len([n for n in classes if n.name not in {"RouteurError", "ConfigurationError"}])
    )


def test_no_test_module_shares_its_name_with_another() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in {"conftest.py", "__init__.py"}]
    assert len(names) == len(set(names))


def _variable(field: str) -> str:
    """The environment's name of a setting."""
    return field.upper()
