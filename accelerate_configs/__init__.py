"""Engine files for `accelerate launch --config_file`, one per engine, named after it."""
