"""The training step uses no operation that CUDA refuses under deterministic algorithms.

On the CPU, with fake tensors; `test_a_step_repeats_its_bits_on_a_gpu` runs on a GPU only. The lists
are those of the documentation of `torch.use_deterministic_algorithms` (torch 2.14).
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.fake_devices import (
    CPU,
    CUDA,
    PAGES,
    Step,
    a_batch,
    a_gan_trainer,
    a_step_on_a_gpu,
)
from vaetrain.engines.device_options import set_arithmetic

# They raise an error on CUDA, some of them for some arguments only.
REFUSED = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "_ctc_loss_backward",
    "_embedding_bag",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "max_unpool3d",
    "median",
    "nll_loss2d_forward",
    "put",
    "put_",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "scatter_reduce",
    "scatter_reduce_",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}
# Their sums depend on the order of threads, but deterministic implementations are selected. Max
# pooling, in perceptual networks only, is in neither list of torch and is not refused.
WITH_ALTERNATIVE = {
    "cumsum",
    "_index_put_impl_",
    "embedding_dense_backward",
    "index_add",
    "index_add_",
    "index_copy",
    "index_copy_",
    "index_put",
    "index_put_",
    "index_reduce",
    "max_pool2d_with_indices_backward",
    "replication_pad2d_backward",
    "scatter",
    "scatter_",
    "scatter_add",
    "scatter_add_",
}


class Operations(TorchDispatchMode):
    """Dispatch mode that records the names and dtypes of all ATen operations."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.rpartition("::")[2]
        dtypes = self.dtypes.setdefault(name, set())
        dtypes |= {value.dtype for value in (*args, result) if isinstance(value, torch.Tensor)}
        return result


CASES = {
    "default": (),
    "mixup-and-every-loss": (
        "loss.perceptual=1",
        "loss.perceptual_weights=random",
        "loss.perceptual_net=alex",
        "loss.ms_ssim=1",
        "loss.gradient=1",
    ),
    "dense-cbam-ladder": (
        "model.blocks=densenet",
        "model.attention=cbam",
        "model.skips=hierarchical",
    ),
    "spatial-gated": ("model.latent=spatial", "model.skips=gated"),
    "gan": ("gan.enabled=true", "gan.start_epoch=0", "gan.regularizer=lecam"),
    "gan-light": ("gan.enabled=true", "gan.start_epoch=0", "gan.discriminator=light"),
}


def operations(settings: tuple[str, ...], *, pictures: bool) -> dict[str, set[torch.dtype]]:
    """Return the operations of a step's forward and backward pass with their dtypes."""
    with FakeTensorMode(), Operations() as mode:
        step, gan = Step("strong", *settings, device=CPU), None
        if "gan.enabled=true" in settings:
            gan = a_gan_trainer(settings)
            gan.begin(2 * PAGES)
        losses, _ = step.losses(a_batch(pictures, CPU), gan)
        losses.sum().backward()
    return mode.dtypes


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_no_operation_is_refused_under_deterministic_algorithms(case, pictures):
    used = operations(CASES[case], pictures=pictures)
    assert REFUSED & used.keys() == set()
    floats = {
        name
        for name in WITH_ALTERNATIVE & used.keys()
        if any(dtype.is_floating_point for dtype in used[name])
    }
    # Boxes are painted and looked up with integers only.
    assert floats <= {"max_pool2d_with_indices_backward"}, floats


def test_an_operation_that_is_refused_is_noticed():
    with FakeTensorMode(), Operations() as mode:
        image = torch.zeros(1, 1, 8, 8, requires_grad=True)
        torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear").sum().backward()
    assert REFUSED & mode.dtypes.keys() == {"upsample_bilinear2d_backward"}


@pytest.mark.gpu
def test_a_step_repeats_its_bits_on_a_gpu():
    """Stands in for it on a CPU: the list of operations above."""
    set_arithmetic(CUDA, deterministic=True, tf32=False)
    gradients = []
    for _ in range(2):
        step, batch = a_step_on_a_gpu()
        step.losses(batch)[0].sum().backward()
        gradients.append([parameter.grad for parameter in step.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
