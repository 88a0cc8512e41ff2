"""The network: a frozen DINOv3 vision transformer and a light dual-arm DPT decoder, or a U-Net instead of it.

Frozen backbone and dual-arm DPT-style decoder are the paper's (arXiv 2602.23961); depths of the taps, widths
and the arms' classes are ours, because the paper's were not available. The decoder follows Ranftl et al.,
"Vision Transformers for Dense Prediction", ICCV 2021: tokens of four depths are reassembled into maps of four
scales and fused from coarse to fine by residual convolution units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from strokecore.errors import UsageError
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from trainer.network.mirror_unet import COARSEST, MirrorUNet

# Scale of each reassembled map relative to the patch grid, shallow tap first (DPT's own choice).
_SCALES: Final = (4.0, 2.0, 1.0, 0.5)
REGISTER_TOKENS: Final = 4
# Channels that DINOv3 takes.
_COLOURS: Final = 3
NO_BACKBONE: Final = "none"
Decoder = Literal["dpt", "mirror_unet"]


@dataclass(frozen=True)
class BackboneConfig:
    """Shape of a DINOv3 vision transformer.

    Attributes
    ----------
    hidden_size, layers, heads, mlp_size, patch_size: of the transformer.
    gated_mlp: SwiGLU instead of GELU feed-forward (S+ and H+).
    taps: the four layers, counted from 1, after which features are taken.
    image_size: only documents what the weights were trained at; any multiple of the patch works.
    """

    hidden_size: int
    layers: int
    heads: int
    mlp_size: int
    taps: tuple[int, int, int, int]
    patch_size: int = 16
    gated_mlp: bool = False
    image_size: int = 224

    def to_transformers(self) -> DINOv3ViTConfig:
        """The configuration of transformers' DINOv3ViTModel."""
        config = DINOv3ViTConfig(
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.mlp_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            hidden_act="silu" if self.gated_mlp else "gelu",
            use_gated_mlp=self.gated_mlp,
            num_register_tokens=REGISTER_TOKENS,
            image_size=self.image_size,
        )
        config._attn_implementation = "sdpa"
        return config


