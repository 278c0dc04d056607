"""Training on captioned videos, as the paper does it."""
