"""The laboratory of the built-in model: its data, its stages before the paper's, its recipes and its evaluation.

Nothing else imports it; its commands are those of `training` and `evaluation` with stages and measures of its own. It
is in the wheel (0.2 MB of 50), so that they work in any folder and tests of an installed package reach it.
"""