# Shapes of Meta's DINOv3 models (facebookresearch/dinov3, hub configurations); "tiny" is ours, with patches
# half as wide, for small slices and two CPU cores.
BACKBONES: Final[dict[str, BackboneConfig]] = {
    "tiny": BackboneConfig(160, 8, 5, 640, (2, 4, 6, 8), patch_size=8, image_size=128),
    "vits16": BackboneConfig(384, 12, 6, 1536, (3, 6, 9, 12)),
    "vits16plus": BackboneConfig(384, 12, 6, 1536, (3, 6, 9, 12), gated_mlp=True),
    "vitb16": BackboneConfig(768, 12, 12, 3072, (3, 6, 9, 12)),
    "vitl16": BackboneConfig(1024, 24, 16, 4096, (6, 12, 18, 24)),
}


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the network's shape.

    Attributes
    ----------
    backbone: a key of BACKBONES, or "none" for a "mirror_unet" that is trained alone.
    features: channels of the decoder; of the U-Net's finest scale.
    dropout: share of the fused map's channels dropped in training.
    decoder: "dpt" reads the backbone's taps; "mirror_unet" (trainer.network.mirror_unet) reads the slices
        themselves and, where there is a backbone, its last tap.
    channels: of the input. A backbone sees the first three.
    """

    backbone: str = "tiny"
    features: int = 32
    dropout: float = 0.1
    decoder: Decoder = "dpt"
    channels: int = _COLOURS

    def __post_init__(self) -> None:
        known = [*BACKBONES, NO_BACKBONE]
        if self.backbone not in known:
            raise UsageError(
                f"backbone is {self.backbone!r}, expected one of {', '.join(known)}; change the recipe."
            )
        if self.decoder not in get_args(Decoder):
            raise UsageError(
                f"decoder is {self.decoder!r}, expected one of {', '.join(get_args(Decoder))}; change the "
                "recipe."
            )
        if self.decoder == "dpt" and (self.backbone == NO_BACKBONE or self.channels != _COLOURS):
            raise UsageError(
                f"decoder 'dpt' with backbone {self.backbone!r} and {self.channels} channels: it needs a "
                f"backbone, which takes {_COLOURS} channels."
            )
        if self.channels < (1 if self.backbone == NO_BACKBONE else _COLOURS):
            raise UsageError(f"channels is {self.channels}, too few for backbone {self.backbone!r}.")
        if (
            self.decoder == "mirror_unet"
            and self.backbone != NO_BACKBONE
            and self.shape.patch_size != COARSEST
        ):
            raise UsageError(
                f"decoder 'mirror_unet' joins features of {COARSEST} pixels' patches, and backbone "
                f"{self.backbone!r} has {self.shape.patch_size}; use 'tiny' or 'none'."
            )
        if self.features < 1 or not 0 <= self.dropout < 1:
            raise UsageError(
                f"features is {self.features} and dropout {self.dropout}, expected >= 1 and 0-1."
            )

    @property
    def shape(self) -> BackboneConfig:
        """The backbone's shape. Raises KeyError where there is none."""
        return BACKBONES[self.backbone]

    @property
    def multiple(self) -> int:
        """Slices are a multiple of so many pixels high and wide."""
        return COARSEST if self.backbone == NO_BACKBONE else self.shape.patch_size

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of ``to_dict``."""
        return cls(
            str(values["backbone"]),
            int(values["features"]),
            float(values["dropout"]),
            values.get("decoder", "dpt"),
            int(values.get("channels", _COLOURS)),
        )


class FrozenBackbone(nn.Module):
    """DINOv3, always in eval mode and without gradients.

    ``train()`` does not reach the transformer: DINOv3 rescales its rotary positions at random in train mode,
    which would move frozen features.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DINOv3ViTModel(config.to_transformers())
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in eval mode."""
        del mode
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features after each tap.

        Parameters
        ----------
        pixels: [n, 3, H, W], H and W multiples of the patch size.

        Returns
        -------
        Four tensors [n, hidden, H / patch, W / patch], through the model's own final norm.
        """
        rows, columns = (side // self.config.patch_size for side in pixels.shape[-2:])
        positions = self.model.rope_embeddings(pixels)
        tokens = self.model.embeddings(pixels)
        maps = []
        for depth, layer in enumerate(self.model.model.layer, start=1):
            tokens = layer(tokens, position_embeddings=positions)
            if depth in self.config.taps:
                patches = self.model.norm(tokens)[:, 1 + REGISTER_TOKENS :]
                maps.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        return tuple(maps)


class ResidualUnit(nn.Module):
    """Two 3 x 3 convolutions added to their input (DPT's residual convolution unit)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, features, h, w] to the same shape."""
        inner = self.second(functional.relu(self.first(functional.relu(x))))
        return torch.as_tensor(x + inner)


class Reassemble(nn.Module):
    """Tokens of one depth to a map of its scale: 1 x 1 projection, then up- or downsampling.

    Every map covers the same field edge to edge. DPT's own stride-2 convolution reads columns 0, 2, 4, .. and
    so moves the coarsest map by half a token to one side, which would tell a head from its mirror image.
    """

    def __init__(self, hidden_size: int, features: int, scale: float) -> None:
        super().__init__()
        self.coarser = scale < 1
        self.project = nn.Conv2d(hidden_size, features, 1)
        if scale > 1:
            self.resample: nn.Module = nn.ConvTranspose2d(features, features, int(scale), stride=int(scale))
        elif self.coarser:
            self.resample = nn.Conv2d(features, features, 3, padding=1)
        else:
            self.resample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[n, hidden, h, w] to [n, features, h * scale, w * scale], rounded up."""
        x = self.project(x)
        if self.coarser:
            x = _resized(x, ((x.shape[-2] + 1) // 2, (x.shape[-1] + 1) // 2))
        return torch.as_tensor(self.resample(x))


class DualArmDecoder(nn.Module):
    """DPT-style trunk shared by two arms: basal-ganglia (BG) and supraganglionic (SG)."""

    def __init__(self, hidden_size: int, features: int, dropout: float) -> None:
        super().__init__()
        self.reassemble = nn.ModuleList(Reassemble(hidden_size, features, scale) for scale in _SCALES)
        self.skip = nn.ModuleList(ResidualUnit(features) for _ in _SCALES[:-1])
        self.fuse = nn.ModuleList(ResidualUnit(features) for _ in _SCALES)
        self.dropout = nn.Dropout2d(dropout)
        self.bg = _arm(features, len(BG_CLASSES))
        self.sg = _arm(features, len(SG_CLASSES))

    def forward(self, taps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Class logits of both arms for every slice.

        Parameters
        ----------
        taps: four tensors [n, hidden, h, w], shallow first.
        size: (rows, columns) of the logits.

        Returns
        -------
        BG logits [n, 9, *size] and SG logits [n, 6, *size], in the order of strokecore.learned.arms.
        """
        maps = [reassemble(tap) for reassemble, tap in zip(self.reassemble, taps, strict=True)]
        fused = self.fuse[-1](maps[-1])
        for index in range(len(maps) - 2, -1, -1):
            fused = _resized(fused, maps[index].shape[-2:])
            fused = self.fuse[index](fused + self.skip[index](maps[index]))
        fused = self.dropout(fused)
        return _resized(self.bg(fused), size), _resized(self.sg(fused), size)


class NoBackbone(nn.Module):
    """Stands where a network has no frozen part."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """No features."""
        del pixels
        return ()


class StrokeNet(nn.Module):
    """Frozen backbone, if any, and decoder; only the decoder's parameters require gradients."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: nn.Module = NoBackbone()
        width = 0
        if config.backbone != NO_BACKBONE:
            self.backbone, width = FrozenBackbone(config.shape), config.shape.hidden_size
        if config.decoder == "dpt":
            self.decoder: nn.Module = DualArmDecoder(width, config.features, config.dropout)
        else:
            self.decoder = MirrorUNet(config.channels, config.features, config.dropout, width)

    def taps(self, x: Tensor) -> tuple[Tensor, ...]:
        """What nothing is learned for, of slices [n, channels, H, W].

        The backbone's features, which a feature cache holds; for a U-Net the slices and the last features of
        both orientations.
        """
        if self.config.decoder == "dpt":
            return tuple(self.backbone(x))
        colours = x[:, :_COLOURS]
        return (x, *self.backbone(colours)[-1:], *self.backbone(colours.flip(-1))[-1:])

    def decode(self, taps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits of both arms from ``taps``, see DualArmDecoder and MirrorUNet."""
        bg, sg = self.decoder(taps, size)
        return bg, sg

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """BG logits [n, 9, H, W] and SG logits [n, 6, H, W] of slices [n, channels, H, W].

        Raises UsageError when H or W is not a multiple of ``config.multiple``.
        """
        unit = self.config.multiple
        if x.shape[-2] % unit or x.shape[-1] % unit:
            raise UsageError(
                f"slices are {x.shape[-2]} x {x.shape[-1]} pixels, expected multiples of {unit}; "
                "change input.size in the recipe."
            )
        return self.decode(self.taps(x), (x.shape[-2], x.shape[-1]))


def _arm(features: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, classes, 1)
    )


def _resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
