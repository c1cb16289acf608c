"""The reference of the Python API, from signatures and docstrings."""

import ast
import enum
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import msgspec

from docs.generate import prose
from nsbroker import errors

# Methods that other code of nsbroker calls.
_INTERNAL = {"after_fork", "take", "from_process", "from_found"}
_MODULE_OF_CLASS = re.compile(r"\b(?:[a-z_]\w*\.)+([A-Z]\w*)")
_ENUM_DEFAULT = re.compile(r"<\w+\.(\w+): \S+>")


def describe(path: str) -> str:
    """Return the reference of a class, a function or a module, by its dotted name."""
    thing = find(path)
    if isinstance(thing, ModuleType):
        parts = [prose.document(thing.__doc__ or "")]
    elif isinstance(thing, type):
        parts = [prose.document(thing.__doc__ or ""), *_members(thing)]
    else:
        parts = [_signature(path, thing), prose.document(thing.__doc__ or "")]
    return "\n\n".join([f"### {path}", *parts])


def find(path: str) -> Any:
    """Return the object with the dotted name `path`.  Raises AttributeError, ImportError."""
    first, *rest = path.split(".")
    thing: Any = import_module(first)
    for name in rest:
        if isinstance(thing, ModuleType) and not hasattr(thing, name):
            import_module(f"{thing.__name__}.{name}")
        thing = getattr(thing, name)
    return thing


def error_tree() -> str:
    """Return the list of all errors, each below the one that it is a subclass of."""
    return "\n".join(_error_lines(errors.NsbrokerError, 0))


def _error_lines(error: type[Exception], depth: int) -> Iterator[str]:
    below = [each for each in error.__subclasses__() if each.__module__ == errors.__name__]
    if error.__name__.startswith("_"):
        for each in below:
            yield from _error_lines(each, depth)
        return
    fields = getattr(error, "fields", ())
    names = f" ({', '.join(f'`{name}`' for name in fields)})" if fields else ""
    first, _, _ = inspect.cleandoc(error.__doc__ or "").partition("\n\n")
    yield f"{'  ' * depth}- `{error.__name__}`{names}: {prose.line(first)}"
    for each in below:
        yield from _error_lines(each, depth + 1)


def _members(kind: type) -> Iterator[str]:
    if issubclass(kind, enum.Enum):
        yield "Its values are " + ", ".join(f"`{member.value}`" for member in kind) + "."
    init: Any = inspect.getattr_static(kind, "__init__")
    text = init.__doc__ if inspect.isfunction(init) and init.__module__.startswith("nsbroker") else None
    # The others begin with "Use", and say which function to use instead.
    if text and not text.startswith("Use "):
        yield f"{_signature(kind.__name__, init)}\n\n{prose.document(text)}"
    fields = list(_fields(kind))
    if fields:
        yield "\n".join(fields)
    seen: set[str] = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("nsbroker"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or name in seen or name in _INTERNAL or isinstance(value, enum.Enum):
                continue
            seen.add(name)
            bound = getattr(kind, name)
            if isinstance(value, property):
                yield f"#### {kind.__name__}.{name}\n\n{prose.document(value.__doc__ or '')}"
            elif inspect.isroutine(bound):
                yield f"#### {kind.__name__}.{name}\n\n{_signature(name, bound)}\n\n{prose.document(inspect.getdoc(bound) or '')}"


def _fields(kind: type) -> Iterator[str]:
    """Yield the attributes that are annotated in the class, with the text below each, as items of a list."""
    is_record = issubclass(kind, msgspec.Struct | tuple) or hasattr(kind, "__dataclass_fields__")
    [definition] = [node for node in ast.parse(textwrap.dedent(inspect.getsource(kind))).body if isinstance(node, ast.ClassDef)]
    for statement, following in zip(definition.body, [*definition.body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name, text = statement.target.id, ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            text = f": {prose.line(str(following.value.value))}"
        if not name.startswith("_") and (is_record or text):
            yield f"- `{name}: {ast.unparse(statement.annotation)}`{text}"


class _Unquoted(str):
    """An annotation that is written as text, because it names something that is defined later."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _without_quotes(annotation: object) -> object:
    return _Unquoted(annotation) if isinstance(annotation, str) else annotation


def _signature(name: str, function: Callable[..., object]) -> str:
    signature = inspect.signature(function)
    parameters = [
        each.replace(annotation=_without_quotes(each.annotation)) for each in signature.parameters.values() if each.name != "self"
    ]
    returns = _without_quotes(signature.return_annotation)
    text = str(signature.replace(parameters=parameters, return_annotation=returns)).replace("~", "").removesuffix(" -> None")
    text = _ENUM_DEFAULT.sub(r"socket.\1", _MODULE_OF_CLASS.sub(r"\1", text))
    return f"```python\n{name}{text}\n```"
