"""What every backbone owes: a test class inherits BackboneSuite and says which checkpoint, options and oracle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from suites.library_pixels import library_pixels, processor_files, still_image
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.layout import FRAME_MAJOR, PATCH_MAJOR, RAGGED_GRID, STEPS, TOKENS, Layout
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec
from vfc.extract.backbone import Backbone, BackboneOptions, find_family, open_backbone
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.models.taps import TRANSFER

SIDE = {"int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8, "float64": torch.float64}
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")


def clip_of(seed: int, frames: int = 4, height: int = 48, width: int = 64) -> Any:
    """A clip of noise, as decoding would hand it over."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return SimpleNamespace(frames=pixels, seconds=np.arange(frames) / 25.0, indices=np.arange(frames), fps=25.0)


def parameters(backbone: object) -> int:
    """How many numbers the networks that hang on a backbone hold."""
    found: dict[int, nn.Module] = {}

    def search(value: object, depth: int) -> None:
        if isinstance(value, nn.Module):
            found[id(value)] = value
        elif depth and hasattr(value, "__dict__"):
            for inner in vars(value).values():
                search(inner, depth - 1)

    search(backbone, 3)
    return sum(tensor.numel() for model in found.values() for tensor in model.parameters())


def features(backbone: Backbone) -> list[ArraySpec]:
    """The arrays of video records that are no side arrays."""
    return [spec for spec in backbone.specs()["video"] if spec.dtype in FEATURE_DTYPES]


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


