"""The network, its attention kernels, its weights on disk: tensors in, tensors out."""
