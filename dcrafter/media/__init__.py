"""Pixels in, pixels out: images of any kind to the model's frames, frames to files that carry settings."""
