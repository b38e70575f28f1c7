"""Build time: a PyTorch-trained AlexNet in, one ONNX file for the service out."""
