"""How long hypothesis looks for what breaks a parser; `--hypothesis-profile=long` goes on."""

from hypothesis import HealthCheck, settings

# Derandomised: a test suite that fails on some days only helps nobody.
settings.register_profile(
    "default",
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", max_examples=200_000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("default")
