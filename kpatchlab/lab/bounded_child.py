"""The process of `bounded`: tasks come as JSON on standard input, a line for each goes to standard output.

It imports nothing of the lab's, so that it starts in a tenth of a second, and has its limits before it reads anything.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import stat
import sys
import time
import warnings
from typing import Any

TIME_S = 1.0
"""Seconds of a processor for one task."""
MEMORY_MIB = 256
OUTPUT_MIB = 16
"""Of all that is rendered."""
TEMPLATE_BYTES = 1 << 20
NO_MEMORY = 3
"""Exit status where the memory or the room for output did not do."""
LATE = 4
"""Exit status where all tasks together took their time."""
TIME_SIGNAL = signal.SIGPROF


def _render(task: dict[str, Any]) -> dict[str, Any]:
    import jinja2

    name, fallback = task["name"], os.path.join(task["folders"][0], task["name"])
    try:
        template = _environment(tuple(task["folders"])).get_template(name)
        return {"text": template.render(params=task["params"], **task["params"])}
    except jinja2.TemplateSyntaxError as error:
        path = error.filename or error.name or fallback
        return {"error": error.message or "syntax error", "path": path, "line": error.lineno}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever an expression of the template's raises
        missing = isinstance(error, jinja2.TemplateNotFound)
        message = f"there is no template '{error.name}'" if isinstance(error, jinja2.TemplateNotFound) else str(error)
        if isinstance(error, RecursionError):
            message = "nests or includes itself too deeply"
        path, line = _frame(error, fallback)
        return {"error": message or type(error).__name__, "path": path, "line": line if not missing or line else 0}


@functools.cache
def _environment(folders: tuple[str, ...]) -> Any:
    """Return what has a template compiled once for all of its parameters."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Regular(jinja2.FileSystemLoader):
        """Reads regular files of a bounded size: a fifo would keep it waiting, and a device may have no end."""

        def get_source(self, environment: jinja2.Environment, template: str) -> Any:
            for folder in self.searchpath:
                path = os.path.join(folder, template)
                if os.path.exists(path):
                    found = os.stat(path)
                    if not stat.S_ISREG(found.st_mode) or found.st_size > TEMPLATE_BYTES:
                        message = f"'{template}' is no regular file, or larger than {TEMPLATE_BYTES >> 20} MiB"
                        raise ValueError(message)
            return super().get_source(environment, template)

    return ImmutableSandboxedEnvironment(
        loader=Regular(folders),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )


def _frame(error: Exception, fallback: str) -> tuple[str, int]:
    """Return the innermost template and line that an error passed through; jinja2 puts them into its traceback."""
    path, line, step = fallback, 0, error.__traceback__
    while step:
        name = step.tb_frame.f_code.co_filename
        if "__jinja_template__" in step.tb_frame.f_globals or name.startswith(os.path.dirname(fallback) + os.sep):
            path, line = name, step.tb_lineno
        step = step.tb_next
    return path, line


def _compile(task: dict[str, Any]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(task["text"].encode("utf-8", "surrogateescape"), task["name"], "exec", dont_inherit=True)
    except SyntaxError as error:
        return {"error": f"not valid Python: {error.msg}", "line": error.lineno or 0}
    except RecursionError:
        return {"error": "not valid Python: nested too deeply"}
    except ValueError as error:  # null bytes
        return {"error": f"not valid Python: {error}"}
    return {}


def main() -> None:
    """Work off the tasks, one after the other."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_MIB << 20, OUTPUT_MIB << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    all_s, *tasks = json.loads(sys.stdin.buffer.read())
    work = {"render": _render, "compile": _compile}
    try:
        for task in tasks:
            if time.process_time() > all_s:
                os._exit(LATE)
            signal.setitimer(signal.ITIMER_PROF, TIME_S)  # its signal ends the process, whatever runs in it
            line = json.dumps(work[task["kind"]](task)) + "\n"
            signal.setitimer(signal.ITIMER_PROF, 0)
            sys.stdout.write(line)
            sys.stdout.flush()
    except (MemoryError, OSError):
        os._exit(NO_MEMORY)


if __name__ == "__main__":
    main()
