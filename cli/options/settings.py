"""Settings dataclasses from the command line and a config file, and back to JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName, VfcError, combined, unknown_name

from .flag import Flag, flags
from .paths import path_errors

Config = TypeVar("Config")
_EARLIER_RUN = "Give the config.json of an earlier run."


def build(config: type[Config], typed: Mapping[str, Any], file: Path | None = None, *, paths: bool = False) -> Config:
    """The dataclass from what was typed (by parameter name; None or empty: not typed) and a config file.

    `paths`: also check that the paths exist, or can be written to; see `paths`. All mistakes are reported together.

    Raises:
        BadInput: a value of the wrong type, or a required one that is missing.
        UnknownName: a name outside a closed set, or an unknown key in the file.
        MissingPath, NotAStore, ReadOnlyTarget: see `path_errors`.
    """
    listed = flags(config)
    values = dict(_from_file(listed, file)) if file else {}
    errors: list[VfcError] = []
    for flag in listed:
        value = typed.get(flag.parameter)
        try:
            if value is not None and value != [] and value != ():
                values[flag.path] = flag.typed(value)
            elif flag.path not in values:
                if flag.required:
                    raise BadInput(
                        f"{flag.spelled} is missing.", f"Give {flag.spelled}: {flag.metadata.get('help', flag.name)}."
                    )
                values[flag.path] = flag.default
        except VfcError as error:
            errors.append(error)
    if paths:
        replaced = {flag.path for flag in listed if values.get((*flag.path[:-1], flag.metadata.get("unless", "")))}
        checked = (flag for flag in listed if flag.path in values and flag.path not in replaced)
        errors += [error for flag in checked for error in path_errors(flag, values[flag.path])]
    result = None if len(values) < len(listed) else _assemble(config, values, errors)
    if errors or result is None:
        raise combined(errors)
    return result


def _assemble(
    config: type[Config], values: Mapping[tuple[str, ...], Any], errors: list[VfcError], path: tuple[str, ...] = ()
) -> Config | None:
    """The dataclass whose flags have these values, by path; None where it refuses them, with the error in `errors`."""
    hints = get_type_hints(config)
    arguments: dict[str, Any] = {}
    refused = False
    for field in dataclasses.fields(cast("Any", config)):
        inner = hints[field.name]
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            arguments[field.name] = _assemble(inner, values, errors, (*path, field.name))
            refused |= arguments[field.name] is None
        else:
            arguments[field.name] = values[*path, field.name]
    try:
        return None if refused else config(**arguments)
    except VfcError as error:
        errors.append(error)
        return None


def _from_file(listed: Sequence[Flag], file: Path) -> Iterator[tuple[tuple[str, ...], Any]]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingPath(f"There is no config file {file}.", _EARLIER_RUN) from None
    except OSError as error:
        raise BadInput(f"The config file {file} cannot be read: {error.strerror}.", _EARLIER_RUN) from None
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}.", _EARLIER_RUN) from None
    written_by = ""
    if isinstance(document, dict) and isinstance(document.get("config"), dict):
        command = f"train-head {document['head']}" if "head" in document else document.get("command")
        written_by = f" The file was written by vfc {command}." if command else ""
        document = document["config"]
    if not isinstance(document, dict):
        raise BadInput(f"{file} holds no JSON object.", _EARLIER_RUN)
    by_path = {flag.path: flag for flag in listed}
    by_name = {name: flag for flag in listed for name in (flag.name, *flag.earlier_names)}
    groups = {flag.path[:depth] for flag in listed for depth in range(1, len(flag.path))}

    def walk(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for key, value in values.items():
            key_path = (*path, key)
            if isinstance(value, dict) and (key_path in groups or not value):  # a part may have no settings of its own
                yield from walk(value, key_path)
                continue
            flag = by_path.get(key_path) or by_name.get(key)
            if flag is None:
                error = unknown_name(f"setting in {file}:", key, [flag.name for flag in listed])
                raise UnknownName(error.problem + written_by, error.remedy)
            yield flag.path, flag.loaded(value, str(file))

    return walk(document, ())


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON, by flag name; `build` with this in a file gives the same dataclass back."""

    def plain(value: Any, scalar: type) -> Any:
        if isinstance(value, tuple):
            return [plain(item, scalar) for item in value]
        if scalar is float and isinstance(value, int):
            return float(value)  # as it is read back
        return str(value) if isinstance(value, Path) else value

    def value_at(path: tuple[str, ...]) -> Any:
        value = config
        for name in path:
            value = getattr(value, name)
        return value

    return {flag.name: plain(value_at(flag.path), flag.scalar) for flag in flags(type(config))}
