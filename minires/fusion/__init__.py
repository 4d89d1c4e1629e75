"""Fusion: operations that share their passes over memory.

``relu(bn2(conv2(relu(bn1(conv1(x))))) + x)`` is written as seven calls and runs in fewer passes
over memory. Run one by one, each call reads and writes the whole tensor. The engine
:class:`Fusing` defers some of them: the call returns a lazy tensor (:mod:`minires.autograd.lazy`),
and the next operation may do both at once. The rules, one for each function and direction, are the
two tables of :mod:`.rules`; the lazy tensors are in :mod:`.forward` and :mod:`.backward`:

=====================  =============================  ============================================
lazy tensor            stands for                     how it is computed
=====================  =============================  ============================================
LazyConv2d             conv2d(x, w) + b               when batch norm in training comes: at once,
                                                      with the statistics taken on the way out;
                                                      when batch norm in evaluation comes without
                                                      gradients: as one convolution with normalised
                                                      weights, addition and ReLU at its end
LazyBatchNorm          batch_norm(y), plus another    in one pass; or not at all, where the next
                       tensor, through a ReLU         convolution can apply it while it reads y
LazyReLUGradient       a ReLU's gradient              by batch norm's backward, in the pass that
                                                      takes its two sums
LazyBatchNormGradient  batch norm's gradient for its  by the convolution in front, while it reads
                       input
LazySum                two gradients that meet        by the ReLU in front, in its own pass
=====================  =============================  ============================================

A lazy tensor that nobody takes over is computed like the plain operation (``realize``).
``docs/architecture.md`` tells the story of one residual block.
"""

from .rules import FUSING, Fusing
