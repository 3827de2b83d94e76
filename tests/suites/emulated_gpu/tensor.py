"""Tensors of the emulated GPU: values on the CPU, the rules of a GPU for devices, streams and memory."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import torch
from torch.utils._pytree import tree_leaves, tree_map

from .timeline import Stream, Timeline

NAME: Final = "emulated"
TIMELINE: Final = Timeline()

VIEWS: Final = frozenset(
    "view t transpose permute expand slice select unsqueeze squeeze detach alias as_strided split split_with_sizes "
    "unbind _unsafe_view unfold diagonal _reshape_alias view_as_real view_as_complex lift_fresh".split()
)
WAITING: Final = frozenset(
    "_local_scalar_dense nonzero masked_select unique_dim unique_consecutive unique_dim_consecutive _unique2 equal "
    "bincount is_nonzero".split()
)
"""Operations that CUDA cannot end before the host has read a value from the device."""
SCALARS_FROM_HOST: Final = frozenset("add sub mul div where pow eq ne lt le gt ge maximum minimum rsub fill".split())
"""Operations that take a CPU tensor without axes as a number; others refuse it too (`lerp`, `masked_fill` take it)."""
INDEXING: Final = frozenset("index index_put _index_put_impl _unsafe_index _unsafe_index_put".split())


class Memory:
    """A block of the device's memory: who wrote, read and used it last, and whether it may be given back."""

    def __init__(self) -> None:
        self.born = TIMELINE.current
        self.written = (self.born.number, self.born.tick)
        self.read: dict[int, int] = {}
        self.used: dict[int, tuple[Stream, int]] = {}
        self.recorded: set[int] = set()

    def __del__(self) -> None:
        # The block goes back to its stream; another stream may still be reading from it.
        for number, (_, tick) in self.used.items():
            if number not in self.recorded and not self.born.covers(number, tick):
                TIMELINE.counts.fault("memory is given back while another stream uses it, without record_stream")


class Emulated(torch.Tensor):
    """A tensor of the device `emulated`; its protocol with torch is added below."""

    elem: torch.Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, elem: torch.Tensor, memory: Memory | None = None) -> Emulated:
        made: Emulated = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            elem.size(),
            strides=elem.stride(),
            storage_offset=elem.storage_offset(),
            dtype=elem.dtype,
            layout=elem.layout,
            device=torch.device(NAME, 0),
        )
        made.elem = elem.detach()
        made.memory = memory or Memory()
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Emulated({self.elem})"

    def __deepcopy__(self, memo: Any) -> Any:
        copied = Emulated(self.elem.clone())
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def record_stream(self, stream: Any) -> None:
        self.memory.recorded.add(stream.number)


