"""Code shared by the benchmarks; never imports a command."""
