"""Arguments of the export command."""

import sys

import pytest

from vaetrain import export


def run(monkeypatch, *argv: object) -> None:
    monkeypatch.setattr(sys, "argv", ["export", *map(str, argv)])
    assert export.main() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--onnx", "{}/a.onnx"], "no trained model"),
        (["--onnx", "{}"], "is a folder"),
        (["--onnx", "{}/a.onnx", "--int8"], "go together"),
        (["--onnx", "{}/a.onnx", "--int8", "--calibrate", "{}/none"], "index.json"),
        (
            ["--onnx", "{}/a.onnx", "--int8", "--calibrate", "{}", "--separate"],
            "cannot be combined",
        ),
    ],
)
def test_mistakes_are_refused_with_one_line(
    arguments, message, run_folder, tmp_path, monkeypatch, capsys
):
    trained = run_folder / "run" if "{}/none" in arguments else tmp_path / "nothing"
    with pytest.raises((SystemExit, ValueError)) as raised:
        run(monkeypatch, trained, *(text.format(tmp_path) for text in arguments))
    assert message in capsys.readouterr().err + str(raised.value)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_missing_onnx_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\[export\]"):
        run(monkeypatch, "run", "--onnx", tmp_path / "a.onnx")