class PlainBackboneSuite:
    """For a backbone without weights: set the class variables, give `expected` and `library_pixels`."""

    family: ClassVar[str]
    options: ClassVar[BackboneOptions] = BackboneOptions(storage="fp32", num_frames=4)
    other_frames: ClassVar[int] = 3
    """Another number of frames that the checkpoint takes."""

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The checkpoint of the family; a folder without a file where it needs none."""
        return tmp_path_factory.mktemp("checkpoint")

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays by name as the library itself gives them, for one clip's pixels."""
        raise NotImplementedError

    def expected(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same for one clip and what `pixels` made of it."""
        return self.library_states(checkpoint, tensors["pixels"])

    def library_pixels(self, checkpoint: Path, frames: Any) -> dict[str, Tensor]:
        """What `pixels` must give for uint8 RGB frames `[T, H, W, 3]`, all equal, by other code than the family's."""
        return {"pixels": library_pixels(checkpoint, frames)}

    def other_pixels(self, checkpoint: Path, folder: Path) -> Iterator[Backbone]:
        """The backbone again with each other way of making pixels: the family's `PIXELS`, other processor files."""
        for way in getattr(find_family(self.family), "PIXELS", ()):
            yield self.opened(checkpoint, pixels=way)
        for path, _, _ in processor_files(checkpoint):
            changed = Path(shutil.copytree(checkpoint, folder / path.stem / checkpoint.name))
            for file, content, section in processor_files(changed):
                if file.name == path.name:
                    section.update(image_mean=[0.1, 0.2, 0.3], image_std=[0.7, 0.8, 0.9])
                    file.write_text(json.dumps(content), encoding="utf-8")
            yield self.opened(changed)

    def recipe_changes(self) -> list[dict[str, Any]]:
        """Options that each make another recipe."""
        return [{"storage": "bf16"}]

    def rows_of(self, frames: int) -> int:
        """How many rows the first array of a clip of `clip_of` has that is so many frames long."""
        return frames

    def agree(self, made: Tensor, expected: Tensor) -> bool:
        """Whether an array is the oracle's: bit for bit, unless the oracle computes in another way."""
        return torch.equal(made, expected)

    # -- opened once -------------------------------------------------------------------------------------------------

    @classmethod
    def opened(cls, checkpoint: Path, options: BackboneOptions | None = None, **changes: Any) -> Backbone:
        return open_backbone(cls.family, replace(options or cls.options, checkpoint=str(checkpoint), **changes))

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls, checkpoint: Path) -> Backbone:
        backbone = cls.opened(checkpoint)
        backbone.load()
        return backbone

    def encode(self, backbone: Backbone, *seeds: int) -> list[dict[str, Tensor]]:
        return backbone.encode_videos([backbone.pixels(clip_of(seed)).tensors for seed in seeds])

    def matches(self, specs: tuple[ArraySpec, ...], arrays: Mapping[str, Tensor]) -> None:
        assert [spec.name for spec in specs] == list(arrays)
        for spec in specs:
            assert Layout.parse(spec.layout).order in ("", FRAME_MAJOR, PATCH_MAJOR, RAGGED_GRID, STEPS, TOKENS)
            array = arrays[spec.name]
            shape = tuple(array.shape)
            assert len(shape) == len(spec.shape)
            assert all(size in (None, got) for size, got in zip(spec.shape, shape, strict=True)), (spec, shape)
            assert array.dtype == (SIDE.get(spec.dtype) or TRANSFER[spec.dtype])
            assert array.is_contiguous()
            assert not array.requires_grad
            if array.is_floating_point():
                assert bool(array.isfinite().all())

    # -- specs -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("storage", ["fp32", "fp16", "bf16", "int8"])
    def test_arrays_leave_in_the_dtype_they_are_stored_in(self, checkpoint: Path, storage: Any) -> None:
        backbone = self.opened(checkpoint, storage=storage)
        backbone.load()
        self.matches(backbone.specs()["video"], self.encode(backbone, 1)[0])

    def test_clips_of_differing_length_are_ragged(self, checkpoint: Path, backbone: Backbone) -> None:
        ragged = self.opened(checkpoint, num_frames=None)
        assert all(spec.ragged for spec in features(ragged) if spec.name != "embedding")
        ragged.load()
        batch = [ragged.pixels(clip_of(7, frames=count)).tensors for count in (2, 5)]
        for count, arrays in zip((2, 5), ragged.encode_videos(batch), strict=True):
            self.matches(ragged.specs()["video"], arrays)
            assert arrays[ragged.specs()["video"][0].name].shape[0] == self.rows_of(count)

    def test_every_tap_that_is_offered_can_be_taken(self, checkpoint: Path) -> None:
        layers = tuple(self.opened(checkpoint).taps()["visual"])
        backbone = self.opened(checkpoint, layers=layers)
        backbone.load()
        self.matches(backbone.specs()["video"], self.encode(backbone, 3)[0])

    # -- numbers -----------------------------------------------------------------------------------------------------

    def test_taps_equal_the_library(self, checkpoint: Path, backbone: Backbone) -> None:
        clip = clip_of(5)
        pixels = backbone.pixels(clip).tensors
        (arrays,) = backbone.encode_videos([pixels])
        expected = self.expected(checkpoint, clip, pixels)
        assert expected.keys() == {spec.name for spec in features(backbone)}
        for name, states in expected.items():
            assert self.agree(arrays[name], states), name

    def test_one_clip_per_call_depends_on_nothing_else(self, checkpoint: Path, backbone: Backbone) -> None:
        (first,) = self.encode(backbone, 1)
        self.encode(backbone, 2, 3)
        assert equal(first, self.encode(backbone, 1)[0])
        again = self.opened(checkpoint)
        again.load()
        self.encode(again, 9)
        assert equal(first, self.encode(again, 1)[0])

    def test_several_clips_per_call_are_near_to_that(self, backbone: Backbone) -> None:
        alone = [self.encode(backbone, seed)[0] for seed in (1, 2, 3)]
        for one, arrays in zip(alone, self.encode(backbone, 1, 2, 3), strict=True):
            assert one.keys() == arrays.keys()
            for name, states in one.items():
                if not states.is_floating_point():
                    assert torch.equal(arrays[name], states)
                    continue
                assert torch.linalg.vector_norm(arrays[name] - states) <= 1e-5 * torch.linalg.vector_norm(states)

    def test_other_clips_give_other_numbers(self, backbone: Backbone) -> None:
        one, two = self.encode(backbone, 1, 2)
        assert all(not torch.equal(one[spec.name], two[spec.name]) for spec in features(backbone))

    def test_no_hook_stays(self, backbone: Backbone) -> None:
        self.encode(backbone, 1)
        for value in [backbone, *vars(backbone).values()]:
            for model in [value, *getattr(value, "__dict__", {}).values()]:
                if isinstance(model, nn.Module):
                    hooks = [
                        h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
                    ]
                    # The library puts hooks of its own into some towers.
                    assert not [hook for hook in hooks if not hook.__module__.startswith("transformers.")]

    def test_pixels_are_made_on_the_cpu_in_any_thread(self, backbone: Backbone) -> None:
        expected = [backbone.pixels(clip_of(seed)).tensors for seed in range(6)]
        with ThreadPoolExecutor(3) as pool:
            made = list(pool.map(lambda seed: backbone.pixels(clip_of(seed)).tensors, range(6)))
        for one, other in zip(expected, made, strict=True):
            assert equal(one, other)
            assert all(tensor.device.type == "cpu" for tensor in other.values())

    def test_pixels_are_those_of_the_library(self, checkpoint: Path, backbone: Backbone) -> None:
        frames = np.stack([still_image()] * (self.options.num_frames or 4))
        clip = clip_of(0, len(frames))
        clip.frames = frames
        pixels = backbone.pixels(clip).tensors
        for name, expected in self.library_pixels(checkpoint, frames).items():
            assert pixels[name].shape == expected.shape, name
            span = float(expected.max() - expected.min())
            # The PIL processors of the library are one or two grey levels away; swapped channels more than half of all.
            assert float((pixels[name] - expected).abs().max()) <= 0.02 * span, name

    # -- recipe ------------------------------------------------------------------------------------------------------

    def test_recipe_names_what_makes_the_numbers(self, checkpoint: Path, backbone: Backbone) -> None:
        recipe = backbone.recipe()
        assert json.loads(json.dumps(recipe, allow_nan=False)) == recipe
        assert {"backbone", "checkpoint", "taps", "pixels", "compute", "storage", "versions"} <= recipe.keys()
        assert recipe["backbone"] == self.family
        others = [self.opened(checkpoint, **change).recipe() for change in self.recipe_changes()]
        assert len({json.dumps(one) for one in (recipe, *others)}) == 1 + len(others)

    def test_recipe_follows_the_pixel_rule(self, checkpoint: Path, backbone: Backbone, tmp_path: Path) -> None:
        pixels, recipe = backbone.pixels(clip_of(1)).tensors, backbone.recipe()
        changes = 0
        for other in self.other_pixels(checkpoint, tmp_path):
            same_pixels = equal(other.pixels(clip_of(1)).tensors, pixels)
            assert (other.recipe()["pixels"] == recipe["pixels"]) == same_pixels
            changes += not same_pixels
        assert changes or not any(True for _ in self.other_pixels(checkpoint, tmp_path / "again"))

    def test_recipe_knows_nothing_of_what_does_not_matter(self, checkpoint: Path, backbone: Backbone) -> None:
        same: list[dict[str, Any]] = [
            {"num_frames": self.other_frames},
            {"num_frames": None},
            {"cut_texts": True},
            {"layers": self.options.layers[::-1]},
            {"dtype": "fp32"},
        ]
        if self.options.texts:
            same.append({"texts": False, "text_layers": ()})
        for change in same:
            assert self.opened(checkpoint, **change).recipe() == backbone.recipe(), change


