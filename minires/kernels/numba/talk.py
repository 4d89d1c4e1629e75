"""Whether this process says that it compiles kernels, or waits for them: of several ranks, one."""

allowed = True
