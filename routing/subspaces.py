"""How orthogonal the two adapters are.

Measured are principal angles between their subspaces, and cosines of their effective updates. In high
dimensions random directions are nearly orthogonal anyway, so every number comes with what random matrices of
the same shapes give.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from adapters import DualLoRALinear
from adapters.dual_adapter import DualAdapter


@dataclass(frozen=True)
class Overlap:
    """One adapter module's readings.

    `random_*` are means over random Gaussian matrices of the same shapes.
    """

    module: str
    # mean squared cosine of the principal angles between the row spaces of the down (A) matrices:
    # 0 = orthogonal
    down: float | None
    up: (
        float | None
    )  # the same for the column spaces of the up (B) matrices; None before they have learned anything
    # cosine between the effective weight updates B A, as vectors;
    # None behind a ReLU, where there is none, and for no update
    update: float | None
    random_down: float
    random_up: float
    random_update_std: (
        float | None
    )  # the cosine's mean is 0 for random matrices; this is its standard deviation


def principal_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the principal angles between the column spaces of a [d, m] and b [d, n].

    Their shape is [min(m, n)], and they descend. Björck and Golub 1973: the singular values of Qa^T Qb.
    Columns that are zero up to rounding span nothing and are left out.
    """
    return torch.linalg.svdvals(_basis(a).T @ _basis(b)).clamp(max=1.0)


def _basis(matrix: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, s > s.max() * 1e-6] if s.max() > 0 else u[:, :0]


def squared_overlap(a: Tensor, b: Tensor) -> float | None:
    """The mean squared cosine of the principal angles; for random subspaces about max(m, n) / d.

    None for an empty one.
    """
    cosines = principal_cosines(a, b)
    return cosines.square().mean().item() if len(cosines) else None


def update_cosine(down_a: Tensor, up_a: Tensor, down_b: Tensor, up_b: Tensor) -> float | None:
    """cos(U_a D_a, U_b D_b) as vectors, without forming the [d_out, d_in] products.

    It takes tr((U_a^T U_b)(D_b D_a^T)) and norms. None if one of them is zero.
    """

    def dot(d1: Tensor, u1: Tensor, d2: Tensor, u2: Tensor) -> Tensor:
        return ((u1.T @ u2) * (d1 @ d2.T)).sum()

    a, b = (down_a.double(), up_a.double()), (down_b.double(), up_b.double())
    norms = (dot(*a, *a) * dot(*b, *b)).sqrt()
    return (dot(*a, *b) / norms).item() if norms > 0 else None


@contextmanager
def random_weights(model: nn.Module, seed: int = 0) -> Iterator[nn.Module]:
    """Inside the block every adapter matrix is a random Gaussian one of its own shape and norm.

    This shows what chance alone would give.
    """
    adapters = [module for module in model.modules() if isinstance(module, DualAdapter)]
    params = [p for module in adapters for slot in ("good", "bad") for p in module.slot_params(slot)]
    before = [p.detach().clone() for p in params]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for p in params:
                drawn = torch.randn(p.shape, generator=generator).to(p)
                p.copy_(drawn * (p.norm() / drawn.norm()) if p.numel() else drawn)
        yield model
    finally:
        with torch.no_grad():
            for p, saved in zip(params, before, strict=True):
                p.copy_(saved)


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
        f"{'module':<12}{'down/A':>9}{'random':>9}{'up/B':>9}{'random':>9}"
        f"{'update cos':>12}{'random sd':>11}",
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
