"""Two LoRA adapters beside each frozen projection.

    y = W x + (alpha / r_good) good_scale B_good A_good x + (alpha / r_bad) bad_scale B_bad A_bad x

LoRA: Hu et al. 2021, arXiv:2106.09685, eq. 3.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.dual_adapter import DualAdapter
from adapters.structure import decoder_layers, projection_dims, projections


class DualLoRALinear(DualAdapter):
    """A frozen projection (nn.Linear or Conv1D) with a good and a bad LoRA.

    Parameters: lora_A_good [rank, d_in], lora_B_good [d_out, rank], lora_A_bad [bad_rank, d_in], lora_B_bad
    [d_out, bad_rank]. In training, `dropout` drops entries of the input of the adapters, the same ones for
    both."""

    DOWN, UP, RELU = "lora_A_{}", "lora_B_{}", False

    def __init__(self, base: nn.Module, rank: int, bad_rank: int, alpha: float, dropout: float = 0.0):
        d_in, d_out = projection_dims(base)
        super().__init__(d_in, d_out, (rank, bad_rank), like=base.weight)
        self.base = base
        self.gains = tuple(alpha / dim if dim else 0.0 for dim in self.dims)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.adapt(self.base(x), self.dropout(x))


def apply_dual_lora(
    model: nn.Module,
    rank: int,
    bad_rank: int,
    alpha: float,
    dropout: float = 0.0,
    layers: Sequence[int] | float = 0.5,
) -> list[DualLoRALinear]:
    """Freeze `model` and put two LoRAs beside every projection of `layers`.

    `layers`: a share of the last ones, or indices. Changes the model in place and returns the new modules;
    `coverage` says what they cover. Raises ValueError if no decoder layers or projections are found, or if
    the model has adapters already.
    """
    blocks = decoder_layers(model, layers)
    chosen = [place for layer in blocks for place in projections(layer)]
    if not chosen:
        raise ValueError(
            f"LoRA is not supported on {type(model).__name__}: these layers have no nn.Linear or Conv1D "
            "projection, or only those of state-space mixers, which read the weights themselves"
        )
    wrapped = [DualLoRALinear(projection, rank, bad_rank, alpha, dropout) for _, _, projection in chosen]
    model.requires_grad_(False)
    for (parent, name, _), module in zip(chosen, wrapped, strict=True):
        # OPT flattens examples and tokens between a layer's parts. That the routes fit the batch, its
        # attention has checked.
        module.may_be_flat = any(parent is layer for layer in blocks)
        setattr(parent, name, module)
    return wrapped
