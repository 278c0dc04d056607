"""Pixels in, pixels out: pictures of any kind to the model's frames, frames to files that carry settings."""
