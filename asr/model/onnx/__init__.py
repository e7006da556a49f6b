"""Models as ONNX graphs: written node by node from the trained weights, and run by onnxruntime."""
