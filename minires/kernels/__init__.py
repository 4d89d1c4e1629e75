"""What several kernels share: compilation and threads (jit), the register tile (tile)."""
