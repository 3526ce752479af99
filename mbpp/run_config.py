"""A run to evaluate in this data set's terms: retain is the good slot of the library, forget the bad one."""

from collections.abc import Sequence
from typing import ClassVar

import lab.run_config
from lab.run_config import EvalMode


class RunConfig(lab.run_config.RunConfig):
    """One checkpoint to evaluate. `eval_modes`: [(retain_scale, forget_scale, mode_name), ...]."""

    DIM_NAMES: ClassVar[tuple[str, str]] = ("retain_dim", "forget_dim")
    DEFAULT_MODES: ClassVar[tuple[EvalMode, ...]] = (
        (1.0, 1.0, "full"),
        (1.0, 0.0, "forget_ablated"),
        (0.0, 1.0, "retain_ablated"),
    )

    def __init__(
        self,
        name: str,
        checkpoint_path: str,
        adapter_type: str | None = None,
        retain_dim: int | None = None,
        forget_dim: int | None = None,
        eval_modes: Sequence[EvalMode] | None = None,
        label: str = "",
    ):
        super().__init__(name, checkpoint_path, adapter_type, retain_dim, forget_dim, eval_modes, label)

    @property
    def retain_dim(self) -> int | None:
        return self.good_dim

    @property
    def forget_dim(self) -> int | None:
        return self.bad_dim