class BackboneSuite(PlainBackboneSuite):
    """For a network with weights: `options` with fp32 storage and every kind of tap, a `checkpoint`, an oracle."""

    options: ClassVar[BackboneOptions]
    lower: ClassVar[BackboneOptions]
    """Options that need less than the whole depth."""
    layer_range: ClassVar[str]
    """As the refusal of a layer says it: "0 to 3, or norm"."""

    def recipe_changes(self) -> list[dict[str, Any]]:
        return [*super().recipe_changes(), {"dtype": "bf16"}, {"layers": self.lower.layers}]

    def test_specs_are_known_without_weights_and_are_what_comes(
        self, checkpoint: Path, backbone: Backbone, tmp_path: Path
    ) -> None:
        bare = Path(shutil.copytree(checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns(*WEIGHTS)))
        planned = self.opened(bare)
        assert planned.specs() == backbone.specs()
        assert planned.taps() == backbone.taps()
        with pytest.raises(MissingPath, match="holds no weights"):
            planned.recipe()
        self.matches(backbone.specs()["video"], self.encode(backbone, 1)[0])

    def test_less_depth_gives_the_same_numbers_from_fewer_weights(self, checkpoint: Path, backbone: Backbone) -> None:
        lower = self.opened(checkpoint, self.lower)
        lower.load()
        assert parameters(lower) < parameters(backbone)
        (arrays,), (whole,) = self.encode(lower, 4), self.encode(backbone, 4)
        assert arrays
        assert all(torch.equal(states, whole[name]) for name, states in arrays.items())

    def test_the_host_waits_for_no_value_of_the_device(self, checkpoint: Path) -> None:
        """On torch's meta device any read of a value by the host raises, as it would block on a GPU."""
        backbone = self.opened(checkpoint, device="meta")
        backbone.load()
        for specs, seeds in ((features(backbone), (1,)), (features(backbone), (1, 2))):
            for arrays in self.encode(backbone, *seeds):
                assert all(arrays[spec.name].device.type == "meta" for spec in specs)

    def test_pixels_for_a_gpu_give_the_same_bits(self, checkpoint: Path, backbone: Backbone) -> None:
        """They leave the CPU as uint8 where the rule allows, and are normalised by the forward."""
        device: Any = self.opened(checkpoint, device="meta")
        for seed in (1, 2):
            prepared = device.pixels(clip_of(seed)).tensors
            plain = backbone.pixels(clip_of(seed)).tensors
            sizes = {name: (prepared[name].nbytes, plain[name].nbytes) for name in plain}
            rule = getattr(device, "rule", None)
            if isinstance(rule, PixelRule) and not rule.rescale_first:
                name = "rgb" if "rgb" in plain else "pixels"
                assert prepared[name].dtype == torch.uint8
                assert 4 * sizes[name][0] == sizes[name][1]
            assert equal(backbone.encode_videos([prepared])[0], backbone.encode_videos([plain])[0])

    def test_recipe_follows_the_weights(self, checkpoint: Path, backbone: Backbone, tmp_path: Path) -> None:
        other = Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))
        assert self.opened(other).recipe() == backbone.recipe()
        (weights,) = other.glob("*.safetensors")
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        assert self.opened(other).recipe() != backbone.recipe()

    @pytest.mark.parametrize("layer", ["99", "-1", "last"])
    def test_a_layer_out_of_range_is_refused_with_the_range(self, checkpoint: Path, layer: str) -> None:
        with pytest.raises(BadInput, match=f"There is no layer '{layer}'.*\n?Allowed: {self.layer_range}"):
            self.opened(checkpoint, layers=(layer,))

    def test_a_checkpoint_that_lacks_weights_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        poor = Path(shutil.copytree(checkpoint, tmp_path / "poor"))
        (weights,) = poor.glob("*.safetensors")
        tensors = load_file(weights)
        for name in sorted(n for n in tensors if tensors[n].ndim > 1 and "pooler" not in n):
            del tensors[name]
        save_file(tensors, weights, {"format": "pt"})
        with pytest.raises(BadInput, match="lacks weights that"):
            self.opened(poor).load()
