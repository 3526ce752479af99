"""How orthogonal the two adapters are: principal angles between their subspaces, cosines of their effective updates.

In high dimensions random directions are nearly orthogonal anyway, so every number comes with what random matrices of the same
shapes give.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from adapters import DualLoRALinear
from adapters.dual_adapter import DualAdapter


@dataclass(frozen=True)
class Overlap:
    """One adapter module's readings; `random_*` are means over random Gaussian matrices of the same shapes."""

    module: str
    down: float  # mean squared cosine of the principal angles between the row spaces of the down (A) matrices: 0 = orthogonal
    up: float  # the same for the column spaces of the up (B) matrices
    update: (
        float | None
    )  # cosine between the effective weight updates B A, as vectors; None behind a ReLU, where there is none
    random_down: float
    random_up: float
    random_update_std: (
        float | None
    )  # the cosine's mean is 0 for random matrices; this is its standard deviation


def principal_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the principal angles between the column spaces of a [d, m] and b [d, n]: [min(m, n)], descending.

    Björck and Golub 1973: the singular values of Qa^T Qb. Columns that are zero up to rounding span nothing and are left out.
    """
    return torch.linalg.svdvals(_basis(a).T @ _basis(b)).clamp(max=1.0)


def _basis(matrix: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, s > s.max() * 1e-6] if s.max() > 0 else u[:, :0]


def squared_overlap(a: Tensor, b: Tensor) -> float:
    """The mean squared cosine of the principal angles; for random subspaces about max(m, n) / d. nan for an empty one."""
    return principal_cosines(a, b).square().mean().item()


def update_cosine(down_a: Tensor, up_a: Tensor, down_b: Tensor, up_b: Tensor) -> float:
    """cos(U_a D_a, U_b D_b) as vectors, without forming the [d_out, d_in] products: tr((U_a^T U_b)(D_b D_a^T)) and norms."""

    def dot(d1: Tensor, u1: Tensor, d2: Tensor, u2: Tensor) -> Tensor:
        return ((u1.T @ u2) * (d1 @ d2.T)).sum()

    a, b = (down_a.double(), up_a.double()), (down_b.double(), up_b.double())
    return (dot(*a, *b) / (dot(*a, *a) * dot(*b, *b)).sqrt()).item()


@torch.no_grad()
def overlaps(model: nn.Module, draws: int = 8, seed: int = 0) -> list[Overlap]:
    """The readings of every adapter module of `model` with both slots in use, in the model's order."""
    generator = torch.Generator().manual_seed(seed)
    readings: list[Overlap] = []
    random: dict[tuple, tuple[float, float, float]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, DualAdapter) or 0 in module.dims:
            continue
        (down_g, up_g), (down_b, up_b) = (
            [p.cpu() for p in module.slot_params(slot)] for slot in ("good", "bad")
        )
        shapes = tuple(tuple(p.shape) for p in (down_g, up_g, down_b, up_b))
        if shapes not in random:
            drawn = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(draws)]
            cosines = torch.tensor([update_cosine(*matrices) for matrices in drawn])
            random[shapes] = (
                sum(squared_overlap(d[0].T, d[2].T) for d in drawn) / draws,
                sum(squared_overlap(d[1], d[3]) for d in drawn) / draws,
                cosines.square().mean().sqrt().item(),
            )
        linear = isinstance(module, DualLoRALinear)
        readings.append(
            Overlap(
                module=name,
                down=squared_overlap(down_g.T, down_b.T),
                up=squared_overlap(up_g, up_b),
                update=update_cosine(down_g, up_g, down_b, up_b) if linear else None,
                random_down=random[shapes][0],
                random_up=random[shapes][1],
                random_update_std=random[shapes][2] if linear else None,
            )
        )
    return readings


def format_overlaps(readings: Sequence[Overlap]) -> str:
    """The readings as a table, averaged over layers by kind of module."""
    kinds: dict[str, list[Overlap]] = {}
    for reading in readings:
        kinds.setdefault(reading.module.rsplit(".", 1)[-1], []).append(reading)
    lines = [
        f"{'module':<12}{'down/A':>9}{'random':>9}{'up/B':>9}{'random':>9}{'update cos':>12}{'random sd':>11}",
    ]
    for kind, group in kinds.items():
        columns = [
            _mean(group, name)
            for name in ("down", "random_down", "up", "random_up", "update", "random_update_std")
        ]
        cells = [f"{value:.3f}" if value is not None else "-" for value in columns]
        lines.append(
            f"{kind:<12}" + "".join(f"{c:>{w}}" for c, w in zip(cells, (9, 9, 9, 9, 12, 11), strict=True))
        )
    return "\n".join(lines)


def _mean(group: Sequence[Overlap], name: str) -> float | None:
    values = [getattr(reading, name) for reading in group]
    return None if None in values else sum(values) / len(values)


def as_rows(readings: Sequence[Overlap]) -> list[dict[str, float | str | None]]:
    return [asdict(reading) for reading in readings]
