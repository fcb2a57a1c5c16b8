"""A lab with other builds of its kernels: with debugging, or with gcov in the changed files."""
