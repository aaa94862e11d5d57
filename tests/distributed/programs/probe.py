"""Training of a small model by an engine without the trainer; prints the results as JSON.

    accelerate launch --config_file ENGINE probe.py exact|scaled [REDUCE_EACH_MICRO_BATCH]

The sizes of its layers are divisible by no world size but 1. `scaled` scales the losses as for
fp16, which CPUs do not support; the forward pass stays fp32.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from vaetrain.engines.base import AVERAGE, WEIGHT, Engine
from vaetrain.engines.config import EngineConfig, OptimizerConfig
from vaetrain.engines.optimizers import MOMENTS, STEP, build_optimizer
from vaetrain.engines.spec import running_launch
from vaetrain.engines.start import start_engine
from vaetrain.engines.torch_engine import TorchEngine
from vaetrain.engines.zero import FIRST_SCALE
from vaetrain.settings import ConfigError
from vaetrain.training.ema import WeightEma

GLOBAL, STEPS, CLIP = 12, 6, 0.5


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 13), nn.LayerNorm(13), nn.SiLU(), nn.Linear(13, 1))
    model.register_buffer("gate", torch.ones(()))
    return model


def scale_losses(engine: Engine) -> None:
    """Scale the losses as the engine does for fp16 on a GPU."""
    if isinstance(engine, TorchEngine):
        engine.scaler = torch.amp.GradScaler(engine.device.type)
    else:
        engine.precision = "fp16"
        engine.optimizer.loss_scale = FIRST_SCALE


def loaded_weights(engine: Engine, config: OptimizerConfig) -> list[float]:
    """Divide a new model on `meta`, load the engine's weights into it, and return them."""
    whole = {name: tensor.clone() for name, tensor in engine.weights()}
    with torch.device("meta"):
        model = small_model()
    settings = {"micro_batch": 1, "accumulation": 1, "clip_norm": CLIP}
    engine.prepare(model, build_optimizer(model, config), **settings)
    engine.load_weights(whole)
    assert int(engine.module.gate) == int(whole["gate"]) != 1
    assert not any(tensor.is_meta for tensor in engine.module.state_dict().values())
    loaded = {name: tensor.clone() for name, tensor in engine.gather(WEIGHT)}
    engine.model(torch.ones(1, 7, device=engine.device)).sum().backward()  # it can be trained
    return torch.cat([tensor.flatten() for tensor in loaded.values()]).tolist()


def main() -> None:
    engine = start_engine(running_launch(os.environ), "no")
    share = GLOBAL // engine.world_size
    accumulation = 3 if share % 3 == 0 else 1
    micro = share // accumulation
    model, skeleton = small_model().to(engine.device), small_model().to("meta")
    config = OptimizerConfig(lr=0.05)
    engine.prepare(
        model,
        build_optimizer(model, config),
        micro_batch=micro,
        accumulation=accumulation,
        clip_norm=CLIP,
        config=EngineConfig(reduce_each_micro_batch=sys.argv[2:] == ["true"]),
    )
    if sys.argv[1] == "scaled":
        scale_losses(engine)
        assert float(engine.loss_scale) == FIRST_SCALE
    average = WeightEma(engine, skeleton, 10.0)
    outside = nn.Parameter(
        torch.ones(2, device=engine.device)
    )  # such as learned loss weights: outside the model
    outside_optimizer = torch.optim.SGD([outside], lr=1.0, fused=True)
    found = {"norms": [], "outside_norms": []}
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        pages = torch.randn(GLOBAL, 7, generator=generator).to(engine.device)
        targets = torch.randn(GLOBAL, 1, generator=generator).to(engine.device)
        engine.module.gate.fill_(step)  # as the trainer sets `skip_gate` of the VAE
        for number in range(accumulation):
            first = (engine.rank * accumulation + number) * micro
            part = slice(first, first + micro)
            with engine.micro_batch(last=number == accumulation - 1):
                error = engine.model(pages[part]) - targets[part]
                losses = outside[0] * error.abs().mean(1) + outside[1] * error.square().mean(1)
                engine.backward(losses, GLOBAL)
        engine.average_gradients([outside])
        norm = engine.step(0.05 / (1 + step))
        found["norms"].append(float(norm))
        applied = norm.isfinite()
        outside_norm = engine.step_replicated(outside_optimizer, 0.01, CLIP, applied)
        found["outside_norms"].append(float(outside_norm))
        average.update((step + 1) * GLOBAL, GLOBAL, applied)
    found["outside"] = outside.tolist()
    for kind in (WEIGHT, AVERAGE, *MOMENTS):
        assert {piece.dtype for piece in engine.slices(kind)} == {torch.float32}
        whole = {name: tensor.clone() for name, tensor in engine.gather(kind)}
        assert whole.keys() == dict(skeleton.named_parameters()).keys()
        assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
        found[kind] = torch.cat([tensor.flatten() for tensor in whole.values()]).tolist()
        if kind != WEIGHT:
            doubled = {name: 2 * tensor for name, tensor in whole.items()}
            engine.scatter(kind, doubled)
            for name, tensor in engine.gather(kind):
                torch.testing.assert_close(tensor, doubled[name], rtol=0, atol=0)
            engine.scatter(kind, whole)
    found[STEP] = float(engine.slices(STEP)[0])
    found["held"] = sum(piece.numel() for piece in engine.slices(AVERAGE))
    assert not getattr(engine.model, "broadcast_buffers", False)  # of DDP, in each forward pass
    engine.require_equal(int(engine.module.gate), "ranks have different buffers")
    evaluated = average.model()(torch.ones(1, 7, device=engine.device))
    found["evaluated"] = evaluated.tolist()
    engine.require_equal(7, "ranks have different numbers")
    try:
        engine.require_equal(engine.rank, "ranks differ")
        found["numbers_equal"] = True
    except ConfigError as error:
        found["numbers_equal"] = str(error) != "ranks differ"
    if engine.spec.loads_slices:
        found["loaded"] = loaded_weights(engine, config)
    kept = engine.collect(engine.weights())
    assert bool(kept) == engine.is_main
    engine.log("found " + json.dumps(found))
    engine.shut_down(0)


if __name__ == "__main__":
    main()
