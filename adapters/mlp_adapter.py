"""Two bottleneck MLP adapters on the output h of each frozen MLP.

    y = h + good_scale U_good relu(D_good h) + bad_scale U_bad relu(D_bad h)

Adapters: Houlsby et al. 2019, arXiv:1902.00751; here without biases, and the skip connection is h itself.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.dual_adapter import DualAdapter
from adapters.structure import decoder_layers, mlp


class DualMLPAdapter(DualAdapter):
    """A frozen MLP with a good and a bad bottleneck adapter on its output.

    Parameters: down_good [adapter_dim, d], up_good [d, adapter_dim], down_bad [bad_adapter_dim, d], up_bad
    [d, bad_adapter_dim]."""

    DOWN, UP, RELU = "down_{}", "up_{}", True

    def __init__(self, base: nn.Module, width: int, adapter_dim: int, bad_adapter_dim: int):
        super().__init__(width, width, (adapter_dim, bad_adapter_dim), like=next(base.parameters()))
        self.base = base
        self.train(base.training)

    def forward(self, *args, **kwargs) -> Tensor:
        output = self.base(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"{type(self.base).__name__} returns a {type(output).__name__}; an MLP adapter needs a tensor"
            )
        return self.adapt(output, output)


def apply_mlp_adapter(
    model: nn.Module, adapter_dim: int, bad_adapter_dim: int, layers: Sequence[int] | float = 0.5
) -> list[DualMLPAdapter]:
    """Freeze `model` and put two bottleneck adapters on each MLP's output in `layers`.

    `layers`: a share of the last ones, or indices. Changes the model in place and returns the new modules.
    Raises ValueError if no decoder layers or no MLP are found, or if the model has adapters already.
    """
    chosen = [(layer, *mlp(layer)) for layer in decoder_layers(model, layers)]
    wrapped = [DualMLPAdapter(module, width, adapter_dim, bad_adapter_dim) for _, _, module, width in chosen]
    model.requires_grad_(False)
    for (layer, name, _, _), module in zip(chosen, wrapped, strict=True):
        setattr(layer, name, module)
    return wrapped
