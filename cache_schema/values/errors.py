"""Every error a user can meet, on one page.

Each message has two lines: what was asked and what is there; then what is allowed and what to do. The
command line prints `str(error)` and leaves with `error.exit_code`; each leaf also derives from the built-in
exception a caller of the library would naturally catch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final


class VfcError(Exception):
    """Root of all errors that are answered with two lines and no traceback.

    `problem` says what was asked and what was found; `remedy` says what is allowed or what to do.
    """

    exit_code = 2

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n{self.remedy}"


class BadInput(VfcError, ValueError):
    """A flag, a file or a value that cannot be used as given."""


class MissingPath(VfcError, FileNotFoundError):
    """A file or folder that is not there."""


class UnknownName(VfcError, LookupError):
    """A model, metric, rule, array or class that does not exist; see `unknown_name`."""


class MissingRecord(VfcError, KeyError):
    """A key that no committed part of the store holds."""


class MissingExtra(VfcError, ImportError):
    """An optional dependency that is not installed."""


class RecordRejected(VfcError, ValueError):
    """One record that cannot be stored as asked: wrong shape, NaN, or beyond the range of its storage dtype.

    Costs that record only: the run goes on and lists it under failures/.
    """


class NotAStore(VfcError, ValueError):
    """A folder that is no store, or a store of a format this version cannot read."""


class ReadOnlyTarget(VfcError, PermissionError):
    """The place to write to does not take writes (EROFS, EACCES)."""


class Damaged(VfcError, ValueError):
    """Bytes of a committed part are not the bytes that were committed."""

    exit_code = 4


class RecipeMismatch(VfcError, ValueError):
    """Features made in another way would have been mixed into a store; the difference is in the message."""

    exit_code = 5


class AxisMismatch(VfcError, ValueError):
    """A prompt, view, text or kind id is already bound to other content in this store."""

    exit_code = 5


class Refused(VfcError, RuntimeError):
    """Refused beforehand, or stopped in good order: not enough disk or memory."""

    exit_code = 6


def suggestion(name: str, allowed: Iterable[str]) -> str:
    """The known name nearest to a misspelt one, as ` Did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_name(what: str, name: str, allowed: Iterable[str]) -> UnknownName:
    """The error for a name outside a closed set: `what` ("model", "metric"), the name, what is allowed."""
    names = sorted(allowed)
    return UnknownName(
        f"There is no {what} {name!r}.{suggestion(name, names)}",
        f"Known: {', '.join(names) if names else 'none'}.",
    )


def combined(errors: Sequence[VfcError]) -> VfcError:
    """One error for all of `errors` (at least one): of the first one's class, all problems before all remedies."""
    if len(errors) == 1:
        return errors[0]
    problems, remedies = (dict.fromkeys(lines) for lines in zip(*((e.problem, e.remedy) for e in errors), strict=True))
    return type(errors[0])(" ".join(problems), " ".join(remedies))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_OUT_OF_MEMORY: Final = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",  # pinned host memory, which raises no OutOfMemoryError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "backend out of memory",  # MPS
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of torch too, says that the device or this machine has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY)
