"""YAML + profile + --set -> JobSpec. Each value knows its file and line, and all problems are told.

    spec file      WHAT runs
    --profile P    WHERE it runs: only resources, tracking, storage, retry, checkpoint, address
    --set a.b=c    one value, parsed as YAML, the last word

Scalars are read as YAML 1.2 does: `1e-3` is a number, `no` and `12:30` are strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.errors import ConfigError, did_you_mean
from orchestrator.spec import JobSpec

__all__ = ["Loaded", "Source", "explain", "from_dict", "load"]

KeyPath = tuple[str, ...]

PROFILE_KEYS = ("resources", "tracking", "storage", "retry", "checkpoint", "address")
_MAX_VALUES = 100_000


@dataclass
class Source:
    """Where each value of a spec was written."""

    file: str
    marks: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: Sequence[object]) -> str:
        """`file:line` or the flag that set the value at `path`, or the closest one around it."""
        key = tuple(str(part) for part in path)
        while key:
            if key in self.marks:
                return self.marks[key]
            key = key[:-1]
        return self.marks.get((), self.file)


@dataclass(frozen=True)
class Loaded:
    """A valid spec and where its values were written; `address` when a profile names a cluster."""

    spec: JobSpec
    source: Source
    address: str | None = None


def load(
    path: str | Path, *, profile: str | Path | None = None, overrides: Sequence[str] = ()
) -> Loaded:
    """Read a spec, lay a profile and `--set` values over it, and validate.

    Raises ConfigError with one line for each problem.
    """
    problems: list[str] = []
    data, marks = _read_mapping(Path(path), problems)
    source = Source(str(path), marks)
    address = None
    if profile is not None:
        over, over_marks = _read_mapping(Path(profile), problems)
        address = _check_profile(over, over_marks, str(profile), problems)
        _merge(data, over, (), source.marks, over_marks)
    for override in overrides:
        _override(data, override, source, problems)
    return Loaded(_validate(data, source, problems), source, address)


def from_dict(data: dict[str, Any], where: str, flags: Mapping[str, str] | None = None) -> Loaded:
    """A spec built from a command line. Errors name `where`, or the flag of a key in `flags`."""
    marks = {tuple(key.split(".")): flag for key, flag in (flags or {}).items()}
    source = Source(where, marks)
    return Loaded(_validate(data, source, []), source)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    data: Any,
    source: Source,
    prefix: KeyPath = (),
) -> list[str]:
    """The problems pydantic found in `data`, one line each with place and suggestion.

    Args:
        prefix: path of `data` within the spec, such as `("params",)`.
    """
    lines: dict[str, None] = {}
    for item in error.errors(include_url=False):
        kind, loc = item["type"], item["loc"]
        path = prefix + _written_path(loc, data, missing=kind == "missing")
        dotted = ".".join(path)
        if kind == "extra_forbidden":
            known = _known_keys(model, loc[:-1])
            text = f"unknown key '{dotted}'{_suggest(str(loc[-1]), known)}"
        elif kind == "missing":
            text = f"missing key '{dotted}'; it has no default."
        elif kind == "value_error":
            reason = str(item["ctx"]["error"]) if "ctx" in item else item["msg"]
            text = f"{dotted}: {reason}" if dotted else reason
            text = text if text.endswith((".", "?")) else text + "."
        elif kind == "union_tag_not_found":
            tag = item["ctx"]["discriminator"].strip("'")
            text = f"missing key '{dotted}.{tag}'; it decides which other keys there are."
        elif kind == "union_tag_invalid":
            tag = item["ctx"]["discriminator"].strip("'")
            path = (*path, tag)
            options = re.findall(r"'([^']*)'", item["ctx"]["expected_tags"])
            close = did_you_mean(item["ctx"]["tag"], options)
            hint = f" Hint: did you mean '{close}'?" if close else ""
            text = (
                f"{dotted}.{tag}: got the text {item['ctx']['tag']!r}; expected "
                f"{' or '.join(map(repr, options))}.{hint}"
            )
        elif kind in {"literal_error", "enum"}:
            options = re.findall(r"'([^']*)'", item["ctx"]["expected"])
            close = did_you_mean(str(item["input"]), options)
            hint = f" Hint: did you mean '{close}'?" if close else ""
            text = (
                f"{dotted}: got {_show(item['input'])}; expected {item['ctx']['expected']}.{hint}"
            )
        else:
            text = f"{dotted}: got {_show(item['input'])}; {_expected(kind, item['msg'])}."
        where = source.where(path)
        # `--set seed: seed: got ...` would say it twice.
        text = text.removeprefix(f"{dotted}: ") if where == f"--set {dotted}" else text
        lines[f"{where}: {text}"] = None
    return list(lines)


def _validate(data: dict[str, Any], source: Source, problems: list[str]) -> JobSpec:
    spec = None
    try:
        # Through JSON, where a strict model still takes a list for a tuple and text for a path.
        spec = JobSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems.extend(explain(error, JobSpec, data, source))
    if problems or spec is None:
        # Loading stops here, so the job's own parameters are looked at now: one round, all told.
        from orchestrator.plan import params_problems

        problems.extend(params_problems(data.get("job"), data.get("params"), source))
        raise ConfigError(sorted(dict.fromkeys(problems), key=by_line))
    return spec


# YAML with places


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `1e-3` is a float, only true and false are booleans, no dates."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), None)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), None
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), None
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    None,
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), None)


def _read_mapping(path: Path, problems: list[str]) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such file; expected a YAML file.{_near(path)}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason}; expected YAML.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; expected YAML.") from None
    node = _compose(text, str(path))
    if node is None:
        raise ConfigError(f"{path}: is empty; expected keys such as version, name, job, params.")
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise ConfigError(f"{path}:{line}: is {_kind(node)} at the top level; expected keys.")
    reader = _Reader(str(path), problems)
    value = reader.build(node, ())
    return value, reader.marks


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        hint = " Hint: indent with spaces." if "\\t" in str(error.problem) else ""
        raise ConfigError(
            f"{place}: is not YAML: {error.problem or error.context}.{hint}"
        ) from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where}: is not YAML: {reason}.") from None


class _Reader:
    """Turns nodes into plain data and notes the line of each key."""

    def __init__(self, file: str, problems: list[str]) -> None:
        self.file = file
        self.problems = problems
        self.marks: dict[KeyPath, str] = {}
        self._constructor = _Loader("")
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        where = f"{self.file}:{node.start_mark.line + 1}"
        self._count += 1
        if id(node) in self._open:
            raise ConfigError(f"{where}: an alias contains itself; expected a finite value.")
        if self._count > _MAX_VALUES:
            raise ConfigError(f"{where}: aliases unfold to over {_MAX_VALUES} values.")
        plain = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if not isinstance(node, yaml.ScalarNode) and node.tag != f"tag:yaml.org,2002:{plain}":
            raise ConfigError(f"{where}: the tag {node.tag} is not supported; expected plain YAML.")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                items = []
                for i, child in enumerate(node.value):
                    at = (*path, str(i))
                    self.marks[at] = f"{self.file}:{child.start_mark.line + 1}"
                    items.append(self.build(child, at))
                return items
            return self._scalar(node, where)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.file}:{line}: a key is {_kind(key)}; expected a name.")
            if key.value in first and key.tag != "tag:yaml.org,2002:merge":
                dotted = ".".join((*path, key.value))
                self.problems.append(
                    f"{self.file}:{line}: duplicate key '{dotted}'; it is already on line "
                    f"{first[key.value]}."
                )
            first.setdefault(key.value, line)
        try:
            self._constructor.flatten_mapping(node)  # `<<: *anchor`
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or node.start_mark
            raise ConfigError(f"{self.file}:{mark.line + 1}: {error.problem}.") from None
        result: dict[str, Any] = {}
        for key, value in node.value:
            at = (*path, key.value)
            self.marks[at] = f"{self.file}:{key.start_mark.line + 1}"
            result[key.value] = self.build(value, at)
        return result

    def _scalar(self, node: yaml.Node, where: str) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise ConfigError(f"{where}: the tag {node.tag} is not supported; expected plain YAML.")
        if node.tag == "tag:yaml.org,2002:int" and node.value.startswith("0o"):
            return int(node.value, 8)
        if node.tag == "tag:yaml.org,2002:int" and not node.value.startswith("0x"):
            return int(node.value)
        if node.tag == "tag:yaml.org,2002:float":
            return float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{where}: cannot be read: {str(error).splitlines()[0]}.") from None
        if not isinstance(value, str | int | float | bool | None):
            raise ConfigError(f"{where}: is a {type(value).__name__}; expected text or a number.")
        return value


# Layers


def _check_profile(
    data: dict[str, Any], marks: dict[KeyPath, str], file: str, problems: list[str]
) -> str | None:
    for key in [key for key in data if key not in PROFILE_KEYS]:
        where = marks.get((key,), file)
        if key in JobSpec.model_fields:
            hint = ". Hint: a profile says where a job runs; what runs belongs into the spec."
        else:
            hint = _suggest(key, PROFILE_KEYS)
        problems.append(f"{where}: unknown key '{key}' in a profile{hint or '.'}")
        del data[key]
    address = data.pop("address", None)
    if address is not None and not isinstance(address, str):
        problems.append(f"{marks[('address',)]}: address: got {_show(address)}; expected text.")
        return None
    return address


def _merge(
    base: dict[str, Any],
    over: dict[str, Any],
    path: KeyPath,
    marks: dict[KeyPath, str],
    over_marks: dict[KeyPath, str],
) -> None:
    for key, value in over.items():
        at = (*path, key)
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, at, marks, over_marks)
            continue
        base[key] = value
        _forget(marks, at)
        marks.update({p: mark for p, mark in over_marks.items() if p[: len(at)] == at})


def _forget(marks: dict[KeyPath, str], at: KeyPath) -> None:
    for path in [path for path in marks if path[: len(at)] == at]:
        del marks[path]


def _override(data: dict[str, Any], text: str, source: Source, problems: list[str]) -> None:
    dotted, equals, value_text = text.partition("=")
    path = tuple(dotted.strip().split("."))
    where = f"--set {dotted.strip()}"
    if not equals or not all(path):
        problems.append(f"--set {text}: is not an assignment; expected KEY=VALUE, as in a.b=1.")
        return
    node = _compose(value_text, where)
    reader = _Reader(where, problems)
    value = None if node is None else reader.build(node, path)
    at: Any = data
    for i, part in enumerate(path[:-1]):
        if isinstance(at, dict):
            if part not in at:
                source.marks[path[: i + 1]] = where
            at = at.setdefault(part, {})
        elif isinstance(at, list) and part.isdigit() and int(part) < len(at):
            at = at[int(part)]
        else:
            at = None
        if not isinstance(at, dict | list):
            above = ".".join(path[: i + 1])
            problems.append(f"{where}: '{above}' holds no keys; expected a mapping there.")
            return
    last = path[-1]
    if isinstance(at, list):
        if not (last.isdigit() and int(last) < len(at)):
            problems.append(f"{where}: '{last}' is no position in a list of {len(at)}.")
            return
        at[int(last)] = value
    else:
        at[last] = value
    _forget(source.marks, path)
    source.marks[path] = where


# Words


def _written_path(loc: tuple[int | str, ...], data: Any, *, missing: bool) -> KeyPath:
    """`loc` without the names of union members that pydantic puts between keys."""
    path: list[str] = []
    at = data
    for i, part in enumerate(loc):
        if isinstance(at, dict) and str(part) in at:
            at = at[str(part)]
        elif isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
        elif not (missing and i == len(loc) - 1):
            continue
        path.append(str(part))
    return tuple(path)


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names a model allows at `loc`; all names of all members where that is a union."""
    types: list[Any] = [model]
    for part in loc:
        following: list[Any] = []
        tagged = False
        for kind in types:
            if _is_model(kind):
                fields = {f.alias or name: f.annotation for name, f in kind.model_fields.items()}
                if part in fields:
                    following += _members(fields[str(part)])
                elif part == kind.__name__:
                    following.append(kind)
                    tagged = True
                elif any(part in get_args(f.annotation) for f in kind.model_fields.values()):
                    following.append(kind)  # the tag of a discriminated union
                    tagged = True
            else:
                following += [m for arg in get_args(kind) for m in _members(arg) if m is not str]
        if following or not tagged:
            types = following or types
    return sorted({name for kind in types if _is_model(kind) for name in kind.model_fields})


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return [member for arg in get_args(annotation) for member in _members(arg)]
    if hasattr(annotation, "__metadata__"):
        return _members(annotation.__origin__)
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def by_line(problem: str) -> tuple[str, int]:
    """Order of problems: by file and line."""
    placed = re.match(r"(.*?):(\d+):", problem)
    return (placed[1], int(placed[2])) if placed else (problem.partition(": ")[0], 0)


