"""InfoNCE, compared with a loop over pages, and gradients that are applied to micro batches."""

import numpy as np
import pytest
import torch

from vaetrain.losses.contrastive import TEMPERATURE, info_nce, injected, values_and_gradients

N, D = 7, 4
TEMPLATES = torch.tensor([0, 0, 1, 2, -1, -1, 1])


@pytest.fixture
def views() -> torch.Tensor:
    return torch.randn(2, N, D, generator=torch.Generator().manual_seed(0))


def reference(views: np.ndarray, templates: list[int], page: int) -> float:
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    losses = []
    for view in (0, 1):
        anchor = unit[view, page]
        positive = np.exp(anchor @ unit[1 - view, page] / TEMPERATURE)
        others = [
            other
            for other in range(len(templates))
            if other != page and (templates[other] != templates[page] or templates[page] == -1)
        ]
        negatives = [np.exp(anchor @ unit[v, o] / TEMPERATURE) for o in others for v in (0, 1)]
        losses.append(-np.log(positive / (positive + sum(negatives))))
    return np.mean(losses)


def test_info_nce_has_negatives_of_other_templates_only(views):
    expected = [reference(views.double().numpy(), TEMPLATES.tolist(), page) for page in range(N)]
    np.testing.assert_allclose(info_nce(views, TEMPLATES).numpy(), expected, rtol=1e-10)


def test_pages_of_one_template_are_no_negatives_and_lose_nothing(views):
    assert (info_nce(views, torch.zeros(N, dtype=torch.long)) == 0).all()


def test_micro_batches_together_have_the_gradient_of_the_whole(views):
    whole = views.clone().requires_grad_()
    loss = info_nce(whole, TEMPLATES)
    loss.sum().backward()
    values, gradients = values_and_gradients(views, TEMPLATES)
    parts = views.clone().requires_grad_()
    for part in (slice(0, 3), slice(3, N)):
        losses = injected(values[part], gradients[:, part], parts[:, part])
        torch.testing.assert_close(losses, loss[part].float())
        losses.sum().backward()
    torch.testing.assert_close(parts.grad, whole.grad)
