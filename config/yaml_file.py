"""Reading a data file an operator edits: YAML checked by a pydantic model, each problem with its file and line."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from domain.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]


def load_yaml_file(path: Path, schema: type[Model]) -> Model:
    """Read and check the file; raises `ConfigurationError` naming file, line and field of every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from error
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        problems = [_describe(path, root, problem) for problem in error.errors()]
        raise ConfigurationError("\n".join(problems)) from error


def misplaced(problem: str, *location: int | str) -> PydanticCustomError:
    """The error a model's validator raises when it knows better than pydantic where in the file the problem is."""
    return PydanticCustomError("misplaced", "{problem}", {"problem": problem, "location": location})


def _describe(path: Path, root: Any, problem: ErrorDetails) -> str:
    location: Location = (*problem["loc"], *problem.get("ctx", {}).get("location", ()))
    where = ".".join(str(part) for part in location) or "the file"
    return f"{path}:{_line_of(root, location)}: {where}: {problem['msg']}"


def _line_of(node: Any, location: Location) -> int:
    """The line of the deepest YAML node that the location reaches; union tags in it are passed over."""
    line = 1
    for part in location:
        child = _child(node, part)
        if child is not None:
            node = child
            line = node.start_mark.line + 1
    return line


def _child(node: Any, part: int | str) -> Any:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(part)), None)
    return None
