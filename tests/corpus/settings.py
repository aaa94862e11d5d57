"""Invalid experiments, engine files, policies and studies."""

from __future__ import annotations

from collections.abc import Iterator

from tests.corpus import damaged_copies

# Texts that are no YAML mapping of plain values.
NO_YAML = (
    b"", b"[]", b"5", b"text", b"null", b"a: [1", b"a: b: c", b"\tname: x", b"\0", b"\xff\xfe\xff",
    b"a: &x 1\nb: *x\n", b"a: !!python/object/apply:os.system [true]\n", b"a: !!binary aGVsbG8=\n",
    b"a: !!python/name:os.system\n", b"a: !!timestamp 2020-01-01\n", b"1: 2\n", b"null: 2\n",
    b"[a, b]: 2\n", b"? {a: b}\n: 2\n", b"<<: *x\n", b"%YAML 9.9\n---\na: 1\n", b"--- a\n--- b\n",
    b"[" * 5000, b"a: " + b"[" * 5000 + b"]" * 5000, b"{a: " * 3000, b"'", b'"\\xZZ"', b"@: 1\n",
    b"l0: &l0 [x, x]\n" + b"".join(b"l%d: &l%d [*l%d, *l%d]\n" % (n, n, n - 1, n - 1)
                                  for n in range(1, 30)),
)  # fmt: skip

# Invalid settings, and a text that the message must contain: mostly the key as on a command line.
SETTINGS = (
    ("nothing: 1", "nothing"), ("data: 5", "data"), ("data: [1]", "data"), ("train: x", "train"),
    ("data.width: 128", "data.width"), ("data: {width: wide}", "data.width"),
    ("data: {widht: 128}", "data.widht"), ("data: {width: 3.5}", "data.width"),
    ("data: {width: true}", "data.width"), ("data: {width: null}", "data.width"),
    ("data: {width: [128]}", "data.width"), ("data: {width: {a: 1}}", "data.width"),
    ("data: {width: 0}", "data.width"), ("data: {width: -128}", "data.width"),
    ("data: {width: 1000000000000000000000000000000}", "data.width"),
    ("data: {max_height: .inf}", "data.max_height"), ("data: {workers: -1}", "data.workers"),
    ("data: {val_templates: x}", "data.val_templates"),
    ("data: {val_templates: [[x]]}", "data.val_templates"),
    ("data: {shards: 'pipe:cat /etc/passwd'}", "data.shards"),
    ("data: {shards: 'simplecache::s3://a/b'}", "data.shards"),
    ("data: {shards: 'http://me:secret@host/x'}", "data.shards"),
    ("data: {shards: 'file:///etc'}", "data.shards"),
    ("model: {size: giant}", "model.size"), ("model: {latent_dim: 0}", "model.latent_dim"),
    ("model: {latent_dim: 1.5}", "model.latent_dim"), ("model: {pyramid: [0]}", "model.pyramid"),
    ("model: {pyramid: [x]}", "model.pyramid"), ("model: {pyramid: 4}", "model.pyramid"),
    ("model: {pyramid: [1000000]}", "model.pyramid"), ("model: {skips: [none]}", "model.skips"),
    ("model: {ladder_channels: [8, 8]}", "model.ladder_channels"),
    ("model: {ladder_channels: [0, 0, 0, 0]}", "model.ladder_channels"),
    ("model: {output: sigmoid}", "model.output"), ("loss: {pixel: bce}", "loss.pixel"),
    ("loss: {recon: -1}", "loss.recon"), ("loss: {recon: .nan}", "loss.recon"),
    ("optimizer: {lr: 0}", "optimizer.lr"), ("optimizer: {lr: .inf}", "optimizer.lr"),
    ("optimizer: {name: __import__}", "optimizer.name"), ("beta: {max: '${x}'}", "beta.max"),
    ("beta: {max: '${oc.env:HOME}'}", "beta.max"), ("beta: {max: '???'}", "beta.max"),
    ("name: '${oc.decode:x}'", "name"), ("name: '???'", "name"), ('name: "a\\nb"', "name"),
    ('name: "a\\0b"', "name"), ("name: ../../x", "name"), ("name: /etc/x", "name"),
    ("name: ''", "name"), ("name: .", "name"), ("name: {a: 1}", "name"),
    ("tracker: none,mlflow", "tracker"),
    ("tracker: os.system", "tracker"), ("train: {epochs: 0}", "train.epochs"),
    ("train: {epochs: .nan}", "train.epochs"), ("train: {seed: -1}", "train.seed"),
    ("train: {global_batch_size: 15, micro_batch_size: 4}", "15"),
    ("curriculum: {phases: {}}", "curriculum.phases"),
    ("curriculum: {phases: [5]}", "curriculum.phases"),
    ("curriculum: {phases: [{epoch: 5}, {epoch: 1}]}", "curriculum.phases"),
    ("curriculum: {phases: [{epoch: -5}]}", "curriculum.phases"),
    ("curriculum: {phases: [{nothing: 1}]}", "nothing"),
    ("augment: {policy: /no/such/file}", "augment.policy"),
    ("{augment: {policy: auto}, data: {shards: mine}}", "augment.policy"),
    ("augment: {ops: 99}", "augment.ops"),
)  # fmt: skip

