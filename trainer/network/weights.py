"""Weights of the frozen backbone: where they are read from and what is recorded about them.

Three forms: a folder as ``trainer pretrain`` writes it (the tiny backbone that ships is one), a folder as
transformers' ``save_pretrained`` writes it, and Meta's original .pth. Nothing is ever downloaded, and no
pickled code is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import DINOv3ViTConfig

from strokecore.errors import UsageError
from strokecore.learned.package import file_sha256
from trainer.network.dinov3_checkpoint import from_original
from trainer.network.vit_dpt import BACKBONES, NO_BACKBONE, FrozenBackbone

Kind = Literal["shipped", "pretrained", "transformers", "meta", "random", "none"]

SHIPPED: Final = Path(__file__).parent / "tiny_backbone"
SHIPPED_BACKBONE: Final = "tiny"
# What trainer pretrain writes.
WEIGHTS_FILE: Final = "backbone.safetensors"
RECORD_FILE: Final = "backbone.json"
RECORD_KIND: Final = "strokecore-backbone"

DINOV3_LICENCE: Final = "DINOv3 License"
DINOV3_NOTICE: Final = "Built with DINOv3"
HOW_TO_GET: Final = (
    "DINOv3's weights are Meta's, are not part of this project and are never downloaded by it: accept Meta's "
    "licence at https://ai.meta.com/resources/models-and-libraries/dinov3-downloads (or on the model's "
    "Hugging Face page), download the checkpoint, and give its .pth file, or the folder with config.json "
    "and model.safetensors, with --weights or as weights.source in the recipe."
)

# What decides a forward pass in eval mode. The rest of config.json is about pretraining or bookkeeping.
_FORWARD_KEYS: Final = (
    "patch_size",
    "num_channels",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_register_tokens",
    "hidden_act",
    "use_gated_mlp",
    "layer_norm_eps",
    "rope_theta",
    "query_bias",
    "key_bias",
    "value_bias",
    "proj_bias",
    "mlp_bias",
)
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class BackboneOrigin:
    """Where a backbone's weights came from; goes into run records and model packages.

    Attributes
    ----------
    kind: "shipped", "pretrained" (a folder of trainer pretrain), "transformers" (a folder of theirs), "meta"
        (an original .pth), "random", or "none" of a network without one.
    backbone: key of trainer.network.vit_dpt.BACKBONES.
    name: of the weights' file or folder.
    sha256: of the weights' file; of random ones, of the values.
    licence: of the weights.
    notice: what a package that holds or uses them must display, or empty.
    checked: the hash was compared with the one that the recipe gives (or, for the shipped ones, this
        package), and matched.
    """

    kind: Kind
    backbone: str
    name: str
    sha256: str
    licence: str
    notice: str
    checked: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def load_backbone(backbone: FrozenBackbone, name: str, source: str, sha256: str = "") -> BackboneOrigin:
    """Read weights into a backbone.

    Parameters
    ----------
    backbone: of the shape BACKBONES[name]; its values are replaced.
    source: "shipped", a folder with backbone.json and backbone.safetensors (trainer pretrain) or with
        config.json and model.safetensors (transformers), or a .pth file (Meta).
    sha256: hash that the weights' file must have (hex); empty: any.

    Raises UsageError when the weights are absent, damaged, of another shape or of another hash.
    """
    path = _shipped(name) if source == "shipped" else Path(source).expanduser()
    if not path.exists():
        hint = f" {source} looks like a Hugging Face id." if _HUB_ID.fullmatch(source) else ""
        raise UsageError(f"weights.source {source}: no such file or folder.{hint} {HOW_TO_GET}")
    licence, notice = _licence(name)
    kind: Kind
    if (path / RECORD_FILE).is_file():
        kind = "shipped" if source == "shipped" else "pretrained"
        digest = _checked_digest(path / WEIGHTS_FILE, sha256)
        state, licence = _read_pretrained(path, name, digest)
        notice = ""
    elif path.is_dir():
        kind = "transformers"
        digest = _checked_digest(path / "model.safetensors", sha256)
        state = _read_folder(path, name)
    elif path.suffix == ".pth":
        kind = "meta"
        digest = _checked_digest(path, sha256)
        state = from_original(_read_pth(path), BACKBONES[name])
    else:
        raise UsageError(f"weights.source {source} is neither a folder nor a .pth file. {HOW_TO_GET}")
    _fill(backbone, state, f"weights.source {source}")
    checked = bool(sha256) or kind == "shipped"
    called = path.stem if kind == "meta" else path.resolve().name
    return BackboneOrigin(kind, name, called, digest, licence, notice, checked)


def random_origin(backbone: FrozenBackbone, name: str) -> BackboneOrigin:
    """The origin of a backbone whose values are still the random first ones."""
    digest = hashlib.sha256()
    for key, value in backbone.model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return BackboneOrigin("random", name, "random", digest.hexdigest(), "none, random values", "", False)


def no_origin() -> BackboneOrigin:
    """The origin that a network without a backbone records."""
    nothing = hashlib.sha256(b"").hexdigest()
    return BackboneOrigin("none", NO_BACKBONE, NO_BACKBONE, nothing, "none, no backbone", "", True)


def _licence(name: str) -> tuple[str, str]:
    """Licence and notice of weights that do not state them; the shapes named vit* are Meta's."""
    if name == SHIPPED_BACKBONE:
        return "as stated by whoever made the weights", ""
    return DINOV3_LICENCE, DINOV3_NOTICE


