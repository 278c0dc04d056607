"""The laboratory of the built-in model: its data, its stages before the paper's, its recipes and its evaluation."""
