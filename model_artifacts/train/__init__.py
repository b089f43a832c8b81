"""How the artifacts are made. Needs the `train` extra (torch, onnx, scikit-learn); serving them does not."""