def _shipped(name: str) -> Path:
    if name != SHIPPED_BACKBONE:
        raise UsageError(
            f"weights.source is 'shipped' and network.backbone {name!r}, but only {SHIPPED_BACKBONE!r} "
            f"ships. {HOW_TO_GET}"
        )
    if not (SHIPPED / RECORD_FILE).is_file():
        raise UsageError(
            f"the tiny backbone ({RECORD_FILE}, {WEIGHTS_FILE}) is not in this installation's "
            "trainer/network/tiny_backbone; install strokecore again, or make one with trainer pretrain "
            "and give its folder with --weights."
        )
    return SHIPPED


def _read_pretrained(folder: Path, name: str, digest: str) -> tuple[dict[str, Tensor], str]:
    """Tensors and licence of a folder that trainer pretrain wrote."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text("utf-8"))
        kind, shape, recorded, licence = (record[key] for key in ("kind", "shape", "sha256", "licence"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder}/{RECORD_FILE} cannot be read ({type(error).__name__}: {error}); make it again with "
            "trainer pretrain."
        ) from error
    wanted = json.loads(json.dumps(asdict(BACKBONES[name])))
    if kind != RECORD_KIND or shape != wanted:
        raise UsageError(
            f"{folder} is not the backbone {name!r}: it is {kind} of shape {shape}, expected {RECORD_KIND} "
            f"of {wanted}. "
            "Change network.backbone in the recipe, or give the other weights."
        )
    if digest != recorded:
        raise UsageError(
            f"{folder}/{WEIGHTS_FILE} has sha256 {digest}, its record says {recorded}; it is damaged, "
            "get it again."
        )
    return _read_safetensors(folder / WEIGHTS_FILE), str(licence)


def _read_folder(folder: Path, name: str) -> dict[str, Tensor]:
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
        kind = found.get("model_type")
        given = DINOv3ViTConfig.from_dict(found) if kind == "dinov3_vit" else None
    except Exception as error:  # json, and transformers' own checks of types
        raise UsageError(
            f"{folder}/config.json cannot be read ({type(error).__name__}); expected a folder that "
            f"transformers wrote. {HOW_TO_GET}"
        ) from error
    if given is None:
        raise UsageError(f"{folder}/config.json is of a {kind!r} model, expected 'dinov3_vit'. {HOW_TO_GET}")
    wanted = BACKBONES[name].to_transformers()
    differences = [
        f"{key} is {getattr(given, key)}, expected {getattr(wanted, key)}"
        for key in _FORWARD_KEYS
        if getattr(given, key) != getattr(wanted, key)
    ]
    if differences:
        raise UsageError(
            f"{folder}/config.json is not the backbone {name!r}: {'; '.join(differences)}. "
            "Change network.backbone in the recipe, or give the other weights."
        )
    return _read_safetensors(folder / "model.safetensors")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({error}); get it again.") from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    """A dictionary of tensors; anything else in the file is refused by torch (weights_only) or here."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip, torch and the operating system each raise their own
        raise UsageError(
            f"{path} cannot be read as a PyTorch checkpoint ({type(error).__name__}): the download was cut "
            f"short, or it is another kind of file. {HOW_TO_GET}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        names = (
            ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        )
        raise UsageError(f"{path} holds {names}; expected the tensors of one backbone. {HOW_TO_GET}")
    return content


def _fill(backbone: FrozenBackbone, state: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into the backbone, all of them and no others."""
    own = backbone.model.state_dict()
    # published checkpoints have "layer.0.."; transformers 5 has "model.layer.0.." in memory
    renamed = {key if key in own else f"model.{key}": value for key, value in state.items()}
    problems = [f"{key} is missing" for key in own if key not in renamed]
    for key, value in renamed.items():
        if key not in own:
            problems.append(f"{key.removeprefix('model.')} is unknown")
        elif value.shape != own[key].shape:
            problems.append(f"{key} is {list(value.shape)}, expected {list(own[key].shape)}")
        elif not bool(torch.isfinite(value).all()):
            problems.append(f"{key} holds values that are not finite")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UsageError(
            f"{source} does not fit the backbone: {'; '.join(problems[:4])}{more}. "
            "Change network.backbone in the recipe, or give the other weights."
        )
    backbone.model.load_state_dict(renamed)


def _checked_digest(file: Path, expected: str) -> str:
    if not file.is_file():
        split = file.with_name(file.name + ".index.json").is_file()
        how = "the weights are split; save them with max_shard_size='10GB'" if split else HOW_TO_GET
        raise UsageError(f"{file} is not there: {how}")
    found = file_sha256(file)
    if expected and found != expected.lower():
        raise UsageError(
            f"{file} has sha256 {found}, the recipe expects {expected}; "
            "give the other file or change weights.sha256."
        )
    return found
