"""What training and tuning share: augmentation, light, painted batches, the loss."""
