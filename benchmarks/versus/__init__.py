"""What ``vs_pytorch.py`` measures: nets on both sides, parts of nets, memory; and its tables.

A module for each: :mod:`.nets` (the nets, one source for both libraries), :mod:`.steps` (training
and inference steps, and whether both sides agree), :mod:`.memory`, :mod:`.parts` (convolutions,
batch norm, small tensors, the depth study), :mod:`.works` (all rows) and :mod:`.report`.
"""
