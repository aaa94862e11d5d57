"""What an operation of a trace is for; what it computes and moves, by the shapes it was given."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.profiler import record_function
from torch.utils.hooks import RemovableHandle

from vaetrain.model.masked import MaskedCBAM, MaskedGroupNorm, PyramidPool

LAYERS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.Linear: "linear layers",
    MaskedGroupNorm: "normalisation",
    MaskedCBAM: "attention",
    PyramidPool: "pooling",
}
RANGES = {
    **{f"layer: {purpose}": purpose for purpose in LAYERS.values()},
    "draw": "drawing",
    "augment": "augmentation",
    "forward": "rest of the model",
    "loss": "rest of the losses",
    "optimizer": "optimizer",
    "log": "logging",
    "data": "data",
}
"""Ranges of a trace, labels of layers and phases of the trainer, and what is inside them for."""

LOSS = "loss: "  # ranges of single losses, whose purpose is their name
COPIES = ("aten::to", "aten::copy_", "aten::contiguous", "aten::clone", "aten::_to_copy")
COPYING = ("Memcpy", "Memset")  # how kernels of copies begin
COMMUNICATION = ("gloo:", "nccl:", "c10d::", "ncclDevKernel", "ncclKernel", "record_param_comms")
GRADIENTS = "summing gradients"


def label_modules(model: nn.Module) -> list[RemovableHandle]:
    """Have a model's layers say in a trace what they are for, as long as the handles are there."""
    handles = []
    for module in model.modules():
        purpose = next((LAYERS[kind] for kind in LAYERS if isinstance(module, kind)), None)
        if purpose is not None:
            enter, leave = _around(f"layer: {purpose}")
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    return handles


def _around(label: str) -> tuple[Callable[..., None], Callable[..., None]]:
    entered: list[record_function] = []

    def enter(*_: object) -> None:
        entered.append(record_function(label))
        entered[-1].__enter__()

    def leave(*_: object) -> None:
        entered.pop().__exit__(None, None, None)

    return enter, leave


def purpose_of_range(name: str) -> str | None:
    """What the operations inside a range of this name are for; None: it doesn't tell."""
    return name if name.startswith(LOSS) else RANGES.get(name)


def is_communication(name: str) -> bool:
    """Whether an operation or a kernel sends or receives."""
    return name.startswith(COMMUNICATION)


# FLOPs: of what multiplies matrices, a multiplication and an addition being two.


def flops(name: str, arguments: Mapping[str, Any]) -> int:
    """FLOPs of an operation by what a trace says of it: convolutions and matrix products; else 0.

    Those that only call one of these count nothing themselves.
    """
    counted = FLOPS.get(name)
    return counted(arguments) if counted is not None and arguments.get("Input Dims") else 0


def _convolution(arguments: Mapping[str, Any]) -> int:
    x, w = arguments["Input Dims"][:2]
    stride, padding, dilation = (_numbers(arguments, place) for place in (3, 4, 5))
    out = [
        (side + 2 * pad - reach * (kernel - 1) - 1) // step + 1
        for side, kernel, step, pad, reach in zip(
            x[2:], w[2:], stride, padding, dilation, strict=True
        )
    ]
    return 2 * x[0] * math.prod(out) * math.prod(w)


def _convolution_backward(arguments: Mapping[str, Any]) -> int:
    grad, _, w = arguments["Input Dims"][:3]
    wanted = ast.literal_eval(arguments["Concrete Inputs"][10])
    # As many for the input as for the weights.
    return sum(wanted[:2]) * 2 * grad[0] * math.prod(grad[2:]) * math.prod(w)


def _numbers(arguments: Mapping[str, Any], place: int) -> list[int]:
    return ast.literal_eval(arguments["Concrete Inputs"][place])


def _product(first: int) -> Callable[[Mapping[str, Any]], int]:
    """Of matrices (..., m, k) and (..., k, n), the inputs from number `first` on."""

    def count(arguments: Mapping[str, Any]) -> int:
        a, b = arguments["Input Dims"][first : first + 2]
        return 2 * math.prod(a) * b[-1]

    return count


FLOPS = {
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::addmm": _product(1),
    "aten::baddbmm": _product(1),
}


# Bytes: what has to be read and written at least.

SIZES = {
    "double": 8,
    "long int": 8,
    "float": 4,
    "int": 4,
    "short int": 2,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "unsigned char": 1,
    "signed char": 1,
    "bool": 1,
}
VIEWS = (
    *("view", "reshape", "expand", "expand_as", "select", "slice", "split", "chunk", "narrow"),
    *("unflatten", "flatten", "transpose", "permute", "unbind", "squeeze", "unsqueeze", "detach"),
    *("t", "numpy_T", "alias", "as_strided", "result_type", "empty", "empty_like", "unfold"),
)
REDUCTIONS = ("sum", "mean", "amax", "norm", "linalg_vector_norm", "all", "any", "max", "min")


def bytes_moved(name: str, arguments: Mapping[str, Any]) -> int:
    """Bytes that an operation has to read and write, by what a trace says of its inputs.

    Every input is read once. What is written, which a trace doesn't say, is as large as the largest
    input, but in place, where it is the first, and of a reduction, where it is nothing. So it is a
    guess, good to tell what is bound by memory from what is not.
    """
    plain = name.removeprefix("aten::")
    if plain in VIEWS:
        return 0
    kinds, shapes = arguments.get("Input type", ()), arguments.get("Input Dims", ())
    sizes = [_bytes(kind, shape) for kind, shape in zip(kinds, shapes, strict=False)]
    if not any(sizes):
        return 0
    if plain in REDUCTIONS:
        written = 0
    elif plain.endswith("_"):
        written = sizes[0]
    else:
        written = max(sizes)
    return sum(sizes) + written


def _bytes(kind: str, shape: Sequence[Any]) -> int:
    if shape and isinstance(shape[0], list):  # a list of tensors, whose type isn't told
        return sum(4 * math.prod(each) for each in shape)
    return SIZES.get(kind, 0) * math.prod(shape)
