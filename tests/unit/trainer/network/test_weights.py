"""Reading the backbone's weights: every form, every refusal, and what is recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from strokecore.errors import UsageError
from tests.unit.trainer.network.dinov3_original import checkpoint, forward
from trainer.network import weights as backbone_weights
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, FrozenBackbone
from trainer.network.weights import DINOV3_LICENCE, BackboneOrigin, load_backbone, random_origin

SMALL = BackboneConfig(32, 2, 2, 48, (1, 1, 2, 2))
PIXELS = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
HUB_ID = "facebook/dinov3-vitb16-pretrain-lvd1689m"


@pytest.fixture(autouse=True)
def _small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "vitb16", SMALL)
    monkeypatch.setitem(BACKBONES, "tiny", SMALL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _backbone(seed: int) -> FrozenBackbone:
    torch.manual_seed(seed)
    backbone = FrozenBackbone(SMALL)
    for parameter in backbone.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(
    source: Path | str, name: str = "vitb16", sha256: str = ""
) -> tuple[FrozenBackbone, BackboneOrigin]:
    backbone = FrozenBackbone(SMALL)
    return backbone, load_backbone(backbone, name, str(source), sha256)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers itself wrote."""
    folder = tmp_path_factory.mktemp("weights") / "dinov3-vitb16"
    _backbone(1).model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in saved.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    path = tmp_path / "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"
    torch.save(checkpoint(SMALL), path)
    return path


def _write_pretrained(folder: Path, seed: int = 1) -> Path:
    """As trainer pretrain writes it."""
    folder.mkdir(parents=True)
    state = {key: value.half() for key, value in _backbone(seed).model.state_dict().items()}
    save_file(state, folder / "backbone.safetensors")
    record = {
        "kind": "strokecore-backbone",
        "name": "tiny",
        "shape": asdict(SMALL),
        "sha256": _sha256(folder / "backbone.safetensors"),
        "licence": "Apache-2.0",
        "pretraining": {"task": "none"},
    }
    (folder / "backbone.json").write_text(json.dumps(record))
    return folder


# a folder that transformers wrote


def test_folder_of_transformers(saved: Path) -> None:
    backbone, origin = _load(saved)
    for key, value in _backbone(1).model.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[key], value), key
    assert origin == BackboneOrigin(
        kind="transformers",
        backbone="vitb16",
        name="dinov3-vitb16",
        sha256=_sha256(saved / "model.safetensors"),
        licence="DINOv3 License",
        notice="Built with DINOv3",
        checked=False,
    )
    assert not any(p.requires_grad for p in backbone.parameters())
    assert json.loads(json.dumps(origin.to_dict()))["kind"] == "transformers"


def test_every_difference_of_the_config_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 64, "rope_theta": 10.0, "key_bias": True, "use_gated_mlp": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError) as caught:
        _load(folder)
    for found in (
        "hidden_size is 64, expected 32",
        "rope_theta is 10.0, expected 100.0",
        "key_bias is True, expected False",
        "use_gated_mlp is True, expected False",
    ):
        assert found in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [("{", "JSONDecodeError"), ('{"model_type": "dinov2"}', "'dinov2' model"), ("[]", "AttributeError")],
)
def test_other_configs_are_refused(folder: Path, config: str, message: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(UsageError, match=message):
        _load(folder)


def test_tensors_must_fit(folder: Path) -> None:
    state = {key.removeprefix("model."): value for key, value in _backbone(1).model.state_dict().items()}
    state["norm.weight"] = torch.ones(7)
    state["head.weight"] = torch.ones(2)
    del state["layer.1.norm2.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UsageError) as caught:
        _load(folder)
    for found in (
        "layer.1.norm2.bias is missing",
        "norm.weight is [7], expected [32]",
        "head.weight is unknown",
    ):
        assert found in str(caught.value)


def test_values_must_be_finite(folder: Path) -> None:
    state = {key: value.clone() for key, value in _backbone(1).model.state_dict().items()}
    state["norm.bias"][3] = torch.nan
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UsageError, match=r"norm\.bias holds values that are not finite"):
        _load(folder)


def test_a_cut_file_is_damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is damaged"):
        _load(folder)


def test_split_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="max_shard_size"):
        _load(folder)


# Meta's original


def test_original_checkpoint(pth: Path) -> None:
    backbone, origin = _load(pth)
    found = backbone(PIXELS)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, forward(checkpoint(SMALL), SMALL, PIXELS), atol=2e-4, rtol=2e-4)
    assert (origin.kind, origin.name) == ("meta", "dinov3_vitb16_pretrain_lvd1689m-73cec8be")
    assert (origin.sha256, origin.licence) == (_sha256(pth), DINOV3_LICENCE)


