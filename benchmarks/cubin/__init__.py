"""What NVIDIA's compiler makes of the CUDA kernels: none of it needs a GPU.

:mod:`.nvrtc` compiles, :mod:`.kernels` knows every kernel that minires may ask for,
:mod:`.sass` reads machine code.
"""
