"""Options of the launcher's command; tests/distributed/test_launch.py reads a real launcher's."""

from vaetrain.engines.launching.launcher_command import LauncherCommand


def test_the_last_value_of_an_option_counts():
    words = ["python", "accelerate", "launch", "--num_processes", "2", "--num-processes=3"]
    command = LauncherCommand(words, ["train.py", "--num_processes", "4"], {})
    assert command.option("num_processes") == "3"
    assert command.option("config_file") is None
