"""Descriptions of classes: sentences by class id, in the published form, with their origin where it is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.record import Json

_FORM: Final = 'The form is {"0": ["sentence", ...], "1": [...]}, keyed by the class ids of a data set.'


@dataclass(frozen=True)
class Descriptions:
    """`sentences[i]` are those of the class with id `i`; `about` is the header of a file that `vfc describe` wrote."""

    sentences: Mapping[int, tuple[str, ...]]
    about: Mapping[str, Json] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """N: how many sentences most classes have."""
        return Counter(map(len, self.sentences.values())).most_common(1)[0][0] if self.sentences else 0

    @property
    def uneven(self) -> tuple[int, ...]:
        """The ids with another number of sentences; a published file has one."""
        return tuple(i for i, lines in self.sentences.items() if len(lines) != self.count)

    @property
    def whole(self) -> bool:
        """Whether ids run from 0 without a gap."""
        return bool(self.sentences) and set(self.sentences) == set(range(len(self.sentences)))


def read_descriptions(path: Path, *, whole: bool = True) -> Descriptions:
    """The descriptions in a file.

    Args:
        path: A JSON object in the published form.
        whole: Whether a gap in the ids is refused.

    Raises:
        MissingPath: there is no such file.
        BadInput: another form, an id twice, or ids with a gap.
    """
    try:
        pairs = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=list)
    except FileNotFoundError:
        raise MissingPath(f"There is no file of descriptions {path}.", "Write one with `vfc describe`.") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.", _FORM) from None
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise BadInput(f"{path} holds no JSON object.", _FORM)
    about: Mapping[str, Json] = {}
    sentences: dict[int, tuple[str, ...]] = {}
    for number, (key, value) in enumerate(pairs):
        if number == 0 and _is_object(value):
            about = _plain(value)
        elif not str(key).isdecimal() or not _are_sentences(value):
            raise BadInput(f"{path}: {key!r} stands for no list of sentences of a class id.", _FORM)
        elif int(key) in sentences:
            raise BadInput(f"{path} describes the class id {int(key)} twice.", "Every id stands once.")
        else:
            sentences[int(key)] = tuple(line.strip() for line in value)
    descriptions = Descriptions(dict(sorted(sentences.items())), about)
    if whole and not descriptions.whole:
        missing = sorted(set(range(max(sentences, default=0) + 1)) - set(sentences))
        raise BadInput(
            f"{path} describes {len(sentences)} classes; without a sentence are the ids {missing[:5]}.",
            "Run the `vfc describe` line again that wrote it, or add the missing ids.",
        )
    return descriptions


def write_descriptions(path: Path, sentences: Mapping[int, Sequence[str]], about: Mapping[str, Json]) -> None:
    """Write the published form, replaced by rename, with a header that only `read_descriptions` sees.

    The header is under the first class id, which is written twice: what reads JSON keeps the last of two equal
    names, so that others' readers, also those that go through a file in order, find the published form and no more.
    """
    ids = sorted(sentences)
    lines = [f"    {json.dumps(str(ids[0]))}: {_indented(about)}"] if about and ids else []
    lines += [f"    {json.dumps(str(i))}: {_indented([*sentences[i]])}" for i in ids]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _indented(value: Any) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False).replace("\n", "\n    ")


def _is_object(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(pair, tuple) for pair in value)


def _plain(value: Any) -> Any:
    """JSON whose objects are dicts again."""
    if _is_object(value):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _are_sentences(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(line, str) and line.strip() for line in value)
