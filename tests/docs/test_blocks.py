"""Every shell and Python block of README, CONTRIBUTING and the documentation runs, page by page, on tiny checkpoints.

A page is run in an empty folder that holds what its reader has: videos, a store, an archive (see PLACES). Hub ids stand
for tiny checkpoints (see `places.CHECKPOINTS`), and training is cut short (see `pages.SMALL`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from docs import pages, places
from vfc.cli import app

PLACES: dict[str, Callable[[Path], None]] = {
    "README.md": places.readme,
    "docs/concepts.md": places.image_store,
    "docs/guides/few-shot.md": places.videos_and_examples,
    "docs/guides/classification.md": places.few_videos,
    "docs/guides/your-data-set.md": places.few_videos,
    "docs/guides/anticipation.md": places.archive_and_videos,
    "docs/guides/sweeps.md": places.image_store,
    "docs/guides/cluster.md": places.few_videos,
    "docs/heads/actionllm.md": places.frame_labels,
    "docs/heads/attentive-probe.md": places.clip_store,
    "docs/heads/frame-classifier.md": places.sequence_store,
    "docs/heads/fsar.md": places.videos,
    "docs/heads/futr.md": places.sequence_store,
    "docs/heads/linear-probe.md": places.clip_store,
    "docs/heads/mean-pool.md": places.clip_store,
    "docs/heads/mote.md": places.clip_store,
    "docs/heads/msta.md": places.viclip_videos,
    "docs/heads/prototype.md": places.image_store,
    "docs/heads/text-zero-shot.md": places.clip_store,
    "docs/heads/trx.md": places.image_store,
    "docs/heads/vidprism.md": places.clip_store,
    "docs/import-export.md": places.archives,
    "docs/models.md": places.model_files,
    "docs/results.md": places.finished_run,
    "docs/store-format.md": places.token_store,
    "docs/troubleshooting.md": places.image_store,
}
"""What the folder of a page holds before its first block; a page that is not named begins in an empty folder."""
MOST_SKIPPED = 9


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub with all checkpoints that the pages name."""
    return places.write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def reader(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a reader of a page works, on a machine without network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(block: pages.Block, capfd: pytest.CaptureFixture[str]) -> None:
    """The lines of a block, each first as it stands up to its settings, then made small and whole."""
    for line in block.lines():
        program, *words = pages.words_of(line)
        assert program == "vfc", f"{line!r} is no vfc line: mark the block with <!-- skip: reason -->"
        if words[0] not in ("models", "demo"):
            assert app.run([*words, "--print-config"]) == 0, f"settings of {line!r}\n{capfd.readouterr().err}"
        code = app.run([*pages.small(words), "--progress", "none"])
        assert code == block.exit_code, f"{line}\nexit code {code}\n{capfd.readouterr().err}"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("page", pages.pages(), ids=pages.name_of)
def test_every_block_of_a_page_runs(page: Path, reader: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blocks = [block for block in pages.blocks(page.read_text("utf-8")) if not (block.skip or block.file)]
    if not blocks:
        return
    if prepare := PLACES.get(pages.name_of(page)):
        prepare(reader)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        if block.needs and importlib.util.find_spec(block.needs) is None:
            continue
        if block.language == "python":
            exec(compile(block.code, pages.name_of(page), "exec"), names)
        else:
            run_shell(block, capfd)


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    skipped = [block for page in pages.pages() for block in pages.blocks(page.read_text("utf-8")) if block.skip]
    assert len(skipped) <= MOST_SKIPPED
    assert all(len(block.skip) > 5 for block in skipped)


def test_comments_before_a_block_are_read() -> None:
    text = "<!-- skip: needs\na cluster -->\n```sh\nvfc demo\n```\n"
    text += "\n<!-- test: exit 3 -->\n```sh\nvfc a \\\n  b\n# c\n```\n"
    first, second = pages.blocks(text)
    assert (first.skip, second.skip) == ("needs a cluster", "")
    assert (first.exit_code, second.exit_code) == (0, 3)
    assert second.lines() == ["vfc a    b"]
