from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.reduction.projection import (
    Projection,
    fit_projection,
    load_projection,
    parse_projection,
    projection_path,
    publish_projection,
)
from vfc.cache_schema.values.errors import BadInput, Damaged

Rows = npt.NDArray[np.float32]


def features(records: int, rows: int, width: int, seed: int = 0) -> list[Rows]:
    """Correlated, of very different scale per channel, one channel far from zero."""
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((records, rows, width)) @ generator.standard_normal((width, width))
    mixed *= np.exp(generator.standard_normal(width))
    mixed[..., 0] += 300
    return list(mixed.astype(np.float32))


@given(st.integers(2, 8), st.integers(1, 8), st.integers(0, 20))
def test_pca_is_that_of_a_singular_value_decomposition(width: int, wanted: int, seed: int) -> None:
    wanted = min(wanted, width)
    sample = features(5, 11, width, seed)
    found = fit_projection(f"pca:{wanted}", iter(sample), width)
    rows = np.concatenate(sample).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, sizes, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-5)
    # Subspaces are compared, not vectors: their signs are free. Well-separated spectra only.
    wide_gap = wanted == width or sizes[wanted] < 0.98 * sizes[wanted - 1]
    if wide_gap:
        np.testing.assert_allclose(found.basis @ found.basis.T, vectors[:wanted].T @ vectors[:wanted], atol=1e-4)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(wanted), atol=1e-5)
    explained = np.square(sizes[:wanted]).sum() / np.square(sizes).sum()
    assert found.about["explained"] == pytest.approx(explained, rel=1e-6)
    assert found.about["rows"] == 55
    # Variances of the projected sample are the squared singular values.
    projected = np.concatenate([found.apply(record) for record in sample]).astype(np.float64)
    np.testing.assert_allclose(np.square(projected).sum(axis=0), np.square(sizes[:wanted]), rtol=1e-3)
    assert (np.take_along_axis(found.basis, np.abs(found.basis).argmax(axis=0)[None], 0) > 0).all()


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 9))
def test_random_projections_are_orthonormal_and_seeded(width: int, wanted: int, seed: int) -> None:
    wanted = min(wanted, width)
    sample = features(3, 4, width)
    found = fit_projection(f"random:{wanted}", sample, width, seed=seed)
    np.testing.assert_allclose(found.basis.T @ found.basis, np.eye(wanted), atol=1e-5)
    np.testing.assert_array_equal(found.mean, 0)
    assert found.digest == fit_projection(f"random:{wanted}", sample, width, seed=seed).digest
    assert found.digest != fit_projection(f"random:{wanted}", sample, width, seed=seed + 1).digest
    rows = np.concatenate(sample).astype(np.float64)
    kept = np.square(rows @ found.basis).sum() / np.square(rows).sum()
    assert found.about["explained"] == pytest.approx(kept, rel=1e-5)
    if wanted == width:
        assert found.about["explained"] == pytest.approx(1, rel=1e-5)


def test_a_constant_sample_is_explained_whole() -> None:
    assert fit_projection("pca:1", [np.ones((4, 3), np.float32)], 3).about["explained"] == 1.0
    assert fit_projection("random:1", [np.zeros((4, 3), np.float32)], 3).about["explained"] == 1.0


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"A pca:5 cannot be fitted on 4 rows"):
        fit_projection("pca:5", [np.ones((4, 6), np.float32)], 6)
    for text in ("pca", "pca:0", "svd:4", "random:-1", "pca:4 "):
        with pytest.raises(BadInput, match=rf"--project '{text}' is no projection"):
            parse_projection(text)


def test_published_once_and_read_back(tmp_path: Path) -> None:
    sample = features(4, 9, 6)
    assert load_projection(tmp_path, "layer1.visual") is None
    mine = fit_projection("pca:3", sample, 6)
    first = publish_projection(tmp_path, "layer1.visual", mine)
    assert first.digest == mine.digest
    assert first.about["explained"] == mine.about["explained"]
    late = publish_projection(tmp_path, "layer1.visual", fit_projection("random:3", sample, 6))
    assert late.digest == mine.digest
    np.testing.assert_array_equal(late.apply(sample[0]), mine.apply(sample[0]))
    assert [p.name for p in (tmp_path / "projection").iterdir()] == ["layer1.visual.safetensors"]


def test_a_changed_projection_is_damaged(tmp_path: Path) -> None:
    publish_projection(tmp_path, "x", fit_projection("random:2", features(1, 2, 4), 4))
    path = projection_path(tmp_path, "x")
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Damaged, match=r"projection .*x\.safetensors is not what was published"):
            load_projection(tmp_path, "x")
    path.write_bytes(data[:-1])
    with pytest.raises(Damaged, match="is not what was published"):
        load_projection(tmp_path, "x")


def test_rounding_makes_no_other_projection() -> None:
    sample = features(4, 9, 6)
    pca = fit_projection("pca:3", sample, 6)
    noise = np.random.default_rng(1).normal(size=(4, 9, 6)).astype(np.float32)
    nearly = fit_projection("pca:3", [rows * (1 + 1e-7 * own) for rows, own in zip(sample, noise, strict=True)], 6)
    assert nearly.digest != pca.digest
    assert nearly.same_as(pca)
    assert not fit_projection("pca:3", sample[:3], 6).same_as(pca)
    assert not fit_projection("pca:2", sample, 6).same_as(pca)
    assert not Projection(pca.mean + 1, pca.basis, {}).same_as(pca)


def test_digest_names_the_values() -> None:
    ones = Projection(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), {})
    assert ones.digest == Projection(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), {"rule": "x"}).digest
    assert ones.digest != Projection(np.ones(2, np.float32), np.eye(2, dtype=np.float32), {}).digest
