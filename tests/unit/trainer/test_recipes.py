"""The recipes that ship: read, explained, documented; the paper's setting runs at its full size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from strokecore.errors import UsageError
from strokecore.learned.preprocessing import BRAIN_WINDOW, STROKE_WINDOW
from trainer.config import Recipe, WeightsConfig, load_recipe
from trainer.loop.backbone import build_network
from trainer.network.vit_dpt import StrokeNet

FOLDER = Path(__file__).resolve().parents[3] / "trainer" / "recipes"
DOCUMENT = FOLDER.parents[1] / "docs" / "recipes.md"
RECIPES = sorted(FOLDER.glob("*.yaml"))
PAPER = [FOLDER / "aisd_dinov3_vitb16.yaml", FOLDER / "aspects_dinov3_vitb16.yaml"]


def test_the_recipes_are_there() -> None:
    assert [path.stem for path in RECIPES] == [
        "aisd_dinov3_vitb16",
        "aspects_dinov3_vitb16",
        "simulated_tiny",
        "strokecore_tiny",
        "strokecore_unet",
        "strokecore_unet_vit",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem.replace("_", "-")
    assert recipe.loss.as_control() != recipe.loss  # the gated loss is on
    # the field of view holds a head: 200 x 160 mm
    assert recipe.input.size[0] * recipe.input.pixel_mm > 200
    assert recipe.input.size[1] * recipe.input.pixel_mm > 160


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_what_a_run_records_is_read_again(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_plain(recipe.to_dict())))
    assert load_recipe(tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_is_explained(path: Path) -> None:
    """A comment on the key's own line; self-evident neighbours (ce_weight, weight_decay) stand alone."""
    plain = {"ce_weight", "weight_decay", "network", "weights", "source", "training"}
    for line in path.read_text("utf-8").splitlines():
        key = re.match(r"\s*(\w+):", line)
        if key and key[1] not in plain:
            assert "#" in line, line


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_recipes_name_every_setting(path: Path) -> None:
    """Nothing hidden in defaults, so that the file alone says what was done."""
    given = yaml.safe_load(path.read_text("utf-8"))
    assert _keys(given) == _keys(_plain(load_recipe(path).to_dict()))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_settings(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.network.backbone == "vitb16"
    assert (recipe.input.size, recipe.input.pixel_mm, recipe.input.slice_mm) == ((512, 416), 0.4, 5.0)
    assert [(c.window_hu, c.mirror) for c in recipe.input.channels] == [
        (BRAIN_WINDOW, False),
        (STROKE_WINDOW, False),
        (STROKE_WINDOW, True),
    ]
    assert recipe.training.precision == "bf16-mixed"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_recipes_say_how_to_get_the_weights(path: Path) -> None:
    recipe = load_recipe(path)
    with pytest.raises(UsageError, match=r"path/to/.*no such file.*accept Meta's licence.*--weights"):
        build_network(_small(recipe))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nnetwrk: {backbone: tiny}", "netwrk"),
        ("name: a\nnetwork: {backbone: vit7b}", "vit7b"),
        ("name: a\ntraining: {steps: many}", "steps"),
        ("name: a\ninput: {size: [100, 112]}", "multiples of 8"),
        ("name: a\ninput: {channels: [{window_hu: [0.0, 80.0]}]}", "1 channels and network.channels is 3"),
        ("name: a\nweights: {sha256: 73cec8be}", "64 hexadecimal digits"),
        ("name: a\nweights: {source: ''}", "weights.source is empty"),
        ("name: a b", "expected letters"),
        ("seed: 1", "name"),
        ("name: [", "cannot be read"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_recipe(path)
    assert "mine.yaml" in str(caught.value)


def test_an_absent_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trainer/recipes"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_document_gives_the_true_sizes(path: Path) -> None:
    """docs/recipes.md: a section per recipe with its parameter counts, features per slice and arithmetic."""
    from torch.utils.flop_counter import FlopCounterMode

    recipe = load_recipe(path)
    with torch.device("meta"):
        net = StrokeNet(recipe.network)
        pixels = torch.zeros(1, recipe.network.channels, *recipe.input.size)
    with FlopCounterMode(display=False) as backbone:
        taps = net.taps(pixels)
    with FlopCounterMode(display=False) as decoder:
        bg, sg = net.decode(taps, recipe.input.size)
        (bg.sum() + sg.sum()).backward()
    kept = sum(tap.numel() for tap in taps) * 2 / 1e6 if recipe.network.decoder == "dpt" else 0.0
    frozen, trained = (sum(p.numel() for p in part.parameters()) for part in (net.backbone, net.decoder))
    row = (
        f"| `{path.name}` | {frozen / 1e6:.2f} M | {trained / 1e6:.2f} M "
        f"| {backbone.get_total_flops() / 1e9:.1f} | {decoder.get_total_flops() / 1e9:.1f} "
        f"| {kept:.2f} MB |"
    )
    assert row in DOCUMENT.read_text("utf-8"), f"expected in {DOCUMENT.name}: {row}"


def test_the_aisd_recipe_at_full_size() -> None:
    """One pair of slices through the randomly initialised ViT-B and back; about 12 s of one core."""
    recipe = load_recipe(PAPER[0])
    torch.manual_seed(0)
    net = StrokeNet(recipe.network).train()
    pair = torch.randn(2, 3, *recipe.input.size)
    taps = net.taps(pair)
    assert [tuple(tap.shape) for tap in taps] == [(2, 768, 32, 26)] * 4
    bg, sg = net.decode(taps, recipe.input.size)
    assert (bg.shape, sg.shape) == ((2, 9, 512, 416), (2, 6, 512, 416))
    loss = bg[0].logsumexp(0).mean() + sg[1].logsumexp(0).mean()
    loss.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.decoder.parameters())
    assert all(p.grad is None for p in net.backbone.parameters())


def _small(recipe: Recipe) -> Recipe:
    """The same weights on the tiny shape: no ViT-B is built only to find the weights absent."""
    from dataclasses import replace

    from trainer.network.vit_dpt import NetworkConfig

    assert isinstance(recipe.weights, WeightsConfig)
    return replace(recipe, network=NetworkConfig("tiny", features=4))


def _plain(values: object) -> object:
    """Tuples as lists, as YAML has them."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values


def _keys(values: object) -> object:
    if isinstance(values, dict):
        return {key: _keys(value) for key, value in values.items()}
    return [_keys(value) for value in values] if isinstance(values, list) else None