ENGINES = (
    "distributed_type: 5", "distributed_type: [DEEPSPEED]", "num_processes: 2",
    "distributed_type: MULTI_GPU", "distributed_type: MULTI_GPU\nnum_processes: 0",
    "distributed_type: 'NO'\nnum_processes: 2", "distributed_type: 'NO'\nnum_processes: x",
    "distributed_type: 'NO'\nnum_processes: true", "distributed_type: TPU\nnum_processes: 2",
    "distributed_type: MULTI_GPU\nnum_processes: -2", "distributed_type: FSDP\nnum_processes: 2",
    "distributed_type: DEEPSPEED\nnum_processes: 2",
    "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: 5",
    "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: [zero_stage]",
    "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: 9}",
    "distributed_type: DEEPSPEED\nnum_processes: 2\ndeepspeed_config: {zero_stage: [1]}",
    "distributed_type: DEEPSPEED\nnum_processes: 2\n"
    "deepspeed_config: {zero_stage: 1, deepspeed_config_file: /etc/passwd}",
    "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: text",
    "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: {}}",
    "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: int4",
    "distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: [bf16]",
)  # fmt: skip

POLICIES = (
    "flip: 5", "flip: null", "flip: []", "flip: {}", "flip: {probability: 1}", "fly: {}",
    "flip: {probability: 1, magnitude: 1, more: 1}", "flip: {probability: 2, magnitude: 1}",
    "flip: {probability: .nan, magnitude: 1}", "flip: {probability: x, magnitude: 1}",
    "flip: {probability: true, magnitude: 1}", "rotate: {probability: 1, magnitude: 1000}",
)  # fmt: skip

STUDIES = (
    "name: x", "sweep: 5", "sweep: []", "sweep: {}", "sweep: {nothing: 1}",
    "sweep: {space: {beta.max: 5}}", "sweep: {space: {beta.max: []}}",
    "sweep: {space: {beta.max: [1, 1]}}", "sweep: {space: {nothing: [1]}}",
    "sweep: {space: {beta.max: [[1]]}}", "sweep: {space: {train.seed: [1]}}",
    "sweep: {space: {beta.max: {low: 1, high: 2}}}", "sweep: {variants: {a: 5}}",
    "sweep: {variants: {a: {beta.max: x}}}", "sweep: {seeds: [], space: {beta.max: [1]}}",
    "sweep: {seeds: [-1], space: {beta.max: [1]}}", "sweep: {base: /no/such, variants: {a: {}}}",
    "sweep: {engine: /no/such.yaml, space: {beta.max: [1]}}",
    "sweep: {baseline: other, space: {beta.max: [1]}}",
)  # fmt: skip


def bad_yaml(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield files that no reader accepts, among them damaged copies of the content `whole`."""
    for number, data in enumerate(NO_YAML):
        yield f"text-{number}.yaml", data
    for name, data in damaged_copies(whole, 3):
        if name.startswith("flip"):  # a truncated file may still be valid
            yield f"{name}.yaml", data


def numbered(texts: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a file for each text."""
    for number, text in enumerate(texts):
        yield f"{number}.yaml", text.encode()