def _dispatch(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return func.decompose(*args, **(kwargs or {}))  # comes whole in inference mode
    return run(func, args, kwargs or {})


_PROTOCOL: Final[dict[str, Any]] = {
    "__torch_function__": torch._C._disabled_torch_function_impl,
    "__torch_dispatch__": classmethod(_dispatch),
}
for _name, _function in _PROTOCOL.items():
    setattr(Emulated, _name, _function)


def on_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _launch(name: str, *tensors: Any, written: tuple[Emulated, ...] = ()) -> None:
    """One operation of the current stream: by the order of the streams, its inputs must have been written before, and
    what it writes must have been read before.
    """
    stream = TIMELINE.current
    tick = stream.advance()
    for tensor in tensors:
        memory = tensor.memory
        if not stream.covers(*memory.written):
            TIMELINE.counts.fault(f"{name} reads what another stream may still be writing")
        memory.read[stream.number] = tick
        if stream.number != memory.born.number:
            memory.used[stream.number] = (stream, tick)
    for tensor in written:
        memory = tensor.memory
        if not all(stream.covers(*use) for use in (*memory.read.items(), memory.written)):
            TIMELINE.counts.fault(f"{name} overwrites what another stream may still be using")
        memory.written = (stream.number, tick)
    TIMELINE.counts.launches[name] += 1


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operation with a tensor of the device among its arguments, by the rules of a GPU."""
    name = func._schema.name.split("::")[1]
    flat = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if name == "_to_copy":
        return _to_copy(func, args[0], kwargs)
    if name == "copy_":
        return _copy(args[0], args[1], kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    plain = name.rstrip("_") in INDEXING
    if plain:
        _check_indices(name, args)
    else:
        _refuse_mixed(name, func, flat)
    if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
        _wait(name)
    inputs = [x for x in flat if isinstance(x, Emulated)]
    given, named = tree_map(lambda x: x.elem if isinstance(x, Emulated) else x, (args, kwargs))
    if on_device(named.get("device")):
        named["device"] = torch.device("cpu")
    out = func(*given, **named)
    if name not in VIEWS:
        changed = tuple(x for x, of in _arguments(func, args, kwargs) if of.alias_info and of.alias_info.is_write)
        _launch(name, *inputs, written=changed)
    owners = {x.elem.untyped_storage()._cdata: x for x in inputs}
    whole = {id(x.elem): x for x in inputs}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in whole:
            return whole[id(x)]
        owner = owners.get(x.untyped_storage()._cdata)
        return Emulated(x, owner.memory if owner is not None else None)

    return tree_map(wrapped, out)


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Emulated, Any]]:
    pairs = []
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        pairs += [(x, argument) for x in tree_leaves(value) if isinstance(x, Emulated)]
    return pairs


def _wait(kind: str) -> None:
    TIMELINE.counts.sync(kind)
    TIMELINE.wait(TIMELINE.current.clock())


def _refuse_mixed(name: str, func: Any, flat: list[torch.Tensor]) -> None:
    for tensor in flat:
        if not isinstance(tensor, Emulated) and (tensor.dim() or name.rstrip("_") not in SCALARS_FROM_HOST):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
                f"(in {func}, a CPU tensor of shape {tuple(tensor.shape)})"
            )


def _check_indices(name: str, args: tuple[Any, ...]) -> None:
    if not isinstance(args[0], Emulated):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    for index in args[1]:
        if isinstance(index, torch.Tensor) and not isinstance(index, Emulated):
            TIMELINE.counts.pageable_bytes[f"{name} with an index on the CPU"] += index.nbytes
            _wait("an index on the CPU")
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            _wait("a boolean index")
    if "put" in name and not isinstance(args[2], Emulated) and args[2].dim():
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} takes values of the cpu")


# -- copies ----------------------------------------------------------------------------------------------------------


def _to_copy(func: Any, source: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    target, non_blocking = kwargs.get("device"), bool(kwargs.get("non_blocking"))
    rest = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
    if not isinstance(source, Emulated):
        values = func(source, **rest)
        made = Emulated(values.clone() if values.data_ptr() == source.data_ptr() else values)
        _to_device(source, made, non_blocking)
        return made
    values = func(source.elem, **rest)
    values = values.clone() if values.data_ptr() == source.elem.data_ptr() else values
    if target is None or on_device(target):
        made = Emulated(values)
        _launch("_to_copy", source, written=(made,))
        return made
    # CUDA allocates pageable memory for `to`; a copy to it ends before the call returns.
    _launch("copy to the host", source)
    TIMELINE.counts.pageable_bytes["to the host"] += source.elem.nbytes
    _wait("a copy to the host")
    host: torch.Tensor = values
    return host


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    if isinstance(target, Emulated) and isinstance(source, Emulated):
        target.elem.copy_(source.elem)
        _launch("copy_", source, written=(target,))
    elif isinstance(target, Emulated):
        target.elem.copy_(source)
        if source.dim():
            _to_device(source, target, non_blocking)
        else:
            _launch("fill_", written=(target,))
    else:
        assert isinstance(source, Emulated)
        target.copy_(source.elem)
        _to_host(source, target, non_blocking)
    return target


def _to_device(source: torch.Tensor, target: Emulated, non_blocking: bool) -> None:
    pinned = TIMELINE.is_pinned(source)
    _launch("copy to the device", written=(target,))
    if not pinned:
        TIMELINE.counts.pageable_bytes["to the device"] += source.nbytes
    else:
        TIMELINE.counts.pinned_bytes += source.nbytes
    if not pinned or not non_blocking:
        _wait("a copy to the device")
        return
    before, at = _digest(source), source

    def end() -> None:
        if _digest(at) != before:
            TIMELINE.counts.fault("a pinned buffer was written to before its copy to the device had run")

    TIMELINE.begin_copy(end)


def _to_host(source: Emulated, target: torch.Tensor, non_blocking: bool) -> None:
    _launch("copy to the host", source)
    pinned = TIMELINE.is_pinned(target)
    if not pinned:
        TIMELINE.counts.pageable_bytes["to the host"] += source.elem.nbytes
    else:
        TIMELINE.counts.pinned_bytes += source.elem.nbytes
    if not pinned or not non_blocking:
        _wait("a copy to the host")
        return
    values = target.clone()
    target.view(-1).view(torch.uint8).fill_(0xA5)  # what is read too early is no value of the model

    def end() -> None:
        with torch.no_grad():
            target.copy_(values)

    TIMELINE.begin_copy(end)


def _digest(tensor: torch.Tensor) -> bytes:
    memory = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(memory.tobytes()).digest()
