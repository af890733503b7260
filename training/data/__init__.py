"""What is learnt from: images and labels, read, audited, split, decoded and augmented."""
