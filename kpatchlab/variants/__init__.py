"""A lab whose kernels are built otherwise: with debugging, or with gcov in the changed files."""
