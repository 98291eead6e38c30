"""Files of images and masks: read, checked, resized, written. No PyTorch in here."""
