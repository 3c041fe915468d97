"""Fuzzing of what reads files from anywhere: the ONNX importer and the bundle reader."""
