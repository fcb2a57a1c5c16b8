"""From a kernel recipe to a kernel: source, series, configuration, objects, artifact; all by content key."""

from kpatchlab.build.context import BuildCancelled, BuildContext, BuildProgress
from kpatchlab.build.kernel import (
    build_kernel,
    cached_kernel,
    kernel_key,
    stored_kernel,
)
from kpatchlab.build.trees import lies_built, series_changes

__all__ = ["BuildCancelled", "BuildContext", "BuildProgress"]
__all__ += ["build_kernel", "cached_kernel", "kernel_key", "lies_built", "series_changes", "stored_kernel"]
