"""The mathematics of signals, contests and optimizer steps: tensors in, tensors out."""
