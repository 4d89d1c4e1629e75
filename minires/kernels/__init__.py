"""What kernels share: operands and prologues, epilogues, packed weights; and for each backend a
folder with everything that its kernels are made of."""
