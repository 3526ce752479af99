"""More than one process: `torchrun --nproc_per_node N experiment.py` runs a script unchanged on N devices.

Every process holds the whole frozen model and both adapters, and takes its rows of each global batch. The
adapters' gradients are averaged over processes before the optimizer step, so a step is that of one process
with the whole batch, however labels fall on the processes. The first process writes files and prints. On one
process everything here does nothing."""

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adapters import routed_modules
from adapters.structure import decoder_stack


def start() -> None:
    """Join the other processes, if torchrun started several; safe to call again.

    All but the first stop printing to stdout.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        from accelerate import PartialState  # here: importing it takes a second

        PartialState(cpu=not torch.cuda.is_available())  # NCCL and a device per process, or gloo
        atexit.register(leave)
        if not is_main():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for the rest of the process)


def leave() -> None:
    """End gloo's threads before the interpreter ends; NCCL could wait here for a process that has died."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def rank() -> int:
    start()
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    start()
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True in the process that writes files, which is the first."""
    return rank() == 0


def is_sharded(model: nn.Module) -> bool:
    """True after `shard_base`.

    Every forward pass is then a joint one, so all processes must make the same passes.
    """
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def own_share(model: nn.Module, items: Sequence[Any]) -> list[Any]:
    """Which items this process evaluates: every N-th.

    All of them, in step with the others, if the base is sharded.
    """
    return list(items) if is_sharded(model) else list(items[rank() :: world_size()])


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its mean over processes, in one message a dtype.

    A gradient that is missing here counts as zero: on this process no example may have contributed to the
    adapter."""
    if world_size() == 1:
        return
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(parameter.dtype, []).append(parameter)
    for group in groups.values():
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in group])
        dist.all_reduce(flat)
        flat /= world_size()
        for parameter, part in zip(group, flat.split([p.numel() for p in group]), strict=True):
            parameter.grad = part.view_as(parameter)


@torch.no_grad()
def copy_from_main(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the first one's values."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter, 0)


def gathered(items: Sequence[Any]) -> list[Any]:
    """The items of all processes, the first process's first."""
    if world_size() == 1:
        return list(items)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def from_main(compute: Callable[[], Any]) -> Any:
    """What `compute` returns, or raises, in the first process, in every process.

    For work that is to be done once.
    """
    if world_size() == 1:
        return compute()
    box: list[Any] = [None, None]
    if is_main():
        try:
            box[0] = compute()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, 0)
    if box[1] is not None:
        raise box[1]
    return box[0]


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sharded one (see `shard_base`) all of it, for which every process must call."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_base(model: nn.Module) -> None:
    """Shard the frozen weights over the processes, one group per decoder layer.

    This is for a base that does not fit on one device. Call it after `attach_adapters`. FSDP2 gathers a
    layer's weights while the layer computes; the adapters stay whole on every process, so routing and its
    gradients are what they are without. So does the output projection, and with it an embedding that it is
    tied to: the loss multiplies it chunk by chunk instead of holding all logits. Needs several processes; on
    one it does nothing.
    """
    if world_size() == 1:
        return
    from torch.distributed.fsdp import fully_shard

    whole = {parameter for module in routed_modules(model) for parameter in module.parameters(recurse=False)}
    head = model.get_output_embeddings()
    whole |= set(head.parameters()) if head is not None else set()
    for layer in decoder_stack(model):
        fully_shard(layer, ignored_params=whole)
    # not the whole model, as the loss calls its base alone
    fully_shard(model.base_model, ignored_params=whole)
