"""The released VidPrism head with loops over clips and windows, on a state dict under its published names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def released_state(width: int, rates: tuple[int, ...], classes: int, seed: int = 0) -> State:
    """Random weights in double precision under the names of the released modules; N^2 gates, a projection head."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def draw(name: str, *shape: int, scale: float = 0.3) -> None:
        state[name] = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def norm(name: str) -> None:
        draw(f"{name}.weight", width)
        state[f"{name}.weight"] += 1
        draw(f"{name}.bias", width)

    def linear(name: str, into: int, out: int) -> None:
        draw(f"{name}.weight", out, into)
        draw(f"{name}.bias", out)

    def attention(name: str) -> None:
        draw(f"{name}.in_proj_weight", 3 * width, width)
        draw(f"{name}.in_proj_bias", 3 * width)
        linear(f"{name}.out_proj", width, width)

    count = len(rates)
    for e in range(count):
        linear(f"pooling_layers.{e}.metric_proj", width, width)
        norm(f"pooling_layers.{e}.score_head.0")
        draw(f"pooling_layers.{e}.score_head.1.weight", 1, width)
    for gate in range(count**2):
        linear(f"dynamic_interaction.score_mlps.{gate}.0", 2 * width, width // 4)
        linear(f"dynamic_interaction.score_mlps.{gate}.2", width // 4, 1)
    draw("dynamic_interaction.slow2fast.proj.weight", width, width, 1)
    draw("dynamic_interaction.slow2fast.proj.bias", width)
    for i in range(count):
        for j in range(count):
            if rates[i] < 8 <= rates[j]:
                draw(f"dynamic_interaction.fast2slow_ops.{i}->{j}.tconv.weight", width, width, 5)
    for e in range(count):
        attention(f"mote.experts.{e}.attn")
        norm(f"mote.experts.{e}.ln_1")
        norm(f"mote.experts.{e}.ln_2")
        linear(f"mote.experts.{e}.ffn.0", width, 2 * width)
        linear(f"mote.experts.{e}.ffn.2", 2 * width, width)
    draw("mote.readout_gate.global_query", 1, 1, width)
    attention("mote.readout_gate.attn")
    norm("mote.readout_gate.ln")
    linear("head", width, classes)
    linear("projection_head.0", width, width)
    linear("projection_head.2", width, width)
    return state


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    spread = (x.var(dim=-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(dim=-1, keepdim=True)) / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attention(state: State, name: str, query: Tensor, tokens: Tensor, heads: int = 4) -> tuple[Tensor, Tensor]:
    """One clip: `[L, D]` attends to `[S, D]`; the weights are the mean over heads, `[L, S]`."""
    width = tokens.shape[-1]
    wq, wk, wv = state[f"{name}.in_proj_weight"].split(width)
    bq, bk, bv = state[f"{name}.in_proj_bias"].split(width)
    q, k, v = query @ wq.T + bq, tokens @ wk.T + bk, tokens @ wv.T + bv
    size, read, weights = width // heads, [], []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        weights.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=-1))
        read.append(weights[-1] @ v[:, part])
    return _linear(state, f"{name}.out_proj", torch.cat(read, dim=-1)), sum(weights) / heads


def stream(state: State, name: str, clip: Tensor, rate: int) -> tuple[Tensor, list[Tensor]]:
    """RgSTA of one clip `[T, D]`: its tokens, and the ranking loss of every window of several frames."""
    tokens, losses = [], []
    for start in range(0, len(clip), rate):
        window = clip[start : start + rate]
        length = len(window)
        if length == 1:
            tokens.append(window[0])
            continue
        projected = _linear(state, f"{name}.metric_proj", window)
        learned = _norm(state, f"{name}.score_head.0", projected) @ state[f"{name}.score_head.1.weight"][0]
        unit = torch.stack([z / z.norm() for z in projected])
        likeness = torch.stack(
            [torch.stack([unit[a] @ unit[b] * (a != b) for b in range(length)]) for a in range(length)]
        )
        mixed = [float(0.7 * learned[a] + 0.3 * window[a].norm()) for a in range(length)]
        remaining = max(range(length), key=mixed.__getitem__)
        token = window[remaining]
        for other in range(length):
            if other != remaining:
                weight = (likeness[other] / 0.1).softmax(dim=0)[remaining]
                token = token + 0.5 * weight / (weight + 1e-6) * window[other]
        tokens.append(token)
        goal = torch.stack([window[a].norm() + sum(likeness[a]) / length for a in range(length)]).detach()
        asked, given = (goal / 0.2).softmax(dim=0), (learned / 0.2).softmax(dim=0)
        losses.append(
            sum(p * (p.clamp_min(1e-9).log() - q.clamp_min(1e-9).log()) for p, q in zip(asked, given, strict=True))
        )
    return torch.stack(tokens), losses


def _interpolated(tokens: Tensor, length: int) -> Tensor:
    """Linear interpolation along time, ends not aligned: `[L, D]` to `[length, D]`."""
    rows = []
    for place in range(length):
        at = max((place + 0.5) * len(tokens) / length - 0.5, 0.0)
        low = min(int(at), len(tokens) - 1)
        high = min(low + 1, len(tokens) - 1)
        rows.append(tokens[low] + (at - low) * (tokens[high] - tokens[low]))
    return torch.stack(rows)


def _sunk(tokens: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """A convolution along time with five taps and two zeros at both ends: `[L, D]` to `[ceil(L / stride), D]`."""
    zeros = tokens.new_zeros(2, tokens.shape[1])
    padded = torch.cat([zeros, tokens, zeros])
    return torch.stack(
        [
            torch.stack([kernel[:, :, tap] @ padded[start + tap] for tap in range(5)]).sum(dim=0)
            for start in range(0, len(tokens), stride)
        ]
    )


def gate(state: State, number: int, one: Tensor, other: Tensor) -> Tensor:
    """The gate of an ordered pair of streams `[L, D]` of one clip."""
    name = f"dynamic_interaction.score_mlps.{number}"
    hidden = _linear(state, f"{name}.0", torch.cat([one.mean(dim=0), other.mean(dim=0)])).clamp_min(0)
    return torch.sigmoid(_linear(state, f"{name}.2", hidden))[0]


def exchanged(
    state: State, clips: list[list[Tensor]], rates: tuple[int, ...], *, on_batch: bool = True, overwrite: bool = True
) -> list[list[Tensor]]:
    """DBI on streams by clip and rate, `[T_i, D]` each; slow is a rate of 8 and more, the threshold is 0.3."""
    name, count = "dynamic_interaction", len(rates)
    result = [list(streams) for streams in clips]
    for i in range(count):
        for j in range(count):
            if (rates[i] >= 8) == (rates[j] >= 8):
                continue
            scores = [gate(state, i * count + j, streams[i], streams[j]) for streams in clips]
            for b, streams in enumerate(clips):
                decides = sum(scores) / len(scores) if on_batch else scores[b]
                if decides < 0.3:
                    continue
                if rates[i] > rates[j]:
                    risen = _interpolated(streams[i], len(streams[j]))
                    moved = risen @ state[f"{name}.slow2fast.proj.weight"][:, :, 0].T
                    moved = moved + state[f"{name}.slow2fast.proj.bias"]
                else:
                    kernel = state[f"{name}.fast2slow_ops.{i}->{j}.tconv.weight"]
                    moved = _sunk(streams[i], kernel, rates[j] // rates[i])
                result[b][j] = (streams[j] if overwrite else result[b][j]) + scores[b] * moved
    return result


def expert(state: State, name: str, tokens: Tensor) -> Tensor:
    """One post-norm layer with QuickGELU on the tokens of one clip."""
    tokens = _norm(state, f"{name}.ln_1", tokens + _attention(state, f"{name}.attn", tokens, tokens)[0])
    wide = _linear(state, f"{name}.ffn.0", tokens)
    return _norm(state, f"{name}.ln_2", tokens + _linear(state, f"{name}.ffn.2", wide * torch.sigmoid(1.702 * wide)))


def clips_apart(experts: Tensor) -> Tensor:
    """The released diversity loss: over pairs of clips, 1 - the mean cosine of the same expert."""
    terms = []
    for a in range(len(experts)):
        for b in range(a + 1, len(experts)):
            terms.append(1 - sum(cosine(x, y) for x, y in zip(experts[a], experts[b], strict=True)) / experts.shape[1])
    return torch.stack(terms).mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b).div(a.norm() * b.norm())


def released_forward(
    state: State, frames: Tensor, rates: tuple[int, ...], *, on_batch: bool = True, overwrite: bool = True
) -> dict[str, Tensor]:
    """Of frames `[B, T, D]`: logits, shares of the experts, projected vectors, both losses of the forward."""
    result: dict[str, list[Tensor]] = {"logits": [], "shares": [], "projected": [], "experts": []}
    clips: list[list[Tensor]] = []
    losses: list[list[Tensor]] = [[] for _ in rates]
    for clip in frames:
        streams = []
        for e, rate in enumerate(rates):
            tokens, ranked = stream(state, f"pooling_layers.{e}", clip, rate)
            streams.append(tokens)
            losses[e] += ranked
        clips.append(streams)
    for streams in exchanged(state, clips, rates, on_batch=on_batch, overwrite=overwrite):
        seen = [expert(state, f"mote.experts.{e}", tokens) for e, tokens in enumerate(streams)]
        fused, weights = _attention(
            state, "mote.readout_gate.attn", state["mote.readout_gate.global_query"][0], torch.cat(seen)
        )
        fused = _norm(state, "mote.readout_gate.ln", fused[0])
        result["logits"].append(_linear(state, "head", fused))
        parts = weights[0].split([len(tokens) for tokens in seen])
        result["shares"].append(torch.stack([part.sum() for part in parts]))
        hidden = _linear(state, "projection_head.0", fused).clamp_min(0)
        result["projected"].append(_linear(state, "projection_head.2", hidden))
        result["experts"].append(torch.stack([tokens.mean(dim=0) for tokens in seen]))
    built = {name: torch.stack(values) for name, values in result.items()}
    built["diversity"] = clips_apart(built["experts"])
    built["rank"] = torch.stack([torch.stack(ranked).mean() for ranked in losses if ranked]).mean()
    return built
