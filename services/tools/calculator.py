"""The tool `calculator`: simpleeval, narrowed to exact arithmetic on numbers of bounded size."""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from simpleeval import FeatureNotAvailable, InvalidExpression, SimpleEval

MAX_CHARS = 500
MAX_DIGITS = 1_000
MAX_BITS = 14_000
"""Of any number on the way to the result: each step then takes less than a millisecond, and Python still writes it."""

Number = Fraction | float
"""Fractions are exact; functions such as `sqrt` give floats."""


def _round(value: Any, digits: Any = 0) -> Any:
    if not -MAX_DIGITS <= digits <= MAX_DIGITS or digits != int(digits):
        raise ValueError(f"round takes a whole number of digits, at most {MAX_DIGITS}")
    return round(value, int(digits))


NAMES = {"pi": math.pi, "e": math.e}
SPELLINGS = str.maketrans(
    {"×": "*", "⋅": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "²": "**2", "³": "**3", "π": "pi"}
    | dict.fromkeys("\u00a0\u2009\u202f", "")
)
PERCENT = re.compile(r"(\d(?:[\d.]*\d)?)\s*%(?!\s*[\d(])")
PERCENT_OF = re.compile(r"%\s*(?:of|de la|de l'|de|du|des|d')\s+(?=[\d(])", re.IGNORECASE)
THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}\b)")
DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
FUNCTION_CALL = re.compile(r"[a-z]\w*\s*\(")


def create_calculator() -> BaseTool:
    """The tool as models are shown it."""

    async def calculate(
        expression: Annotated[str, "An expression such as `(12.5 + 3) * 4`, `sqrt(2)`, `2 ** 10`, `20% * 45`."],
    ) -> str:
        """Computes an arithmetic expression exactly. Use it for every calculation."""
        return evaluate(expression)

    return StructuredTool.from_function(
        coroutine=calculate, name="calculator", handle_tool_error=True, metadata={"asked_by": r"\d"}
    )


def evaluate(expression: str) -> str:
    """The expression's value. Raises `ToolException` saying what is wrong with it, for the model to read."""
    if len(expression) > MAX_CHARS:
        raise ToolException(f"the expression has {len(expression)} characters; at most {MAX_CHARS}")
    try:
        text = _as_python(expression)
        return _written(_bounded(_Arithmetic().eval(text, previously_parsed=_parsed(text))))
    except ZeroDivisionError:
        raise ToolException(f"{expression!r} divides by zero") from None
    except SyntaxError as error:
        raise ToolException(f"{expression!r} cannot be read: {error.msg}") from None
    except InvalidExpression:
        known = ", ".join((*FUNCTIONS, *NAMES))
        problem = f"only numbers, + - * / // % ** and parentheses are known, and {known}"
        raise ToolException(f"{expression!r} cannot be computed: {problem}") from None
    except (TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ToolException(f"{expression!r} cannot be computed: {error}") from None


def _as_python(expression: str) -> str:
    """As people write it: × and ÷, ^ for a power, per cent, and a decimal comma where no function takes arguments."""
    text = expression.strip().rstrip("= ").translate(SPELLINGS)
    text = PERCENT_OF.sub("% * ", THOUSANDS.sub("", text))
    if not FUNCTION_CALL.search(text):
        text = DECIMAL_COMMA.sub(".", text)
    return PERCENT.sub(r"(\1/100)", text)


def _parsed(text: str) -> ast.expr:
    """One expression, not a program."""
    with warnings.catch_warnings():
        # Python's opinions of a model's spelling are nobody's concern.
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


class _Arithmetic(SimpleEval):  # type: ignore[misc]  # It carries no types.
    """Of simpleeval's Python only numbers, operators, names and calls are left; strings and attributes are not known.

    Its own operators bound one operand at a time: `3999999 ** 3999999` would go on for hours. Ours bound the result.
    """

    def __init__(self) -> None:
        super().__init__(operators=OPERATORS, functions=FUNCTIONS, names=NAMES)
        known: Any = vars(self)["nodes"]
        kept = (ast.Name, ast.UnaryOp, ast.BinOp, ast.Call)
        self.nodes = {kind: known[kind] for kind in kept} | {ast.Constant: _number}


def _number(node: ast.Constant) -> Fraction:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise FeatureNotAvailable("only numbers")
    return _exact(node.value)


def _exact(value: float) -> Fraction:
    """0.1 is a tenth, as it was written."""
    return Fraction(repr(value))


def _in_bounds(work: Callable[..., Any]) -> Callable[..., Number]:
    """The same operation or function, on the way to a result of which each step is small."""

    def bounded(*operands: Any) -> Number:
        value = work(*operands)
        return _bounded(Fraction(value) if isinstance(value, int) else value)

    return bounded


def _power(base: Number, exponent: Number) -> Any:
    if not isinstance(base, Fraction) or not isinstance(exponent, Fraction) or exponent.denominator != 1:
        return float(base) ** float(exponent)
    if _bits(base) * abs(exponent) > MAX_BITS:
        raise OverflowError("the power is too large")
    return base**exponent


def _bounded(value: Any) -> Number:
    if isinstance(value, Fraction) and _bits(value) > MAX_BITS:
        raise OverflowError("a number on the way is too large")
    if not isinstance(value, Fraction | float):
        # Complex, such as (-8) ** 0.5.
        raise ValueError("the result is not a real number")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _written(value: Number) -> str:
    """Whole numbers with all their digits, others with the 15 that are certain: 0.1 + 0.2 is 0.3."""
    if isinstance(value, Fraction) and value.denominator == 1:
        digits = str(value.numerator)
        if len(digits.lstrip("-")) > MAX_DIGITS:
            raise OverflowError(f"it has more than {MAX_DIGITS} digits")
        return digits
    number = float(value)
    if not math.isfinite(number) or (value and not number):
        raise OverflowError("it is too large or too small")
    return f"{number + 0.0:.15g}"


OPERATORS: Mapping[type[ast.AST], Callable[..., Number]] = {
    ast.Add: _in_bounds(operator.add),
    ast.Sub: _in_bounds(operator.sub),
    ast.Mult: _in_bounds(operator.mul),
    ast.Div: _in_bounds(operator.truediv),
    ast.FloorDiv: _in_bounds(operator.floordiv),
    ast.Mod: _in_bounds(operator.mod),
    ast.Pow: _in_bounds(_power),
    ast.USub: _in_bounds(operator.neg),
    ast.UAdd: _in_bounds(operator.pos),
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "floor": math.floor,
    "log": math.log,
    "log10": math.log10,
    "max": max,
    "min": min,
    "round": _round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
FUNCTIONS: Mapping[str, Callable[..., Number]] = {name: _in_bounds(work) for name, work in _FUNCTIONS.items()}