def _suggest(wrong: str, known: Sequence[str]) -> str:
    close = did_you_mean(wrong, known)
    if close:
        return f". Hint: did you mean '{close}'?"
    return f"; expected one of {', '.join(known)}." if known else "."


def _expected(kind: str, message: str) -> str:
    plain = {
        "string_type": "expected text",
        "int_type": "expected a whole number",
        "int_from_float": "expected a whole number",
        "int_parsing": "expected a whole number",
        "float_type": "expected a number",
        "float_parsing": "expected a number",
        "bool_type": "expected true or false",
        "bool_parsing": "expected true or false",
        "dict_type": "expected a mapping of keys",
        "model_type": "expected a mapping of keys",
        "model_attributes_type": "expected a mapping of keys",
        "list_type": "expected a list",
        "tuple_type": "expected a list",
    }
    if kind in plain:
        return plain[kind]
    text = message.removeprefix("Value error, ").removesuffix(".")
    return "expected " + re.sub(r"^(Input|Value|String|List) should (be|have|match) ?", "", text)


def _show(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, default=str)[:60]


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a single value"


def _near(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix in {".yaml", ".yml"}]
    except OSError:
        return ""
    close = did_you_mean(path.name, names)
    return f" Hint: did you mean '{path.parent / close}'?" if close else ""
