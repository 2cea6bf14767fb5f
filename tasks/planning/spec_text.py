"""The text of a YAML spec: its content, where in the file each part stands, and objections in plain words."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from tasks.planning.errors import SpecError

Location = tuple[int | str, ...]

SECRET = frozenset({"database"})
"""Keys whose value is never repeated in a message: somebody may have written a URL with a password there."""


class SpecText:
    """A YAML document. Raises `SpecError` for what is not YAML, not a mapping, or says a key twice."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        try:
            # An alias can contain itself, or grow without bound; a spec has no use for any.
            alias = next((event for event in yaml.parse(text) if isinstance(event, yaml.AliasEvent)), None)
            if alias is not None:
                line = alias.start_mark.line + 1 if alias.start_mark else 0
                raise SpecError(f"{source}, line {line}: a spec may not use YAML aliases (*name).")
            # Of the safe loader, like the content: no tag makes an object.
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            if self._root is not None:
                self._refuse_repeated(self._root)
            self.content: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SpecError(self._not_yaml(error)) from None
        if not isinstance(self.content, dict):
            raise SpecError(
                f"{source}: a spec is a YAML mapping with name, database and change.",
                remedy="`lockstep schema` prints what a spec may contain.",
            )

    def place(self, location: Sequence[int | str]) -> str:
        """Return ``file, line N`` of a part, or of the nearest part around it that is written down."""
        line = self._line(location)
        return f"{self.source}, line {line}" if line else self.source

    def scalar_line(self, key: str) -> int:
        """Return the line on which the text of a top-level scalar starts: a block's is the one after its ``|``."""
        node = self._value(self._root, key)
        if node is None:
            return 1
        return int(node.start_mark.line) + (2 if getattr(node, "style", None) in ("|", ">") else 1)

    def explain(self, error: ValidationError, model: type[BaseModel]) -> str:
        """Return one line per objection: where, which key, what is wrong and what was probably meant."""
        told: dict[Location, str] = {}
        for item in error.errors(include_url=False, include_context=True):
            path = self._written(item["loc"], item["type"])
            told.setdefault(path, self._sentence(path, dict(item), model))
        # Of a union every member objects: the objection to the innermost part is the useful one.
        outer = {path[:length] for path in told for length in range(len(path))}
        return "\n".join(sentence for path, sentence in told.items() if path not in outer or not path)

    def _sentence(self, path: Location, item: dict[str, Any], model: type[BaseModel]) -> str:
        where = f"{self.place(path)}: " + (f"{'.'.join(map(str, path))}: " if path else "")
        match item["type"]:
            case "extra_forbidden":
                key = str(path[-1])
                parent = f"in {'.'.join(map(str, path[:-1]))}, " if len(path) > 1 else ""
                known = _keys(model, path[:-1])
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
                return f"{self.place(path)}: {parent}unknown key {key!r}; {hint}"
            case "missing":
                return f"{self.place(path[:-1])}: the key {str(path[-1])!r} is missing."
            case "literal_error":
                return f"{where}{_shown(item['input'], path)} is not one of {item['ctx']['expected']}."
            case "value_error":
                return f"{where}{item['ctx']['error']}."
            case "string_type":
                return f"{where}must be text, in quotes where YAML would read something else."
            case "string_too_short":
                return f"{where}must not be empty."
            case "list_type" | "tuple_type" | "too_short":
                return f"{where}must be a list with at least one entry, e.g. [a, b]."
            case "dict_type" | "model_type":
                return f"{where}must be a mapping of keys to values."
            case _:
                return f"{where}{item['msg']}."

    def _written(self, location: Location, kind: str) -> Location:
        """Drop what pydantic adds to a location and nobody wrote, such as the member of a union it tried."""
        path: list[int | str] = []
        node = self._root
        for part in location:
            inner = self._value(node, part)
            if inner is not None:
                path.append(part)
                node = inner
        return (*path, location[-1]) if kind == "missing" else tuple(path)

    def _line(self, location: Sequence[int | str]) -> int | None:
        node, line = self._root, None
        for part in location:
            key = self._key(node, part)
            inner = self._value(node, part)
            if inner is None:
                break
            line = int((key or inner).start_mark.line) + 1
            node = inner
        return line

    @staticmethod
    def _key(node: Any, part: int | str) -> Any:
        if isinstance(node, yaml.MappingNode):
            return next((key for key, _ in node.value if str(key.value) == str(part)), None)
        return None

    @staticmethod
    def _value(node: Any, part: int | str) -> Any:
        if isinstance(node, yaml.MappingNode):
            return next((value for key, value in node.value if str(key.value) == str(part)), None)
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            return node.value[part]
        return None

    def _refuse_repeated(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    raise SpecError(
                        f"{self.source}, line {key.start_mark.line + 1}: the key {key.value!r} is given twice."
                    )
                seen.add(str(key.value))
                self._refuse_repeated(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_repeated(item)

    def _not_yaml(self, error: yaml.YAMLError) -> str:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{self.source}{where}: not YAML: {getattr(error, 'problem', None) or 'it cannot be read'}."


def _shown(value: object, path: Location) -> str:
    text = repr(value)
    return "this value" if SECRET & set(path) or len(text) > 60 else text


def _keys(model: type[BaseModel], path: Location) -> list[str]:
    """Return the keys that the model allows at a place, following mappings, optional parts and unions."""
    current: list[type[BaseModel]] = [model]
    for part in path:
        inner: list[type[BaseModel]] = []
        for candidate in current:
            field = next(
                (field for name, field in candidate.model_fields.items() if part == (field.alias or name)), None
            )
            # A name inside dict[str, Model] is no field: what was found for the dict stays.
            inner += list(_models(field.annotation)) if field is not None else [candidate]
        current = inner
    return [field.alias or name for candidate in current for name, field in candidate.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, dict, tuple):
        for argument in get_args(annotation):
            yield from _models(argument)
