"""The machine that a model runs on: devices and types, what is loaded where, memory plans and estimates."""
