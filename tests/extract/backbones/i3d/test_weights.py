"""Weights of I3D in both spellings, and files that hold something else than they are given as."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from suites.i3d import hassony, piergiaj
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.backbones.i3d.weights import Tower, published, towers
from vfc.extract.models.loading import Compute

CPU = Compute("fp32", "cpu")


def written(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def test_both_spellings_are_the_same_network(tmp_path: Path) -> None:
    state = piergiaj(3)
    one = Tower("rgb", written(tmp_path / "rgb_imagenet.pt", state)).load(CPU)
    other = Tower("rgb", written(tmp_path / "model_rgb.pth", hassony(state))).load(CPU)
    assert one.narrow == 8
    for (name, here), (_, there) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(here, there), name
            assert torch.equal(here, state[name]), name
    assert not one.training


def test_the_published_names_are_all_there() -> None:
    # As the authors list them: five tensors for each unit, two for the classifier.
    names = set(piergiaj(2))
    assert len(names) == 57 * 5 + 2
    assert {"Mixed_5c.b2b.conv3d.weight", "Conv3d_2c_3x3.bn.running_var", "logits.conv3d.bias"} <= names
    assert "mixed_5b.branch_1.1.batch3d.running_mean" in hassony(piergiaj(2))
    assert "conv3d_0c_1x1.conv3d.weight" in hassony(piergiaj(2))


@pytest.mark.parametrize("name", ["rgb.safetensors", "rgb.pt"])
def test_wrappings_are_taken_off(tmp_path: Path, name: str) -> None:
    state = {f"module.{key}": tensor for key, tensor in piergiaj(3).items()}
    if name.endswith("pt"):
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    assert Tower("rgb", tmp_path / name).load(CPU).width == 128


def test_the_wrong_tower_is_refused_by_name(tmp_path: Path) -> None:
    written(tmp_path / "rgb.pt", piergiaj(3))
    file = written(tmp_path / "flow.pt", piergiaj(3, seed=1))
    with pytest.raises(BadInput, match=r"flow\.pt was given as flow weights, but holds those of the rgb tower.*3 chan"):
        _ = towers(tmp_path, ("rgb", "flow"))["flow"].narrow
    written(file, hassony(piergiaj(2)))
    assert towers(tmp_path, ("rgb", "flow"))["flow"].narrow == 8
    with pytest.raises(BadInput, match="given as rgb weights, but holds those of the flow tower"):
        _ = towers(file, ("rgb",))["rgb"].narrow


def test_other_networks_and_lacking_weights_are_refused(tmp_path: Path) -> None:
    other = written(tmp_path / "rgb_other.pt", {"conv1.weight": torch.zeros(64, 3, 7, 7, 7)})
    with pytest.raises(BadInput, match="holds no Inception-v1 I3D: its first convolution has the shape"):
        _ = Tower("rgb", other).narrow
    state = piergiaj(3)
    del state["Mixed_4e.b1b.bn.running_mean"]
    state["Mixed_4e.b0.conv3d.weight"] = torch.zeros(1, 2, 1, 1, 1)
    poor = written(tmp_path / "rgb_poor.pt", state)
    with pytest.raises(
        BadInput, match=r"lacks weights .* rgb tower needs: Mixed_4e\.b0\.conv3d\.weight .*running_mean"
    ):
        Tower("rgb", poor).load(CPU)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "rgb.pt"
    text.write_text("not weights")
    with pytest.raises(BadInput, match=r"rgb\.pt cannot be read as weights"):
        published(text)
    torch.save([1, 2], text)
    with pytest.raises(BadInput, match="holds a list, not weights by name"):
        published(text)


def test_which_file_is_which(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="There is no checkpoint"):
        towers(tmp_path / "none", ("rgb",))
    with pytest.raises(MissingPath, match=r"one weight file with 'rgb' in its name; it holds: none"):
        towers(tmp_path, ("rgb",))
    for name in ("rgb_imagenet.pt", "flow_imagenet.pt", "flow_charades.pt"):
        (tmp_path / name).touch()
    assert towers(tmp_path, ("rgb",))["rgb"].file.name == "rgb_imagenet.pt"
    with pytest.raises(BadInput, match=r"it holds: flow_charades\.pt, flow_imagenet\.pt"):
        towers(tmp_path, ("rgb", "flow"))
    both = towers(tmp_path / "rgb_imagenet.pt", ("rgb", "flow"))
    assert [tower.file.name for tower in both.values()] == ["rgb_imagenet.pt", "flow_imagenet.pt"]
