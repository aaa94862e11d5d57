"""Purpose, FLOPs and bytes of the operations in a profiler trace, by labels and input shapes."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.profiler import record_function
from torch.utils.hooks import RemovableHandle

from vaetrain.model.attention import MaskedCBAM
from vaetrain.model.masked import MaskedGroupNorm, PyramidPool

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
"""Purpose of the operations inside a range of a trace: layer labels and phases of the trainer."""

LOSS = "loss: "  # prefix of the ranges of single losses; the range is the purpose
COPIES = ("aten::to", "aten::copy_", "aten::contiguous", "aten::clone", "aten::_to_copy")
COPY_KERNELS = ("Memcpy", "Memset")  # prefixes
COMMUNICATION = ("gloo:", "nccl:", "c10d::", "ncclDevKernel", "ncclKernel", "record_param_comms")
GRADIENTS = "summing gradients"


def label_modules(model: nn.Module) -> list[RemovableHandle]:
    """Mark a model's layers in traces with their purpose, until the returned hooks are removed."""
    handles = []
    for module in model.modules():
        purpose = next((LAYERS[kind] for kind in LAYERS if isinstance(module, kind)), None)
        if purpose is not None:
            enter, leave = _range_hooks(f"layer: {purpose}")
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    return handles


def _range_hooks(label: str) -> tuple[Callable[..., None], Callable[..., None]]:
    open_ranges: list[record_function] = []

    def enter(*_: object) -> None:
        open_ranges.append(record_function(label))
        open_ranges[-1].__enter__()

    def leave(*_: object) -> None:
        open_ranges.pop().__exit__(None, None, None)

    return enter, leave


def purpose_of_range(name: str) -> str | None:
    """Return the purpose of the operations inside a range of this name; None: unknown."""
    return name if name.startswith(LOSS) else RANGES.get(name)


def is_communication(name: str) -> bool:
    """Return whether an operation or a kernel sends or receives."""
    return name.startswith(COMMUNICATION)


# FLOPs of convolutions and matrix products: a multiplication and an addition count as two.


def flops(name: str, arguments: Mapping[str, Any]) -> int:
    """Return the FLOPs of an operation from its arguments in a trace; 0 for one not in `FLOPS`.

    Operations that only call one in `FLOPS`, such as `aten::conv2d`, are 0 as well.
    """
    formula = FLOPS.get(name)
    return formula(arguments) if formula is not None and arguments.get("Input Dims") else 0


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
    output_mask = ast.literal_eval(arguments["Concrete Inputs"][10])
    # The gradients of input and weights take the same number each.
    return sum(output_mask[:2]) * 2 * grad[0] * math.prod(grad[2:]) * math.prod(w)


def _numbers(arguments: Mapping[str, Any], place: int) -> list[int]:
    return ast.literal_eval(arguments["Concrete Inputs"][place])


def _product(first: int) -> Callable[[Mapping[str, Any]], int]:
    """Return the formula for matrices (..., m, k) and (..., k, n), inputs `first` and the next."""

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


# Bytes: the minimum that has to be read and written.

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
    """Estimate the bytes that an operation has to read and write, from its inputs in a trace.

    Every input is read once. A trace does not contain the output's shape: it is taken to be as
    large as the largest input, as the first input for an in-place operation, and empty for a
    reduction. The estimate is good enough to recognise operations that are bound by memory.
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
    if shape and isinstance(shape[0], list):  # a list of tensors, without their dtype in the trace
        return sum(4 * math.prod(each) for each in shape)
    return SIZES.get(kind, 0) * math.prod(shape)
