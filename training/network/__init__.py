"""The network: a pretrained backbone and its head, its weights, and how it computes fast."""
