"""A trained model in use: embedding, search, interpolation, sampling and ONNX export."""