def test_original_of_other_width_is_refused(tmp_path: Path) -> None:
    torch.save(checkpoint(BackboneConfig(48, 2, 3, 48, (1, 1, 2, 2))), tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"rope_embed.periods|expected \[32"):
        _load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"teacher": {"norm.weight": torch.ones(1)}, "epoch": 3}, "holds teacher, epoch; expected"),
        ([torch.ones(1)], "holds list; expected"),
    ],
)
def test_other_checkpoints_are_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=message):
        _load(tmp_path / "a.pth")


def test_a_download_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("<html>Access denied</html>")
    with pytest.raises(UsageError, match="download was cut short, or it is another kind of file"):
        _load(tmp_path / "a.pth")


class _Harmful:
    """Its pickle would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"norm.weight": _Harmful(tmp_path / "harm")}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="cannot be read as a PyTorch checkpoint"):
        _load(tmp_path / "a.pth")
    assert not (tmp_path / "harm").exists()


# hashes


def test_a_hash_that_matches_is_recorded(saved: Path, pth: Path) -> None:
    for source, file in ((saved, saved / "model.safetensors"), (pth, pth)):
        _, origin = _load(source, sha256=_sha256(file).upper())
        assert origin.checked
        assert origin.sha256 == _sha256(file)


def test_a_hash_that_differs_names_both(saved: Path, pth: Path) -> None:
    for source, file in ((saved, saved / "model.safetensors"), (pth, pth)):
        with pytest.raises(UsageError) as caught:
            _load(source, sha256="ab" * 32)
        assert _sha256(file) in str(caught.value)
        assert "ab" * 32 in str(caught.value)


# nothing is downloaded


@pytest.mark.parametrize("source", [HUB_ID, "path/to/dinov3_vitb16.pth"])
def test_absent_weights_say_how_to_get_them(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(UsageError, match=r"never downloaded.*accept Meta's licence.*--weights") as caught:
        _load(source)
    assert ("looks like a Hugging Face id" in str(caught.value)) == (source == HUB_ID)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"neither a folder nor a \.pth"):
        _load(tmp_path / "weights.bin")
    with pytest.raises(UsageError, match=r"model\.safetensors is not there"):
        _load(tmp_path)


# pretrained here, and shipped


def test_folder_of_trainer_pretrain(tmp_path: Path) -> None:
    folder = _write_pretrained(tmp_path / "mine")
    backbone, origin = _load(folder, "tiny")
    for key, value in _backbone(1).model.state_dict().items():
        found = backbone.model.state_dict()[key]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, value, atol=1e-3, rtol=1e-3)
    assert (origin.kind, origin.name, origin.licence) == ("pretrained", "mine", "Apache-2.0")
    assert not origin.notice
    assert not origin.checked


def test_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "SHIPPED", _write_pretrained(tmp_path / "tiny_backbone"))
    _, origin = _load("shipped", "tiny")
    assert (origin.kind, origin.name, origin.checked) == ("shipped", "tiny_backbone", True)


def test_shipped_is_tiny_only() -> None:
    with pytest.raises(UsageError, match=r"'vitb16', but only 'tiny' ships"):
        _load("shipped", "vitb16")


def test_shipped_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "SHIPPED", tmp_path)
    with pytest.raises(UsageError, match="not in this installation"):
        _load("shipped", "tiny")


def test_a_record_of_another_file_is_refused(tmp_path: Path) -> None:
    folder = _write_pretrained(tmp_path / "mine")
    other = _write_pretrained(tmp_path / "other", seed=2)
    (folder / "backbone.safetensors").write_bytes((other / "backbone.safetensors").read_bytes())
    with pytest.raises(UsageError, match="damaged"):
        _load(folder, "tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": {"hidden_size": 999}}, "999"),
        ({"kind": "other"}, "it is other"),
        ({"sha256": None}, "damaged"),
    ],
)
def test_other_records_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = _write_pretrained(tmp_path / "mine")
    record = json.loads((folder / "backbone.json").read_text()) | change
    (folder / "backbone.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match=message):
        _load(folder, "tiny")


def test_a_record_without_licence_is_refused(tmp_path: Path) -> None:
    folder = _write_pretrained(tmp_path / "mine")
    (folder / "backbone.json").write_text('{"kind": "strokecore-backbone"}')
    with pytest.raises(UsageError, match="cannot be read"):
        _load(folder, "tiny")


# random


def test_random_values_are_recorded_by_their_hash() -> None:
    one, same, other = (random_origin(_backbone(seed), "tiny") for seed in (1, 1, 2))
    assert one == same
    assert one.sha256 != other.sha256
    assert (one.kind, one.checked, len(one.sha256)) == ("random", False, 64)
