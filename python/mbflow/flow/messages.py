"""What a value of the wrong kind is told: what was expected, and what was found.

Example:
    >>> from mbflow.flow.messages import explain
    >>> explain("int_parsing", {}, "five", "")
    'expected a whole number, found `five`'
"""

from __future__ import annotations

from typing import Any

from mbflow.flow.document import nearest

__all__ = ["counted", "explain", "shown"]

_NAME = "a name of lower-case letters, digits, - and _, starting with a letter, at most 64 long"

# By pydantic's kind of error; `{...}` is filled in from the error's context.
_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "at least {min_length} characters",
    "string_pattern_mismatch": "text like {pattern}",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}


def explain(kind: str, context: dict[str, Any], found: Any, otherwise: str) -> str:
    """One line about one problem that pydantic found.

    Args:
        kind: Pydantic's type of the error.
        context: Its context: limits, choices, patterns.
        found: The value.
        otherwise: Pydantic's own words, for kinds that are not known here.

    Example:
        >>> from mbflow.flow.messages import explain
        >>> explain("less_than_equal", {"le": 1.0}, 2, "")
        'expected at most 1.0, found 2'
    """
    if kind == "too_short":
        return "expected at least one, found none"
    if kind == "too_long":
        return f"expected at most {context['max_length']} entries, found more"
    if kind == "value_error":
        return str(context["error"])
    if kind not in _EXPECTED:
        return otherwise[:1].lower() + otherwise[1:]
    expected = _EXPECTED[kind].format(**context)
    if kind == "string_pattern_mismatch" and "a-z0-9_-" in context["pattern"]:
        expected = _NAME
    if kind == "string_too_short" and context["min_length"] == 1:
        expected = "at least 1 character"
    hint = ""
    if kind in {"literal_error", "enum"}:
        expected = expected.replace("'", "`")
        hint = _hint(expected, found)
    return f"expected {expected}, found {shown(found)}{hint}"


def _hint(expected: str, found: Any) -> str:
    """The choice that was probably meant."""
    names = [name.strip("`") for name in expected.replace(" or ", ", ").split(", ")]
    if not isinstance(found, str) or len(names) == 1:
        return ""
    hint = nearest(found, names).partition(" known:")[0]
    return f"; {hint}" if hint.startswith("did") else ""


def shown(value: Any) -> str:
    """A value as a person would name it.

    Example:
        >>> from mbflow.flow.messages import shown
        >>> shown(None), shown(True), shown([1]), shown("a"), shown(1.5)
        ('nothing', 'true', 'a list', '`a`', '1.5')
    """
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return f"`{value[:60]}{'...' if len(value) > 60 else ''}`"
        case dict():
            return "a map"
        case list():
            return "a list"
        case _:
            return str(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> from mbflow.flow.messages import counted
        >>> counted(1, "input"), counted(2, "input")
        ('1 input', '2 inputs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
